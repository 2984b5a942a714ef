//! Products of F32 rows with the rows of a panel, which are widened as they are read: prompts over weights of plain numbers,
//! and both halves of attention.
//!
//! ```text
//!   y[t][c]  =  Σ over k of  x[t][k] · b[k][c]
//! ```
//!
//! A lane is a column of the panel and elements of `x` are broadcast, so nothing is added across lanes. A tile of up to
//! [`ROWS`] rows by 64 columns stays in registers for [`DEPTH`] steps of k, whose chain of fused multiply-adds is then added to
//! `y`. So a result depends on its row and its column only, not on how either is tiled, and its error is at
//! most `(min(k, DEPTH) + k / DEPTH + 1) · ε · Σ |x·b|`.

use super::float::{Brain, Half, Single};
use super::simd::{Kernel, Simd};
use super::widen::{Q8, Row};
use crate::format::GgmlType;

/// Rows of a tile at the most.
const ROWS: usize = 6;

/// Steps of k that a tile stays in registers for: a strip of the panel, 64 columns wide, takes 32 KiB then.
pub(super) const DEPTH: usize = 128;

/// Where a product reads and writes.
#[derive(Clone, Copy)]
pub(super) struct Args {
    /// The first row; rows lie `x_stride` numbers apart.
    pub x: *const f32,
    /// See `x`.
    pub x_stride: usize,
    /// Rows.
    pub n_x: usize,
    /// Numbers of a row, rows of the panel.
    pub k: usize,
    /// The panel; its rows lie `b_stride` bytes apart.
    pub b: *const u8,
    /// See `b`.
    pub b_stride: usize,
    /// Columns of the panel.
    pub n: usize,
    /// Row `t` of the result begins at `y + t * y_stride`.
    pub y: *mut f32,
    /// See `y`.
    pub y_stride: usize,
    /// What happens to what `y` holds.
    pub before: Before,
    /// Memory that is read next, asked for on the way where registers are wide: the first byte and lines of cache.
    pub ahead: (*const u8, usize),
}

/// What a product does to what its result's place holds.
#[derive(Clone, Copy)]
pub(super) enum Before {
    /// Overwritten.
    Ignored,
    /// Added to.
    Kept,
    /// Row `t` is multiplied by the `t`-th of these, then added to.
    Scaled(*const f32),
}

/// The product with a panel of this type.
pub(super) struct Product<'a, B>(pub &'a Args, pub B);

impl<S: Simd, B: Row> Kernel<S> for Product<'_, B> {
    #[inline(always)]
    fn run(self, s: S) {
        let mut a = *self.0;
        let k = a.k;
        let mut at = 0;
        // Once even if there is nothing to add: `y` is to be overwritten or scaled.
        while at == 0 || at < k {
            a.k = DEPTH.min(k - at);
            // SAFETY: whoever made the arguments promised rows, panel and results.
            unsafe { if S::WIDE { strips::<S, B, 4>(s, &a) } else { strips::<S, B, 1>(s, &a) } }
            a.x = a.x.wrapping_add(DEPTH);
            a.b = a.b.wrapping_add(DEPTH * a.b_stride);
            a.before = Before::Kept;
            a.ahead.1 = 0;
            at += DEPTH;
        }
    }
}

/// The product with a panel of type `ty`.
///
/// # Panics
/// If `ty` is none of F32, F16, BF16, Q8_0.
pub(super) fn product<S: Simd>(s: S, ty: GgmlType, args: &Args) {
    match ty {
        GgmlType::F32 => s.vectorize(Product(args, Single)),
        GgmlType::F16 => s.vectorize(Product(args, Half)),
        GgmlType::BF16 => s.vectorize(Product(args, Brain)),
        GgmlType::Q8_0 => s.vectorize(Product(args, Q8)),
        _ => panic!("no panels of {ty}"),
    }
}

/// All columns, in strips of `C` times 16.
///
/// # Safety
/// The arguments lead to rows, a panel and results.
#[inline(always)]
unsafe fn strips<S: Simd, B: Row, const C: usize>(s: S, a: &Args) {
    let mut c = 0;
    while c < a.n {
        let n = a.n - c;
        // SAFETY: the columns are within the panel.
        c += unsafe {
            if n >= 16 * C { rows::<S, B, C>(s, a, c, 16) } else { rows::<S, B, 1>(s, a, c, n.min(16)) }
        };
    }
}

/// All rows, in tiles as equal as can be; gives the columns done.
///
/// # Safety
/// `C` times 16 columns from `c` on are within the panel, or `lanes` if `C` is 1.
#[inline(always)]
unsafe fn rows<S: Simd, B: Row, const C: usize>(s: S, a: &Args, c: usize, lanes: usize) -> usize {
    let tiles = a.n_x.div_ceil(ROWS);
    // The tiles' shares of what is read next.
    let share = a.ahead.1.div_ceil((tiles * a.n.div_ceil(64)).max(1));
    for i in 0..tiles {
        let (t, end) = (i * a.n_x / tiles, (i + 1) * a.n_x / tiles);
        let before = (c / 64 * tiles + i) * share;
        let lines = if C == 1 { 0 } else { share.min(a.ahead.1.saturating_sub(before)) };
        let ahead = (a.ahead.0.wrapping_add(64 * before), lines);
        // SAFETY: those are rows.
        unsafe {
            match end - t {
                1 => tile::<S, B, 1, C>(s, a, t, c, lanes, ahead),
                2 => tile::<S, B, 2, C>(s, a, t, c, lanes, ahead),
                3 => tile::<S, B, 3, C>(s, a, t, c, lanes, ahead),
                4 => tile::<S, B, 4, C>(s, a, t, c, lanes, ahead),
                5 => tile::<S, B, 5, C>(s, a, t, c, lanes, ahead),
                _ => tile::<S, B, 6, C>(s, a, t, c, lanes, ahead),
            }
        }
    }
    16 * C
}

/// `T` rows by `C` times 16 columns.
///
/// # Safety
/// Rows and columns exist; unless `C` is 1, `lanes` is 16.
#[inline(always)]
unsafe fn tile<S: Simd, B: Row, const T: usize, const C: usize>(
    s: S,
    a: &Args,
    t: usize,
    c: usize,
    lanes: usize,
    ahead: (*const u8, usize),
) {
    let partial = C == 1 && lanes < 16;
    // SAFETY: the caller's promise.
    unsafe {
        let x = a.x.add(t * a.x_stride);
        // The rows after these: lines that far apart are not foreseen.
        for t in if a.x_stride > 4 * DEPTH { T..2 * T } else { 0..0 } {
            let next = x.wrapping_add(t * a.x_stride);
            for line in 0..a.k.div_ceil(16) {
                s.prefetch(next.wrapping_add(16 * line).cast());
            }
        }
        let mut acc = [[s.splat(0.0); C]; T];
        let half = ahead.1.div_ceil(2);
        for k in 0..a.k {
            if k < half {
                s.prefetch_far(ahead.0.wrapping_add(64 * k));
                s.prefetch_far(ahead.0.wrapping_add(64 * (half + k)));
            }
            let b = a.b.add(k * a.b_stride);
            let mut columns = [s.splat(0.0); C];
            for i in 0..C {
                columns[i] = if partial { B::last(s, b, c, lanes) } else { B::sixteen(s, b, c + 16 * i) };
            }
            for t in 0..T {
                let x = s.splat(*x.add(t * a.x_stride + k));
                for c in 0..C {
                    acc[t][c] = s.fma(x, columns[c], acc[t][c]);
                }
            }
        }
        for t_in in 0..T {
            for c_in in 0..C {
                let y = a.y.add((t + t_in) * a.y_stride + c + 16 * c_in);
                let load = || if partial { s.load_first(y, lanes) } else { s.load(y) };
                let sum = match a.before {
                    Before::Ignored => acc[t_in][c_in],
                    Before::Kept => s.add(load(), acc[t_in][c_in]),
                    Before::Scaled(f) => s.fma(load(), s.splat(*f.add(t + t_in)), acc[t_in][c_in]),
                };
                if partial { s.store_first(y, lanes, sum) } else { s.store(y, sum) }
            }
        }
    }
}
