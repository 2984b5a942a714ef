//! Q8_0: 32 values, `d: f16`, then 32 signed bytes; value = d·q.

use bytemuck::{Pod, Zeroable};
use half::f16;

use super::bits::F16;
use super::search::{self, inverse};
use super::{Blocks, Format, GgmlType, Kind, Unpacked};
use crate::act::ActFormat;

pub const Q8_0: Format = Format {
    ty: GgmlType::Q8_0,
    name: "Q8_0",
    block: 32,
    bytes: size_of::<Block>(),
    kind: Kind::Blocks(Blocks {
        sub: 32,
        has_min: false,
        act: ActFormat::Q8x32,
        unpack,
        encode: Some(|_, src, weights, dst| search::each_block(32, src, weights, dst, encode)),
    }),
};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Block {
    d: F16,
    qs: [i8; 32],
}

fn unpack(src: &[u8], dst: &mut Unpacked) {
    let b: &Block = bytemuck::from_bytes(src);
    dst.scale[0] = b.d.get();
    *dst.sub_mut(0) = b.qs;
}

/// Scale = largest magnitude / 127, nearest integers, halves away from zero: there is nothing to search for, and
/// the blocks are the same to the last bit as everybody else's.
fn encode(src: &[f32], _: &[f32], dst: &mut [u8]) {
    let amax = src.iter().fold(0f32, |m, x| m.max(x.abs()));
    let d = (amax / 127.0).min(f16::MAX.to_f32());
    let inverse = inverse(d);
    let qs = std::array::from_fn(|i| (src[i] * inverse).round().clamp(-127.0, 127.0) as i8);
    *bytemuck::from_bytes_mut(dst) = Block { d: F16::new(d), qs };
}
