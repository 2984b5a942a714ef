//! IQ2_XXS: 256 values in 8 sub-blocks; value = d·(2s + 1)/8·(±g) with g a point of a grid, s of four bits.
//!
//! `d: f16`, then 8 bytes per sub-block: four grid codes (each 8 values), then a 32-bit word with four
//! [seven-bit signs](even_signs) and s in its top four bits.

use std::sync::LazyLock;

use bytemuck::{Pod, Zeroable};

use super::bits::F16;
use super::grids::{IQ2XXS, even_signs, with_signs};
use super::search::grid::{self, Eights, Grid};
use super::{Blocks, Format, GgmlType, Kind, Unpacked};
use crate::act::ActFormat;

pub const IQ2_XXS: Format = Format {
    ty: GgmlType::IQ2_XXS,
    name: "IQ2_XXS",
    block: 256,
    bytes: size_of::<Block>(),
    kind: Kind::Blocks(Blocks {
        sub: 32,
        has_min: false,
        act: ActFormat::Q8x256,
        unpack,
        encode: Some(grid::encode::<Block>),
    }),
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

/// The points near each cell.
static GRID: LazyLock<Grid<8>> = LazyLock::new(|| Grid::new(&IQ2XXS, &super::grids::IQ2_VALUES));

const SEARCH: grid::Search = grid::Search {
    sub: 32,
    unit: 0.125,
    largest: 15,
    tried: &[26.0, 32.0, 38.0, 44.0, 50.0, 56.0],
    starts: &[1.0, 0.93],
    rounds: 2,
};

impl grid::Coder for Block {
    #[inline(always)]
    fn encode(block: &grid::Block) -> Self {
        let found = grid::super_block(&Eights::<true>(&GRID), block, &SEARCH);
        let eights = found.eights.as_chunks::<4>().0;
        let qs = std::array::from_fn(|sub| {
            let codes = eights[sub].map(|e| e.codes[0] as u8);
            let signs = (0..4).fold(u32::from(found.s[sub]) << 28, |word, i| {
                word | u32::from(eights[sub][i].signs & 127) << (7 * i)
            });
            let signs = signs.to_le_bytes();
            std::array::from_fn(|i| if i < 4 { codes[i] } else { signs[i - 4] })
        });
        Block { d: found.d, qs }
    }
}
