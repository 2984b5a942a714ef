//! Q3_K: 256 values in 16 sub-blocks; value = d·(s − 32)·(q − 4) with q of three bits, s of six.
//!
//! 32 bytes of third bits (bit p of byte l belongs to value 32p + l), 64 bytes with the low two bits packed as in
//! Q2_K, 12 bytes of scales, `d: f16`. Of the scales, byte i of the first eight holds the low nibbles of scales i
//! and i + 8; bits 2p and 2p + 1 of byte 8 + i are the high bits of scale 4p + i.

use bytemuck::{Pod, Zeroable};

use super::bits::{F16, pack_two_bits};
use super::search;
use super::search::lanes::{Batch, small};
use super::search::signed::{self, Integers};
use super::{Blocks, Format, GgmlType, Kind, Unpacked};
use crate::act::ActFormat;

pub const Q3_K: Format = Format {
    ty: GgmlType::Q3_K,
    name: "Q3_K",
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
    high: [u8; 32],
    qs: [u8; 64],
    scales: [u8; 12],
    d: F16,
}

fn unpack(src: &[u8], dst: &mut Unpacked) {
    let b: &Block = bytemuck::from_bytes(src);
    let d = b.d.get();
    for (i, scale) in dst.scale.iter_mut().enumerate() {
        let low = b.scales[i % 8] >> (i / 8 * 4) & 15;
        let high = b.scales[8 + i % 4] >> (i / 4 * 2) & 3;
        *scale = d * f32::from((low | high << 4) as i8 - 32);
    }
    for (half, packed) in b.qs.as_chunks::<32>().0.iter().enumerate() {
        for part in 0..4 {
            let plane = 4 * half + part;
            let qs: &mut [i8; 32] = dst.sub_mut(plane);
            for ((q, p), h) in qs.iter_mut().zip(packed).zip(&b.high) {
                *q = (p >> (2 * part) & 3 | (h >> plane & 1) << 2) as i8 - 4;
            }
        }
    }
}

const SEARCH: signed::Search = signed::Search { s: (-32.0, 31.0), starts: &[0.98], reach: 1, rounds: 2 };

impl search::Coder<16, 16> for Block {
    #[inline(always)]
    fn encode(b: &Batch<16>, out: &mut [Block]) {
        let found = signed::super_block::<Integers<4>, 16, 16>(b, &SEARCH);
        let qs = found.codes::<Integers<4>, 16>(b);
        let qs = qs.as_flattened();
        for out in out {
            let mut scales = [0; 12];
            for (i, s) in small::<16>(&found.s, 0).into_iter().enumerate() {
                let s = s.wrapping_add(32);
                scales[i % 8] |= (s & 15) << (i / 8 * 4);
                scales[8 + i % 4] |= s >> 4 << (i / 4 * 2);
            }
            let mut high = [0; 32];
            for (i, q) in qs.iter().enumerate() {
                high[i % 32] |= q >> 2 << (i / 32);
            }
            *out = Block { high, qs: pack_two_bits(qs), scales, d: found.d[0] };
        }
    }
}
