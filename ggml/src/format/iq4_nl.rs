//! IQ4_NL: 32 values, `d: f16`, then 16 bytes of nibbles; value = d·[`IQ4_VALUES`]\[q\].

use bytemuck::{Pod, Zeroable};

use super::bits::{F16, nibbles, pack_nibbles};
use super::grids::IQ4_VALUES;
use super::search::{self, inverse, nearest_index, nearest_level};
use super::{Blocks, Format, GgmlType, Kind, Unpacked};
use crate::act::ActFormat;

pub const IQ4_NL: Format = Format {
    ty: GgmlType::IQ4_NL,
    name: "IQ4_NL",
    block: 32,
    bytes: size_of::<Block>(),
    kind: Kind::Blocks(Blocks {
        sub: 32,
        has_min: false,
        act: ActFormat::Q8x32,
        unpack,
        encode: Some(encode),
    }),
};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Block {
    d: F16,
    qs: [u8; 16],
}

fn unpack(src: &[u8], dst: &mut Unpacked) {
    let b: &Block = bytemuck::from_bytes(src);
    dst.scale[0] = b.d.get();
    nibbles(&b.qs, dst.sub_mut(0), |q| IQ4_VALUES[usize::from(q)]);
}

/// [`IQ4_VALUES`] in F32.
const LEVELS: [f32; 16] = {
    let mut levels = [0.0; 16];
    let mut i = 0;
    while i < 16 {
        levels[i] = IQ4_VALUES[i] as f32;
        i += 1;
    }
    levels
};

/// Where the value of the largest magnitude is tried to come to lie: around either end of the table.
const CANDIDATES: [f32; 10] = [-134.5, -132.0, -129.5, -127.0, -124.5, -122.0, -119.5, 110.0, 113.0, 116.0];

/// The best scale of 32 values.
pub fn scale(x: &[f32; 32], weights: &[f32]) -> f32 {
    search::scale(x, weights, &CANDIDATES, |x| nearest_level(&LEVELS, x))
}

/// The nibbles of 32 values by their scale.
pub fn pack(x: &[f32; 32], d: f32) -> [u8; 16] {
    let inverse = inverse(d);
    pack_nibbles(&x.map(|x| nearest_index(&LEVELS, x * inverse)))
}

fn encode(src: &[f32], weights: &[f32], dst: &mut [u8]) {
    let x = &src.as_chunks().0[0];
    let d = F16::new(scale(x, weights));
    *bytemuck::from_bytes_mut(dst) = Block { d, qs: pack(x, d.get()) };
}
