//! Q8_0: 32 values, `d: f16`, then 32 signed bytes; value = d·q.

use half::f16;

use super::{Blocks, Format, GgmlType, Kind, Unpacked, f16_at};
use crate::act::ActFormat;

pub const Q8_0: Format = Format {
    ty: GgmlType::Q8_0,
    name: "Q8_0",
    block: 32,
    bytes: 34,
    kind: Kind::Blocks(Blocks {
        sub: 32,
        has_min: false,
        act: ActFormat::Q8x32,
        unpack,
        encode: Some(encode),
    }),
};

fn unpack(src: &[u8], dst: &mut Unpacked) {
    dst.scale[0] = f16_at(src, 0);
    dst.qs[..32].copy_from_slice(bytemuck::cast_slice(&src[2..34]));
}

/// Scale = largest magnitude / 127, nearest integers, halves away from zero.
fn encode(src: &[f32], dst: &mut [u8]) {
    let amax = src.iter().fold(0f32, |m, x| m.max(x.abs()));
    let d = amax / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    dst[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    for (q, x) in dst[2..].iter_mut().zip(src) {
        *q = (x * inverse).round() as i8 as u8;
    }
}
