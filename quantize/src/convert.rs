//! The values of one tensor from one type to another, on all cores.
//!
//! Rows are whole blocks and lie one after another, so a tensor is one sequence of blocks, and it is cut without regard
//! to rows: memory is bounded however long a row is. A *slab* is what is converted before it is written, a *piece* what
//! one thread takes at once; both are whole blocks of every type.

use std::ops::Range;

use ggml_sys::format::{Format, MAX_BLOCK};
use ggml_sys::{GgmlType, Shape};
use rayon::prelude::*;

use crate::deviation::Deviation;
use crate::source::{SourceTensor, Stored};

/// Elements of a piece: buffers of 128 KiB.
const PIECE: usize = 1 << 15;
/// Elements of a slab: at most 16 MiB of output.
pub(crate) const SLAB: usize = 128 * PIECE;

const _: () = assert!(PIECE.is_multiple_of(MAX_BLOCK));

/// A value that cannot be converted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bad {
    /// Its index in the slab.
    pub at: usize,
    pub value: f32,
}

/// Converts the elements `range` of `from`, whole blocks of either type. `out` becomes the blocks of `to`. `weights` are the
/// importance of the columns of each matrix, `[matrices, n_in]`.
///
/// Values that are not finite, or not after encoding, are refused; the first one is reported, whatever the threads.
pub(crate) fn slab(
    from: &SourceTensor,
    to: &Format,
    range: Range<usize>,
    weights: Option<&[f32]>,
    out: &mut Vec<u8>,
) -> Result<Deviation, Bad> {
    out.resize(range.len() / to.block * to.bytes, 0);
    let results: Vec<_> = out
        .par_chunks_mut(PIECE / to.block * to.bytes)
        .enumerate()
        .map_init(Buffers::default, |buffers, (i, dst)| {
            piece(from, to, range.start + i * PIECE, weights, dst, buffers)
        })
        .collect();
    let mut sum = Deviation::default();
    for (i, result) in results.into_iter().enumerate() {
        // In order, so that the sum is the same each time.
        sum += result.map_err(|bad| Bad { at: i * PIECE + bad.at, ..bad })?;
    }
    Ok(sum)
}

#[derive(Default)]
struct Buffers {
    values: Vec<f32>,
    importance: Vec<f32>,
    decoded: Vec<f32>,
}

/// Converts the elements from `start` on that fill `dst`.
fn piece(
    from: &SourceTensor,
    to: &Format,
    start: usize,
    weights: Option<&[f32]>,
    dst: &mut [u8],
    buffers: &mut Buffers,
) -> Result<Deviation, Bad> {
    let Buffers { values, importance, decoded } = buffers;
    values.resize(dst.len() / to.bytes * to.block, 0.0);
    decoded.resize(values.len(), 0.0);
    from.contents.read(start, values);
    let first_bad = |checked: &[f32]| checked.iter().position(|v| !v.is_finite());
    if let Some(at) = first_bad(values) {
        return Err(Bad { at, value: values[at] });
    }
    if let Some(src) = from.contents.encoded().filter(|_| from.stored == Stored::Ggml(to.ty)) {
        dst.copy_from_slice(&src[start / to.block * to.bytes..][..dst.len()]);
        return Ok(Deviation::between(values, values, None));
    }
    let importance = weights.map(|w| {
        spread(w, from.shape, start, values.len(), importance);
        &importance[..]
    });
    let emphasized = (to.ty == GgmlType::IQ1_S).then(|| emphasize(values, importance, to.block));
    // A plan holds only types with an encoder.
    let encoded = to.encode(values, emphasized.as_deref().or(importance), dst);
    debug_assert!(encoded.is_some(), "{}", to.name);
    to.decode(dst, decoded);
    match first_bad(decoded) {
        Some(at) => Err(Bad { at, value: values[at] }),
        None => Ok(Deviation::between(values, decoded, importance)),
    }
}

/// Importance times √(2σ² + x²), with the mean square σ² of each block: more of it for large values. Where least squares
/// have so few codes that all values shrink by a fifth, this keeps more of their size. ggml weights this way in most of
/// its types; what it changes in others is about the noise (docs/quantize.md).
fn emphasize(values: &[f32], importance: Option<&[f32]>, block: usize) -> Vec<f32> {
    let mut weights = Vec::with_capacity(values.len());
    for x in values.chunks(block) {
        let largest = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        if largest == 0.0 {
            weights.resize(weights.len() + x.len(), 1.0);
            continue;
        }
        // Relative to the largest, whose square may be beyond f32. Blocks are encoded one by one: their unit is their own.
        let square = |x: &f32| (x / largest) * (x / largest);
        let mean = x.iter().map(square).sum::<f32>() / x.len() as f32;
        weights.extend(x.iter().map(|x| (2.0 * mean + square(x)).sqrt()));
    }
    for (w, importance) in weights.iter_mut().zip(importance.unwrap_or_default()) {
        *w *= importance;
    }
    weights
}

/// The importance of `n` elements from `start` on: that of their columns, matrix by matrix.
fn spread(weights: &[f32], shape: Shape, start: usize, n: usize, out: &mut Vec<f32>) {
    let (columns, matrix) = (shape.row_len(), shape.row_len() * shape.0[1]);
    out.clear();
    while out.len() < n {
        let at = start + out.len();
        let of_matrix = &weights[at / matrix * columns..][..columns];
        let rest = &of_matrix[at % columns..];
        out.extend_from_slice(&rest[..rest.len().min(n - out.len())]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_values_are_emphasized_within_their_blocks() {
        let x = [1.0, 3.0, 0.0, 4e30, 0.0, 0.0];
        let want = [11f32.sqrt() / 3.0, 19f32.sqrt() / 3.0, 1.0, 2f32.sqrt(), 1.0, 1.0];
        let near = |got: Vec<f32>, want: [f32; 6]| got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(near(emphasize(&x, None, 2), want));
        let importance = [2.0, 0.0, 1.0, 3.0, 1.0, 0.5];
        let weighted = std::array::from_fn(|i| want[i] * importance[i]);
        assert!(near(emphasize(&x, Some(&importance), 2), weighted));
    }

    #[test]
    fn importance_is_that_of_columns() {
        let shape = Shape::new(&[3, 2, 2]).unwrap();
        let mut out = vec![];
        spread(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], shape, 0, 12, &mut out);
        assert_eq!(out, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 4.0, 5.0, 6.0]);
        let all = out.clone();
        spread(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], shape, 4, 5, &mut out);
        assert_eq!(out, all[4..9]);
    }
}
