//! IQ4_NL: 32 values, `d: f16`, then 16 bytes of nibbles; value = d·[`IQ4_VALUES`]\[q\].

use bytemuck::{Pod, Zeroable};

use super::bits::{F16, nibbles, pack_nibbles};
use super::grids::IQ4_VALUES;
use super::search::lanes::{Batch, V};
use super::search::{self, signed};
use super::{Blocks, Format, GgmlType, Kind, Unpacked};
use crate::act::ActFormat;

pub const IQ4_NL: Format = Format {
    ty: GgmlType::IQ4_NL,
    name: "IQ4_NL",
    block: 32,
    bytes: size_of::<Block>(),
    kind: Kind::Blocks(Blocks {
        sub: 32,
        has_min: false,
        act: ActFormat::Q8x32,
        unpack,
        encode: Some(search::encode::<Block, 32, 1>),
    }),
};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Block {
    d: F16,
    qs: [u8; 16],
}

fn unpack(src: &[u8], dst: &mut Unpacked) {
    let b: &Block = bytemuck::from_bytes(src);
    dst.scale[0] = b.d.get();
    nibbles(&b.qs, dst.sub_mut(0), |q| IQ4_VALUES[usize::from(q)]);
}

/// [`IQ4_VALUES`].
pub struct Levels;

/// For each code but the first its value less the one before, and the middle between them.
const STEPS: [(f32, f32); 15] = {
    let mut steps = [(0.0, 0.0); 15];
    let mut i = 0;
    while i < 15 {
        let (low, high) = (IQ4_VALUES[i] as f32, IQ4_VALUES[i + 1] as f32);
        steps[i] = (high - low, (low + high) / 2.0);
        i += 1;
    }
    steps
};

impl signed::Levels for Levels {
    const TRIED: &'static [f32] =
        &[-134.5, -132.0, -129.5, -127.0, -124.5, -122.0, -119.5, 110.0, 113.0, 116.0];

    #[inline(always)]
    fn nearest(x: V) -> V {
        let mut level = V::splat(f32::from(IQ4_VALUES[0]));
        for (i, (_, middle)) in STEPS.iter().enumerate() {
            level = x.above(V::splat(*middle), V::splat(f32::from(IQ4_VALUES[i + 1])), level);
        }
        level
    }

    #[inline(always)]
    fn code(x: V) -> V {
        let mut code = V::ZERO;
        for (i, (_, middle)) in STEPS.iter().enumerate() {
            code = x.above(V::splat(*middle), V::splat((i + 1) as f32), code);
        }
        code
    }
}

impl search::Coder<32, 1> for Block {
    #[inline(always)]
    fn encode(b: &Batch<32>, out: &mut [Block]) {
        let (d, scale) = signed::single::<Levels, 32, 1>(b);
        let qs = signed::codes::<Levels, 32>(b, scale);
        for ((out, d), qs) in out.iter_mut().zip(d).zip(&qs) {
            *out = Block { d, qs: pack_nibbles(qs) };
        }
    }
}
