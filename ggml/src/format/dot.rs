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
    let Kind::Blocks(blocks) = &format.kind else {
        panic!("{}: no blocks", format.name)
    };
    assert_eq!(x.rows, 1, "one row at a time");
    assert_eq!(x.block, blocks.act.block(), "{}: activation block", format.name);
    assert_eq!(
        w.len() / format.bytes * format.block,
        x.k,
        "{}: lengths differ",
        format.name
    );

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
                let dot: i32 = qs
                    .iter()
                    .zip(xs)
                    .map(|(&q, &x)| i32::from(q) * i32::from(x))
                    .sum();
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
    assert_eq!(
        w.len() / format.bytes * format.block,
        x.len(),
        "{}: lengths differ",
        format.name
    );
    let mut values = [0f32; MAX_BLOCK];
    let mut row = 0f64;
    for (w, x) in w
        .chunks(MAX_BLOCK / format.block * format.bytes)
        .zip(x.chunks(MAX_BLOCK))
    {
        let values = &mut values[..x.len()];
        format.decode(w, values);
        row += values
            .iter()
            .zip(x)
            .map(|(&w, &x)| f64::from(w) * f64::from(x))
            .sum::<f64>();
    }
    row as f32
}
