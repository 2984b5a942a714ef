//! MXFP4 of the OCP Microscaling Formats specification 1.0: 32 E2M1 values that share an E8M0 exponent.
//!
//! One byte e, 16 bytes of nibbles; value = 2^(e − 128)·[`e2m1::VALUES`]\[q\].

use bytemuck::{Pod, Zeroable};

use super::bits::{nibbles, pack_nibbles};
use super::e2m1;
use super::search;
use super::search::lanes::{self, Batch, LANES, V};
use super::{Blocks, Format, GgmlType, Kind, Unpacked};
use crate::act::ActFormat;

pub const MXFP4: Format = Format {
    ty: GgmlType::MXFP4,
    name: "MXFP4",
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
    e: u8,
    qs: [u8; 16],
}

fn unpack(src: &[u8], dst: &mut Unpacked) {
    let b: &Block = bytemuck::from_bytes(src);
    dst.scale[0] = half_e8m0(b.e);
    nibbles(&b.qs, dst.sub_mut(0), |q| e2m1::VALUES[usize::from(q)]);
}

/// 2^(e − 128): half of what the exponent means, for the values are doubled. Exponents 0 and 1 make subnormals; 255,
/// a NaN by the specification, is read as 2^127, as ggml does.
fn half_e8m0(e: u8) -> f32 {
    f32::from_bits(match e {
        0 => 1 << 21,
        1 => 1 << 22,
        e => u32::from(e - 1) << 23,
    })
}

impl search::Coder<32, 1> for Block {
    /// Of the exponent with which the largest magnitude lies between 4 and 8, beyond the largest code 6 or not, and the
    /// next one the better.
    #[inline(always)]
    fn encode(b: &Batch<32>, out: &mut [Block]) {
        /// The largest exponent whose largest value is finite.
        const LARGEST: i32 = 252;
        let largest = lanes::largest(&b.x);
        let mut exponents = [[0; LANES]; 2];
        let mut scales = [V::ZERO; 2];
        for l in 0..LANES {
            // 2^(e − 128) is half of a scale, and a value between 4 and 8 has the exponent 2.
            let e = lanes::exponent(largest.0[l] * b.unit.0[l]) - 2 - 1 + 128;
            for (k, e) in [e, e + 1].into_iter().enumerate() {
                exponents[k][l] = e.clamp(0, LARGEST) as u8;
                scales[k].0[l] = half_e8m0(exponents[k][l]) / b.unit.0[l];
            }
        }
        let best = e2m1::best(b, &scales);
        let codes = e2m1::codes(b, best);
        for (l, (out, codes)) in out.iter_mut().zip(&codes).enumerate() {
            let k = usize::from(best.0[l] != scales[0].0[l]);
            *out = Block { e: exponents[k][l], qs: pack_nibbles(codes) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponents_are_read_as_ggml_does() {
        for (e, d) in [(0, -128), (1, -127), (2, -126), (3, -125), (128, 0), (254, 126), (255, 127)] {
            assert_eq!(f64::from(half_e8m0(e)), 2f64.powi(d), "exponent {e}");
        }
    }
}
