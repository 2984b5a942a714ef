//! Operations on vectors of f32: norms, activations, exponentials, conversions.
//!
//! Elementwise operations work on raw pointers inside, so that results may replace their operands.

use super::simd::{Kernel, Simd};
use super::widen::{BLOCK, BLOCK_BYTES};
use crate::act::SUM;
use crate::format::GgmlType;

/// A loop over chunks of 16 elements, `n` of them at `at`, the last time with fewer. No closure: one that is not
/// inlined would lose the target features.
macro_rules! chunks {
    ($len:expr, |$at:ident, $n:ident| $body:expr) => {
        let len = $len;
        let mut $at = 0;
        while $at < len {
            let $n = 16.min(len - $at);
            $body;
            $at += 16;
        }
    };
}

/// `n <= 16` numbers, zeros beyond.
///
/// # Safety
/// `p` is valid for reads of `n` numbers.
#[inline(always)]
unsafe fn load<S: Simd>(s: S, p: *const f32, n: usize) -> S::F {
    // SAFETY: the caller's promise.
    unsafe { if n == 16 { s.load(p) } else { s.load_first(p, n) } }
}

/// The first `n <= 16` lanes.
///
/// # Safety
/// `p` is valid for writes of `n` numbers.
#[inline(always)]
unsafe fn store<S: Simd>(s: S, p: *mut f32, n: usize, v: S::F) {
    // SAFETY: the caller's promise.
    unsafe { if n == 16 { s.store(p, v) } else { s.store_first(p, n, v) } }
}

/// e to the power of each lane.
///
/// x = n·ln 2 + r with integral n and |r| ≤ ln 2 / 2; e^r by the polynomial of Cephes' `expf`. Within 2
/// units in the last place; below e^−86.98 it is zero, above f32's range infinity, of NaN it is NaN.
#[inline(always)]
pub(super) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    const LOWEST: f32 = -86.98;
    // min and max give NaN their second operand's place: a NaN stays one.
    let clamped = s.max(s.splat(LOWEST), s.min(s.splat(89.0), x));
    let n = s.round(s.mul(clamped, s.splat(std::f32::consts::LOG2_E)));
    let r = s.fma(n, s.splat(-0.693_359_4), clamped);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.987_569_1e-4);
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = s.fma(p, r, s.splat(c));
    }
    let e = s.add(s.fma(p, s.mul(r, r), r), s.splat(1.0));
    // In two factors, since 2^128 is no f32; n - 1 is at least -126.
    let e = s.mul(s.mul(e, s.pow2(s.sub(n, s.splat(1.0)))), s.splat(2.0));
    s.zero_below(x, s.splat(LOWEST), e)
}

/// `y[i] = f(x[i], y[i])` in vectors; `x` and `y` have the same length.
macro_rules! elementwise {
    ($(#[$doc:meta])* $name:ident $(, $param:ident)?; |$s:ident, $x:ident, $y:ident| $value:expr) => {
        $(#[$doc])*
        pub(super) struct $name<'a> {
            $(pub $param: f32,)?
            pub x: &'a [f32],
            pub y: &'a mut [f32],
        }

        impl<S: Simd> Kernel<S> for $name<'_> {
            #[inline(always)]
            fn run(self, $s: S) {
                assert_eq!(self.x.len(), self.y.len(), "lengths of the operands");
                $(let $param = $s.splat(self.$param);)?
                let (x, y) = (self.x.as_ptr(), self.y.as_mut_ptr());
                chunks!(self.x.len(), |at, n| {
                    // SAFETY: both have at least at + n elements.
                    unsafe {
                        let ($x, $y) = (load($s, x.add(at), n), load($s, y.add(at), n));
                        store($s, y.add(at), n, $value);
                    }
                });
            }
        }
    };
}

elementwise!(
    /// y += x
    Add; |s, x, y| s.add(x, y));
elementwise!(
    /// y += a·x
    Axpy, a; |s, x, y| s.fma(a, x, y));
elementwise!(
/// y ← silu(y)·x, with silu(y) = y / (1 + e^−y)
SwiGlu; |s, x, y| {
    let e = exp(s, s.sub(s.splat(0.0), y));
    s.mul(s.div(y, s.add(s.splat(1.0), e)), x)
});
elementwise!(
    /// y ← y·x
    Mul; |s, x, y| s.mul(x, y));

/// x ← a·x
pub(super) struct Scale<'a> {
    pub a: f32,
    pub x: &'a mut [f32],
}

impl<S: Simd> Kernel<S> for Scale<'_> {
    #[inline(always)]
    fn run(self, s: S) {
        let a = s.splat(self.a);
        let x = self.x.as_mut_ptr();
        chunks!(self.x.len(), |at, n| {
            // SAFETY: x has at least at + n elements.
            unsafe { store(s, x.add(at), n, s.mul(a, load(s, x.add(at), n))) }
        });
    }
}

/// y ← x / √(mean(x²) + eps) · weight (Zhang & Sennrich 2019); `x` and `y` may be the same.
pub(super) struct RmsNorm<'a> {
    pub x: *const f32,
    pub weight: &'a [f32],
    pub eps: f32,
    /// `x` and `y` are valid for reads and writes of as many numbers as `weight` has.
    pub y: *mut f32,
}

impl<S: Simd> Kernel<S> for RmsNorm<'_> {
    #[inline(always)]
    fn run(self, s: S) {
        let len = self.weight.len();
        // Four chains: one would wait for itself.
        let mut squares = [s.splat(0.0); 4];
        let whole = len / 64 * 64;
        for at in (0..whole).step_by(64) {
            for (c, sum) in squares.iter_mut().enumerate() {
                // SAFETY: at + 64 <= len.
                let x = unsafe { s.load(self.x.add(at + 16 * c)) };
                *sum = s.fma(x, x, *sum);
            }
        }
        chunks!(len - whole, |at, n| {
            // SAFETY: whole + at + n <= len.
            let x = unsafe { load(s, self.x.add(whole + at), n) };
            squares[0] = s.fma(x, x, squares[0]);
        });
        let [a, b, c, d] = squares;
        let mean = s.sum(s.add(s.add(a, b), s.add(c, d))) / len as f32;
        let factor = s.splat(1.0 / (mean + self.eps).sqrt());
        let weight = self.weight.as_ptr();
        chunks!(len, |at, n| {
            // SAFETY: at + n <= len.
            unsafe {
                let x = s.mul(load(s, self.x.add(at), n), factor);
                store(s, self.y.add(at), n, s.mul(x, load(s, weight.add(at), n)));
            }
        });
    }
}

/// x ← e^(x − max); their sum.
pub(super) struct SoftmaxExp<'a> {
    pub x: &'a mut [f32],
    pub max: f32,
    pub sum: &'a mut f32,
}

impl<S: Simd> Kernel<S> for SoftmaxExp<'_> {
    #[inline(always)]
    fn run(self, s: S) {
        let max = s.splat(self.max);
        let x = self.x.as_mut_ptr();
        let mut sum = s.splat(0.0);
        let len = self.x.len();
        chunks!(len, |at, n| {
            // SAFETY: at + n <= len.
            unsafe {
                let e = exp(s, s.sub(load(s, x.add(at), n), max));
                store(s, x.add(at), n, e);
                // Lanes beyond the end hold something: read back what counts.
                sum = s.add(sum, if n == 16 { e } else { s.load_first(x.add(at), n) });
            }
        });
        *self.sum = s.sum(sum);
    }
}

/// The largest number, −∞ of none.
pub(super) struct Max<'a> {
    pub x: &'a [f32],
    pub max: &'a mut f32,
}

impl<S: Simd> Kernel<S> for Max<'_> {
    #[inline(always)]
    fn run(self, s: S) {
        let whole = self.x.len() / 16 * 16;
        let mut max = s.splat(f32::NEG_INFINITY);
        for at in (0..whole).step_by(16) {
            // SAFETY: at + 16 <= whole.
            max = s.max(max, unsafe { s.load(self.x.as_ptr().add(at)) });
        }
        *self.max = self.x[whole..].iter().fold(s.largest(max), |m, &x| if m > x { m } else { x });
    }
}

/// [`crate::act::quantize_row`].
pub(super) struct QuantizeRow<'a> {
    pub x: &'a [f32],
    pub block: usize,
    pub qs: &'a mut [i8],
    pub d: &'a mut [f32],
    pub sums: &'a mut [i16],
}

impl<S: Simd> Kernel<S> for QuantizeRow<'_> {
    #[inline(always)]
    fn run(self, s: S) {
        let (len, block) = (self.x.len(), self.block);
        assert!(block.is_multiple_of(SUM) && len.is_multiple_of(block), "whole blocks");
        assert!(self.qs.len() == len && self.d.len() == len / block && self.sums.len() == len / SUM, "room");
        for b in 0..len / block {
            // SAFETY: the block is within x.
            let x = unsafe { self.x.as_ptr().add(b * block) };
            // SAFETY: it has `block` numbers.
            let amax = unsafe { s.magnitude(x, block / SUM) };
            let scale = amax / 127.0;
            let inverse = 127.0 / amax;
            let usable = inverse.is_finite() && scale.is_finite() && scale > 0.0;
            self.d[b] = if usable || !amax.is_finite() { scale } else { 0.0 };
            if !usable {
                let q = i8::from(!amax.is_finite());
                self.qs[b * block..][..block].fill(q);
                self.sums[b * block / SUM..][..block / SUM].fill(i16::from(q) * SUM as i16);
                continue;
            }
            let inverse = s.splat(inverse);
            for i in 0..block / SUM {
                let at = b * block + i * SUM;
                // SAFETY: `qs` is as long as `x`.
                self.sums[at / SUM] = unsafe {
                    s.store_i8(self.qs.as_mut_ptr().add(at), s.mul(s.load(x.add(i * SUM)), inverse))
                };
            }
        }
    }
}

/// Q8_0 as its format encodes it; `bytes` has 34 for every 32 numbers.
pub(super) struct ToQ8<'a> {
    pub x: &'a [f32],
    pub bytes: &'a mut [u8],
}

impl<S: Simd> Kernel<S> for ToQ8<'_> {
    #[inline(always)]
    fn run(self, s: S) {
        let (blocks, rest) = self.x.as_chunks::<BLOCK>();
        assert!(rest.is_empty() && self.bytes.len() == blocks.len() * BLOCK_BYTES, "whole blocks");
        for (x, bytes) in blocks.iter().zip(self.bytes.chunks_exact_mut(BLOCK_BYTES)) {
            // SAFETY: a block has two times 16 numbers.
            let amax = unsafe { s.magnitude(x.as_ptr(), 2) };
            let d = (amax / 127.0).min(half::f16::MAX.to_f32());
            let inverse = 1.0 / d;
            if !(amax.is_finite() && inverse.is_finite()) {
                // Nothing but zeros, or what is no number: seldom enough for the format's own way.
                let _ = GgmlType::Q8_0.format().encode(x, None, bytes);
                continue;
            }
            bytes[..2].copy_from_slice(&half::f16::from_f32(d).to_le_bytes());
            for (half, x) in x.chunks_exact(16).enumerate() {
                // SAFETY: 16 numbers to read, 16 bytes to write; magnitudes are rounded, so nothing is beyond 127.
                unsafe {
                    let v = s.mul(s.load(x.as_ptr()), s.splat(inverse));
                    let zero = s.splat(0.0);
                    let a = s.max(v, s.sub(zero, v));
                    // Halves to even, then those halves that went down one up: away from zero.
                    let even = s.round(a);
                    let up = s.zero_below(s.sub(a, even), s.splat(0.5), s.splat(1.0));
                    let sign = s.sub(s.zero_below(v, zero, s.splat(2.0)), s.splat(1.0));
                    let q = s.mul(s.min(s.add(even, up), s.splat(127.0)), sign);
                    s.store_i8(bytes[2 + 16 * half..].as_mut_ptr().cast(), q);
                }
            }
        }
    }
}

/// f32 to F16, to nearest even; `bytes` has two for every number.
pub(super) struct ToF16<'a> {
    pub x: &'a [f32],
    pub bytes: &'a mut [u8],
}

impl<S: Simd> Kernel<S> for ToF16<'_> {
    #[inline(always)]
    fn run(self, s: S) {
        assert_eq!(self.bytes.len(), 2 * self.x.len(), "room");
        let (x, y) = (self.x.as_ptr(), self.bytes.as_mut_ptr());
        chunks!(self.x.len(), |at, n| {
            // SAFETY: at + n numbers are there to read and to write.
            unsafe {
                if n == 16 {
                    s.store_f16(y.add(2 * at), s.load(x.add(at)));
                } else {
                    let mut last = [0u8; 32];
                    s.store_f16(last.as_mut_ptr(), s.load_first(x.add(at), n));
                    std::ptr::copy_nonoverlapping(last.as_ptr(), y.add(2 * at), 2 * n);
                }
            }
        });
    }
}

/// F16 to f32.
pub(super) struct FromF16<'a> {
    pub bytes: &'a [u8],
    pub x: &'a mut [f32],
}

impl<S: Simd> Kernel<S> for FromF16<'_> {
    #[inline(always)]
    fn run(self, s: S) {
        use super::float::{Float, Half};
        assert_eq!(self.bytes.len(), 2 * self.x.len(), "two bytes a number");
        let (from, to) = (self.bytes.as_ptr(), self.x.as_mut_ptr());
        chunks!(self.x.len(), |at, n| {
            // SAFETY: at + n numbers are there to read and to write.
            unsafe {
                let p = from.add(2 * at);
                let v = if n == 16 { Half::load(s, p) } else { Half::load_first(s, p, n) };
                store(s, to.add(at), n, v);
            }
        });
    }
}
