//! Scales with minimums: x ≈ δ·q + μ with integers q of `0..=n`.
//!
//! Given the codes, the error Σ w (x − δ q − μ)² is least for the solution of the two normal equations
//!
//! ```text
//! δ Σwq² + μ Σwq = Σwxq
//! δ Σwq  + μ Σw  = Σwx
//! ```
//!
//! [`ideal`] tries intervals around the one from the least to the largest value, which lose a little at either end,
//! takes the best after fitting, and alternates nearest codes and fit. In the K formats μ is not above zero.
//!
//! In a super-block δ = d·s and μ = −e·m with common d and e and small integers s and m. [`super_block`] starts from a
//! few d and e and alternates: for each sub-block the best s among the nearest, with the m that fits its codes, by the
//! error that they really make; then the d and e that fit all sub-blocks, again two normal equations:
//!
//! ```text
//! d Σs²Σwq² − e ΣsmΣwq = ΣsΣwxq
//! d ΣsmΣwq  − e Σm²Σw  = ΣmΣwx
//! ```
//!
//! The best quadruple that was seen is kept.

use super::super::bits::F16;
use super::lanes::{self, Batch, LANES, V};

/// What a fit needs of the codes of sub-blocks.
#[derive(Clone, Copy)]
struct Sums {
    q: V,
    qq: V,
    xq: V,
}

impl Sums {
    const ZERO: Sums = Sums { q: V::ZERO, qq: V::ZERO, xq: V::ZERO };

    /// With the codes nearest to `(x − min) · inverse`.
    #[inline(always)]
    fn new(values: impl Iterator<Item = (V, V)>, inverse: V, min: V, n: f32) -> Sums {
        let mut s = Sums::ZERO;
        for (x, w) in values {
            s.add(x, w, ((x - min) * inverse).nearest(0.0, n));
        }
        lanes::settle(s)
    }

    /// The same, and the error of `scale` and `min`.
    #[inline(always)]
    fn with_error<const N: usize>(b: &Batch<N>, inverse: V, scale: V, min: V, n: f32) -> (Sums, V) {
        let (mut s, mut error) = (Sums::ZERO, V::ZERO);
        for (x, w) in b.values() {
            let y = x - min;
            let q = (y * inverse).nearest(0.0, n);
            s.add(x, w, q);
            let off = y - scale * q;
            error = error + w * off * off;
        }
        lanes::settle((s, error))
    }

    #[inline(always)]
    fn add(&mut self, x: V, w: V, q: V) {
        let wq = w * q;
        self.q = self.q + wq;
        self.qq = self.qq + wq * q;
        self.xq = self.xq + wq * x;
    }
}

/// Σ w and Σ w x.
#[inline(always)]
fn constants(values: impl Iterator<Item = (V, V)>) -> (V, V) {
    let (mut sum, mut sum_x) = (V::ZERO, V::ZERO);
    for (x, w) in values {
        sum = sum + w;
        sum_x = sum_x + w * x;
    }
    (sum, sum_x)
}

/// What the ends of the interval are moved inwards by, in steps between codes.
pub type Tried = &'static [(f32, f32)];

/// Times that codes and fit alternate at the end of [`ideal`].
const REFINEMENTS: usize = 2;

/// The best scale and minimum of each sub-block by itself. `BELOW`: minimums are zero or less.
#[inline(always)]
pub fn ideal<const N: usize, const BELOW: bool>(b: &Batch<N>, n: f32, tried: Tried) -> (V, V) {
    let (mut lo, mut hi) = (b.x[0], b.x[0]);
    for (x, _) in b.values() {
        (lo, hi) = (x.min(lo), x.max(hi));
    }
    let (mut lo, hi) = lanes::settle((lo, hi));
    if BELOW {
        lo = lo.min(V::ZERO);
    }
    // With y = x − lo sums of squares lose nothing to a large common offset.
    let shifted = b.shifted(lo);
    let (w, y) = constants(shifted.values());
    let step = (hi - lo) * V::splat(1.0 / n);
    let mut best = (step, V::ZERO);
    let mut most = V::splat(f32::MIN);
    for i in 0..tried.len() + REFINEMENTS {
        let (scale, min) = match tried.get(i) {
            Some(&(low, high)) => (step * V::splat((n - low - high) / n), step * V::splat(low)),
            None => best,
        };
        let s = Sums::new(shifted.values(), scale.inverse(), min, n);
        let (scale, min) = fit::<BELOW>(&s, w, y, lo);
        // Σwy² less the error Σw(y − scale·q − min)².
        let two = V::splat(2.0);
        let explained = scale * (two * s.xq - scale * s.qq) + min * (two * (y - scale * s.q) - min * w);
        best = (explained.above(most, scale, best.0), explained.above(most, min, best.1));
        most = explained.max(most);
    }
    (best.0, best.1 + lo)
}

/// Scale and minimum by given codes; the minimum is to be added to `lo`.
#[inline(always)]
fn fit<const BELOW: bool>(s: &Sums, w: V, y: V, lo: V) -> (V, V) {
    // NaN where all values have one code, and then nothing is explained.
    let determinant = w * s.qq - s.q * s.q;
    let scale = (w * s.xq - s.q * y) / determinant;
    let min = (s.qq * y - s.q * s.xq) / determinant;
    if !BELOW {
        return (scale, min);
    }
    let too_high = min + lo;
    let at_zero = (s.xq + lo * s.q) / s.qq;
    (too_high.above(V::ZERO, at_zero, scale), too_high.above(V::ZERO, V::ZERO - lo, min))
}

/// The scales of a super-block and of its sub-blocks.
pub struct Scales {
    /// d, in each lane of its block.
    pub d: [F16; LANES],
    /// e.
    pub e: [F16; LANES],
    /// s.
    pub s: V,
    /// m.
    pub m: V,
    /// d·s in the batch's units.
    pub scale: V,
    /// −e·m in the batch's units.
    pub min: V,
}

/// How the scales are stored, and how hard to look for them.
pub struct Search {
    /// The largest code.
    pub n: f32,
    /// The largest s and m.
    pub largest: f32,
    /// Intervals for [`ideal`].
    pub tried: Tried,
    /// Initial d and e, relative to those that bring the largest scale and minimum to the largest s and m.
    pub starts: Tried,
    /// How far from the nearest s and m others are tried.
    pub reach: (i32, i32),
    /// Fits of d and e.
    pub rounds: usize,
}

/// The best d, e, s and m of super-blocks of `B` sub-blocks.
#[inline(always)]
pub fn super_block<const N: usize, const B: usize>(b: &Batch<N>, search: &Search) -> Scales {
    let (scale, min) = ideal::<N, true>(b, search.n, search.tried);
    let (w, x) = constants(b.values());
    let largest = |v: V| v.fold_groups::<B>(|m, v| if v > m { v } else { m });
    let (most, lowest) = (largest(scale), largest(V::ZERO - min));
    let none = [F16::new(0.0); LANES];
    let mut best = Scales { d: none, e: none, s: V::ZERO, m: V::ZERO, scale: V::ZERO, min: V::ZERO };
    let mut least = V::splat(f32::INFINITY);
    for start in search.starts {
        let mut d = most * V::splat(start.0 / search.largest);
        let mut e = lowest * V::splat(start.1 / search.largest);
        let mut wanted = (scale, min);
        for _ in 0..search.rounds {
            let ((d_rounded, d_half), (e_rounded, e_half)) = (b.half::<B>(d), b.half::<B>(e));
            let found = sub_scales(b, wanted, (d_rounded, e_rounded), (w, x), search);
            let error = found.error.sum_groups::<B>();
            for l in 0..LANES {
                if error.0[l] < least.0[l] {
                    (best.d[l], best.e[l]) = (d_half[l], e_half[l]);
                }
            }
            best.s = least.above(error, found.s, best.s);
            best.m = least.above(error, found.m, best.m);
            best.scale = least.above(error, found.s * d_rounded, best.scale);
            best.min = least.above(error, V::ZERO - found.m * e_rounded, best.min);
            least = error.min(least);
            (d, e) = refit::<B>(&found, w, x, (d_rounded, e_rounded));
            wanted = (found.s * d, V::ZERO - found.m * e);
        }
    }
    best
}

/// Scales and minimums of sub-blocks by given d and e.
struct Found {
    s: V,
    m: V,
    sums: Sums,
    error: V,
}

/// The d and e that fit all sub-blocks; those before where there is no solution.
#[inline(always)]
fn refit<const B: usize>(f: &Found, w: V, x: V, before: (V, V)) -> (V, V) {
    let ss = (f.s * f.s * f.sums.qq).sum_groups::<B>();
    let sm = (f.s * f.m * f.sums.q).sum_groups::<B>();
    let mm = (f.m * f.m * w).sum_groups::<B>();
    let sx = (f.s * f.sums.xq).sum_groups::<B>();
    let mx = (f.m * x).sum_groups::<B>();
    let determinant = ss * mm - sm * sm;
    let d = (sx * mm - sm * mx) / determinant;
    let e = (sx * sm - ss * mx) / determinant;
    // Without minimums, or with all of a block proportional, the determinant is nothing but rounding.
    let sound = V::splat(1e-5) * ss * mm;
    let alone = sx / ss;
    let d = determinant.above(sound, d, mm.above(V::ZERO, before.0, alone));
    let e = determinant.above(sound, e, before.1);
    // Both are to be positive; NaN is not.
    (d.above(V::ZERO, d, before.0), e.above(V::ZERO, e, before.1))
}

/// For each sub-block the best s and m around what is wanted.
#[inline(always)]
fn sub_scales<const N: usize>(
    b: &Batch<N>,
    wanted: (V, V),
    (d, e): (V, V),
    (w, x): (V, V),
    search: &Search,
) -> Found {
    let (d_inverse, e_inverse) = (d.inverse(), e.inverse());
    let center = wanted.0 * d_inverse;
    let mut best = Found { s: V::ZERO, m: V::ZERO, sums: Sums::ZERO, error: V::splat(f32::INFINITY) };
    for step in -search.reach.0..=search.reach.0 {
        let s = (center + V::splat(step as f32)).nearest(0.0, search.largest);
        let scale = d * s;
        let inverse = scale.inverse();
        // The codes by the minimum that is wanted say which one fits them.
        let first = Sums::new(b.values(), inverse, wanted.1, search.n);
        let fitting = (scale * first.q - x) / w * e_inverse;
        for step in -search.reach.1..=search.reach.1 {
            let m = (fitting + V::splat(step as f32)).nearest(0.0, search.largest);
            let (sums, error) = Sums::with_error(b, inverse, scale, V::ZERO - e * m, search.n);
            best.keep(s, m, sums, error);
        }
    }
    best
}

impl Found {
    /// Becomes what has the smaller error.
    #[inline(always)]
    fn keep(&mut self, s: V, m: V, sums: Sums, error: V) {
        let better = |new: V, old: V| self.error.above(error, new, old);
        let sums = Sums {
            q: better(sums.q, self.sums.q),
            qq: better(sums.qq, self.sums.qq),
            xq: better(sums.xq, self.sums.xq),
        };
        *self = Found { s: better(s, self.s), m: better(m, self.m), sums, error: error.min(self.error) };
    }
}

impl Scales {
    /// The codes by these scales.
    #[inline(always)]
    pub fn codes<const N: usize>(&self, b: &Batch<N>, n: f32) -> [[u8; N]; LANES] {
        codes(b, self.scale, self.min, n)
    }
}

#[inline(always)]
fn codes<const N: usize>(b: &Batch<N>, scale: V, min: V, n: f32) -> [[u8; N]; LANES] {
    let inverse = scale.inverse();
    let mut codes = [V::ZERO; N];
    for j in 0..N {
        codes[j] = ((b.x[j] - min) * inverse).nearest(0.0, n);
    }
    lanes::by_sub_block(&codes)
}

/// Scale and minimum of blocks that have a single one.
pub struct Single {
    /// The scale.
    pub d: [F16; LANES],
    /// The minimum, to be added.
    pub m: [F16; LANES],
    scale: V,
    min: V,
}

/// The best scale and minimum of each sub-block, which is a block.
#[inline(always)]
pub fn single<const N: usize>(b: &Batch<N>, n: f32, tried: Tried) -> Single {
    let (scale, min) = ideal::<N, false>(b, n, tried);
    let ((scale, d), (min, m)) = (b.half::<1>(scale), b.half::<1>(min));
    Single { d, m, scale, min }
}

impl Single {
    /// The codes by these scales.
    #[inline(always)]
    pub fn codes<const N: usize>(&self, b: &Batch<N>, n: f32) -> [[u8; N]; LANES] {
        codes(b, self.scale, self.min, n)
    }
}
