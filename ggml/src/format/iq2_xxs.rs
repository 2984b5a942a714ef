//! IQ2_XXS: 256 values in 8 sub-blocks; value = d·(2s + 1)/8·(±g) with g a point of a grid, s of four bits.
//!
//! `d: f16`, then 8 bytes per sub-block: four grid codes (each 8 values), then a 32-bit word with four
//! [seven-bit signs](even_signs) and s in its top four bits.

use bytemuck::{Pod, Zeroable};

use super::bits::F16;
use super::grids::{IQ2XXS, even_signs, with_signs};
use super::{Blocks, Format, GgmlType, Kind, Unpacked};
use crate::act::ActFormat;

pub const IQ2_XXS: Format = Format {
    ty: GgmlType::IQ2_XXS,
    name: "IQ2_XXS",
    block: 256,
    bytes: size_of::<Block>(),
    kind: Kind::Blocks(Blocks { sub: 32, has_min: false, act: ActFormat::Q8x256, unpack, encode: None }),
};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Block {
    d: F16,
    qs: [[u8; 8]; 8],
}

fn unpack(src: &[u8], dst: &mut Unpacked) {
    let b: &Block = bytemuck::from_bytes(src);
    let d = b.d.get();
    for (sub, &[c0, c1, c2, c3, s0, s1, s2, s3]) in b.qs.iter().enumerate() {
        let signs = u32::from_le_bytes([s0, s1, s2, s3]);
        dst.scale[sub] = d * (0.5 + (signs >> 28) as f32) * 0.25;
        for (i, code) in [c0, c1, c2, c3].into_iter().enumerate() {
            *dst.sub_mut(4 * sub + i) = with_signs(IQ2XXS[usize::from(code)], even_signs(signs >> (7 * i)));
        }
    }
}
