//! IQ1_M: 256 values in 16 sub-blocks; value = d·(2s + 1)·(g ± 1/8) with g a point of a ternary grid, s of three bits.
//!
//! 32 bytes with the low eight bits of the grid codes (a code per 8 values), 16 bytes with a nibble per code: three
//! high bits and the sign of the 1/8, then 4 16-bit words: each has four s in its low twelve bits, and their high
//! nibbles together are d, an F16.

use std::sync::LazyLock;

use bytemuck::{Pod, Zeroable};
use half::f16;

use super::grids::IQ1S;
use super::search::grid::{self, Eight, Grid, Shifted};
use super::{Blocks, Format, GgmlType, Kind, Unpacked};
use crate::act::ActFormat;

pub const IQ1_M: Format = Format {
    ty: GgmlType::IQ1_M,
    name: "IQ1_M",
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

/// The points near each cell.
static GRID: LazyLock<Grid<8>> = LazyLock::new(|| Grid::new(&IQ1S, &[-8, 0, 8]));

const SEARCH: grid::Search =
    grid::Search { sub: 16, unit: 0.125, largest: 7, tried: &[11.0], starts: &[0.95], rounds: 2 };

impl grid::Coder for Block {
    #[inline(always)]
    fn encode(block: &grid::Block) -> Self {
        let found = grid::super_block(&Shifted::<1>(&GRID), block, &SEARCH);
        let e = &found.eights;
        let nibble = |e: Eight| (e.codes[0] >> 8) as u8 | e.signs << 3;
        let d = found.d.bits();
        let scales = std::array::from_fn(|i| {
            let s = (0..4).fold(0, |word, k| word | u16::from(found.s[4 * i + k]) << (3 * k));
            (s | d >> (4 * i) << 12).to_le_bytes()
        });
        Block {
            qs: e.map(|e| e.codes[0] as u8),
            qh: std::array::from_fn(|i| nibble(e[2 * i]) | nibble(e[2 * i + 1]) << 4),
            scales,
        }
    }
}
