//! NVFP4: 64 E2M1 values in 4 sub-blocks, each with an unsigned E4M3 scale.
//!
//! Four bytes of scales, then 8 bytes of nibbles per sub-block: its first half low, its second half high; value =
//! scale/2·[`e2m1::VALUES`]\[q\]. A tensor-wide scale, where a model has one, is a tensor of its own.

use bytemuck::{Pod, Zeroable};

use super::e2m1;
use super::search;
use super::search::lanes::{self, Batch, LANES, V};
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
        encode: Some(search::encode::<Block, 16, 4>),
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
            *lo = e2m1::VALUES[usize::from(b & 15)];
            *hi = e2m1::VALUES[usize::from(b >> 4)];
        }
    }
}

/// The code of the largest scale, 448.
const LARGEST: u8 = 0x7e;

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
    // Numbers of one exponent are 2^(e − 10) apart; below exponent 1 the spacing stays that of exponent 1.
    let x = if x > 0.0 { x.min(448.0) } else { 0.0 };
    let e = ((x.to_bits() >> 23) as i32 - 127 + 7).max(1);
    let steps = (x * f32::from_bits(((10 - e + 127) as u32) << 23)).round_ties_even() as u8;
    // 8 steps of mantissa and a hidden 8: rounding up to 16 carries into the exponent by itself.
    (e as u8 - 1) * 8 + steps
}

/// Scales that are tried.
const TRIED: usize = 7;

impl search::Coder<16, 4> for Block {
    /// Of the scale with which the largest magnitude has the largest code, 6, and its neighbours the best.
    #[inline(always)]
    fn encode(b: &Batch<16>, out: &mut [Block]) {
        let largest = lanes::largest(&b.x);
        let mut tried = [[0; LANES]; TRIED];
        let mut scales = [V::ZERO; TRIED];
        for l in 0..LANES {
            let covering = nearest_ue4m3(largest.0[l] * b.unit.0[l] / 6.0);
            for k in 0..TRIED {
                tried[k][l] = (covering + k as u8).saturating_sub(3).min(LARGEST);
                scales[k].0[l] = half_ue4m3(tried[k][l]) / b.unit.0[l];
            }
        }
        let best = e2m1::best(b, &scales);
        let codes = e2m1::codes(b, best);
        for (i, out) in out.iter_mut().enumerate() {
            for sub in 0..4 {
                let (l, codes) = (4 * i + sub, &codes[4 * i + sub]);
                let k = (0..TRIED).find(|&k| scales[k].0[l] == best.0[l]);
                out.scales[sub] = k.map_or(0, |k| tried[k][l]);
                out.qs[sub] = std::array::from_fn(|i| codes[i] | codes[i + 8] << 4);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_read_as_ggml_does() {
        for (code, scale) in
            [(0, 0.0), (1, 0.001953125), (8, 0.015625), (0x38, 1.0), (0x7e, 448.0), (0x7f, 0.0)]
        {
            assert_eq!(2.0 * half_ue4m3(code), scale, "{code:#x}");
        }
        for (code, scale) in [(0x80, 0.0), (0xb8, 1.0), (0xff, 480.0)] {
            assert_eq!(2.0 * half_ue4m3(code), scale, "{code:#x}: the top bit does not matter");
        }
    }

    #[test]
    fn nearest_scale_inverts_and_rounds() {
        for code in 0..=LARGEST {
            let (this, next) = (2.0 * half_ue4m3(code), 2.0 * half_ue4m3(code + 1));
            assert_eq!(nearest_ue4m3(this), code);
            if code < LARGEST {
                assert_eq!(nearest_ue4m3(this + 0.49 * (next - this)), code);
                assert_eq!(nearest_ue4m3(this + 0.51 * (next - this)), code + 1);
            }
        }
        assert_eq!(nearest_ue4m3(f32::INFINITY), LARGEST);
        assert_eq!(nearest_ue4m3(-1.0), 0);
        assert_eq!(nearest_ue4m3(f32::NAN), 0);
    }
}
