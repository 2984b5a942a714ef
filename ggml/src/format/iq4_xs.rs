//! IQ4_XS: 256 values in 8 sub-blocks; value = d·(s − 32)·[`IQ4_VALUES`]\[q\] with s of six bits.
//!
//! `d: f16`, a 16-bit word with the high two bits of every s, 4 bytes with their low nibbles, 16 bytes of nibbles
//! per sub-block: its first half low, its second half high.

use bytemuck::{Pod, Zeroable};

use super::bits::{F16, nibbles, pack_nibbles};
use super::grids::IQ4_VALUES;
use super::iq4_nl::Levels;
use super::search::lanes::{Batch, small};
use super::search::{self, signed};
use super::{Blocks, Format, GgmlType, Kind, Unpacked};
use crate::act::ActFormat;

pub const IQ4_XS: Format = Format {
    ty: GgmlType::IQ4_XS,
    name: "IQ4_XS",
    block: 256,
    bytes: size_of::<Block>(),
    kind: Kind::Blocks(Blocks {
        sub: 32,
        has_min: false,
        act: ActFormat::Q8x256,
        unpack,
        encode: Some(search::encode::<Block, 32, 8>),
    }),
};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Block {
    d: F16,
    scales_high: [u8; 2],
    scales_low: [u8; 4],
    qs: [[u8; 16]; 8],
}

fn unpack(src: &[u8], dst: &mut Unpacked) {
    let b: &Block = bytemuck::from_bytes(src);
    let d = b.d.get();
    let high = u16::from_le_bytes(b.scales_high);
    for (sub, qs) in b.qs.iter().enumerate() {
        let low = b.scales_low[sub / 2] >> (4 * (sub % 2)) & 15;
        let high = (high >> (2 * sub) & 3) as u8;
        dst.scale[sub] = d * f32::from((low | high << 4) as i8 - 32);
        nibbles(qs, dst.sub_mut(sub), |q| IQ4_VALUES[usize::from(q)]);
    }
}

const SEARCH: signed::Search =
    signed::Search { s: (-32.0, 31.0), starts: &[1.0, 0.97, 1.03], reach: 1, rounds: 2 };

impl search::Coder<32, 8> for Block {
    #[inline(always)]
    fn encode(b: &Batch<32>, out: &mut [Block]) {
        let found = signed::super_block::<Levels, 32, 8>(b, &SEARCH);
        let qs = found.codes::<Levels, 32>(b);
        for (i, out) in out.iter_mut().enumerate() {
            let (mut scales_high, mut scales_low) = (0u16, [0; 4]);
            for (i, s) in small::<8>(&found.s, 8 * i).into_iter().enumerate() {
                let s = s.wrapping_add(32);
                scales_low[i / 2] |= (s & 15) << (4 * (i % 2));
                scales_high |= u16::from(s >> 4) << (2 * i);
            }
            *out = Block {
                d: found.d[8 * i],
                scales_high: scales_high.to_le_bytes(),
                scales_low,
                qs: std::array::from_fn(|sub| pack_nibbles(&qs[8 * i + sub])),
            };
        }
    }
}
