//! IQ3_S: 256 values in 8 sub-blocks; value = d·(2s + 1)·(±g) with g a point of a grid, s of four bits.
//!
//! `d: f16`, 64 bytes with the low eight bits of the grid codes (a code per 4 values), 8 bytes with a ninth bit per
//! code, 32 bytes of signs (a bit per value), 4 bytes with s of an even sub-block in the low nibble, of the next
//! in the high one.

use std::sync::LazyLock;

use bytemuck::{Pod, Zeroable};

use super::bits::F16;
use super::grids::{IQ3S, pair, with_signs};
use super::search::grid::{self, Eight, Fours, Grid};
use super::{Blocks, Format, GgmlType, Kind, Unpacked};
use crate::act::ActFormat;

pub const IQ3_S: Format = Format {
    ty: GgmlType::IQ3_S,
    name: "IQ3_S",
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

/// The points near each cell.
static GRID: LazyLock<Grid<4>> = LazyLock::new(|| Grid::new(&IQ3S, &super::grids::IQ3S_VALUES));

const SEARCH: grid::Search = grid::Search {
    sub: 32,
    unit: 1.0,
    largest: 15,
    tried: &[10.5, 12.0, 13.5, 15.0, 16.5, 18.0],
    starts: &[1.0, 0.93],
    rounds: 2,
};

impl grid::Coder for Block {
    #[inline(always)]
    fn encode(block: &grid::Block) -> Self {
        let found = grid::super_block(&Fours::<false>(&GRID), block, &SEARCH);
        let e = &found.eights;
        let high = |e: Eight| (e.codes[0] >> 8) as u8 | ((e.codes[1] >> 8) as u8) << 1;
        Block {
            d: found.d,
            qs: e.map(|e| e.codes.map(|c| c as u8)),
            qh: std::array::from_fn(|sub| (0..4).fold(0, |bits, i| bits | high(e[4 * sub + i]) << (2 * i))),
            signs: e.map(|e| e.signs),
            scales: std::array::from_fn(|i| found.s[2 * i] | found.s[2 * i + 1] << 4),
        }
    }
}
