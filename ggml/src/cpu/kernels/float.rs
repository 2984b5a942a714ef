//! Products of F32, F16 and BF16 rows with F32 rows: matrices of plain numbers, and attention scores.
//!
//! **Few** activation rows, up to [`FEW`]: weights are read once and dotted where they lie. A tile of `R` rows of weights times `T`
//! activation rows is kept in registers. Each result is one chain of fused multiply-adds in 16 lanes, `k / 16` long, whatever the
//! tile, so its bits depend on its own two rows only. Its error is at most `(k / 16 + 5) · ε · Σ |w·x|`.
//!
//! **Many**: 64 rows of weights at a time are widened and transposed into a panel in the first-level cache, which then runs against
//! all activation rows ([`super::panel`]). Again bits depend on two rows only, but not on the same order of
//! additions; the error is at most `(min(k, DEPTH) + k / DEPTH + 1) · ε · Σ |w·x|` with [`DEPTH`] of 128.

use std::ops::Range;

use super::FEW;
use super::matvec::Ahead;
use super::panel::{self, Before, DEPTH};
use super::simd::{Kernel, Simd};
use super::widen;
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
    /// Result of weight row `r` and activation row `t` goes to `y[t * y_stride + r]`.
    pub y: *mut f32,
    /// See `y`.
    pub y_stride: usize,
    /// Where rows of weights will be read next, as many and as far apart, unless null.
    pub ahead: *const u8,
}

/// Bytes of weights that stay in the second-level cache while all activation rows pass by.
const PASS: usize = 1 << 18;

/// `AHEAD` if the weights are in memory rather than in a cache.
struct Dots<'a, W, const AHEAD: bool> {
    args: &'a Args,
    _weights: W,
}

impl<S: Simd, W: Float, const AHEAD: bool> Kernel<S> for Dots<'_, W, AHEAD> {
    #[inline(always)]
    fn run(self, s: S) {
        let a = self.args;
        let pass = (PASS / a.row_bytes.max(1)).next_multiple_of(4);
        let tiles = a.n_x.div_ceil(if S::WIDE { 6 } else { 2 });
        for begin in (0..a.n_w).step_by(pass) {
            let end = a.n_w.min(begin + pass);
            for i in 0..tiles {
                let t = i * a.n_x / tiles;
                // SAFETY: whoever made `args` promised the rows; the tiles are within them.
                unsafe {
                    match ((i + 1) * a.n_x / tiles - t, S::WIDE) {
                        (1, true) => strip::<S, W, AHEAD, 4, 1>(s, a, begin..end, t),
                        (2, true) => strip::<S, W, AHEAD, 4, 2>(s, a, begin..end, t),
                        (3, true) => strip::<S, W, AHEAD, 4, 3>(s, a, begin..end, t),
                        (4, true) => strip::<S, W, AHEAD, 4, 4>(s, a, begin..end, t),
                        (5, true) => strip::<S, W, AHEAD, 4, 5>(s, a, begin..end, t),
                        (_, true) => strip::<S, W, AHEAD, 4, 6>(s, a, begin..end, t),
                        (1, false) => strip::<S, W, AHEAD, 2, 1>(s, a, begin..end, t),
                        (_, false) => strip::<S, W, AHEAD, 2, 2>(s, a, begin..end, t),
                    }
                }
            }
        }
    }
}

/// Some rows of weights, `R` at a time, times activation rows `t..t + T`: neighbours, or if `AHEAD` one from each of as many equal parts.
///
/// # Safety
/// As for `tile`.
#[inline(always)]
unsafe fn strip<S: Simd, W: Float, const AHEAD: bool, const R: usize, const T: usize>(
    s: S,
    a: &Args,
    rows: Range<usize>,
    t: usize,
) {
    let n = rows.len() / R;
    for i in 0..n {
        let (r, apart) = if AHEAD { (i, n) } else { (R * i, 1) };
        // SAFETY: the caller's promise.
        unsafe { tile::<S, W, AHEAD, R, T>(s, a, (rows.start, r, apart), t) };
    }
    for r in rows.start + R * n..rows.end {
        // SAFETY: the caller's promise.
        unsafe { tile::<S, W, false, 1, T>(s, a, (r, 0, 1), t) };
    }
}

/// `R` rows of weights, `first + r` and those `apart` rows on, times activation rows `t..t + T`.
///
/// # Safety
/// Those rows exist, and `y` is valid for writes of their results.
#[inline(always)]
unsafe fn tile<S: Simd, W: Float, const AHEAD: bool, const R: usize, const T: usize>(
    s: S,
    a: &Args,
    (first, r, apart): (usize, usize, usize),
    t: usize,
) {
    // SAFETY: offsets stay within the rows: i < k.
    unsafe {
        let base = a.w.add(first * a.row_bytes);
        let streams = Ahead { n: R, bytes: apart * a.row_bytes };
        let w = |m: usize, i: usize| base.add((r + m * apart) * a.row_bytes + i * W::BYTES);
        let x = a.x.add(t * a.x_stride);
        let mut acc = [[s.splat(0.0); R]; T];
        let whole = a.k / 16 * 16;
        let mut i = 0;
        while i < whole {
            if AHEAD && i * W::BYTES % 64 == 0 {
                streams.fetch(s, base, r * a.row_bytes + i * W::BYTES, 64);
            }
            if !AHEAD && !a.ahead.is_null() && i * W::BYTES % 64 == 0 {
                let next = a.ahead.wrapping_add((first + r) * a.row_bytes + i * W::BYTES);
                (0..R).for_each(|m| s.prefetch_far(next.wrapping_add(m * a.row_bytes)));
            }
            let mut ws = [s.splat(0.0); R];
            for m in 0..R {
                ws[m] = W::load(s, w(m, i));
            }
            for t in 0..T {
                let x = s.load(x.add(t * a.x_stride + i));
                for m in 0..R {
                    acc[t][m] = s.fma(ws[m], x, acc[t][m]);
                }
            }
            i += 16;
        }
        if whole < a.k {
            let n = a.k - whole;
            let mut ws = [s.splat(0.0); R];
            for m in 0..R {
                ws[m] = W::load_first(s, w(m, whole), n);
            }
            for t in 0..T {
                let x = s.load_first(x.add(t * a.x_stride + whole), n);
                for m in 0..R {
                    acc[t][m] = s.fma(ws[m], x, acc[t][m]);
                }
            }
        }
        for t_in in 0..T {
            let y = a.y.add((t + t_in) * a.y_stride + first + r);
            if !AHEAD {
                s.store_sums(y, acc[t_in]);
                continue;
            }
            let mut sums = [0.0; R];
            s.store_sums(sums.as_mut_ptr(), acc[t_in]);
            for m in 0..R {
                *y.add(m * apart) = sums[m];
            }
        }
    }
}

/// Rows of weights of a panel, as wide as a strip of it.
pub(super) const STRIP: usize = 64;

/// The product by panels.
///
/// # Panics
/// If `ty` is a type of blocks.
pub(super) fn many<S: Simd>(s: S, ty: GgmlType, a: &Args) {
    #[repr(align(64))]
    struct Strip([f32; DEPTH * STRIP]);
    let mut strip = Strip([0.0; DEPTH * STRIP]);
    for r in (0..a.n_w).step_by(STRIP) {
        let n = STRIP.min(a.n_w - r);
        for at in (0..a.k).step_by(DEPTH) {
            let k = DEPTH.min(a.k - at);
            let rows = a.w.wrapping_add(r * a.row_bytes + at * ty.format().bytes);
            let to = strip.0.as_mut_ptr();
            let part = widen::Args {
                rows,
                stride: a.row_bytes,
                n,
                width: k,
                to,
                to_stride: STRIP,
                ahead: std::ptr::null(),
            };
            widen::widen(s, ty, &part, true);
            let before = if at == 0 { Before::Ignored } else { Before::Kept };
            let (x, y) = (a.x.wrapping_add(at), a.y.wrapping_add(r));
            let product = panel::Args {
                x,
                x_stride: a.x_stride,
                n_x: a.n_x,
                k,
                b: to.cast(),
                b_stride: 4 * STRIP,
                n,
                y,
                y_stride: a.y_stride,
                before,
                ahead: (std::ptr::null(), 0),
            };
            s.vectorize(panel::Product(&product, Single));
        }
    }
}

/// The product for weights of a plain type.
///
/// # Panics
/// If `ty` is a type of blocks.
pub(super) fn product<S: Simd>(s: S, ty: GgmlType, args: &Args) {
    match ty {
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 if args.n_x > FEW => s.many(ty, args),
        _ => dots::<S, true>(s, ty, args),
    }
}

/// The product for weights of a plain type, by dots however many rows there are; `AHEAD` if the weights are in memory rather
/// than in a cache.
///
/// # Panics
/// If `ty` is a type of blocks.
pub(super) fn dots<S: Simd, const AHEAD: bool>(s: S, ty: GgmlType, args: &Args) {
    match ty {
        GgmlType::F32 => s.vectorize(Dots::<_, AHEAD> { args, _weights: Single }),
        GgmlType::F16 => s.vectorize(Dots::<_, AHEAD> { args, _weights: Half }),
        GgmlType::BF16 => s.vectorize(Dots::<_, AHEAD> { args, _weights: Brain }),
        _ => panic!("{ty} is no type of plain numbers"),
    }
}
