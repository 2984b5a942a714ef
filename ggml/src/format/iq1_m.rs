//! IQ1_M: 256 values in 16 sub-blocks; value = d·(2s + 1)·(g ± 1/8) with g a point of a ternary grid, s of three bits.
//!
//! 32 bytes with the low eight bits of the grid codes (a code per 8 values), 16 bytes with a nibble per code: three
//! high bits and the sign of the 1/8, then 4 16-bit words: each has four s in its low twelve bits, and their high
//! nibbles together are d, an F16.

use bytemuck::{Pod, Zeroable};
use half::f16;

use super::grids::IQ1S;
use super::{Blocks, Format, GgmlType, Kind, Unpacked};
use crate::act::ActFormat;

pub const IQ1_M: Format = Format {
    ty: GgmlType::IQ1_M,
    name: "IQ1_M",
    block: 256,
    bytes: size_of::<Block>(),
    kind: Kind::Blocks(Blocks { sub: 16, has_min: false, act: ActFormat::Q8x256, unpack, encode: None }),
};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Block {
    qs: [u8; 32],
    qh: [u8; 16],
    scales: [[u8; 2]; 4],
}

fn unpack(src: &[u8], dst: &mut Unpacked) {
    let b: &Block = bytemuck::from_bytes(src);
    let scales = b.scales.map(u16::from_le_bytes);
    let d = scales.iter().rev().fold(0, |d, s| d << 4 | s >> 12);
    let d = f16::from_bits(d).to_f32();
    for (sub, scale) in dst.scale.iter_mut().enumerate() {
        // The integers are 8g ± 1, the eighth is exact in the scale.
        *scale = d * f32::from(2 * (scales[sub / 4] >> (3 * (sub % 4)) & 7) + 1) / 8.0;
    }
    for (i, low) in b.qs.iter().enumerate() {
        let high = b.qh[i / 2] >> (4 * (i % 2));
        let shift = if high & 8 == 0 { 1 } else { -1 };
        *dst.sub_mut(i) = IQ1S[usize::from(*low) | usize::from(high & 7) << 8].map(|g| g + shift);
    }
}
