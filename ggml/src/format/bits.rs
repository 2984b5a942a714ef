//! What the layouts of several formats share: half-precision fields and ways of packing small integers.

use bytemuck::{Pod, Zeroable};
use half::f16;

/// A half-precision number as it lies in a block: two bytes, no alignment.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(transparent)]
pub struct F16([u8; 2]);

impl F16 {
    /// The nearest finite number, ties to even; zero for a NaN.
    pub fn new(x: f32) -> Self {
        let largest = f16::MAX.to_f32();
        let x = if x.is_nan() { 0.0 } else { x.clamp(-largest, largest) };
        F16(f16::from_f32(x).to_le_bytes())
    }

    /// Its bits.
    pub fn bits(self) -> u16 {
        u16::from_le_bytes(self.0)
    }

    /// The number, exactly.
    pub fn get(self) -> f32 {
        f16::from_le_bytes(self.0).to_f32()
    }
}

/// Sixteen numbers of four bits, two a byte, the first one low.
pub fn pack_pairs(s: &[u8; 16]) -> [u8; 8] {
    std::array::from_fn(|i| s[2 * i] | s[2 * i + 1] << 4)
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
pub fn pack_nibbles(qs: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|i| qs[i] & 15 | qs[i + 16] << 4)
}

/// Spreads eight bits over eight bytes: bit `i` becomes the number 0 or 1 in byte `i`, least significant first.
pub fn spread(bits: u8) -> u64 {
    // Bit i alone in byte i, pushed up to that byte's top bit by an addition that carries nothing beyond it.
    let alone = (u64::from(bits) * 0x0101_0101_0101_0101) & 0x8040_2010_0804_0201;
    ((alone + 0x7f7f_7f7f_7f7f_7f7f) >> 7) & 0x0101_0101_0101_0101
}

/// Maps 32 integers of five bits: nibbles as in [`nibbles`], bit `i` of `high` is the fifth bit of number `i`.
pub fn five_bits(packed: &[u8; 16], high: [u8; 4], qs: &mut [i8; 32], f: impl Fn(u8) -> i8) {
    let packed = packed.as_chunks::<8>().0;
    for (i, (qs, high)) in qs.as_chunks_mut::<8>().0.iter_mut().zip(high).enumerate() {
        let low = u64::from_le_bytes(packed[i % 2]) >> (i / 2 * 4) & 0x0f0f_0f0f_0f0f_0f0f;
        *qs = (low | spread(high) << 4).to_le_bytes().map(&f);
    }
}

/// The inverse of [`five_bits`] for integers of 0..=31.
pub fn pack_five_bits(qs: &[u8; 32]) -> ([u8; 16], [u8; 4]) {
    let high = qs.iter().enumerate().fold(0u32, |high, (i, &q)| high | u32::from(q >> 4 & 1) << i);
    (pack_nibbles(qs), high.to_le_bytes())
}

/// The low two bits of 256 integers in the order of Q2_K, Q3_K and TQ2_0: each half of 128 has 32 bytes, bits 0-1
/// of byte l are number l, bits 2-3 number l + 32, and so on.
pub fn pack_two_bits(qs: &[u8]) -> [u8; 64] {
    let mut packed = [0; 64];
    for (packed, qs) in packed.as_chunks_mut::<32>().0.iter_mut().zip(qs.as_chunks::<128>().0) {
        for (i, q) in qs.iter().enumerate() {
            packed[i % 32] |= (q & 3) << (i / 32 * 2);
        }
    }
    packed
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
pub fn pack_scales_and_mins(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    let mut s = [0; 12];
    for i in 0..4 {
        s[i] = scales[i] | scales[i + 4] >> 4 << 6;
        s[i + 4] = mins[i] | mins[i + 4] >> 4 << 6;
        s[i + 8] = scales[i + 4] & 15 | mins[i + 4] << 4;
    }
    s
}
