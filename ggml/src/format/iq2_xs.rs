//! IQ2_XS: 256 values in 16 sub-blocks; value = d·(2s + 1)/8·(±g) with g a point of a grid, s of four bits.
//!
//! `d: f16`, 32 16-bit words, one per 8 values: nine bits of grid code, then [seven of signs](even_signs); 8 bytes
//! with s of an even sub-block in the low nibble, of the next in the high one.

use std::sync::LazyLock;

use bytemuck::{Pod, Zeroable};

use super::bits::{F16, pack_pairs};
use super::grids::{IQ2XS, even_signs, with_signs};
use super::search::grid::{self, Eight, Eights, Grid};
use super::{Blocks, Format, GgmlType, Kind, Unpacked};
use crate::act::ActFormat;

pub const IQ2_XS: Format = Format {
    ty: GgmlType::IQ2_XS,
    name: "IQ2_XS",
    block: 256,
    bytes: size_of::<Block>(),
    kind: Kind::Blocks(Blocks {
        sub: 16,
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
    scales: [u8; 8],
}

fn unpack(src: &[u8], dst: &mut Unpacked) {
    let b: &Block = bytemuck::from_bytes(src);
    let d = b.d.get();
    for (sub, scale) in dst.scale.iter_mut().enumerate() {
        *scale = d * (0.5 + f32::from(b.scales[sub / 2] >> (4 * (sub % 2)) & 15)) * 0.25;
    }
    for (i, q) in b.qs.iter().enumerate() {
        let q = u16::from_le_bytes(*q);
        *dst.sub_mut(i) = with_signs(IQ2XS[usize::from(q & 511)], even_signs(u32::from(q >> 9)));
    }
}

/// The points near each cell.
static GRID: LazyLock<Grid<8>> = LazyLock::new(|| Grid::new(&IQ2XS, &super::grids::IQ2_VALUES));

const SEARCH: grid::Search = grid::Search {
    sub: 16,
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
        let word = |e: Eight| (e.codes[0] | u16::from(e.signs & 127) << 9).to_le_bytes();
        Block { d: found.d, qs: found.eights.map(word), scales: pack_pairs(&found.s) }
    }
}
