//! MXFP4 of the OCP Microscaling Formats specification 1.0: 32 E2M1 values that share an E8M0 exponent.
//!
//! One byte e, 16 bytes of nibbles; value = 2^(e − 128)·[`E2M1_VALUES`]\[q\].

use bytemuck::{Pod, Zeroable};

use super::bits::nibbles;
use super::grids::E2M1_VALUES;
use super::{Blocks, Format, GgmlType, Kind, Unpacked};
use crate::act::ActFormat;

pub const MXFP4: Format = Format {
    ty: GgmlType::MXFP4,
    name: "MXFP4",
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
    e: u8,
    qs: [u8; 16],
}

fn unpack(src: &[u8], dst: &mut Unpacked) {
    let b: &Block = bytemuck::from_bytes(src);
    dst.scale[0] = half_e8m0(b.e);
    nibbles(&b.qs, dst.sub_mut(0), |q| E2M1_VALUES[usize::from(q)]);
}

/// 2^(e − 128): half of what the exponent means, for the values are doubled. Exponents 0 and 1 make subnormals; 255,
/// a NaN by the specification, is read as 2^127, as ggml does.
fn half_e8m0(e: u8) -> f32 {
    f32::from_bits(match e {
        0 => 1 << 21,
        1 => 1 << 22,
        e => u32::from(e - 1) << 23,
    })
}
