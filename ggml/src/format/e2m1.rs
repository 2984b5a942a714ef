//! E2M1, the four-bit floating-point numbers of MXFP4 and NVFP4, as codes of doubled values.

use super::search::lanes::{self, Batch, LANES, V};

/// The values of the sixteen codes, doubled to be integers; the top bit is the sign.
pub const VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// For each code without sign but the first: the middle between its value and the one before.
const MIDDLES: [f32; 7] = [0.5, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0];

/// The codes of values with given scales.
#[inline(always)]
pub fn codes<const N: usize>(b: &Batch<N>, scale: V) -> [[u8; N]; LANES] {
    let inverse = scale.inverse();
    let mut codes = [V::ZERO; N];
    for j in 0..N {
        let y = b.x[j] * inverse;
        let mut code = V::ZERO;
        for (i, middle) in MIDDLES.iter().enumerate() {
            code = y.abs().above(V::splat(*middle), V::splat((i + 1) as f32), code);
        }
        codes[j] = V::ZERO.above(y, code + V::splat(8.0), code);
    }
    lanes::by_sub_block(&codes)
}

/// Of some scales of each sub-block the one with the least weighted error.
#[inline(always)]
pub fn best<const N: usize>(b: &Batch<N>, scales: &[V]) -> V {
    let (mut best, mut least) = (V::ZERO, V::splat(f32::INFINITY));
    for scale in scales {
        let inverse = scale.inverse();
        let mut error = V::ZERO;
        for (x, w) in b.values() {
            let y = x.abs() * inverse;
            let mut level = V::ZERO;
            for (i, middle) in MIDDLES.iter().enumerate() {
                level = y.above(V::splat(*middle), V::splat(f32::from(VALUES[i + 1])), level);
            }
            let off = x.abs() - *scale * level;
            error = error + w * off * off;
        }
        let error = lanes::settle(error);
        best = least.above(error, *scale, best);
        least = error.min(least);
    }
    best
}
