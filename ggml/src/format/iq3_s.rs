//! IQ3_S: 256 values in 8 sub-blocks; value = d·(2s + 1)·(±g) with g a point of a grid, s of four bits.
//!
//! `d: f16`, 64 bytes with the low eight bits of the grid codes (a code per 4 values), 8 bytes with a ninth bit per
//! code, 32 bytes of signs (a bit per value), 4 bytes with s of an even sub-block in the low nibble, of the next
//! in the high one.

use bytemuck::{Pod, Zeroable};

use super::bits::F16;
use super::grids::{IQ3S, pair, with_signs};
use super::{Blocks, Format, GgmlType, Kind, Unpacked};
use crate::act::ActFormat;

pub const IQ3_S: Format = Format {
    ty: GgmlType::IQ3_S,
    name: "IQ3_S",
    block: 256,
    bytes: size_of::<Block>(),
    kind: Kind::Blocks(Blocks { sub: 32, has_min: false, act: ActFormat::Q8x256, unpack, encode: None }),
};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Block {
    d: F16,
    qs: [[u8; 2]; 32],
    qh: [u8; 8],
    signs: [u8; 32],
    scales: [u8; 4],
}

fn unpack(src: &[u8], dst: &mut Unpacked) {
    let b: &Block = bytemuck::from_bytes(src);
    let d = b.d.get();
    for (sub, qh) in b.qh.iter().enumerate() {
        dst.scale[sub] = d * f32::from(1 + 2 * (b.scales[sub / 2] >> (4 * (sub % 2)) & 15));
        for i in 0..4 {
            let [first, second] = b.qs[4 * sub + i].map(usize::from);
            let first = IQ3S[first | usize::from(qh >> (2 * i) & 1) << 8];
            let second = IQ3S[second | usize::from(qh >> (2 * i + 1) & 1) << 8];
            *dst.sub_mut(4 * sub + i) = with_signs(pair(first, second), b.signs[4 * sub + i]);
        }
    }
}
