//! Scale searches that the encoders share.
//!
//! An encoder looks for the scale d (and minimum m) of some 16 or 32 values x such that the weighted error
//! Σ w·(x − d·q − m)² is least, q being the nearest codes. Given the codes, the best d and m are a linear
//! least-squares fit; given d and m, the best codes are the nearest ones. So each search tries a handful of scales
//! around the one that just covers the largest value (clipping a little often pays), fits, keeps the best, and
//! then alternates the two steps, neither of which can make the error larger.
//!
//! The weights are there for importance matrices; encoding without one has [`UNIFORM`] weights.

use super::MAX_BLOCK;
use super::bits::F16;

/// Every value matters the same.
pub const UNIFORM: [f32; MAX_BLOCK] = [1.0; MAX_BLOCK];

/// Magnitudes among which a search makes sense. F16 scales end far inside, and within it nothing here overflows.
const SANE: std::ops::Range<f32> = 1e-15..1e15;

/// Times that codes and fit alternate at the end of a search.
const REFINEMENTS: usize = 2;

/// The nearest integer within `lo..=hi`, halves to even; `lo` for a NaN. For |lo|, |hi| up to 2²².
#[inline]
pub fn nearest(x: f32, lo: f32, hi: f32) -> f32 {
    // Added to 1.5·2²³, a number loses exactly its fraction. Unlike f32::round this vectorizes on every machine.
    const SHIFT: f32 = 12_582_912.0;
    (x.max(lo).min(hi) + SHIFT) - SHIFT
}

/// The nearest of ascending `levels`.
#[inline]
pub fn nearest_level<const N: usize>(levels: &[f32; N], x: f32) -> f32 {
    let mut level = levels[0];
    for pair in levels.windows(2) {
        level = if x > (pair[0] + pair[1]) / 2.0 { pair[1] } else { level };
    }
    level
}

/// The index of the nearest of ascending `levels`.
#[inline]
pub fn nearest_index<const N: usize>(levels: &[f32; N], x: f32) -> u8 {
    levels.windows(2).map(|pair| u8::from(x > (pair[0] + pair[1]) / 2.0)).sum()
}

/// `1 / d`, or 0 where that is not finite, so that everything becomes zeros.
pub fn inverse(d: f32) -> f32 {
    let inverse = 1.0 / d;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// Codes of `x` by d and m: the nearest integers in `lo..=hi`, less `lo`.
pub fn codes<const N: usize>(x: &[f32], d: f32, m: f32, lo: f32, hi: f32) -> [u8; N] {
    let inverse = inverse(d);
    std::array::from_fn(|i| (nearest((x[i] - m) * inverse, lo, hi) - lo) as u8)
}

/// The value of the largest magnitude, with its sign. NaNs are not looked at.
pub fn extreme(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |e: f32, &x| if x.abs() > e.abs() { x } else { e })
}

/// The best d for x ≈ d·q with integers q of `lo..=hi`, |lo| ≥ hi.
pub fn integers(x: &[f32], w: &[f32], lo: f32, hi: f32) -> f32 {
    let candidates: [f32; 9] = std::array::from_fn(|i| lo + 0.2 * (i as f32 - 4.0));
    scale(x, w, &candidates, |x| nearest(x, lo, hi))
}

/// The best d for x ≈ d·level(x / d).
///
/// `candidates` are the levels on which the value of the largest magnitude is tried to come to lie; it may go beyond
/// the last one that exists.
pub fn scale(x: &[f32], w: &[f32], candidates: &[f32], level: impl Fn(f32) -> f32) -> f32 {
    let extreme = extreme(x);
    if extreme.abs() < SANE.start {
        return 0.0;
    }
    if extreme.abs() >= SANE.end {
        return extreme / candidates[0];
    }
    let (mut best, mut most_explained) = (0.0, 0.0);
    let mut attempt = |inverse: f32, best: &mut f32| {
        let [xq, qq] = sums(x, w, |x, w| {
            let q = level(x * inverse);
            [w * x * q, w * q * q]
        });
        // With the best d = Σwxq / Σwq², the error is Σwx² less d·Σwxq.
        let d = xq / qq;
        if d * xq > most_explained {
            most_explained = d * xq;
            *best = d;
        }
    };
    for c in candidates {
        attempt(c / extreme, &mut best);
    }
    for _ in 0..REFINEMENTS {
        attempt(1.0 / best, &mut best);
    }
    best
}

/// Bounds of the minimum of [`affine`].
#[derive(Clone, Copy, PartialEq)]
pub enum Min {
    /// Any.
    Free,
    /// Zero or less.
    NotAboveZero,
}

/// The best (d, m) for x ≈ d·q + m with integers q of `0..=n`.
pub fn affine(x: &[f32], w: &[f32], n: f32, min: Min) -> (f32, f32) {
    let (mut lo, hi) = x.iter().fold((f32::NAN, f32::NAN), |(lo, hi), &x| (lo.min(x), hi.max(x)));
    if min == Min::NotAboveZero {
        lo = lo.min(0.0);
    }
    let range = hi - lo;
    let mut best = (range / n, lo);
    if !SANE.contains(&range) {
        return best;
    }
    // y = x − lo spans 0..=range: sums of squares lose nothing to a large common offset.
    let [w1, wy] = sums(x, w, |x, w| [w, w * (x - lo)]);
    let mut most_explained = f32::MIN;
    let mut attempt = |inverse: f32, offset: f32, best: &mut (f32, f32)| {
        let [wq, wqq, wqy] = sums(x, w, |x, w| {
            let y = x - lo;
            let q = nearest((y - offset) * inverse, 0.0, n);
            [w * q, w * q * q, w * q * y]
        });
        let determinant = w1 * wqq - wq * wq;
        if determinant <= 0.0 {
            return; // one code for all
        }
        let (mut d, mut m) = ((w1 * wqy - wq * wy) / determinant, (wqq * wy - wq * wqy) / determinant);
        if min == Min::NotAboveZero && lo + m > 0.0 {
            (d, m) = ((wqy + lo * wq) / wqq, -lo);
        }
        // Σw·y² less the error Σw·(y − d·q − m)².
        let explained = d * (2.0 * wqy - d * wqq) + m * (2.0 * (wy - d * wq) - m * w1);
        if explained > most_explained {
            most_explained = explained;
            *best = (d, lo + m);
        }
    };
    for step in -5..=3 {
        attempt((n + 0.2 * step as f32) / range, 0.0, &mut best);
    }
    for _ in 0..REFINEMENTS {
        attempt(1.0 / best.0, best.1 - lo, &mut best);
    }
    best
}

/// The best d for x ≈ d·t with t of −1, 0, 1.
///
/// The values with t ≠ 0 are those of the largest magnitudes, so every number of them can be tried.
pub fn ternary(x: &[f32], w: &[f32]) -> f32 {
    let mut order: Vec<(f32, f32)> =
        x.iter().zip(w).map(|(x, &w)| (x.abs(), w)).filter(|(x, _)| SANE.contains(x)).collect();
    order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    let (mut wx, mut w1, mut best, mut most) = (0.0, 0.0, 0.0, 0.0);
    for (x, w) in order {
        wx += w * x;
        w1 += w;
        if wx * wx / w1 > most {
            most = wx * wx / w1;
            best = wx / w1;
        }
    }
    best
}

/// Scales of sub-blocks as d·s with integers s of `lo..=hi`, |lo| > hi.
pub fn signed_scales<const N: usize>(scales: &[f32; N], lo: f32, hi: f32) -> (F16, [i8; N]) {
    let d = F16::new(extreme(scales) / lo);
    let inverse = inverse(d.get());
    (d, scales.map(|s| nearest(s * inverse, lo, hi) as i8))
}

/// Numbers that are not negative as d·s with integers s of `0..=hi`.
pub fn unsigned_scales<const N: usize>(scales: &[f32; N], hi: f32) -> (F16, [u8; N]) {
    let d = F16::new(extreme(scales) / hi);
    (d, codes(scales, d.get(), 0.0, 0.0, hi))
}

/// Sums of `term(x, w)` over all elements, eight lanes side by side so that it vectorizes.
fn sums<const K: usize>(x: &[f32], w: &[f32], term: impl Fn(f32, f32) -> [f32; K]) -> [f32; K] {
    let mut lanes = [[0f32; 8]; K];
    let (x, w) = (x.as_chunks::<8>(), w[..x.len()].as_chunks::<8>());
    debug_assert!(x.1.is_empty(), "sub-blocks are multiples of 8");
    for (x, w) in x.0.iter().zip(w.0) {
        for i in 0..8 {
            let term = term(x[i], w[i]);
            for k in 0..K {
                lanes[k][i] += term[k];
            }
        }
    }
    lanes.map(|l| l.iter().sum())
}
