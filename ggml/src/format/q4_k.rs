//! Q4_K: 256 values in 8 sub-blocks; value = (d·s)·q − dmin·m with q of four bits, s and m of six.
//!
//! `d: f16`, `dmin: f16`, 12 bytes of [scales and minimums](scales_and_mins), 128 bytes of q: each 32 bytes hold
//! an even sub-block in the low nibbles and the next one in the high nibbles.

use bytemuck::{Pod, Zeroable};

use super::bits::{F16, scales_and_mins};
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
        encode: None,
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
