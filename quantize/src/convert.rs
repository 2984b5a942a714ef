//! The values of one tensor from one type to another, on all cores.
//!
//! Rows are whole blocks and lie one after another, so a tensor is one sequence of blocks, and it is cut without regard
//! to rows: memory is bounded however long a row is. A *slab* is what is converted before it is written, a *piece* what
//! one thread takes at once; both are whole blocks of every type.

use std::ops::Range;

use ggml_sys::Shape;
use ggml_sys::format::{Format, MAX_BLOCK};
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
    // A plan holds only types with an encoder.
    let encoded = to.encode(values, importance, dst);
    debug_assert!(encoded.is_some(), "{}", to.name);
    to.decode(dst, decoded);
    match first_bad(decoded) {
        Some(at) => Err(Bad { at, value: values[at] }),
        None => Ok(Deviation::between(values, decoded, importance)),
    }
}

/// The index of the first number that is not finite.
fn first_bad(values: &[f32]) -> Option<usize> {
    // One answer for many numbers is found with vectors; stopping at the first one is not.
    let bad = |values: &[f32]| values.iter().fold(false, |bad, v| bad | !v.is_finite());
    let some = values.chunks(256).position(bad)?;
    let start = 256 * some;
    values[start..].iter().position(|v| !v.is_finite()).map(|i| start + i)
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
