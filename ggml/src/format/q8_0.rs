//! Q8_0: 32 values, `d: f16`, then 32 signed bytes; value = d·q.

use bytemuck::{Pod, Zeroable};
use half::f16;

use super::bits::F16;
use super::search::lanes;
use super::{Blocks, Format, GgmlType, Instructions, Kind, Unpacked};
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
        encode: Some(encode),
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
fn encode(on: Instructions, src: &[f32], _: Option<&[f32]>, dst: &mut [u8]) {
    lanes::run(on, Blocks32 { src, dst: bytemuck::cast_slice_mut(dst) });
}

struct Blocks32<'a> {
    src: &'a [f32],
    dst: &'a mut [Block],
}

impl lanes::Task for Blocks32<'_> {
    #[inline(always)]
    fn run(self) {
        for (x, block) in self.src.as_chunks::<32>().0.iter().zip(self.dst) {
            // Magnitudes compare as their bits do.
            let mut amax = 0;
            for x in x {
                amax = amax.max(x.abs().to_bits());
            }
            let d = (f32::from_bits(amax) / 127.0).min(f16::MAX.to_f32());
            let inverse = 1.0 / d;
            // Where that is not finite, everything becomes zeros.
            let inverse = if inverse.is_finite() { inverse } else { 0.0 };
            block.d = F16::new(d);
            for i in 0..32 {
                block.qs[i] = lanes::byte((x[i] * inverse).round().clamp(-127.0, 127.0)).cast_signed();
            }
        }
    }
}
