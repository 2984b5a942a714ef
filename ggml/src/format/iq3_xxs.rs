//! IQ3_XXS: 256 values in 8 sub-blocks; value = d·(2s + 1)/4·(±g) with g a point of a grid, s of four bits.
//!
//! `d: f16`, 64 grid codes (each 4 values), then a 32-bit word per sub-block with four [seven-bit
//! signs](even_signs) and s in its top four bits.

use std::sync::LazyLock;

use bytemuck::{Pod, Zeroable};

use super::bits::F16;
use super::grids::{IQ3XXS, even_signs, pair, with_signs};
use super::search::grid::{self, Fours, Grid};
use super::{Blocks, Format, GgmlType, Kind, Unpacked};
use crate::act::ActFormat;

pub const IQ3_XXS: Format = Format {
    ty: GgmlType::IQ3_XXS,
    name: "IQ3_XXS",
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
    qs: [[u8; 2]; 32],
    signs: [[u8; 4]; 8],
}

fn unpack(src: &[u8], dst: &mut Unpacked) {
    let b: &Block = bytemuck::from_bytes(src);
    let d = b.d.get();
    for (sub, signs) in b.signs.iter().enumerate() {
        let signs = u32::from_le_bytes(*signs);
        dst.scale[sub] = d * (0.5 + (signs >> 28) as f32) * 0.5;
        for i in 0..4 {
            let [first, second] = b.qs[4 * sub + i].map(|code| IQ3XXS[usize::from(code)]);
            *dst.sub_mut(4 * sub + i) = with_signs(pair(first, second), even_signs(signs >> (7 * i)));
        }
    }
}

/// The points near each cell.
static GRID: LazyLock<Grid<4>> = LazyLock::new(|| Grid::new(&IQ3XXS, &super::grids::IQ3XXS_VALUES));

const SEARCH: grid::Search = grid::Search {
    sub: 32,
    unit: 0.25,
    largest: 15,
    tried: &[44.0, 50.0, 56.0, 62.0, 68.0, 74.0],
    starts: &[1.0, 0.93],
    rounds: 2,
};

impl grid::Coder for Block {
    #[inline(always)]
    fn encode(block: &grid::Block) -> Self {
        let found = grid::super_block(&Fours::<true>(&GRID), block, &SEARCH);
        let signs = std::array::from_fn(|sub| {
            let word = (0..4).fold(u32::from(found.s[sub]) << 28, |word, i| {
                word | u32::from(found.eights[4 * sub + i].signs & 127) << (7 * i)
            });
            word.to_le_bytes()
        });
        Block { d: found.d, qs: found.eights.map(|e| e.codes.map(|c| c as u8)), signs }
    }
}
