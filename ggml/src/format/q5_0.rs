//! Q5_0: 32 values, `d: f16`, 4 bytes of fifth bits, 16 bytes of nibbles; value = d·(q − 16).

use bytemuck::{Pod, Zeroable};

use super::bits::{F16, five_bits, pack_five_bits};
use super::search::{self, codes};
use super::{Blocks, Format, GgmlType, Kind, Unpacked};
use crate::act::ActFormat;

pub const Q5_0: Format = Format {
    ty: GgmlType::Q5_0,
    name: "Q5_0",
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
    high: [u8; 4],
    qs: [u8; 16],
}

fn unpack(src: &[u8], dst: &mut Unpacked) {
    let b: &Block = bytemuck::from_bytes(src);
    dst.scale[0] = b.d.get();
    five_bits(&b.qs, b.high, dst.sub_mut(0), |q| q as i8 - 16);
}

fn encode(src: &[f32], weights: &[f32], dst: &mut [u8]) {
    let d = F16::new(search::integers(src, weights, -16.0, 15.0));
    let (qs, high) = pack_five_bits(&codes(src, d.get(), 0.0, -16.0, 15.0));
    *bytemuck::from_bytes_mut(dst) = Block { d, high, qs };
}
