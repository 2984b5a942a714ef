//! NVFP4: 64 E2M1 values in 4 sub-blocks, each with an unsigned E4M3 scale.
//!
//! Four bytes of scales, then 8 bytes of nibbles per sub-block: its first half low, its second half high; value =
//! scale/2·[`E2M1_VALUES`]\[q\]. A tensor-wide scale, where a model has one, is a tensor of its own.

use bytemuck::{Pod, Zeroable};

use super::grids::E2M1_VALUES;
use super::{Blocks, Format, GgmlType, Kind, Unpacked};
use crate::act::ActFormat;

pub const NVFP4: Format = Format {
    ty: GgmlType::NVFP4,
    name: "NVFP4",
    block: 64,
    bytes: size_of::<Block>(),
    kind: Kind::Blocks(Blocks {
        sub: 16,
        has_min: false,
        act: ActFormat::Q8x32,
        unpack,
        encode: None,
    }),
};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Block {
    scales: [u8; 4],
    qs: [[u8; 8]; 4],
}

fn unpack(src: &[u8], dst: &mut Unpacked) {
    let b: &Block = bytemuck::from_bytes(src);
    for (sub, packed) in b.qs.iter().enumerate() {
        dst.scale[sub] = half_ue4m3(b.scales[sub]);
        let qs: &mut [i8; 16] = dst.sub_mut(sub);
        let (lo, hi) = qs.split_at_mut(8);
        for ((lo, hi), b) in lo.iter_mut().zip(hi).zip(packed) {
            *lo = E2M1_VALUES[usize::from(b & 15)];
            *hi = E2M1_VALUES[usize::from(b >> 4)];
        }
    }
}

/// Half of the scale, for the values are doubled: four bits of exponent with bias 7, three of mantissa. The top bit is
/// not looked at, except that 0x7f, a NaN, is read as zero and 0xff as 480, as ggml does.
fn half_ue4m3(x: u8) -> f32 {
    let mantissa = f32::from(x & 7);
    match (x, x >> 3 & 15) {
        (0x7f, _) => 0.0,
        (_, 0) => mantissa / 1024.0,
        (_, e) => (8.0 + mantissa) * f32::from_bits((u32::from(e) + 127 - 11) << 23),
    }
}

/// The nearest scale; what is too large becomes the largest, what is not positive zero.
pub fn nearest_ue4m3(x: f32) -> u8 {
    const LARGEST: f32 = 448.0;
    // Numbers of one exponent are 2^(e − 10) apart; below exponent 1 the spacing stays that of exponent 1.
    let x = x.clamp(0.0, LARGEST);
    let e = ((x.to_bits() >> 23) as i32 - 127 + 7).max(1);
    let steps = (x * f32::from_bits(((10 - e + 127) as u32) << 23)).round_ties_even() as u8;
    // 8 steps of mantissa and a hidden 8: rounding up to 16 carries into the exponent by itself.
    (e as u8 - 1) * 8 + steps
}
