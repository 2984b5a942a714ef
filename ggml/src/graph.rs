//! The recorded list of operations of a step, and what its operands are.
//!
//! An architecture records a [`Graph`] once; a backend compiles it once and runs it for every batch.
//! The number of rows and the length of the cache are not part of it: they come with each batch.
//!
//! Operands are columns of **buffers**. A buffer has one row of F32 per token of the batch
//! ([`Rows::Tokens`]) or per token whose logits are wanted ([`Rows::Outputs`]); buffers are planned by
//! the backend, not allocated by the recorder. Weights are named by [`WeightId`] in a [`Weights`] table,
//! so that a backend can keep its own copy of them.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::ops::Op;
use crate::tensor::Tensor;

/// A weight of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightId(pub(crate) u32);

/// All weights of a model, shared by its graphs.
#[derive(Default, Debug)]
pub struct Weights {
    tensors: Vec<Tensor>,
}

impl Weights {
    /// Adds a tensor to the table.
    pub fn add(&mut self, tensor: Tensor) -> WeightId {
        self.tensors.push(tensor);
        WeightId((self.tensors.len() - 1) as u32)
    }

    /// The tensor behind an id.
    pub fn get(&self, id: WeightId) -> &Tensor {
        &self.tensors[id.0 as usize]
    }

    /// Every tensor, in the order of adding.
    pub fn iter(&self) -> impl Iterator<Item = (WeightId, &Tensor)> {
        self.tensors.iter().enumerate().map(|(i, t)| (WeightId(i as u32), t))
    }
}

/// A buffer of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BufId(pub(crate) u32);

/// A buffer of chosen experts: per token row, `n_used` pairs of expert and weight. A pair with [`SKIPPED`] for an expert is left
/// out by what reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SelId(pub(crate) u32);

/// In place of a chosen expert: somebody else computes it.
pub const SKIPPED: u32 = u32::MAX;

/// Sums of squares that last from run to run, see [`SumSquares`](crate::ops::SumSquares).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TallyId(pub(crate) u32);

/// The size of a tally: a row of sums, and a count of rows added, for each group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TallyShape {
    /// Heads or experts.
    pub groups: usize,
    /// Columns of each.
    pub width: usize,
}

/// What a tally holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Tally {
    /// Sums of squares: `[groups, width]`.
    pub sums: Vec<f64>,
    /// Rows that were added to each group.
    pub counts: Vec<u64>,
}

impl Tally {
    /// Nothing yet.
    pub(crate) fn new(shape: TallyShape) -> Self {
        Tally { sums: vec![0.0; shape.groups * shape.width], counts: vec![0; shape.groups] }
    }

    /// Adds a row to a group.
    pub(crate) fn add(&mut self, group: usize, x: &[f32]) {
        let sums = &mut self.sums[group * x.len()..][..x.len()];
        sums.iter_mut().zip(x).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
        self.counts[group] += 1;
    }
}

/// What the rows of a buffer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// One row per token of the batch.
    Tokens,
    /// One row per token whose output is wanted, in batch order.
    Outputs,
}

/// Columns `col .. col + width` of every row of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// The buffer.
    pub buf: BufId,
    /// First column.
    pub col: usize,
    /// Number of columns.
    pub width: usize,
}

impl View {
    /// Columns `col .. col + width` of this view.
    ///
    /// # Panics
    /// If they reach beyond the view.
    pub fn cols(self, col: usize, width: usize) -> View {
        assert!(col + width <= self.width, "columns beyond the view");
        View { col: self.col + col, width, ..self }
    }

    /// Whether the two have columns in common.
    pub fn overlaps(self, other: View) -> bool {
        self.buf == other.buf && self.col < other.col + other.width && other.col < self.col + self.width
    }

    /// The view as `n` heads of equal width side by side.
    ///
    /// # Panics
    /// If the width is no multiple of `n`.
    pub fn heads(self, n: usize) -> Heads {
        assert!(n > 0 && self.width.is_multiple_of(n), "{} columns are no {n} heads", self.width);
        let width = self.width / n;
        Heads { buf: self.buf, col: self.col, stride: width, width, n }
    }
}

/// Heads of a buffer: head `h` is columns `col + h * stride ..` of length `width`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Heads {
    /// The buffer.
    pub buf: BufId,
    /// First column of the first head.
    pub col: usize,
    /// Columns from one head to the next.
    pub stride: usize,
    /// Columns of a head.
    pub width: usize,
    /// Number of heads.
    pub n: usize,
}

impl Heads {
    /// Columns `col .. col + width` of each head.
    ///
    /// # Panics
    /// If they reach beyond a head.
    pub fn cols(self, col: usize, width: usize) -> Heads {
        assert!(col + width <= self.width, "columns beyond the head");
        Heads { col: self.col + col, width, ..self }
    }

    /// The columns from the first of the first head to the last of the last one.
    pub fn span(self) -> View {
        View { buf: self.buf, col: self.col, width: (self.n - 1) * self.stride + self.width }
    }
}

/// A stack of matrices inside one tensor, one per head or expert: matrix `i` is rows
/// `row0 + i * stride ..` of length `rows`, counted over all rows of the tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stack {
    /// The tensor.
    pub w: WeightId,
    /// First row of the first matrix.
    pub row0: usize,
    /// Rows from one matrix to the next.
    pub stride: usize,
    /// Rows of a matrix.
    pub rows: usize,
    /// Number of matrices.
    pub n: usize,
}

impl Stack {
    /// The matrices of a three-dimensional tensor `[row length, rows, n]`.
    pub fn whole(w: WeightId, t: &Tensor) -> Stack {
        let [_, rows, n, _] = t.shape().0;
        Stack { w, row0: 0, stride: rows, rows, n }
    }

    /// The row of the tensor that is row `r` of matrix `i`.
    pub fn row(&self, i: usize, r: usize) -> usize {
        self.row0 + i * self.stride + r
    }

    /// Whether this is a stack of `[cols, rows]` matrices inside `t`.
    pub(crate) fn fits(&self, t: &Tensor, cols: usize, rows: usize) -> bool {
        t.shape().row_len() == cols
            && self.rows == rows
            && self.n > 0
            && self.row(self.n - 1, self.rows) <= t.shape().n_rows()
    }
}

/// A row of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The token.
    pub token: u32,
    /// Its position in the sequence, which is also its row in the cache.
    pub pos: u32,
    /// The sequence it belongs to.
    pub seq: u32,
    /// Whether its hidden state and logits are wanted.
    pub output: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Buf {
    pub width: usize,
    pub rows: Rows,
}

/// A recorded list of operations.
#[derive(Clone, Debug)]
pub struct Graph {
    weights: Arc<Weights>,
    pub(crate) bufs: Vec<Buf>,
    /// Chosen experts per row, by selection.
    pub(crate) sels: Vec<usize>,
    pub(crate) tallies: Vec<TallyShape>,
    pub(crate) ops: Vec<Op>,
    pub(crate) inputs: Vec<BufId>,
    pub(crate) outputs: Vec<BufId>,
}

impl Graph {
    /// An empty list over the given weights.
    pub fn new(weights: Arc<Weights>) -> Self {
        Graph {
            weights,
            bufs: vec![],
            sels: vec![],
            tallies: vec![],
            ops: vec![],
            inputs: vec![],
            outputs: vec![],
        }
    }

    /// The weights that the operations name.
    pub fn weights(&self) -> &Arc<Weights> {
        &self.weights
    }

    /// The tensor behind an id.
    pub fn weight(&self, id: WeightId) -> &Tensor {
        self.weights.get(id)
    }

    /// A new buffer of `width` columns.
    pub fn buffer(&mut self, width: usize, rows: Rows) -> View {
        self.bufs.push(Buf { width, rows });
        View { buf: BufId((self.bufs.len() - 1) as u32), col: 0, width }
    }

    /// A new buffer that the caller fills before each run.
    pub fn input(&mut self, width: usize, rows: Rows) -> View {
        let view = self.buffer(width, rows);
        self.inputs.push(view.buf);
        view
    }

    /// A new selection of `n_used` experts per token row.
    pub fn selection(&mut self, n_used: usize) -> SelId {
        self.sels.push(n_used);
        SelId((self.sels.len() - 1) as u32)
    }

    /// A new tally, all zeros before the first run.
    pub fn tally(&mut self, groups: usize, width: usize) -> TallyId {
        self.tallies.push(TallyShape { groups, width });
        TallyId((self.tallies.len() - 1) as u32)
    }

    /// The size of a tally.
    pub fn tally_shape(&self, tally: TallyId) -> TallyShape {
        self.tallies[tally.0 as usize]
    }

    /// Keeps a whole buffer readable after each run.
    pub fn output(&mut self, view: View) -> BufId {
        if !self.outputs.contains(&view.buf) {
            self.outputs.push(view.buf);
        }
        view.buf
    }

    /// Appends an operation after checking the shapes of its operands.
    pub fn push(&mut self, op: impl Into<Op>) -> Result<()> {
        let op = op.into();
        op.operation().check(self)?;
        self.ops.push(op);
        Ok(())
    }

    /// The operations in order.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Width of a buffer.
    pub fn width(&self, buf: BufId) -> usize {
        self.bufs[buf.0 as usize].width
    }

    /// Widths of all buffers that have a row a token.
    pub fn widths(&self) -> impl Iterator<Item = usize> {
        self.bufs.iter().filter(|b| b.rows == Rows::Tokens).map(|b| b.width)
    }

    /// What the rows of a buffer are.
    pub fn rows(&self, buf: BufId) -> Rows {
        self.bufs[buf.0 as usize].rows
    }

    /// Experts per row of a selection.
    pub fn n_used(&self, sel: SelId) -> usize {
        self.sels[sel.0 as usize]
    }
}

/// Shape complaints in one form: `Err` unless `ok`.
pub(crate) fn ensure(ok: bool, op: &'static str, what: impl FnOnce() -> String) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::Shape { op, what: what() }) }
}
