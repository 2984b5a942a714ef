//! Rows of the cache and of weights as F32 panels: row by row, or transposed so that lanes are rows.

use super::float::{Brain, Float, Half, Single};
use super::simd::{Kernel, Simd};
use crate::format::GgmlType;

/// Elements of a block of Q8_0, and its bytes: a half-precision scale, then the integers.
pub(super) const BLOCK: usize = 32;
/// See [`BLOCK`].
pub(super) const BLOCK_BYTES: usize = 34;

/// Where rows are and where they go.
#[derive(Clone, Copy)]
pub(super) struct Args {
    /// The first row; rows lie `stride` bytes apart.
    pub rows: *const u8,
    /// See `rows`.
    pub stride: usize,
    /// Rows.
    pub n: usize,
    /// Elements of a row.
    pub width: usize,
    /// Element `d` of row `i` goes to `to[i * to_stride + d]`, or transposed to `to[d * to_stride + i]`. Straight rows are
    /// written in whole lanes of 16.
    pub to: *mut f32,
    /// See `to`.
    pub to_stride: usize,
    /// Where as many rows, as far apart, will be read next, unless null: straight rows ask for each as its predecessor is widened.
    pub ahead: *const u8,
}

/// The scale of a block of Q8_0 in all lanes.
///
/// # Safety
/// `block` is valid for reads of 2 bytes.
#[inline(always)]
pub(super) unsafe fn block_scale<S: Simd>(s: S, block: *const u8) -> S::F {
    // SAFETY: the caller's promise.
    let d = unsafe { block.cast::<[u8; 2]>().read() };
    // SAFETY: the array has 16 numbers.
    unsafe { s.load_f16([d; 16].as_ptr().cast()) }
}

/// A type of rows: how neighbouring elements become numbers.
pub(super) trait Row: Copy {
    /// Bytes of `n` elements.
    fn bytes(n: usize) -> usize;

    /// Elements `at .. at + 16`; `at` is a multiple of 16.
    ///
    /// # Safety
    /// The row has these elements.
    unsafe fn sixteen<S: Simd>(s: S, row: *const u8, at: usize) -> S::F;

    /// Elements `at .. at + n` of the row's last, fewer than 16, in the first lanes; `at` is a multiple of 16.
    ///
    /// # Safety
    /// The row has these elements.
    unsafe fn last<S: Simd>(s: S, row: *const u8, at: usize, n: usize) -> S::F;

    /// Elements `at .. at + n` to `to`; `at` is a multiple of 16. Writes whole lanes of 16, beyond `n` too.
    ///
    /// # Safety
    /// The row has these elements, and `to` is valid for writes of `n` numbers, rounded up to 16.
    #[inline(always)]
    unsafe fn part<S: Simd>(s: S, row: *const u8, at: usize, n: usize, to: *mut f32) {
        let whole = n / 16 * 16;
        // SAFETY: the caller's promise.
        unsafe {
            for i in (0..whole).step_by(16) {
                s.store(to.add(i), Self::sixteen(s, row, at + i));
            }
            if whole < n {
                s.store(to.add(whole), Self::last(s, row, at + whole, n - whole));
            }
        }
    }
}

impl<T: Float> Row for T {
    #[inline(always)]
    fn bytes(n: usize) -> usize {
        n * T::BYTES
    }

    #[inline(always)]
    unsafe fn sixteen<S: Simd>(s: S, row: *const u8, at: usize) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { T::load(s, row.add(at * T::BYTES)) }
    }

    #[inline(always)]
    unsafe fn last<S: Simd>(s: S, row: *const u8, at: usize, n: usize) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { T::load_first(s, row.add(at * T::BYTES), n) }
    }
}

/// Q8_0.
#[derive(Clone, Copy)]
pub(super) struct Q8;

impl Row for Q8 {
    #[inline(always)]
    fn bytes(n: usize) -> usize {
        n / BLOCK * BLOCK_BYTES
    }

    #[inline(always)]
    unsafe fn sixteen<S: Simd>(s: S, row: *const u8, at: usize) -> S::F {
        // SAFETY: the caller's promise.
        unsafe {
            let block = row.add(at / BLOCK * BLOCK_BYTES);
            s.mul(s.load_i8(block.add(2 + at % BLOCK).cast()), block_scale(s, block))
        }
    }

    #[inline(always)]
    unsafe fn last<S: Simd>(s: S, row: *const u8, at: usize, _n: usize) -> S::F {
        // SAFETY: rows are whole blocks, so all sixteen are there.
        unsafe { Self::sixteen(s, row, at) }
    }
}

/// Row by row.
struct Straight<'a, R>(&'a Args, R);

impl<S: Simd, R: Row> Kernel<S> for Straight<'_, R> {
    #[inline(always)]
    fn run(self, s: S) {
        let a = self.0;
        for i in 0..a.n {
            if !a.ahead.is_null() {
                let row = a.ahead.wrapping_add(i * a.stride);
                (0..R::bytes(a.width).div_ceil(64))
                    .for_each(|line| s.prefetch_far(row.wrapping_add(64 * line)));
            }
            // SAFETY: whoever made the arguments promised rows and room, for whole lanes too.
            unsafe { R::part(s, a.rows.add(i * a.stride), 0, a.width, a.to.add(i * a.to_stride)) };
        }
    }
}

/// Rows on lines of cache, whole registers of which are read and written.
#[repr(align(64))]
pub(super) struct Lines<const N: usize>(pub [[f32; N]; 16]);

/// Transposed, 16 rows at a time.
struct Transposed<'a, R>(&'a Args, R);

impl<S: Simd, R: Row> Kernel<S> for Transposed<'_, R> {
    #[inline(always)]
    fn run(self, s: S) {
        let a = self.0;
        // Elements that are widened before they are transposed.
        const PART: usize = 64;
        // A line of cache more, so that the rows do not all meet in the same sets.
        let mut lines = Lines([[0f32; PART + 16]; 16]);
        let mut square = Lines([[0f32; 16]; 16]);
        for first in (0..a.n).step_by(16) {
            let rows = 16.min(a.n - first);
            for at in (0..a.width).step_by(PART) {
                let n = PART.min(a.width - at);
                // SAFETY: whoever made the arguments promised rows and room; lanes beyond the last row hold numbers of an
                // earlier time and are not stored.
                unsafe {
                    for (i, line) in lines.0.iter_mut().enumerate().take(rows) {
                        R::part(s, a.rows.add((first + i) * a.stride), at, n, line.as_mut_ptr());
                    }
                    for d in (0..n).step_by(16) {
                        let from = lines.0.as_ptr().cast::<f32>().add(d).cast();
                        s.transpose(from, 4 * (PART + 16), square.0.as_mut_ptr().cast());
                        for (c, column) in square.0.iter().enumerate().take(n - d) {
                            let to = a.to.add((at + d + c) * a.to_stride + first);
                            let v = s.load(column.as_ptr());
                            if rows == 16 { s.store(to, v) } else { s.store_first(to, rows, v) }
                        }
                    }
                }
            }
        }
    }
}

fn run<S: Simd, R: Row>(s: S, row: R, args: &Args, transposed: bool) {
    if transposed { s.vectorize(Transposed(args, row)) } else { s.vectorize(Straight(args, row)) }
}

/// Widens rows of type `ty`.
///
/// # Panics
/// If `ty` is none of F32, F16, BF16, Q8_0.
pub(super) fn widen<S: Simd>(s: S, ty: GgmlType, args: &Args, transposed: bool) {
    match ty {
        GgmlType::F32 => run(s, Single, args, transposed),
        GgmlType::F16 => run(s, Half, args, transposed),
        GgmlType::BF16 => run(s, Brain, args, transposed),
        GgmlType::Q8_0 => run(s, Q8, args, transposed),
        _ => panic!("no panels of {ty}"),
    }
}
