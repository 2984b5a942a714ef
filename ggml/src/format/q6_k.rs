//! Q6_K: 256 values in 16 sub-blocks; value = (d·s)·(q − 32) with q of six bits, s of eight with sign.
//!
//! 128 bytes of low nibbles, 64 bytes of high bits, 16 bytes of scales, `d: f16`. Each half of 128 values has 64
//! and 32 bytes of them: value 32p + l has its low nibble in byte 32(p mod 2) + l (high nibble of it for p ≥ 2)
//! and its high bits in bits 2p and 2p + 1 of byte l.

use bytemuck::{Pod, Zeroable};

use super::bits::F16;
use super::search;
use super::search::lanes::{Batch, small};
use super::search::signed::{self, Integers};
use super::{Blocks, Format, GgmlType, Kind, Unpacked};
use crate::act::ActFormat;

pub const Q6_K: Format = Format {
    ty: GgmlType::Q6_K,
    name: "Q6_K",
    block: 256,
    bytes: size_of::<Block>(),
    kind: Kind::Blocks(Blocks {
        sub: 16,
        has_min: false,
        act: ActFormat::Q8x256,
        unpack,
        encode: Some(search::encode::<Block, 16, 16>),
    }),
};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Block {
    low: [u8; 128],
    high: [u8; 64],
    scales: [i8; 16],
    d: F16,
}

fn unpack(src: &[u8], dst: &mut Unpacked) {
    let b: &Block = bytemuck::from_bytes(src);
    let d = b.d.get();
    for (scale, &s) in dst.scale.iter_mut().zip(&b.scales) {
        *scale = d * f32::from(s);
    }
    for (half, high) in b.high.as_chunks::<32>().0.iter().enumerate() {
        for part in 0..4 {
            let low: &[u8; 32] = &b.low.as_chunks().0[2 * half + part % 2];
            let qs: &mut [i8; 32] = dst.sub_mut(4 * half + part);
            for ((q, l), h) in qs.iter_mut().zip(low).zip(high) {
                *q = (l >> (part / 2 * 4) & 15 | (h >> (2 * part) & 3) << 4) as i8 - 32;
            }
        }
    }
}

const SEARCH: signed::Search = signed::Search { s: (-128.0, 127.0), starts: &[1.0], reach: 0, rounds: 2 };

impl search::Coder<16, 16> for Block {
    #[inline(always)]
    fn encode(b: &Batch<16>, out: &mut [Block]) {
        let found = signed::super_block::<Integers<32>, 16, 16>(b, &SEARCH);
        let qs = found.codes::<Integers<32>, 16>(b);
        for out in out {
            let (mut low, mut high) = ([0; 128], [0; 64]);
            for (i, q) in qs.as_flattened().iter().enumerate() {
                let (half, part, l) = (i / 128, i / 32 % 4, i % 32);
                low[64 * half + part % 2 * 32 + l] |= (q & 15) << (part / 2 * 4);
                high[32 * half + l] |= q >> 4 << (2 * part);
            }
            *out = Block { low, high, scales: small(&found.s, 0).map(u8::cast_signed), d: found.d[0] };
        }
    }
}
