//! What the layouts of several formats share: half-precision fields and ways of packing small integers.

use bytemuck::{Pod, Zeroable};
use half::f16;

/// A half-precision number as it lies in a block: two bytes, no alignment.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(transparent)]
pub struct F16([u8; 2]);

impl F16 {
    /// Rounds to nearest even; beyond the range of F16 to infinity.
    pub fn new(x: f32) -> Self {
        F16(f16::from_f32(x).to_le_bytes())
    }

    /// The number, exactly.
    pub fn get(self) -> f32 {
        f16::from_le_bytes(self.0).to_f32()
    }
}

/// Maps the low nibbles of `packed` to the first half of `qs`, the high nibbles to the second.
pub fn nibbles(packed: &[u8; 16], qs: &mut [i8; 32], f: impl Fn(u8) -> i8) {
    let (lo, hi) = qs.split_at_mut(16);
    for ((lo, hi), b) in lo.iter_mut().zip(hi).zip(packed) {
        *lo = f(b & 15);
        *hi = f(b >> 4);
    }
}

/// The inverse of [`nibbles`] for integers of 0..=15.
#[allow(dead_code)]
pub fn pack_nibbles(qs: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|i| qs[i] & 15 | qs[i + 16] << 4)
}

/// Maps 32 integers of five bits: nibbles as in [`nibbles`], bit `i` of `high` is the fifth bit of number `i`.
pub fn five_bits(packed: &[u8; 16], high: [u8; 4], qs: &mut [i8; 32], f: impl Fn(u8) -> i8) {
    let high = u32::from_le_bytes(high);
    let (lo, hi) = qs.split_at_mut(16);
    for (i, ((lo, hi), b)) in lo.iter_mut().zip(hi).zip(packed).enumerate() {
        *lo = f(b & 15 | ((high >> i) as u8 & 1) << 4);
        *hi = f(b >> 4 | (high >> (i + 12)) as u8 & 16);
    }
}

/// The inverse of [`five_bits`] for integers of 0..=31.
#[allow(dead_code)]
pub fn pack_five_bits(qs: &[u8; 32]) -> ([u8; 16], [u8; 4]) {
    let high = qs
        .iter()
        .enumerate()
        .fold(0u32, |high, (i, &q)| high | u32::from(q >> 4 & 1) << i);
    (pack_nibbles(qs), high.to_le_bytes())
}

/// Eight scales and eight minimums of six bits in twelve bytes, as in Q4_K and Q5_K.
///
/// Bytes 0-3 hold scales 0-3, bytes 4-7 minimums 0-3, each in the low six bits; the high two bits of these
/// bytes are the high bits of scales 4-7 and minimums 4-7, whose low nibbles lie together in bytes 8-11.
pub fn scales_and_mins(s: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    for i in 0..4 {
        scales[i] = s[i] & 63;
        mins[i] = s[i + 4] & 63;
        scales[i + 4] = s[i + 8] & 15 | s[i] >> 6 << 4;
        mins[i + 4] = s[i + 8] >> 4 | s[i + 4] >> 6 << 4;
    }
    (scales, mins)
}

/// The inverse of [`scales_and_mins`] for numbers of 0..=63.
#[allow(dead_code)]
pub fn pack_scales_and_mins(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    let mut s = [0; 12];
    for i in 0..4 {
        s[i] = scales[i] | scales[i + 4] >> 4 << 6;
        s[i + 4] = mins[i] | mins[i + 4] >> 4 << 6;
        s[i + 8] = scales[i + 4] & 15 | mins[i + 4] << 4;
    }
    s
}
