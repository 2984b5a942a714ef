//! F32, F16 and BF16: plain numbers, little-endian.

use half::{bf16, f16};

use super::{Format, GgmlType, Kind};

pub const F32: Format = Format {
    ty: GgmlType::F32,
    name: "F32",
    block: 1,
    bytes: 4,
    kind: Kind::Float {
        decode: |src, dst| each(src, dst, f32::from_le_bytes),
        encode: |src, dst| each_back(src, dst, f32::to_le_bytes),
    },
};

pub const F16: Format = Format {
    ty: GgmlType::F16,
    name: "F16",
    block: 1,
    bytes: 2,
    kind: Kind::Float {
        decode: |src, dst| each(src, dst, |b| f16::from_le_bytes(b).to_f32()),
        encode: |src, dst| each_back(src, dst, |x| f16::from_f32(x).to_le_bytes()),
    },
};

pub const BF16: Format = Format {
    ty: GgmlType::BF16,
    name: "BF16",
    block: 1,
    bytes: 2,
    kind: Kind::Float {
        decode: |src, dst| each(src, dst, |b| bf16::from_le_bytes(b).to_f32()),
        encode: |src, dst| each_back(src, dst, |x| bf16::from_f32(x).to_le_bytes()),
    },
};

fn each<const N: usize>(src: &[u8], dst: &mut [f32], f: impl Fn([u8; N]) -> f32) {
    for (src, y) in src.as_chunks::<N>().0.iter().zip(dst) {
        *y = f(*src);
    }
}

fn each_back<const N: usize>(src: &[f32], dst: &mut [u8], f: impl Fn(f32) -> [u8; N]) {
    for (x, dst) in src.iter().zip(dst.as_chunks_mut::<N>().0) {
        *dst = f(*x);
    }
}
