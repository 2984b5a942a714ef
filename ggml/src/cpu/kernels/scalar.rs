//! The virtual register as an array: the portable fallback and the truth that the tests hold every
//! instruction set to.

use half::{bf16, f16};

use super::matvec;
use super::simd::{Kernel, Simd};
use crate::format::Format;

/// Plain Rust. Fused multiply-adds are exact everywhere, if slow where the processor has none.
#[derive(Clone, Copy)]
pub(super) struct Scalar;

type F = [f32; 16];

#[inline(always)]
fn map(a: F, f: impl Fn(f32) -> f32) -> F {
    std::array::from_fn(|l| f(a[l]))
}

#[inline(always)]
fn zip(a: F, b: F, f: impl Fn(f32, f32) -> f32) -> F {
    std::array::from_fn(|l| f(a[l], b[l]))
}

/// 16 values read one by one.
///
/// # Safety
/// `p` is valid for reads of 16 values of type `T`.
#[inline(always)]
unsafe fn load<T: Copy>(p: *const T) -> [T; 16] {
    // SAFETY: the caller's promise; alignment is not asked for.
    unsafe { p.cast::<[T; 16]>().read_unaligned() }
}

impl Simd for Scalar {
    const WIDE: bool = false;
    const BIASED: bool = false;
    type F = F;
    type I = [i32; 16];
    type Q = [u8; 64];

    fn vectorize<K: Kernel<Self>>(self, kernel: K) {
        kernel.run(self);
    }

    fn product(self, format: &'static Format, args: &matvec::Args<'_>, many: bool) {
        matvec::generic(self, format, args, many);
    }

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        [x; 16]
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> F {
        // SAFETY: the caller's promise.
        unsafe { load(p) }
    }

    #[inline(always)]
    unsafe fn load_first(self, p: *const f32, n: usize) -> F {
        let mut v = [0.0; 16];
        for (l, v) in v.iter_mut().take(n).enumerate() {
            // SAFETY: l < n.
            *v = unsafe { p.add(l).read_unaligned() };
        }
        v
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: F) {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<F>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize, v: F) {
        for (l, v) in v.into_iter().take(n).enumerate() {
            // SAFETY: l < n.
            unsafe { p.add(l).write_unaligned(v) }
        }
    }

    #[inline(always)]
    unsafe fn load_dup8(self, p: *const f32) -> F {
        // SAFETY: l / 2 < 8.
        std::array::from_fn(|l| unsafe { p.add(l / 2).read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> F {
        // SAFETY: the caller's promise.
        let v: [[u8; 2]; 16] = unsafe { load(p.cast()) };
        v.map(|b| f16::from_le_bytes(b).to_f32())
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> F {
        // SAFETY: the caller's promise.
        let v: [[u8; 2]; 16] = unsafe { load(p.cast()) };
        v.map(|b| bf16::from_le_bytes(b).to_f32())
    }

    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u8, v: F) {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[[u8; 2]; 16]>().write_unaligned(v.map(|x| f16::from_f32(x).to_le_bytes())) }
    }

    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> F {
        // SAFETY: the caller's promise.
        unsafe { load(p) }.map(f32::from)
    }

    #[inline(always)]
    unsafe fn load_i16(self, p: *const i16) -> F {
        // SAFETY: the caller's promise.
        unsafe { load(p) }.map(f32::from)
    }

    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        std::array::from_fn(|l| a[l].mul_add(b[l], c[l]))
    }

    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn round(self, a: F) -> F {
        map(a, f32::round_ties_even)
    }

    #[inline(always)]
    fn pow2(self, n: F) -> F {
        map(n, |n| f32::from_bits(((n as i32).wrapping_add(127) as u32) << 23))
    }

    #[inline(always)]
    fn zero_below(self, x: F, limit: F, v: F) -> F {
        std::array::from_fn(|l| if x[l] < limit[l] { 0.0 } else { v[l] })
    }

    #[inline(always)]
    fn sum(self, mut v: F) -> f32 {
        for half in [8, 4, 2, 1] {
            for l in 0..half {
                v[l] += v[l + half];
            }
        }
        v[0]
    }

    #[inline(always)]
    fn largest(self, v: F) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, |m, x| if m > x { m } else { x })
    }

    #[inline(always)]
    unsafe fn magnitude(self, p: *const f32, n: usize) -> f32 {
        // As integers without the sign bit, floats are ordered, infinity and then NaN at the end.
        // SAFETY: the caller's promise.
        let bits = |i| unsafe { p.add(i).read_unaligned() }.abs().to_bits();
        f32::from_bits((0..16 * n).map(bits).max().unwrap_or(0))
    }

    #[inline(always)]
    unsafe fn store_i8(self, p: *mut i8, v: F) -> i16 {
        let q = v.map(|x| x.round_ties_even() as i8);
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[i8; 16]>().write(q) };
        q.into_iter().map(i16::from).sum()
    }

    #[inline(always)]
    fn spread(self, v: F, part: usize) -> F {
        std::array::from_fn(|l| v[4 * part + l / 4])
    }

    #[inline(always)]
    fn to_f32(self, v: [i32; 16]) -> F {
        v.map(|x| x as f32)
    }

    #[inline(always)]
    unsafe fn load_q(self, p: *const u8) -> [u8; 64] {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[u8; 64]>().read() }
    }

    #[inline(always)]
    unsafe fn store_q(self, p: *mut u8, v: [u8; 64]) {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[u8; 64]>().write(v) }
    }

    #[inline(always)]
    unsafe fn splat_q(self, p: *const i8) -> [u8; 64] {
        // SAFETY: the caller's promise.
        let x = unsafe { p.cast::<[u8; 4]>().read() };
        std::array::from_fn(|i| x[i % 4])
    }

    #[inline(always)]
    fn zero_q(self) -> [u8; 64] {
        [0; 64]
    }

    #[inline(always)]
    fn xor(self, v: [u8; 64], bits: u8) -> [u8; 64] {
        v.map(|v| v ^ bits)
    }

    #[inline(always)]
    fn zero_i(self) -> [i32; 16] {
        [0; 16]
    }

    #[inline(always)]
    unsafe fn splat_i(self, p: *const i32) -> [i32; 16] {
        // SAFETY: the caller's promise.
        [unsafe { p.read_unaligned() }; 16]
    }

    #[inline(always)]
    unsafe fn load_i(self, p: *const i32) -> [i32; 16] {
        // SAFETY: the caller's promise.
        unsafe { load(p) }
    }

    #[inline(always)]
    unsafe fn store_i(self, p: *mut i32, v: [i32; 16]) {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[i32; 16]>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn load_sums(self, p: *const i16, pairs: bool) -> [i32; 16] {
        // SAFETY: the caller's promise.
        let v = unsafe { load(p) }.map(i32::from);
        std::array::from_fn(|l| if pairs { v[l] + v[l ^ 1] } else { v[l] })
    }

    #[inline(always)]
    fn times_minus_128(self, v: [i32; 16]) -> [i32; 16] {
        v.map(|v| -128 * v)
    }

    #[inline(always)]
    fn mac_unsigned(self, acc: [i32; 16], w: [u8; 64], x: [u8; 64]) -> [i32; 16] {
        // Within 0..=127 the sign makes no difference.
        self.mac_signed(acc, w, x)
    }

    #[inline(always)]
    fn mac_signed(self, acc: [i32; 16], w: [u8; 64], x: [u8; 64]) -> [i32; 16] {
        let product = |i: usize| i32::from(w[i] as i8) * i32::from(x[i] as i8);
        std::array::from_fn(|l| acc[l] + (4 * l..4 * l + 4).map(product).sum::<i32>())
    }
}
