//! Scales without minimums: x ≈ δ·q with q of some levels that lie on both sides of zero.
//!
//! Given the levels that values take, the error Σ w (x − δ q)² is least for δ = Σ w x q / Σ w q², and then it is Σ w x²
//! less the *gain* (Σ w x q)² / Σ w q². [`ideal`] tries scales around those that bring the value of largest magnitude to
//! lie on the outermost level of either side (clipping a little often pays), takes the one of the largest gain, and then
//! alternates nearest levels and fit, neither of which can make the error larger.
//!
//! In a super-block δ = d·s with a common d and small integers s. What is best for a sub-block alone is then rounded,
//! and the roundings act together through d; so [`super_block`] starts from a few d and alternates: for each sub-block
//! the best s among the nearest, by the error that it really makes; then the d that fits all sub-blocks,
//! d = Σ s (Σ w x q) / Σ s² (Σ w q²). The best pair that was seen is kept.

use super::super::bits::F16;
use super::lanes::{self, Batch, LANES, V};

/// The numbers that codes stand for.
pub trait Levels {
    /// Where the value of largest magnitude is tried to come to lie: around the outermost levels.
    const TRIED: &'static [f32];
    /// The nearest level.
    fn nearest(x: V) -> V;
    /// The code of the nearest level.
    fn code(x: V) -> V;
}

/// The integers of −LEAST..LEAST: codes are the integers plus LEAST.
pub struct Integers<const LEAST: i32>;

macro_rules! integers {
    ($least:literal, $tried:expr) => {
        impl Levels for Integers<$least> {
            const TRIED: &'static [f32] = &$tried;

            #[inline(always)]
            fn nearest(x: V) -> V {
                x.nearest(-$least as f32, ($least - 1) as f32)
            }

            #[inline(always)]
            fn code(x: V) -> V {
                Self::nearest(x) + V::splat($least as f32)
            }
        }
    };
}
integers!(4, [-4.9, -4.6, -4.3, -4.0, -3.7, -3.4, 2.8, 3.1, 3.4]);
integers!(8, [-8.7, -8.2, -7.7, -7.2, 6.7, 7.2]);
integers!(16, [-16.5, -16.0, -15.5, -15.0, 15.0]);
integers!(32, [-32.4, -32.0, -31.6, -31.2, -30.8, 31.0]);

/// −1, 0 and 1.
pub struct Ternary;

impl Levels for Ternary {
    const TRIED: &'static [f32] = &[0.9, 1.2, 1.5, 1.8, 2.1, 2.5, 3.0, 4.0, 6.0, 10.0];

    #[inline(always)]
    fn nearest(x: V) -> V {
        x.nearest(-1.0, 1.0)
    }

    #[inline(always)]
    fn code(x: V) -> V {
        Self::nearest(x) + V::splat(1.0)
    }
}

/// Σ w x q and Σ w q² with the levels nearest to `x · inverse`.
#[inline(always)]
fn sums<T: Levels, const N: usize>(b: &Batch<N>, inverse: V) -> (V, V) {
    let (mut xq, mut qq) = (V::ZERO, V::ZERO);
    for (x, w) in b.values() {
        let q = T::nearest(x * inverse);
        let wq = w * q;
        xq = xq + wq * x;
        qq = qq + wq * q;
    }
    lanes::settle((xq, qq))
}

/// Times that levels and fit alternate at the end of [`ideal`].
const REFINEMENTS: usize = 2;

/// The best scale of each `B` sub-blocks by themselves.
#[inline(always)]
pub fn ideal<T: Levels, const N: usize, const B: usize>(b: &Batch<N>) -> V {
    let mut extreme = V::ZERO;
    for (x, _) in b.values() {
        extreme = x.abs().above(extreme.abs(), x, extreme);
    }
    let extreme = lanes::settle(extreme).fold_groups::<B>(|a, b| if b.abs() > a.abs() { b } else { a });
    let per_extreme = extreme.inverse();
    let (mut best, mut most) = (V::ZERO, V::ZERO);
    for i in 0..T::TRIED.len() + REFINEMENTS {
        let inverse = match T::TRIED.get(i) {
            Some(&tried) => V::splat(tried) * per_extreme,
            None => best.inverse(),
        };
        let (xq, qq) = sums::<T, N>(b, inverse);
        let (xq, qq) = (xq.sum_groups::<B>(), qq.sum_groups::<B>());
        let scale = xq / qq;
        let gain = scale * xq;
        best = gain.above(most, scale, best);
        most = gain.max(most);
    }
    best
}

/// A super-block's scale and those of its sub-blocks.
pub struct Scales {
    /// d, in each lane of its block.
    pub d: [F16; LANES],
    /// s.
    pub s: V,
    /// The product in the batch's units: what values are divided by to find their codes.
    pub scale: V,
}

/// How scales of sub-blocks are stored, and how hard to look for them.
pub struct Search {
    /// The least and the largest s.
    pub s: (f32, f32),
    /// Initial d, relative to the one that brings the largest scale to the least s.
    pub starts: &'static [f32],
    /// How far from the nearest s others are tried.
    pub reach: i32,
    /// Fits of d.
    pub rounds: usize,
}

/// The best d and s of super-blocks of `B` sub-blocks.
#[inline(always)]
pub fn super_block<T: Levels, const N: usize, const B: usize>(b: &Batch<N>, search: &Search) -> Scales {
    let ideal = ideal::<T, N, 1>(b);
    let extreme = ideal.fold_groups::<B>(|e, s| if s.abs() > e.abs() { s } else { e });
    let mut best = Scales { d: [F16::new(0.0); LANES], s: V::ZERO, scale: V::ZERO };
    let mut least = V::splat(f32::INFINITY);
    for start in search.starts {
        let mut d = extreme * V::splat(start / search.s.0);
        let mut wanted = ideal;
        for _ in 0..search.rounds {
            let (rounded, halves) = b.half::<B>(d);
            let found = sub_scales::<T, N>(b, wanted, rounded, search);
            let error = found.error.sum_groups::<B>();
            for l in 0..LANES {
                if error.0[l] < least.0[l] {
                    best.d[l] = halves[l];
                }
            }
            best.s = least.above(error, found.s, best.s);
            best.scale = least.above(error, found.s * rounded, best.scale);
            least = error.min(least);
            let xs = (found.s * found.xq).sum_groups::<B>();
            let ss = (found.s * found.s * found.qq).sum_groups::<B>();
            d = xs * ss.inverse();
            wanted = found.xq * found.qq.inverse();
        }
    }
    best
}

/// Scales of sub-blocks by a given d.
struct Found {
    s: V,
    error: V,
    xq: V,
    qq: V,
}

/// For each sub-block the best s around `wanted / d`.
#[inline(always)]
fn sub_scales<T: Levels, const N: usize>(b: &Batch<N>, wanted: V, d: V, search: &Search) -> Found {
    let center = wanted * d.inverse();
    let mut best = Found { s: V::ZERO, error: V::splat(f32::INFINITY), xq: V::ZERO, qq: V::ZERO };
    for step in -search.reach..=search.reach {
        let s = (center + V::splat(step as f32)).nearest(search.s.0, search.s.1);
        let scale = d * s;
        let inverse = scale.inverse();
        let (mut error, mut xq, mut qq) = (V::ZERO, V::ZERO, V::ZERO);
        for (x, w) in b.values() {
            let q = T::nearest(x * inverse);
            let wq = w * q;
            let off = x - scale * q;
            error = error + w * off * off;
            xq = xq + wq * x;
            qq = qq + wq * q;
        }
        let (error, xq, qq) = lanes::settle((error, xq, qq));
        best.s = best.error.above(error, s, best.s);
        best.xq = best.error.above(error, xq, best.xq);
        best.qq = best.error.above(error, qq, best.qq);
        best.error = error.min(best.error);
    }
    best
}

impl Scales {
    /// The codes by these scales.
    #[inline(always)]
    pub fn codes<T: Levels, const N: usize>(&self, b: &Batch<N>) -> [[u8; N]; LANES] {
        codes::<T, N>(b, self.scale)
    }
}

/// The codes by given scales.
#[inline(always)]
pub fn codes<T: Levels, const N: usize>(b: &Batch<N>, scale: V) -> [[u8; N]; LANES] {
    let inverse = scale.inverse();
    let mut codes = [V::ZERO; N];
    for j in 0..N {
        codes[j] = T::code(b.x[j] * inverse);
    }
    lanes::by_sub_block(&codes)
}

/// The best scale of blocks of `B` sub-blocks that have a single one, and what it is in the batch's units.
#[inline(always)]
pub fn single<T: Levels, const N: usize, const B: usize>(b: &Batch<N>) -> ([F16; LANES], V) {
    let (scale, d) = b.half::<B>(ideal::<T, N, B>(b));
    (d, scale)
}
