//! Q4_1: 32 values, `d: f16`, `m: f16`, then 16 bytes of nibbles; value = d·q + m.

use bytemuck::{Pod, Zeroable};

use super::bits::{F16, nibbles, pack_nibbles};
use super::search::lanes::Batch;
use super::search::{self, affine};
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
        encode: Some(search::encode::<Block, 32, 1>),
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

/// Intervals that are tried.
const TRIED: affine::Tried = &[(-0.2, 0.3), (0.3, -0.2), (0.3, 0.3), (0.3, 0.8), (0.8, 0.3), (0.8, 0.8)];

impl search::Coder<32, 1> for Block {
    #[inline(always)]
    fn encode(b: &Batch<32>, out: &mut [Block]) {
        let found = affine::single(b, 15.0, TRIED);
        let qs = found.codes(b, 15.0);
        for (i, (out, qs)) in out.iter_mut().zip(&qs).enumerate() {
            *out = Block { d: found.d[i], m: found.m[i], qs: pack_nibbles(qs) };
        }
    }
}
