//! The scalar dot products: what every kernel is held to.

use super::{Format, Kind, MAX_BLOCK, Unpacked};
use crate::act::Q8Rows;

/// Dot product of one row of a quantized format with one row of quantized activations.
///
/// Order of operations: within a sub-block (16 or 32 elements) the products are summed as integers, exactly. The
/// sub-blocks of one *activation* block are then added up in F32, in order,
///
/// ```text
/// t = Σ_sub  scale·(Σ w·x) [+ min·(Σ x)]
/// ```
///
/// and the row is the F32 sum of `d·t` over the activation blocks, in order, `d` being the activations'
/// scale. A kernel may add in any other order; tests bound its distance from this relative to Σ|terms|.
///
/// # Panics
/// If `format` is a format of plain numbers, if `x` is not exactly one row in `format`'s activation format, or if
/// `w` does not hold as many elements.
pub fn dot_q8(format: &Format, w: &[u8], x: Q8Rows<'_>) -> f32 {
    let Kind::Blocks(blocks) = &format.kind else { panic!("{}: no blocks", format.name) };
    assert_eq!(x.rows, 1, "one row at a time");
    assert_eq!(x.block, blocks.act.block(), "{}: activation block", format.name);
    assert_eq!(w.len() / format.bytes * format.block, x.k, "{}: lengths differ", format.name);

    // Either is a multiple of the other: 32 and 32, 64 and 32, 256 and 256.
    let per_block = x.block.min(format.block) / blocks.sub;
    let mut unpacked = Unpacked::default();
    let mut row = 0f32;
    for (i, w) in w.chunks_exact(format.bytes).enumerate() {
        (blocks.unpack)(w, &mut unpacked);
        let at = i * format.block;
        for first in (0..format.block / blocks.sub).step_by(per_block) {
            let mut t = 0f32;
            for sub in first..first + per_block {
                let qs = &unpacked.qs[sub * blocks.sub..][..blocks.sub];
                let xs = &x.qs[at + sub * blocks.sub..][..blocks.sub];
                let dot: i32 = qs.iter().zip(xs).map(|(&q, &x)| i32::from(q) * i32::from(x)).sum();
                t += unpacked.scale[sub] * dot as f32;
                if blocks.has_min {
                    let sum: i32 = xs.iter().map(|&x| i32::from(x)).sum();
                    t += unpacked.min[sub] * sum as f32;
                }
            }
            row += x.d[(at + first * blocks.sub) / x.block] * t;
        }
    }
    row
}

/// Dot product of one row of any format with F32 activations: the decoded values times `x`.
///
/// Products and sums are F64, rounded once at the end: a product of two F32 is exact in F64, so this is the truth
/// to within a last bit, and a kernel's whole rounding error can be measured against it.
///
/// # Panics
/// If `w` does not hold exactly `x.len()` elements.
pub fn dot_f32(format: &Format, w: &[u8], x: &[f32]) -> f32 {
    assert_eq!(w.len() / format.bytes * format.block, x.len(), "{}: lengths differ", format.name);
    let mut values = [0f32; MAX_BLOCK];
    let mut row = 0f64;
    for (w, x) in w.chunks(MAX_BLOCK / format.block * format.bytes).zip(x.chunks(MAX_BLOCK)) {
        let values = &mut values[..x.len()];
        format.decode(w, values);
        row += values.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum::<f64>();
    }
    row as f32
}

#[cfg(test)]
mod tests {
    use super::super::random::{Random, random_blocks};
    use super::super::{FORMATS, GgmlType};
    use super::*;
    use crate::act::{ActFormat, SUM, quantize_row};

    const K: usize = 1024;

    /// A row of activations, quantized: integers, scales, sums.
    fn activations(format: ActFormat, x: &[f32]) -> (Vec<i8>, Vec<f32>, Vec<i16>) {
        let (mut qs, mut d, mut sums) = (vec![0; K], vec![0.0; K / format.block()], vec![0; K / SUM]);
        quantize_row(x, format.block(), &mut qs, &mut d, &mut sums);
        (qs, d, sums)
    }

    #[test]
    fn quantized_dot_is_that_of_the_decoded_values() {
        let mut random = Random(11);
        for f in FORMATS.iter().filter(|f| f.act() != ActFormat::F32) {
            let x: Vec<f32> = (0..K).map(|_| random.gaussian()).collect();
            let (qs, d, sums) = activations(f.act(), &x);
            let block = f.act().block();
            let q8 = Q8Rows { k: K, rows: 1, block, qs: &qs, d: &d, sums: &sums };
            let w = random_blocks(f.ty, K / f.block, 0.3, 5);

            let mut values = vec![0f32; K];
            f.decode(&w, &mut values);
            let terms = (0..K).map(|i| f64::from(values[i]) * f64::from(qs[i]) * f64::from(d[i / block]));
            let (sum, magnitude) = terms.fold((0.0, 0.0), |(s, m): (f64, f64), t| (s + t, m + t.abs()));
            let error = (f64::from(dot_q8(f, &w, q8)) - sum).abs() / magnitude;
            assert!(error < 1e-6, "{}: {error:e}", f.name);
        }
    }

    #[test]
    fn float_dot_is_exact_to_the_last_bit_where_the_sum_is() {
        // Integers below 2²⁴ in total: no rounding anywhere.
        let values: Vec<f32> = (0..K).map(|i| (i % 17) as f32 - 8.0).collect();
        let x: Vec<f32> = (0..K).map(|i| (i % 5) as f32 - 2.0).collect();
        let want: f32 = values.iter().zip(&x).map(|(w, x)| w * x).sum();
        for ty in [GgmlType::F32, GgmlType::F16, GgmlType::BF16] {
            let mut w = vec![0; ty.row_bytes(K).expect("any row")];
            ty.format().encode(&values, None, &mut w).expect("plain numbers");
            assert_eq!(dot_f32(ty.format(), &w, &x), want, "{ty}");
        }
    }

    #[test]
    fn float_dot_takes_every_format() {
        let x: Vec<f32> = (0..K).map(|i| (i % 5) as f32 - 2.0).collect();
        for f in FORMATS {
            let w = random_blocks(f.ty, K / f.block, 1.0, 3);
            let mut values = vec![0f32; K];
            f.decode(&w, &mut values);
            let want: f64 = values.iter().zip(&x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
            let got = dot_f32(f, &w, &x);
            assert!((f64::from(got) - want).abs() <= 1e-6 * want.abs(), "{}: {got} for {want}", f.name);
        }
    }
}
