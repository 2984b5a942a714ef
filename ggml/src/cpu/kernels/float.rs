//! Dot products of F32, F16 and BF16 rows with F32 rows: matrix products of plain numbers, one row or
//! many, and attention scores.
//!
//! A tile of `R` rows of weights times `T` activation rows is kept in registers. Each result
//! is one chain of fused multiply-adds in 16 lanes, `k / 16` long, whatever the tile, so its bits
//! depend on its own two rows only: the same for one row, eight, or a whole prompt. Its error is at
//! most `(k / 16 + 5) · ε · Σ |w·x|`.

use super::simd::{Kernel, Simd};
use crate::format::GgmlType;

/// A type of plain numbers that kernels widen to f32 as they load it.
pub(super) trait Float: Copy {
    /// Bytes of a number.
    const BYTES: usize;

    /// 16 numbers.
    ///
    /// # Safety
    /// `p` is valid for reads of 16 numbers, of any alignment.
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F;

    /// The first `n < 16` numbers, zeros beyond.
    ///
    /// # Safety
    /// `p` is valid for reads of `n` numbers, of any alignment.
    #[inline(always)]
    unsafe fn load_first<S: Simd>(s: S, p: *const u8, n: usize) -> S::F {
        let mut padded = [0u8; 64];
        // SAFETY: n numbers are at most 60 bytes; `padded` holds 16.
        unsafe {
            std::ptr::copy_nonoverlapping(p, padded.as_mut_ptr(), n * Self::BYTES);
            Self::load(s, padded.as_ptr())
        }
    }
}

/// F32.
#[derive(Clone, Copy)]
pub(super) struct Single;
/// F16.
#[derive(Clone, Copy)]
pub(super) struct Half;
/// BF16.
#[derive(Clone, Copy)]
pub(super) struct Brain;

impl Float for Single {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F {
        // SAFETY: the caller's promise; loads of any alignment are part of `Simd`'s contract.
        unsafe { s.load(p.cast()) }
    }

    #[inline(always)]
    unsafe fn load_first<S: Simd>(s: S, p: *const u8, n: usize) -> S::F {
        // SAFETY: as above.
        unsafe { s.load_first(p.cast(), n) }
    }
}

impl Float for Half {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { s.load_f16(p) }
    }
}

impl Float for Brain {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { s.load_bf16(p) }
    }
}

/// Where a product of plain numbers reads and writes.
#[derive(Clone, Copy)]
pub(super) struct Args {
    /// Elements of a row.
    pub k: usize,
    /// The first row of weights; rows lie `row_bytes` apart.
    pub w: *const u8,
    /// Bytes from row to row.
    pub row_bytes: usize,
    /// Rows of weights.
    pub n_w: usize,
    /// The first activation row; rows lie `x_stride` numbers apart.
    pub x: *const f32,
    /// See `x`.
    pub x_stride: usize,
    /// Activation rows.
    pub n_x: usize,
    /// Factor of every result.
    pub scale: f32,
    /// Result of weight row `r` and activation row `t` goes to `y[t * y_stride + r]`.
    pub y: *mut f32,
    /// See `y`.
    pub y_stride: usize,
}

/// Activation rows that stay in the second-level cache while all rows of weights pass by, in numbers.
const PASS: usize = 1 << 17;

struct Product<'a, W> {
    args: &'a Args,
    _weights: W,
}

impl<S: Simd, W: Float> Kernel<S> for Product<'_, W> {
    #[inline(always)]
    fn run(self, s: S) {
        if S::WIDE { tiles::<S, W, 4, 4>(s, self.args) } else { tiles::<S, W, 2, 2>(s, self.args) }
    }
}

/// Everything in tiles of `R` by `T`.
#[inline(always)]
fn tiles<S: Simd, W: Float, const R: usize, const T: usize>(s: S, a: &Args) {
    let pass = (PASS / a.k.max(1)).next_multiple_of(T).max(T);
    for begin in (0..a.n_x).step_by(pass) {
        let end = a.n_x.min(begin + pass);
        for r in (0..a.n_w).step_by(R) {
            let n_r = R.min(a.n_w - r);
            let mut t = begin;
            while t < end {
                // SAFETY: whoever made `args` promised the rows; the tile is within them.
                t += unsafe {
                    match (n_r == R, end - t >= T) {
                        (true, true) => tile::<S, W, R, T>(s, a, r, t),
                        (true, false) => tile::<S, W, R, 1>(s, a, r, t),
                        (false, true) => {
                            for r in r..a.n_w {
                                tile::<S, W, 1, T>(s, a, r, t);
                            }
                            T
                        }
                        (false, false) => {
                            for r in r..a.n_w {
                                tile::<S, W, 1, 1>(s, a, r, t);
                            }
                            1
                        }
                    }
                };
            }
        }
    }
}

/// Rows `r..r + R` of weights times activation rows `t..t + T`; gives `T`.
///
/// # Safety
/// Those rows exist, and `y` is valid for writes of their results.
#[inline(always)]
unsafe fn tile<S: Simd, W: Float, const R: usize, const T: usize>(
    s: S,
    a: &Args,
    r: usize,
    t: usize,
) -> usize {
    // SAFETY: offsets stay within the rows: i < k.
    unsafe {
        let w = a.w.add(r * a.row_bytes);
        let x = a.x.add(t * a.x_stride);
        let mut acc = [[s.splat(0.0); T]; R];
        let whole = a.k / 16 * 16;
        let mut i = 0;
        while i < whole {
            let mut xs = [s.splat(0.0); T];
            for t in 0..T {
                xs[t] = s.load(x.add(t * a.x_stride + i));
            }
            for r in 0..R {
                let ws = W::load(s, w.add(r * a.row_bytes + i * W::BYTES));
                for t in 0..T {
                    acc[r][t] = s.fma(ws, xs[t], acc[r][t]);
                }
            }
            i += 16;
        }
        if whole < a.k {
            let n = a.k - whole;
            let mut xs = [s.splat(0.0); T];
            for t in 0..T {
                xs[t] = s.load_first(x.add(t * a.x_stride + whole), n);
            }
            for r in 0..R {
                let ws = W::load_first(s, w.add(r * a.row_bytes + whole * W::BYTES), n);
                for t in 0..T {
                    acc[r][t] = s.fma(ws, xs[t], acc[r][t]);
                }
            }
        }
        for r_in in 0..R {
            for t_in in 0..T {
                *a.y.add((t + t_in) * a.y_stride + r + r_in) = s.sum(acc[r_in][t_in]) * a.scale;
            }
        }
    }
    T
}

/// The product for weights of a plain type.
///
/// # Panics
/// If `ty` is a type of blocks.
pub(super) fn product<S: Simd>(s: S, ty: GgmlType, args: &Args) {
    match ty {
        GgmlType::F32 => s.vectorize(Product { args, _weights: Single }),
        GgmlType::F16 => s.vectorize(Product { args, _weights: Half }),
        GgmlType::BF16 => s.vectorize(Product { args, _weights: Brain }),
        _ => panic!("{ty} is no type of plain numbers"),
    }
}
