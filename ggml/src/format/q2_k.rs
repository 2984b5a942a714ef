//! Q2_K: 256 values in 16 sub-blocks; value = (d·s)·q − dmin·m with q of two bits, s and m of four.
//!
//! 16 bytes with s in the low and m in the high nibble, 64 bytes of q, `d: f16`, `dmin: f16`. Each half of 128
//! values has 32 bytes of q: bits 0-1 of byte l are value l, bits 2-3 value l + 32, and so on.

use bytemuck::{Pod, Zeroable};

use super::bits::{F16, pack_two_bits};
use super::search::lanes::{Batch, small};
use super::search::{self, affine};
use super::{Blocks, Format, GgmlType, Kind, Unpacked};
use crate::act::ActFormat;

pub const Q2_K: Format = Format {
    ty: GgmlType::Q2_K,
    name: "Q2_K",
    block: 256,
    bytes: size_of::<Block>(),
    kind: Kind::Blocks(Blocks {
        sub: 16,
        has_min: true,
        act: ActFormat::Q8x256,
        unpack,
        encode: Some(search::encode::<Block, 16, 16>),
    }),
};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Block {
    scales: [u8; 16],
    qs: [u8; 64],
    d: F16,
    dmin: F16,
}

fn unpack(src: &[u8], dst: &mut Unpacked) {
    let b: &Block = bytemuck::from_bytes(src);
    let (d, dmin) = (b.d.get(), b.dmin.get());
    for (i, s) in b.scales.iter().enumerate() {
        dst.scale[i] = d * f32::from(s & 15);
        dst.min[i] = -(dmin * f32::from(s >> 4));
    }
    for (half, packed) in b.qs.as_chunks::<32>().0.iter().enumerate() {
        for part in 0..4 {
            let qs: &mut [i8; 32] = dst.sub_mut(4 * half + part);
            for (q, p) in qs.iter_mut().zip(packed) {
                *q = (p >> (2 * part) & 3) as i8;
            }
        }
    }
}

const SEARCH: affine::Search = affine::Search {
    n: 3.0,
    largest: 15.0,
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
    reach: (1, 1),
    rounds: 3,
};

impl search::Coder<16, 16> for Block {
    #[inline(always)]
    fn encode(b: &Batch<16>, out: &mut [Block]) {
        let found = affine::super_block::<16, 16>(b, &SEARCH);
        let qs = found.codes(b, 3.0);
        let (s, m): ([u8; 16], [u8; 16]) = (small(&found.s, 0), small(&found.m, 0));
        for out in out {
            *out = Block {
                scales: std::array::from_fn(|i| s[i] | m[i] << 4),
                qs: pack_two_bits(qs.as_flattened()),
                d: found.d[0],
                dmin: found.e[0],
            };
        }
    }
}
