//! Q5_0: 32 values, `d: f16`, 4 bytes of fifth bits, 16 bytes of nibbles; value = d·(q − 16).

use bytemuck::{Pod, Zeroable};

use super::bits::{F16, five_bits, pack_five_bits};
use super::search;
use super::search::lanes::Batch;
use super::search::signed::{self, Integers};
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
        encode: Some(search::encode::<Block, 32, 1>),
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

impl search::Coder<32, 1> for Block {
    #[inline(always)]
    fn encode(b: &Batch<32>, out: &mut [Block]) {
        let (d, scale) = signed::single::<Integers<16>, 32, 1>(b);
        let qs = signed::codes::<Integers<16>, 32>(b, scale);
        for ((out, d), qs) in out.iter_mut().zip(d).zip(&qs) {
            let (qs, high) = pack_five_bits(qs);
            *out = Block { d, high, qs };
        }
    }
}
