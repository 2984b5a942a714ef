//! Scale searches that the encoders share.
//!
//! An encoder looks for scales (and minimums) of some 16 or 32 values x such that the weighted error
//! Σ w (x − decoded)² is least, each value having the code that is nearest. w is the importance of a value, one where
//! none is given. Given the codes, the best scales are a linear least-squares fit; given the scales, the best codes are
//! the nearest ones; neither step can make the error larger, and a search starts from a handful of scales, alternates
//! the two and keeps the best.
//!
//! | module | value |
//! |---|---|
//! | [`signed`] | δ·q, levels q on both sides of zero |
//! | [`affine`] | δ·q + μ, integers q from zero on |
//! | [`grid`] | δ·g, points g of a grid |
//! | [`lanes`] | how sixteen sub-blocks are searched at once |

pub mod affine;
pub mod grid;
pub mod lanes;
pub mod signed;

use bytemuck::{Pod, cast_slice_mut};

use super::MAX_BLOCK;
use lanes::{Batch, Instructions, LANES, Task};

/// A block of `B` sub-blocks of `N` values each: how a batch of sub-blocks becomes blocks.
pub trait Coder<const N: usize, const B: usize>: Pod {
    /// Encodes a batch. Sub-blocks from `B * out.len()` on do not exist. Is to be `#[inline(always)]`.
    fn encode(batch: &Batch<N>, out: &mut [Self]);
}

/// Encodes whole blocks.
pub fn encode<T: Coder<N, B>, const N: usize, const B: usize>(
    on: Instructions,
    src: &[f32],
    weights: Option<&[f32]>,
    dst: &mut [u8],
) {
    lanes::run(on, Blocks::<T, N, B> { src, weights, dst: cast_slice_mut(dst) });
}

struct Blocks<'a, T, const N: usize, const B: usize> {
    src: &'a [f32],
    weights: Option<&'a [f32]>,
    dst: &'a mut [T],
}

impl<T: Coder<N, B>, const N: usize, const B: usize> Task for Blocks<'_, T, N, B> {
    #[inline(always)]
    fn run(self) {
        let batch = LANES * N;
        for (i, (src, dst)) in self.src.chunks(batch).zip(self.dst.chunks_mut(LANES / B)).enumerate() {
            let weights = self.weights.map(|w| &w[i * batch..][..src.len()]);
            T::encode(&Batch::load::<B>(src, weights), dst);
        }
    }
}

/// Encodes whole blocks of `n` values one by one, with weights in any case.
pub fn each_block(
    n: usize,
    src: &[f32],
    weights: Option<&[f32]>,
    dst: &mut [u8],
    encode: impl Fn(&[f32], &[f32], &mut [u8]),
) {
    let blocks = src.chunks_exact(n);
    let bytes = dst.len() / blocks.len().max(1);
    for (i, (src, dst)) in blocks.zip(dst.chunks_exact_mut(bytes.max(1))).enumerate() {
        encode(src, weights.map_or(&UNIFORM[..n], |w| &w[i * n..][..n]), dst);
    }
}

/// Every value matters the same.
pub const UNIFORM: [f32; MAX_BLOCK] = [1.0; MAX_BLOCK];

/// Magnitudes among which a search makes sense. F16 scales end far inside, and within it nothing here overflows.
const SANE: std::ops::Range<f32> = 1e-15..1e15;

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
