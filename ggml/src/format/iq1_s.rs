//! IQ1_S: 256 values in 8 sub-blocks; value = d·(2s + 1)·(g ± 1/8) with g a point of a ternary grid, s of three bits.
//!
//! `d: f16`, 32 bytes with the low eight bits of the grid codes (a code per 8 values), then 8 16-bit words, one per
//! 32 values: four times three high bits of codes, s in bits 12-14, the sign of the 1/8 in bit 15.

use std::sync::LazyLock;

use bytemuck::{Pod, Zeroable};

use super::bits::F16;
use super::grids::IQ1S;
use super::search::grid::{self, Grid, Shifted};
use super::{Blocks, Format, GgmlType, Kind, Unpacked};
use crate::act::ActFormat;

pub const IQ1_S: Format = Format {
    ty: GgmlType::IQ1_S,
    name: "IQ1_S",
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
    qs: [u8; 32],
    qh: [[u8; 2]; 8],
}

fn unpack(src: &[u8], dst: &mut Unpacked) {
    let b: &Block = bytemuck::from_bytes(src);
    let d = b.d.get();
    for (sub, qh) in b.qh.iter().enumerate() {
        let qh = u16::from_le_bytes(*qh);
        // The integers are 8g ± 1, the eighth is exact in the scale.
        dst.scale[sub] = d * f32::from(2 * (qh >> 12 & 7) + 1) / 8.0;
        let shift = if qh >> 15 == 0 { 1 } else { -1 };
        for i in 0..4 {
            let code = usize::from(b.qs[4 * sub + i]) | usize::from(qh >> (3 * i) & 7) << 8;
            *dst.sub_mut(4 * sub + i) = IQ1S[code].map(|g| g + shift);
        }
    }
}

/// The points near each cell.
static GRID: LazyLock<Grid<8>> = LazyLock::new(|| Grid::new(&IQ1S, &[-8, 0, 8]));

const SEARCH: grid::Search =
    grid::Search { sub: 32, unit: 0.125, largest: 7, tried: &[11.0], starts: &[0.95], rounds: 2 };

impl grid::Coder for Block {
    #[inline(always)]
    fn encode(block: &grid::Block) -> Self {
        let found = grid::super_block(&Shifted::<4>(&GRID), block, &SEARCH);
        let e = &found.eights;
        let word = |sub: usize| {
            let codes = (0..4).fold(0, |word, i| word | (e[4 * sub + i].codes[0] >> 8) << (3 * i));
            codes | u16::from(found.s[sub]) << 12 | u16::from(e[4 * sub].signs) << 15
        };
        Block {
            d: found.d,
            qs: e.map(|e| e.codes[0] as u8),
            qh: std::array::from_fn(|sub| word(sub).to_le_bytes()),
        }
    }
}
