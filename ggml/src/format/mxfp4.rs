//! MXFP4 of the OCP Microscaling Formats specification 1.0: 32 E2M1 values that share an E8M0 exponent.
//!
//! One byte e, 16 bytes of nibbles; value = 2^(e − 128)·[`e2m1::VALUES`]\[q\].

use bytemuck::{Pod, Zeroable};

use super::bits::{nibbles, pack_nibbles};
use super::e2m1;
use super::search::{self};
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
        encode: Some(|_, src, weights, dst| search::each_block(32, src, weights, dst, encode)),
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

/// Of the exponent with which the largest magnitude lies between 4 and 8, beyond the largest code 6 or not, and the
/// next one the better.
fn encode(src: &[f32], weights: &[f32], dst: &mut [u8]) {
    /// The largest exponent whose largest value is finite.
    const LARGEST: u8 = 252;
    let exponent = (search::extreme(src).to_bits() >> 23 & 255) as u8;
    let e = exponent.saturating_sub(2).min(LARGEST);
    let candidates = [e, (e + 1).min(LARGEST)];
    let e = e2m1::best(src, weights, candidates, half_e8m0);
    *bytemuck::from_bytes_mut(dst) = Block { e, qs: pack_nibbles(&e2m1::codes(src, half_e8m0(e))) };
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
