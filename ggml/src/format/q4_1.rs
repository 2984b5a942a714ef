//! Q4_1: 32 values, `d: f16`, `m: f16`, then 16 bytes of nibbles; value = d·q + m.

use bytemuck::{Pod, Zeroable};

use super::bits::{F16, nibbles, pack_nibbles};
use super::search::{self, Min, codes};
use super::{Blocks, Format, GgmlType, Kind, Unpacked};
use crate::act::ActFormat;

pub const Q4_1: Format = Format {
    ty: GgmlType::Q4_1,
    name: "Q4_1",
    block: 32,
    bytes: size_of::<Block>(),
    kind: Kind::Blocks(Blocks {
        sub: 32,
        has_min: true,
        act: ActFormat::Q8x32,
        unpack,
        encode: Some(encode),
    }),
};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Block {
    d: F16,
    m: F16,
    qs: [u8; 16],
}

fn unpack(src: &[u8], dst: &mut Unpacked) {
    let b: &Block = bytemuck::from_bytes(src);
    dst.scale[0] = b.d.get();
    dst.min[0] = b.m.get();
    nibbles(&b.qs, dst.sub_mut(0), |q| q as i8);
}

fn encode(src: &[f32], weights: &[f32], dst: &mut [u8]) {
    let (d, m) = search::affine(src, weights, 15.0, Min::Free);
    let (d, m) = (F16::new(d), F16::new(m));
    let qs = pack_nibbles(&codes(src, d.get(), m.get(), 0.0, 15.0));
    *bytemuck::from_bytes_mut(dst) = Block { d, m, qs };
}
