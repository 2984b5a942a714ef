//! Weighted sums of value rows. (Scores are products of the cache's rows with the queries, see
//! [`super::float`] and [`super::matvec`].)

use super::float::{Brain, Float, Half, Single};
use super::simd::{Kernel, Simd};
use crate::format::GgmlType;

/// Where weighted sums read and write.
#[derive(Clone, Copy)]
pub(super) struct Args {
    /// Weight of row `i` for head `h` is `p[h * p_stride + i]`.
    pub p: *const f32,
    /// See `p`.
    pub p_stride: usize,
    /// Heads that share the rows.
    pub n_heads: usize,
    /// The first row; rows lie `row_stride` bytes apart.
    pub v: *const u8,
    /// See `v`.
    pub row_stride: usize,
    /// Rows.
    pub n: usize,
    /// Elements of a row.
    pub width: usize,
    /// Head `h` adds to `acc[h * acc_stride..][..width]`.
    pub acc: *mut f32,
    /// See `acc`.
    pub acc_stride: usize,
}

/// Rows that stay in the first-level cache while all heads pass by.
const BLOCK_ROWS: usize = 64;

/// A type of rows: 16 values at element `at`, a multiple of 16.
trait Row: Copy {
    /// # Safety
    /// `row` is valid for reads of elements `at..at + 16`, which lie within one block.
    unsafe fn load<S: Simd>(s: S, row: *const u8, at: usize) -> S::F;

    /// # Safety
    /// `row` is valid for reads of elements `at..at + n`, with `n < 16`.
    unsafe fn load_first<S: Simd>(s: S, row: *const u8, at: usize, n: usize) -> S::F;
}

impl<T: Float> Row for T {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, row: *const u8, at: usize) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { <T as Float>::load(s, row.add(at * T::BYTES)) }
    }

    #[inline(always)]
    unsafe fn load_first<S: Simd>(s: S, row: *const u8, at: usize, n: usize) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { <T as Float>::load_first(s, row.add(at * T::BYTES), n) }
    }
}

/// Blocks of 32 with a scale, as the format Q8_0 lays them out.
#[derive(Clone, Copy)]
struct Q8;

impl Row for Q8 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, row: *const u8, at: usize) -> S::F {
        // SAFETY: the block of 34 bytes belongs to the row.
        unsafe {
            let block = row.add(at / 32 * 34);
            let d = half::f16::from_le_bytes(block.cast::<[u8; 2]>().read()).to_f32();
            s.mul(s.load_i8(block.add(2 + at % 32).cast()), s.splat(d))
        }
    }

    #[inline(always)]
    unsafe fn load_first<S: Simd>(s: S, row: *const u8, at: usize, _n: usize) -> S::F {
        // SAFETY: blocks are whole, so all 16 are there.
        unsafe { Self::load(s, row, at) }
    }
}

struct Values<'a, R> {
    args: &'a Args,
    _row: R,
}

impl<S: Simd, R: Row> Kernel<S> for Values<'_, R> {
    #[inline(always)]
    fn run(self, s: S) {
        let a = self.args;
        let mut begin = 0;
        while begin < a.n {
            let end = a.n.min(begin + BLOCK_ROWS);
            // SAFETY: whoever made `args` promised the rows, weights and sums.
            unsafe {
                if S::WIDE {
                    heads::<S, R, 4, 4>(s, a, begin, end);
                } else {
                    heads::<S, R, 2, 2>(s, a, begin, end);
                }
            }
            begin = end;
        }
    }
}

/// All heads and elements, in tiles of `H` heads by `C` times 16 elements.
///
/// # Safety
/// As for `tile`.
#[inline(always)]
unsafe fn heads<S: Simd, R: Row, const H: usize, const C: usize>(s: S, a: &Args, begin: usize, end: usize) {
    let mut at = 0;
    while at < a.width {
        let wide = a.width - at >= 16 * C;
        let mut h = 0;
        while h < a.n_heads {
            let many = a.n_heads - h >= H;
            // SAFETY: the caller's promise; the tile is within heads and width.
            unsafe {
                match (many, wide) {
                    (true, true) => tile::<S, R, H, C>(s, a, begin, end, h, at),
                    (true, false) => tile::<S, R, H, 1>(s, a, begin, end, h, at),
                    (false, true) => tile::<S, R, 1, C>(s, a, begin, end, h, at),
                    (false, false) => tile::<S, R, 1, 1>(s, a, begin, end, h, at),
                }
            }
            h += if many { H } else { 1 };
        }
        at += if wide { 16 * C } else { 16 };
    }
}

/// Adds rows `begin..end` to `C` times 16 elements of `H` heads, row after row.
///
/// # Safety
/// Rows, weights and sums exist; unless `C` is 1, all of the tile's elements do.
#[inline(always)]
unsafe fn tile<S: Simd, R: Row, const H: usize, const C: usize>(
    s: S,
    a: &Args,
    begin: usize,
    end: usize,
    h: usize,
    at: usize,
) {
    let n = if C == 1 { 16.min(a.width - at) } else { 16 };
    // SAFETY: the caller's promise.
    unsafe {
        let out = a.acc.add(h * a.acc_stride + at);
        let mut acc = [[s.splat(0.0); C]; H];
        for h in 0..H {
            for c in 0..C {
                let p = out.add(h * a.acc_stride + 16 * c);
                acc[h][c] = if n == 16 { s.load(p) } else { s.load_first(p, n) };
            }
        }
        let weights = a.p.add(h * a.p_stride);
        for i in begin..end {
            let row = a.v.add(i * a.row_stride);
            let mut v = [s.splat(0.0); C];
            for c in 0..C {
                v[c] = if n == 16 { R::load(s, row, at + 16 * c) } else { R::load_first(s, row, at, n) };
            }
            for h in 0..H {
                let p = s.splat(*weights.add(h * a.p_stride + i));
                for c in 0..C {
                    acc[h][c] = s.fma(p, v[c], acc[h][c]);
                }
            }
        }
        for h in 0..H {
            for c in 0..C {
                let p = out.add(h * a.acc_stride + 16 * c);
                if n == 16 { s.store(p, acc[h][c]) } else { s.store_first(p, n, acc[h][c]) }
            }
        }
    }
}

/// The weighted sums for rows of type `ty`.
///
/// # Panics
/// If `ty` is none of F32, F16, BF16, Q8_0.
pub(super) fn values<S: Simd>(s: S, ty: GgmlType, args: &Args) {
    match ty {
        GgmlType::F32 => s.vectorize(Values { args, _row: Single }),
        GgmlType::F16 => s.vectorize(Values { args, _row: Half }),
        GgmlType::BF16 => s.vectorize(Values { args, _row: Brain }),
        GgmlType::Q8_0 => s.vectorize(Values { args, _row: Q8 }),
        _ => panic!("no attention over rows of {ty}"),
    }
}
