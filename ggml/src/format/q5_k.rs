//! Q5_K: 256 values in 8 sub-blocks; value = (d·s)·q − dmin·m with q of five bits, s and m of six.
//!
//! As Q4_K with 32 bytes of fifth bits before the nibbles: bit p of byte l belongs to value l of sub-block p.

use bytemuck::{Pod, Zeroable};

use super::bits::{F16, pack_scales_and_mins, scales_and_mins};
use super::search::lanes::{Batch, small};
use super::search::{self, affine};
use super::{Blocks, Format, GgmlType, Kind, Unpacked};
use crate::act::ActFormat;

pub const Q5_K: Format = Format {
    ty: GgmlType::Q5_K,
    name: "Q5_K",
    block: 256,
    bytes: size_of::<Block>(),
    kind: Kind::Blocks(Blocks {
        sub: 32,
        has_min: true,
        act: ActFormat::Q8x256,
        unpack,
        encode: Some(search::encode::<Block, 32, 8>),
    }),
};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Block {
    d: F16,
    dmin: F16,
    scales: [u8; 12],
    high: [u8; 32],
    qs: [u8; 128],
}

fn unpack(src: &[u8], dst: &mut Unpacked) {
    let b: &Block = bytemuck::from_bytes(src);
    dst.set_scales_and_mins(b.d.get(), b.dmin.get(), scales_and_mins(&b.scales));
    for (pair, packed) in b.qs.as_chunks::<32>().0.iter().enumerate() {
        for part in 0..2 {
            let sub = 2 * pair + part;
            let qs: &mut [i8; 32] = dst.sub_mut(sub);
            for ((q, p), h) in qs.iter_mut().zip(packed).zip(&b.high) {
                *q = (p >> (4 * part) & 15 | (h >> sub & 1) << 4) as i8;
            }
        }
    }
}

const SEARCH: affine::Search = affine::Search {
    n: 31.0,
    largest: 63.0,
    tried: &[
        (-0.2, -0.2),
        (-0.2, 0.3),
        (0.3, -0.2),
        (0.3, 0.3),
        (0.3, 0.8),
        (0.8, 0.3),
        (0.8, 0.8),
        (1.4, 0.3),
        (0.3, 1.4),
    ],
    starts: &[(1.0, 1.0)],
    reach: (1, 0),
    rounds: 3,
};

impl search::Coder<32, 8> for Block {
    #[inline(always)]
    fn encode(b: &Batch<32>, out: &mut [Block]) {
        let found = affine::super_block::<32, 8>(b, &SEARCH);
        let qs = found.codes(b, 31.0);
        for (i, out) in out.iter_mut().enumerate() {
            let (first, qs) = (8 * i, &qs.as_chunks::<8>().0[i]);
            let mut high = [0; 32];
            for (i, q) in qs.as_flattened().iter().enumerate() {
                high[i % 32] |= q >> 4 << (i / 32);
            }
            *out = Block {
                d: found.d[first],
                dmin: found.e[first],
                scales: pack_scales_and_mins(&small(&found.s, first), &small(&found.m, first)),
                high,
                qs: std::array::from_fn(|i| qs[i / 32 * 2][i % 32] & 15 | qs[i / 32 * 2 + 1][i % 32] << 4),
            };
        }
    }
}
