//! Q4_0: 32 values, `d: f16`, then 16 bytes of nibbles; value = d·(q − 8).

use bytemuck::{Pod, Zeroable};

use super::bits::{F16, nibbles, pack_nibbles};
use super::search::{self, codes};
use super::{Blocks, Format, GgmlType, Kind, Unpacked};
use crate::act::ActFormat;

pub const Q4_0: Format = Format {
    ty: GgmlType::Q4_0,
    name: "Q4_0",
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
    nibbles(&b.qs, dst.sub_mut(0), |q| q as i8 - 8);
}

fn encode(src: &[f32], weights: &[f32], dst: &mut [u8]) {
    let d = F16::new(search::integers(src, weights, -8.0, 7.0));
    let qs = pack_nibbles(&codes(src, d.get(), 0.0, -8.0, 7.0));
    *bytemuck::from_bytes_mut(dst) = Block { d, qs };
}
