//! TQ1_0: 256 ternary values, d·(t − 1) with t of 0, 1, 2; five digits a byte.
//!
//! A byte is the fraction 0.t₀t₁t₂t₃t₄ in base 3, in 256ths, rounded up: multiplied by 3ⁿ modulo 256 and then by 3,
//! digit n is carried out at the top. Value order: digit 0 of bytes 0-31, digit 1 of them, …, digits of bytes 32-47
//! likewise, then four digits each of the last 4 bytes. `d: f16` at the end.

use bytemuck::{Pod, Zeroable};

use super::bits::F16;
use super::search;
use super::search::lanes::Batch;
use super::search::signed::{self, Ternary};
use super::{Blocks, Format, GgmlType, Kind, Unpacked};
use crate::act::ActFormat;

pub const TQ1_0: Format = Format {
    ty: GgmlType::TQ1_0,
    name: "TQ1_0",
    block: 256,
    bytes: size_of::<Block>(),
    kind: Kind::Blocks(Blocks {
        sub: 32,
        has_min: false,
        act: ActFormat::Q8x256,
        unpack,
        encode: Some(search::encode::<Block, 16, 16>),
    }),
};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Block {
    first: [u8; 32],
    second: [u8; 16],
    last: [u8; 4],
    d: F16,
}

fn unpack(src: &[u8], dst: &mut Unpacked) {
    let b: &Block = bytemuck::from_bytes(src);
    dst.scale[..8].fill(b.d.get());
    let (first, rest) = dst.qs.split_at_mut(160);
    let (second, last) = rest.split_at_mut(80);
    digits(&b.first, first);
    digits(&b.second, second);
    digits(&b.last, last);
}

/// Writes digit 0 of all bytes, then digit 1 of all, until `qs` is full.
fn digits<const N: usize>(bytes: &[u8; N], qs: &mut [i8]) {
    let mut bytes = *bytes;
    for qs in qs.as_chunks_mut::<N>().0 {
        for (q, b) in qs.iter_mut().zip(&mut bytes) {
            let tripled = u16::from(*b) * 3;
            *q = (tripled >> 8) as i8 - 1;
            *b = tripled as u8;
        }
    }
}

impl search::Coder<16, 16> for Block {
    #[inline(always)]
    fn encode(b: &Batch<16>, out: &mut [Block]) {
        let (d, scale) = signed::single::<Ternary, 16, 16>(b);
        let digits = signed::codes::<Ternary, 16>(b, scale);
        let digits = digits.as_flattened();
        for out in out {
            *out = Block {
                first: pack(&digits[..160]),
                second: pack(&digits[160..240]),
                last: pack(&digits[240..]),
                d: d[0],
            };
        }
    }
}

/// The inverse of [`digits`]: up to five planes of `N` digits; those that are missing are zero.
fn pack<const N: usize>(digits: &[u8]) -> [u8; N] {
    let planes = digits.as_chunks::<N>().0;
    std::array::from_fn(|i| {
        let number = (0..5).fold(0, |n, plane| 3 * n + planes.get(plane).map_or(0, |p| u16::from(p[i])));
        (number * 256).div_ceil(243) as u8
    })
}
