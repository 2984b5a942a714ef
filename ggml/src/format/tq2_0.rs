//! TQ2_0: 256 ternary values, d·(t − 1) with t of two bits.
//!
//! 64 bytes: each half of 128 values has 32, bits 0-1 of byte l are value l, bits 2-3 value l + 32, and so on; then
//! `d: f16`.

use bytemuck::{Pod, Zeroable};

use super::bits::{F16, pack_two_bits};
use super::search;
use super::search::lanes::Batch;
use super::search::signed::{self, Ternary};
use super::{Blocks, Format, GgmlType, Kind, Unpacked};
use crate::act::ActFormat;

pub const TQ2_0: Format = Format {
    ty: GgmlType::TQ2_0,
    name: "TQ2_0",
    block: 256,
    bytes: size_of::<Block>(),
    kind: Kind::Blocks(Blocks {
        sub: 32,
        has_min: false,
        act: ActFormat::Q8x256,
        unpack,
        encode: Some(search::encode::<Block, 16, 16>),
    }),
};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Block {
    qs: [u8; 64],
    d: F16,
}

fn unpack(src: &[u8], dst: &mut Unpacked) {
    let b: &Block = bytemuck::from_bytes(src);
    dst.scale[..8].fill(b.d.get());
    for (half, packed) in b.qs.as_chunks::<32>().0.iter().enumerate() {
        for part in 0..4 {
            let qs: &mut [i8; 32] = dst.sub_mut(4 * half + part);
            for (q, p) in qs.iter_mut().zip(packed) {
                *q = (p >> (2 * part) & 3) as i8 - 1;
            }
        }
    }
}

impl search::Coder<16, 16> for Block {
    #[inline(always)]
    fn encode(b: &Batch<16>, out: &mut [Block]) {
        let (d, scale) = signed::single::<Ternary, 16, 16>(b);
        let digits = signed::codes::<Ternary, 16>(b, scale);
        let digits = digits.as_flattened();
        for out in out {
            *out = Block { qs: pack_two_bits(digits), d: d[0] };
        }
    }
}
