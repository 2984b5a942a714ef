//! IQ2_S: 256 values in 16 sub-blocks; value = d·(2s + 1)/8·(±g) with g a point of a grid, s of four bits.
//!
//! `d: f16`, 32 bytes with the low eight bits of the grid codes (a code per 8 values), 32 bytes of signs (a bit per
//! value), 8 bytes with four times two high bits of codes, 8 bytes with s of an even sub-block in the low nibble,
//! of the next in the high one.

use std::sync::LazyLock;

use bytemuck::{Pod, Zeroable};

use super::bits::{F16, pack_pairs};
use super::grids::{IQ2S, with_signs};
use super::search::grid::{self, Eights, Grid};
use super::{Blocks, Format, GgmlType, Kind, Unpacked};
use crate::act::ActFormat;

pub const IQ2_S: Format = Format {
    ty: GgmlType::IQ2_S,
    name: "IQ2_S",
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
    qs: [u8; 32],
    signs: [u8; 32],
    qh: [u8; 8],
    scales: [u8; 8],
}

fn unpack(src: &[u8], dst: &mut Unpacked) {
    let b: &Block = bytemuck::from_bytes(src);
    let d = b.d.get();
    for (sub, scale) in dst.scale.iter_mut().enumerate() {
        *scale = d * (0.5 + f32::from(b.scales[sub / 2] >> (4 * (sub % 2)) & 15)) * 0.25;
    }
    for (i, (low, signs)) in b.qs.iter().zip(b.signs).enumerate() {
        let code = usize::from(*low) | usize::from(b.qh[i / 4] >> (2 * (i % 4)) & 3) << 8;
        *dst.sub_mut(i) = with_signs(IQ2S[code], signs);
    }
}

/// The points near each cell.
static GRID: LazyLock<Grid<8>> = LazyLock::new(|| Grid::new(&IQ2S, &super::grids::IQ2_VALUES));

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
        let found = grid::super_block(&Eights::<false>(&GRID), block, &SEARCH);
        let e = &found.eights;
        Block {
            d: found.d,
            qs: e.map(|e| e.codes[0] as u8),
            signs: e.map(|e| e.signs),
            qh: std::array::from_fn(|i| {
                (0..4).fold(0, |high, k| high | ((e[4 * i + k].codes[0] >> 8) as u8) << (2 * k))
            }),
            scales: pack_pairs(&found.s),
        }
    }
}
