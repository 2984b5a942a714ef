//! F32, F16 and BF16: plain numbers, little-endian.

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
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
    kind: Kind::Float { decode: decode_f16, encode: encode_f16 },
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

/// Numbers that are converted at once, by the instructions that many machines have for it.
const AT_ONCE: usize = 64;

fn decode_f16(src: &[u8], dst: &mut [f32]) {
    let mut halves = [0; AT_ONCE];
    for (src, dst) in src.chunks(2 * AT_ONCE).zip(dst.chunks_mut(AT_ONCE)) {
        let halves = &mut halves[..dst.len()];
        for (half, bytes) in halves.iter_mut().zip(src.as_chunks().0) {
            *half = u16::from_le_bytes(*bytes);
        }
        halves.reinterpret_cast::<f16>().convert_to_f32_slice(dst);
    }
}

fn encode_f16(src: &[f32], dst: &mut [u8]) {
    let mut halves = [f16::ZERO; AT_ONCE];
    for (src, dst) in src.chunks(AT_ONCE).zip(dst.chunks_mut(2 * AT_ONCE)) {
        let halves = &mut halves[..src.len()];
        halves.convert_from_f32_slice(src);
        for (half, bytes) in halves.iter().zip(dst.as_chunks_mut().0) {
            *bytes = half.to_le_bytes();
        }
    }
}

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
