//! Q5_K: 256 values in 8 sub-blocks; value = (d·s)·q − dmin·m with q of five bits, s and m of six.
//!
//! As Q4_K with 32 bytes of fifth bits before the nibbles: bit p of byte l belongs to value l of sub-block p.

use bytemuck::{Pod, Zeroable};

use super::bits::{F16, scales_and_mins};
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
        encode: None,
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
