//! IQ4_NL: 32 values, `d: f16`, then 16 bytes of nibbles; value = d·[`IQ4_VALUES`]\[q\].

use bytemuck::{Pod, Zeroable};

use super::bits::{F16, nibbles};
use super::grids::IQ4_VALUES;
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
        encode: None,
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
