//! The layouts of the formats that people run, each straight from its bytes to registers.
//!
//! Which bit means what stands in the format's own file; here is the same with [`Decode`]'s
//! operations. Scales are computed as `unpack` does, so that a step has the same bits.

#![allow(non_camel_case_types)] // the formats have the names that people know

use super::matvec::{STEP, Step, Weights};
use super::simd::Decode;
use crate::format::IQ4_VALUES;

/// Reads a number of any alignment.
///
/// # Safety
/// `p` is valid for reads of a `T`.
#[inline(always)]
pub(super) unsafe fn read<T: Copy>(p: *const u8) -> T {
    // SAFETY: the caller's promise.
    unsafe { p.cast::<T>().read_unaligned() }
}

/// A format whose blocks have 32 elements and start with their scale, an F16.
trait Block32: Copy {
    const BYTES: usize;
    /// Whether a minimum follows the scale, an F16 too. The integers are signed where none does.
    const MIN: bool;

    /// The integers of the blocks at `a` and `b`.
    ///
    /// # Safety
    /// Both are valid for reads of a block.
    unsafe fn pair<S: Decode>(s: S, a: *const u8, b: *const u8) -> S::Q;
}

/// Eight blocks of 32 are a step.
#[derive(Clone, Copy)]
pub(super) struct Of32<T>(pub T);

impl<S: Decode, T: Block32> Weights<S> for Of32<T> {
    const MIN: bool = T::MIN;
    const ACT: usize = 32;
    const SUPER: bool = false;

    #[inline(always)]
    fn step_bytes(self) -> usize {
        8 * T::BYTES
    }

    #[inline(always)]
    unsafe fn step(self, s: S, p: *const u8, n: usize) -> Step<S> {
        let blocks = n / 32;
        // Blocks beyond the end: the last one's integers, a scale of zero.
        let at = |b: usize| p.wrapping_add(b.min(blocks - 1) * T::BYTES);
        // SAFETY: only blocks that there are.
        unsafe {
            Step {
                q: [
                    T::pair(s, at(0), at(1)),
                    T::pair(s, at(2), at(3)),
                    T::pair(s, at(4), at(5)),
                    T::pair(s, at(6), at(7)),
                ],
                scale: s.dup_f16(gather::<T>(p, blocks)),
                min: if T::MIN { s.dup_f16(gather::<T>(p.add(2), blocks)) } else { s.splat(0.0) },
                d: s.splat(1.0),
                dmin: s.splat(1.0),
            }
        }
    }
}

/// The F16 field at `p` of up to 8 blocks, zeros beyond.
///
/// # Safety
/// `p` is valid for reads of that field in all blocks.
#[inline(always)]
unsafe fn gather<T: Block32>(p: *const u8, blocks: usize) -> [u16; 8] {
    let mut field = [0; 8];
    for (b, field) in field.iter_mut().enumerate() {
        if b < blocks {
            // SAFETY: the block exists.
            *field = unsafe { read(p.add(b * T::BYTES)) };
        }
    }
    field
}

/// See [`crate::format`].
#[derive(Clone, Copy)]
pub(super) struct Q8_0;

impl Block32 for Q8_0 {
    const BYTES: usize = 34;
    const MIN: bool = false;

    #[inline(always)]
    unsafe fn pair<S: Decode>(s: S, a: *const u8, b: *const u8) -> S::Q {
        // SAFETY: 2 + 32 = 34.
        unsafe { s.load_halves(a.add(2), b.add(2)) }
    }
}

/// See [`crate::format`].
#[derive(Clone, Copy)]
pub(super) struct Q4_0;

impl Block32 for Q4_0 {
    const BYTES: usize = 18;
    const MIN: bool = false;

    #[inline(always)]
    unsafe fn pair<S: Decode>(s: S, a: *const u8, b: *const u8) -> S::Q {
        // SAFETY: 2 + 16 = 18.
        unsafe { s.sub_bytes(s.load_nibbles(a.add(2), b.add(2)), 8) }
    }
}

/// See [`crate::format`].
#[derive(Clone, Copy)]
pub(super) struct Q4_1;

impl Block32 for Q4_1 {
    const BYTES: usize = 20;
    const MIN: bool = true;

    #[inline(always)]
    unsafe fn pair<S: Decode>(s: S, a: *const u8, b: *const u8) -> S::Q {
        // SAFETY: 4 + 16 = 20.
        unsafe { s.load_nibbles(a.add(4), b.add(4)) }
    }
}

/// The five bits of the blocks at `a` and `b`: 4 bytes of fifth bits at `field`, then 16 of nibbles.
///
/// # Safety
/// Both are valid for reads of `field + 20` bytes.
#[inline(always)]
unsafe fn five_bits<S: Decode>(s: S, a: *const u8, b: *const u8, field: usize) -> S::Q {
    // SAFETY: the caller's promise.
    unsafe {
        let (low, high): (u32, u32) = (read(a.add(field)), read(b.add(field)));
        let fifth = s.expand_bits(u64::from(low) | u64::from(high) << 32, 16);
        s.or(s.load_nibbles(a.add(field + 4), b.add(field + 4)), fifth)
    }
}

/// See [`crate::format`].
#[derive(Clone, Copy)]
pub(super) struct Q5_0;

impl Block32 for Q5_0 {
    const BYTES: usize = 22;
    const MIN: bool = false;

    #[inline(always)]
    unsafe fn pair<S: Decode>(s: S, a: *const u8, b: *const u8) -> S::Q {
        // SAFETY: 2 + 20 = 22.
        unsafe { s.sub_bytes(five_bits(s, a, b, 2), 16) }
    }
}

/// See [`crate::format`].
#[derive(Clone, Copy)]
pub(super) struct Q5_1;

impl Block32 for Q5_1 {
    const BYTES: usize = 24;
    const MIN: bool = true;

    #[inline(always)]
    unsafe fn pair<S: Decode>(s: S, a: *const u8, b: *const u8) -> S::Q {
        // SAFETY: 4 + 20 = 24.
        unsafe { five_bits(s, a, b, 4) }
    }
}

/// See [`crate::format`].
#[derive(Clone, Copy)]
pub(super) struct IQ4_NL;

impl Block32 for IQ4_NL {
    const BYTES: usize = 18;
    const MIN: bool = false;

    #[inline(always)]
    unsafe fn pair<S: Decode>(s: S, a: *const u8, b: *const u8) -> S::Q {
        // SAFETY: 2 + 16 = 18.
        unsafe { s.lookup(&IQ4_VALUES, s.load_nibbles(a.add(2), b.add(2))) }
    }
}

/// A format whose blocks have 256 elements: a step.
pub(super) trait Block256: Copy {
    const BYTES: usize;
    const MIN: bool;

    /// The block at `p`.
    ///
    /// # Safety
    /// `p` is valid for reads of a block.
    unsafe fn block<S: Decode>(s: S, p: *const u8) -> Step<S>;
}

/// A block of 256 is a step.
#[derive(Clone, Copy)]
pub(super) struct Of256<T>(pub T);

impl<S: Decode, T: Block256> Weights<S> for Of256<T> {
    const MIN: bool = T::MIN;
    const ACT: usize = 256;
    const SUPER: bool = true;

    #[inline(always)]
    fn step_bytes(self) -> usize {
        T::BYTES
    }

    #[inline(always)]
    unsafe fn step(self, s: S, p: *const u8, n: usize) -> Step<S> {
        debug_assert_eq!(n, STEP, "rows are whole blocks");
        // SAFETY: the caller's promise.
        unsafe { T::block(s, p) }
    }
}

/// See [`crate::format`].
#[derive(Clone, Copy)]
pub(super) struct Q2_K;

impl Block256 for Q2_K {
    const BYTES: usize = 84;
    const MIN: bool = true;

    #[inline(always)]
    unsafe fn block<S: Decode>(s: S, p: *const u8) -> Step<S> {
        const LOW: u64 = 0x0f0f_0f0f_0f0f_0f0f;
        // SAFETY: every offset is within the block.
        unsafe {
            let (a, b): (u64, u64) = (read(p), read(p.add(8)));
            let (d, dmin) = (s.splat_f16(read(p.add(80))), s.splat_f16(read::<u16>(p.add(82)) ^ 0x8000));
            let (first, second) = (p.add(16), p.add(48));
            Step {
                q: [
                    s.load_shifted(first, [0, 2], 3),
                    s.load_shifted(first, [4, 6], 3),
                    s.load_shifted(second, [0, 2], 3),
                    s.load_shifted(second, [4, 6], 3),
                ],
                scale: s.widen_i8(a & LOW, b & LOW),
                min: s.widen_i8(a >> 4 & LOW, b >> 4 & LOW),
                d,
                dmin,
            }
        }
    }
}

/// See [`crate::format`].
#[derive(Clone, Copy)]
pub(super) struct Q3_K;

impl Block256 for Q3_K {
    const BYTES: usize = 110;
    const MIN: bool = false;

    #[inline(always)]
    unsafe fn block<S: Decode>(s: S, p: *const u8) -> Step<S> {
        const LOW: u64 = 0x0f0f_0f0f_0f0f_0f0f;
        const HIGH: u32 = 0x3030_3030;
        // SAFETY: every offset is within the block.
        unsafe {
            let low: u64 = read(p.add(96));
            let high: u32 = read(p.add(104));
            let pair = |a: u32, b: u32| u64::from(a & HIGH) | u64::from(b & HIGH) << 32;
            let scales =
                s.widen_i8(low & LOW | pair(high << 4, high << 2), low >> 4 & LOW | pair(high, high >> 2));
            let (d, qs) = (s.splat_f16(read(p.add(108))), p.add(32));
            let q = [
                three_bits(s, qs, [0, 2], p, [-2, -1]),
                three_bits(s, qs, [4, 6], p, [0, 1]),
                three_bits(s, qs.add(32), [0, 2], p, [2, 3]),
                three_bits(s, qs.add(32), [4, 6], p, [4, 5]),
            ];
            Step::without_min(s, q, s.sub(scales, s.splat(32.0)), d)
        }
    }
}

/// Two bits from `qs` and the third from `high`, less 4.
///
/// # Safety
/// Both are valid for reads of 32 bytes.
#[inline(always)]
unsafe fn three_bits<S: Decode>(
    s: S,
    qs: *const u8,
    right: [i32; 2],
    high: *const u8,
    third: [i32; 2],
) -> S::Q {
    // SAFETY: the caller's promise.
    unsafe { s.sub_bytes(s.or(s.load_shifted(qs, right, 3), s.load_shifted(high, third, 4)), 4) }
}

/// A step of Q4_K or Q5_K: two F16 and 12 bytes at `p` are its scales and minimums.
///
/// # Safety
/// `p` is valid for reads of 16 bytes.
#[inline(always)]
unsafe fn with_scales_and_mins<S: Decode>(s: S, p: *const u8, q: [S::Q; 4]) -> Step<S> {
    const SIX: u32 = 0x3f3f_3f3f;
    const LOW: u32 = 0x0f0f_0f0f;
    const HIGH: u32 = 0x3030_3030;
    // SAFETY: the caller's promise.
    unsafe {
        let (d, dmin) = (s.splat_f16(read(p)), s.splat_f16(read::<u16>(p.add(2)) ^ 0x8000));
        let (a, b, c): (u32, u32, u32) = (read(p.add(4)), read(p.add(8)), read(p.add(12)));
        let scales = u64::from(a & SIX) | u64::from(c & LOW | a >> 2 & HIGH) << 32;
        let mins = u64::from(b & SIX) | u64::from(c >> 4 & LOW | b >> 2 & HIGH) << 32;
        Step { q, scale: s.dup_i8(scales), min: s.dup_i8(mins), d, dmin }
    }
}

/// See [`crate::format`].
#[derive(Clone, Copy)]
pub(super) struct Q4_K;

impl Block256 for Q4_K {
    const BYTES: usize = 144;
    const MIN: bool = true;

    #[inline(always)]
    unsafe fn block<S: Decode>(s: S, p: *const u8) -> Step<S> {
        // SAFETY: every offset is within the block.
        unsafe {
            let q = [
                s.load_shifted(p.add(16), [0, 4], 15),
                s.load_shifted(p.add(48), [0, 4], 15),
                s.load_shifted(p.add(80), [0, 4], 15),
                s.load_shifted(p.add(112), [0, 4], 15),
            ];
            with_scales_and_mins(s, p, q)
        }
    }
}

/// See [`crate::format`].
#[derive(Clone, Copy)]
pub(super) struct Q5_K;

impl Block256 for Q5_K {
    const BYTES: usize = 176;
    const MIN: bool = true;

    #[inline(always)]
    unsafe fn block<S: Decode>(s: S, p: *const u8) -> Step<S> {
        // SAFETY: every offset is within the block.
        unsafe {
            let mut q = [s.load_q(p); 4];
            for i in 0..4 {
                let low = s.load_shifted(p.add(48 + 32 * i), [0, 4], 15);
                let bit = 2 * i as i32 - 4;
                q[i] = s.or(low, s.load_shifted(p.add(16), [bit, bit + 1], 16));
            }
            with_scales_and_mins(s, p, q)
        }
    }
}

/// See [`crate::format`].
#[derive(Clone, Copy)]
pub(super) struct Q6_K;

impl Block256 for Q6_K {
    const BYTES: usize = 210;
    const MIN: bool = false;

    #[inline(always)]
    unsafe fn block<S: Decode>(s: S, p: *const u8) -> Step<S> {
        // SAFETY: every offset is within the block.
        unsafe {
            let (a, b) = (s.load_q(p), s.load_q(p.add(64)));
            let (high_a, high_b) = (p.add(128), p.add(160));
            let q = [
                six_bits(s, s.and(a, 15), high_a, [-4, -2]),
                six_bits(s, s.high_nibbles(a), high_a, [0, 2]),
                six_bits(s, s.and(b, 15), high_b, [-4, -2]),
                six_bits(s, s.high_nibbles(b), high_b, [0, 2]),
            ];
            Step::without_min(s, q, s.load_i8(p.add(192).cast()), s.splat_f16(read(p.add(208))))
        }
    }
}

/// Four bits and two from `high`, less 32.
///
/// # Safety
/// `high` is valid for reads of 32 bytes.
#[inline(always)]
unsafe fn six_bits<S: Decode>(s: S, low: S::Q, high: *const u8, right: [i32; 2]) -> S::Q {
    // SAFETY: the caller's promise.
    unsafe { s.sub_bytes(s.or(low, s.load_shifted(high, right, 0x30)), 32) }
}

/// Eight nibbles, the lowest first, to a byte each.
#[inline(always)]
pub(super) fn nibbles(packed: u32) -> u64 {
    let x = u64::from(packed);
    let x = (x | x << 16) & 0x0000_ffff_0000_ffff;
    let x = (x | x << 8) & 0x00ff_00ff_00ff_00ff;
    (x | x << 4) & 0x0f0f_0f0f_0f0f_0f0f
}

/// See [`crate::format`].
#[derive(Clone, Copy)]
pub(super) struct IQ4_XS;

impl Block256 for IQ4_XS {
    const BYTES: usize = 136;
    const MIN: bool = false;

    #[inline(always)]
    unsafe fn block<S: Decode>(s: S, p: *const u8) -> Step<S> {
        // SAFETY: every offset is within the block.
        unsafe {
            let (high, low): (u16, u32) = (read(p.add(2)), read(p.add(4)));
            // A field of two bits to a byte each.
            let high = u64::from(high);
            let high = (high | high << 24) & 0x0000_00ff_0000_00ff;
            let high = (high | high << 12) & 0x000f_000f_000f_000f;
            let high = (high | high << 6) & 0x0303_0303_0303_0303;
            let scales = s.sub(s.dup_i8(nibbles(low) | high << 4), s.splat(32.0));
            let mut q = [s.load_q(p); 4];
            for i in 0..4 {
                let qs = p.add(8 + 32 * i);
                q[i] = s.lookup(&IQ4_VALUES, s.load_nibbles(qs, qs.add(16)));
            }
            Step::without_min(s, q, scales, s.splat_f16(read(p)))
        }
    }
}
