//! Q4_K: 256 values in 8 sub-blocks; value = (d·s)·q − dmin·m with q of four bits, s and m of six.
//!
//! `d: f16`, `dmin: f16`, 12 bytes of [scales and minimums](scales_and_mins), 128 bytes of q: each 32 bytes hold
//! an even sub-block in the low nibbles and the next one in the high nibbles.

use bytemuck::{Pod, Zeroable};

use super::bits::{F16, pack_scales_and_mins, scales_and_mins};
use super::search::{self, Min, codes};
use super::{Blocks, Format, GgmlType, Kind, Unpacked};
use crate::act::ActFormat;

pub const Q4_K: Format = Format {
    ty: GgmlType::Q4_K,
    name: "Q4_K",
    block: 256,
    bytes: size_of::<Block>(),
    kind: Kind::Blocks(Blocks {
        sub: 32,
        has_min: true,
        act: ActFormat::Q8x256,
        unpack,
        encode: Some(encode),
    }),
};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Block {
    d: F16,
    dmin: F16,
    scales: [u8; 12],
    qs: [u8; 128],
}

fn unpack(src: &[u8], dst: &mut Unpacked) {
    let b: &Block = bytemuck::from_bytes(src);
    dst.set_scales_and_mins(b.d.get(), b.dmin.get(), scales_and_mins(&b.scales));
    for (pair, packed) in b.qs.as_chunks::<32>().0.iter().enumerate() {
        for part in 0..2 {
            let qs: &mut [i8; 32] = dst.sub_mut(2 * pair + part);
            for (q, p) in qs.iter_mut().zip(packed) {
                *q = (p >> (4 * part) & 15) as i8;
            }
        }
    }
}

fn encode(src: &[f32], weights: &[f32], dst: &mut [u8]) {
    let subs = src.as_chunks::<32>().0;
    let fits: [(f32, f32); 8] =
        std::array::from_fn(|i| search::affine(&subs[i], &weights[32 * i..], 15.0, Min::NotAboveZero));
    let (d, scales) = search::unsigned_scales(&fits.map(|(d, _)| d), 63.0);
    let (dmin, mins) = search::unsigned_scales(&fits.map(|(_, m)| -m), 63.0);
    let qs: [[u8; 32]; 8] = std::array::from_fn(|i| {
        let (d, m) = (d.get() * f32::from(scales[i]), dmin.get() * f32::from(mins[i]));
        codes(&subs[i], d, -m, 0.0, 15.0)
    });

    *bytemuck::from_bytes_mut(dst) = Block {
        d,
        dmin,
        scales: pack_scales_and_mins(&scales, &mins),

        qs: std::array::from_fn(|i| qs[i / 32 * 2][i % 32] | qs[i / 32 * 2 + 1][i % 32] << 4),
    };
}
