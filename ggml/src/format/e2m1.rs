//! E2M1, the four-bit floating-point numbers of MXFP4 and NVFP4, as codes of doubled values.

use super::search::{inverse, nearest_index, nearest_level};

/// The values of the sixteen codes, doubled to be integers; the top bit is the sign.
pub const VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Those of the codes without sign.
const MAGNITUDES: [f32; 8] = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0];

/// The codes of values with scale `d`.
pub fn codes<const N: usize>(x: &[f32], d: f32) -> [u8; N] {
    let inverse = inverse(d);
    std::array::from_fn(|i| nearest_index(&MAGNITUDES, x[i].abs() * inverse) | u8::from(x[i] < 0.0) << 3)
}

/// Of some scales, which `decode` makes numbers of, the one with the least weighted error.
pub fn best(x: &[f32], w: &[f32], scales: impl IntoIterator<Item = u8>, decode: impl Fn(u8) -> f32) -> u8 {
    let error = |scale: u8| {
        let d = decode(scale);
        let inverse = inverse(d);
        let error = |(x, w): (&f32, &f32)| {
            let e = x.abs() - d * nearest_level(&MAGNITUDES, x.abs() * inverse);
            w * e * e
        };
        x.iter().zip(w).map(error).sum::<f32>()
    };
    let errors = scales.into_iter().map(|scale| (error(scale), scale));
    errors.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(0, |(_, scale)| scale)
}
