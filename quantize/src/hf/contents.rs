//! Weights of a checkpoint in the order in which a GGUF file has them, read piece by piece.
//!
//! Everything is built on reading a part of one row ([`Weights::row`]): rows in another order, experts one after the
//! other, a matrix transposed. None of it copies a tensor.

use std::ops::Range;

use ggml_sys::Bytes;
use half::{bf16, f16};

use crate::source::Contents;

/// A matrix as it lies in a safetensors file, row-major. A vector has rows of one element.
pub(super) struct Weights {
    pub float: Float,
    pub rows: usize,
    pub cols: usize,
    /// Exactly the elements.
    pub bytes: Bytes,
}

/// What the elements of [`Weights`] are.
pub(super) enum Float {
    F32,
    F16,
    BF16,
    Fp8(Scales),
}

/// The scales of an FP8 matrix, one for each block of rows and columns. An element is its eight bits times its scale.
pub(super) struct Scales {
    /// A row for each row of blocks. Never FP8 themselves. Left in the file until they are needed: a model of 640 GB has
    /// forty million, all over its files.
    pub values: Box<Weights>,
    /// Rows and columns of a block; the last one of a row or column can be cut off.
    pub block: [usize; 2],
}

/// The values of `float8_e4m3fn` ([OCP 8-bit formats](https://arxiv.org/abs/2209.05433)): sign, four bits of exponent
/// with bias 7, three of mantissa; no infinity, and NaN where all seven bits are set.
static E4M3: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        let (exponent, mantissa) = ((code >> 3) & 15, code & 7);
        let magnitude = if code & 0x7f == 0x7f {
            f32::NAN
        } else if exponent == 0 {
            mantissa as f32 / 512.0
        } else {
            // 2^(exponent − 7) · (1 + mantissa / 8)
            f32::from_bits(((exponent + 127 - 7) << 23 | mantissa << 20) as u32)
        };
        table[code] = if code < 128 { magnitude } else { -magnitude };
        code += 1;
    }
    table
};

impl Weights {
    pub fn n_elements(&self) -> usize {
        self.rows * self.cols
    }

    /// Bytes of an element.
    fn width(&self) -> usize {
        match self.float {
            Float::F32 => 4,
            Float::F16 | Float::BF16 => 2,
            Float::Fp8(_) => 1,
        }
    }

    /// Reads a part of row `row`, from column `col` on.
    pub fn row(&self, row: usize, col: usize, out: &mut [f32]) {
        let (n, start) = (self.width(), row * self.cols + col);
        let src = &self.bytes[start * n..(start + out.len()) * n];
        match &self.float {
            Float::F32 => each(src, out, f32::from_le_bytes),
            Float::F16 => each(src, out, |b| f16::from_le_bytes(b).to_f32()),
            Float::BF16 => each(src, out, |b| bf16::from_le_bytes(b).to_f32()),
            Float::Fp8(scales) => {
                let [rows, cols] = scales.block;
                // A part of the row that shares a scale after the other.
                let (mut col, mut src, mut out) = (col, src, out);
                while !out.is_empty() {
                    let mut scale = [0.0];
                    scales.values.row(row / rows, col / cols, &mut scale);
                    let (now, later) = out.split_at_mut((cols - col % cols).min(out.len()));
                    let (codes, rest) = src.split_at(now.len());
                    for (y, &code) in now.iter_mut().zip(codes) {
                        *y = E4M3[usize::from(code)] * scale[0];
                    }
                    (col, src, out) = (col + now.len(), rest, later);
                }
            }
        }
    }

    /// Reads elements in the order of the file.
    pub fn read(&self, at: usize, out: &mut [f32]) {
        by_rows(self.cols, at, out, |row, col, out| self.row(row, col, out));
    }

    /// See [`Contents::will_need`]. `elements` are those of the file.
    fn will_need(&self, elements: Range<usize>) {
        let n = self.width();
        self.bytes.will_need(elements.start * n..elements.end * n);
        if let Float::Fp8(scales) = &self.float
            && !elements.is_empty()
        {
            let rows = self.cols * scales.block[0];
            let first = elements.start / rows;
            let of_row = scales.values.cols;
            scales.values.will_need(first * of_row..elements.end.div_ceil(rows) * of_row);
        }
    }

    /// See [`Contents::release`]. `elements` are those of the file.
    fn release(&self, elements: Range<usize>) {
        let n = self.width();
        self.bytes.release(elements.start * n..elements.end * n);
        if let Float::Fp8(scales) = &self.float
            && elements.end == self.n_elements()
        {
            scales.values.release(0..scales.values.n_elements());
        }
    }
}

/// Reads elements `at..` of rows of `cols`, each part of a row by a call `read(row, col, out)`.
fn by_rows(cols: usize, at: usize, mut out: &mut [f32], mut read: impl FnMut(usize, usize, &mut [f32])) {
    let (mut row, mut col) = (at / cols, at % cols);
    while !out.is_empty() {
        let (now, later) = out.split_at_mut((cols - col).min(out.len()));
        read(row, col, now);
        (row, col, out) = (row + 1, 0, later);
    }
}

fn each<const N: usize>(src: &[u8], out: &mut [f32], f: impl Fn([u8; N]) -> f32) {
    for (src, y) in src.as_chunks::<N>().0.iter().zip(out) {
        *y = f(*src);
    }
}

impl Contents for Weights {
    fn read(&self, at: usize, out: &mut [f32]) {
        Weights::read(self, at, out);
    }

    fn will_need(&self, elements: Range<usize>) {
        Weights::will_need(self, elements);
    }

    fn release(&self, elements: Range<usize>) {
        Weights::release(self, elements);
    }
}

/// The rows of each head with the halves of its rotated pairs side by side: row 2j is row j, row 2j + 1 is row
/// j + n/2 of the head's n. Checkpoints rotate elements half a head apart, ggml's kernels for llama adjacent ones.
pub(super) struct Interleaved {
    pub weights: Weights,
    /// Rows of a head; even.
    pub head: usize,
}

impl Contents for Interleaved {
    fn read(&self, at: usize, out: &mut [f32]) {
        by_rows(self.weights.cols, at, out, |row, col, out| {
            let (head, i) = (row / self.head, row % self.head);
            self.weights.row(head * self.head + i % 2 * (self.head / 2) + i / 2, col, out);
        });
    }

    fn will_need(&self, elements: Range<usize>) {
        self.weights.will_need(whole(elements, self.head * self.weights.cols));
    }

    fn release(&self, elements: Range<usize>) {
        self.weights.release(elements);
    }
}

/// The parts of `n` elements each, the first from 0 on, that a range touches.
fn whole(range: Range<usize>, n: usize) -> Range<usize> {
    range.start / n * n..range.end.div_ceil(n) * n
}

/// Matrices of one shape, one after the other: the experts of a layer.
pub(super) struct Stack(pub Vec<Weights>);

impl Stack {
    /// Calls `f` for each matrix that `elements` touch, with the elements in it.
    fn parts(&self, elements: Range<usize>, mut f: impl FnMut(&Weights, Range<usize>)) {
        let Some(n) = self.0.first().map(Weights::n_elements) else { return };
        let mut at = elements.start;
        while at < elements.end {
            let (part, from) = (&self.0[at / n], at % n);
            let to = n.min(from + elements.end - at);
            f(part, from..to);
            at += to - from;
        }
    }
}

impl Contents for Stack {
    fn read(&self, at: usize, mut out: &mut [f32]) {
        self.parts(at..at + out.len(), |part, range| {
            let (now, later) = std::mem::take(&mut out).split_at_mut(range.len());
            part.read(range.start, now);
            out = later;
        });
    }

    fn will_need(&self, elements: Range<usize>) {
        self.parts(elements, |part, range| part.will_need(range));
    }

    fn release(&self, elements: Range<usize>) {
        self.parts(elements, |part, range| part.release(range));
    }
}

/// The keys without position of latent attention, `[rank, n_nope]` of each head: `kv_b` has for each head first the
/// key elements and then the value elements as rows of `rank`, and its absorbed form wants the keys transposed.
pub(super) struct KeysTransposed(pub std::sync::Arc<UpProjection>);

/// The values of latent attention, `[n_v, rank]` of each head.
pub(super) struct Values(pub std::sync::Arc<UpProjection>);

/// `kv_b` of latent attention: rows for the keys and values of each head.
pub(super) struct UpProjection {
    pub weights: Weights,
    /// Rows of a head for keys, and for values.
    pub n_nope: usize,
    pub n_v: usize,
}

impl UpProjection {
    /// The heads that `elements` of a tensor touch, `n` of them a head, will be read.
    fn will_need_heads(&self, elements: Range<usize>, n: usize) {
        let of_head = (self.n_nope + self.n_v) * self.weights.cols;
        let heads = whole(elements, n);
        self.weights.will_need(heads.start / n * of_head..heads.end / n * of_head);
    }
}

impl Contents for KeysTransposed {
    fn read(&self, at: usize, out: &mut [f32]) {
        let UpProjection { weights, n_nope, n_v } = &*self.0;
        let (rank, n) = (weights.cols, *n_nope);
        // What is asked for, row of the result by row: `r` of head `h` is column `r` of that head's rows.
        let (first, end) = (at / n, (at + out.len()).div_ceil(n));
        let mut row = first;
        let mut column = Vec::new();
        while row < end {
            let (head, r) = (row / rank, row % rank);
            let rows = (end - row).min(rank - r);
            column.resize(rows, 0.0);
            for j in 0..n {
                weights.row(head * (n + n_v) + j, r, &mut column);
                for (i, &y) in column.iter().enumerate() {
                    // The first and the last row may be asked for in part only.
                    if let Some(to) = ((row + i) * n + j).checked_sub(at).and_then(|i| out.get_mut(i)) {
                        *to = y;
                    }
                }
            }
            row += rows;
        }
    }

    fn will_need(&self, elements: Range<usize>) {
        self.0.will_need_heads(elements, self.0.n_nope * self.0.weights.cols);
    }
}

impl Contents for Values {
    fn read(&self, at: usize, out: &mut [f32]) {
        let UpProjection { weights, n_nope, n_v } = &*self.0;
        by_rows(weights.cols, at, out, |row, col, out| {
            weights.row(row / n_v * (n_nope + n_v) + n_nope + row % n_v, col, out);
        });
    }

    fn will_need(&self, elements: Range<usize>) {
        self.0.will_need_heads(elements, self.0.n_v * self.0.weights.cols);
    }

    fn release(&self, elements: Range<usize>) {
        let n = self.0.weights.n_elements() / (self.0.n_nope + self.0.n_v) * self.0.n_v;
        // The keys stand before the values, and have been read by then.
        if elements.end == n {
            self.0.weights.release(0..self.0.weights.n_elements());
        }
    }
}

/// A few numbers that are in no file.
pub(super) struct Computed(pub Vec<f32>);

impl Contents for Computed {
    fn read(&self, at: usize, out: &mut [f32]) {
        out.copy_from_slice(&self.0[at..][..out.len()]);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use ggml_sys::tensor::Backing;

    use super::*;

    /// A file that notes what is announced of it.
    struct Noted(Vec<u8>, Arc<Mutex<Vec<Range<usize>>>>);

    impl AsRef<[u8]> for Noted {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Backing for Noted {
        fn will_need(&self, range: Range<usize>) {
            self.1.lock().unwrap().push(range);
        }
    }

    /// A matrix of `first`, `first` + 1, … in F32, as from the byte 4 · `first` of a file on.
    fn counting_from(
        first: usize,
        rows: usize,
        cols: usize,
        noted: &Arc<Mutex<Vec<Range<usize>>>>,
    ) -> Weights {
        let (start, end) = (first * 4, (first + rows * cols) * 4);
        let bytes = (0..first + rows * cols).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let bytes = Bytes::new(Arc::new(Noted(bytes, noted.clone())), start..end).unwrap();
        Weights { float: Float::F32, rows, cols, bytes }
    }

    /// A matrix of 0, 1, 2, … in F32.
    fn counting(rows: usize, cols: usize) -> Weights {
        counting_from(0, rows, cols, &Arc::default())
    }

    /// All elements, read at once and in pieces of every size from every place.
    fn all(contents: &dyn Contents, n: usize) -> Vec<f32> {
        let read = |at: usize, n: usize| {
            let mut out = vec![-1.0; n];
            contents.read(at, &mut out);
            out
        };
        let whole = read(0, n);
        for at in 0..n {
            for len in 0..=n - at {
                assert_eq!(read(at, len), whole[at..at + len], "{at} {len}");
            }
        }
        contents.release(0..n);
        assert_eq!(read(0, n), whole);
        whole
    }

    /// What is announced is what will be read, and little more: elements of which each is its index in the file, of which
    /// `slack` more may be announced.
    fn announces(contents: &dyn Contents, n: usize, slack: usize, noted: &Mutex<Vec<Range<usize>>>) {
        for at in 0..n {
            for len in 1..=n - at {
                noted.lock().unwrap().clear();
                contents.will_need(at..at + len);
                let announced: Vec<usize> =
                    noted.lock().unwrap().iter().flat_map(|r| r.clone().step_by(4)).collect();
                let mut read = vec![0.0; len];
                contents.read(at, &mut read);
                for x in read {
                    assert!(announced.contains(&(x as usize * 4)), "{x} at {at} of {len}: {announced:?}");
                }
                assert!(announced.len() <= len + slack, "{at} {len}: {announced:?}");
            }
        }
    }

    #[test]
    fn what_will_be_read_is_announced() {
        let noted = Arc::default();
        let counting = |first, rows, cols| counting_from(first, rows, cols, &noted);
        announces(&counting(5, 4, 3), 12, 0, &noted);
        // Whole heads of 12 elements.
        announces(&Interleaved { weights: counting(0, 8, 3), head: 4 }, 24, 22, &noted);
        announces(&Stack(vec![counting(0, 2, 3), counting(6, 2, 3), counting(12, 2, 3)]), 18, 0, &noted);
        let up = Arc::new(UpProjection { weights: counting(2, 8, 2), n_nope: 3, n_v: 1 });
        announces(&KeysTransposed(up.clone()), 12, 14, &noted);
        announces(&Values(up), 4, 14, &noted);
    }

    #[test]
    fn scales_are_announced_with_the_weights() {
        let noted = Arc::<Mutex<Vec<_>>>::default();
        // 5 × 7 in blocks of 2 × 3, so 3 × 3 scales, which begin at the byte 4.
        let scales = Scales { values: Box::new(counting_from(1, 3, 3, &noted)), block: [2, 3] };
        let bytes = Bytes::from_vec(vec![0x38; 35]);
        let weights = Weights { float: Float::Fp8(scales), rows: 5, cols: 7, bytes };
        let announced = |elements| {
            Contents::will_need(&weights, elements);
            std::mem::take(&mut *noted.lock().unwrap())
        };
        assert_eq!(announced(0..35), vec![4..40]);
        assert_eq!(announced(13..14), vec![4..16]);
        assert_eq!(announced(13..15), vec![4..28]);
        assert_eq!(announced(28..35), vec![28..40]);
        assert!(announced(7..7).is_empty());
    }

    #[test]
    fn e4m3_is_the_table_of_the_standard() {
        for (code, value) in [
            (0x00, 0.0),
            (0x01, 0.001953125),
            (0x07, 0.013671875),
            (0x08, 0.015625),
            (0x38, 1.0),
            (0x7e, 448.0),
        ] {
            assert_eq!(E4M3[code], value);
            assert_eq!(E4M3[code | 0x80], -value);
        }
        assert!(E4M3[0x80].is_sign_negative());
        let nan: Vec<_> = (0..256).filter(|&i| E4M3[i].is_nan()).collect();
        assert_eq!(nan, [0x7f, 0xff]);
        assert!((1..0x7f).all(|i| E4M3[i] > E4M3[i - 1]));
    }

    #[test]
    fn scales_belong_to_blocks_of_rows_and_columns() {
        // 5 × 7 in blocks of 2 × 3: every element is 1, so what is read are the scales.
        let scales = Scales { values: Box::new(counting(3, 3)), block: [2, 3] };
        let weights =
            Weights { float: Float::Fp8(scales), rows: 5, cols: 7, bytes: Bytes::from_vec(vec![0x38; 35]) };
        let want: Vec<f32> = (0..35).map(|i| (i / 7 / 2 * 3 + i % 7 / 3) as f32).collect();
        assert_eq!(all(&weights, 35), want);
    }

    #[test]
    fn halves_of_a_head_are_interleaved() {
        // Two heads of four rows.
        let rows = all(&Interleaved { weights: counting(8, 3), head: 4 }, 24);
        let firsts: Vec<_> = rows.iter().step_by(3).map(|x| *x as usize / 3).collect();
        assert_eq!(firsts, [0, 2, 1, 3, 4, 6, 5, 7]);
        // A bias.
        assert_eq!(all(&Interleaved { weights: counting(4, 1), head: 4 }, 4), [0.0, 2.0, 1.0, 3.0]);
    }

    #[test]
    fn experts_follow_each_other() {
        let stack = Stack(vec![counting(2, 3), counting(2, 3), counting(2, 3)]);
        let want: Vec<f32> = (0..18).map(|i| (i % 6) as f32).collect();
        assert_eq!(all(&stack, 18), want);
        assert!(all(&Stack(vec![]), 0).is_empty());
    }

    #[test]
    fn keys_are_transposed_and_values_are_not() {
        // Two heads of three rows for keys and one for values, rank 2.
        let up = Arc::new(UpProjection { weights: counting(8, 2), n_nope: 3, n_v: 1 });
        let keys = all(&KeysTransposed(up.clone()), 12);
        assert_eq!(keys, [0.0, 2.0, 4.0, 1.0, 3.0, 5.0, 8.0, 10.0, 12.0, 9.0, 11.0, 13.0]);
        assert_eq!(all(&Values(up), 4), [6.0, 7.0, 14.0, 15.0]);
    }
}
