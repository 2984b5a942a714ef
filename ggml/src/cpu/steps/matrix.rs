//! Products with weight matrices, in tiles of weight rows.
//!
//! Up to [`FEW`] rows of activations the weights are streamed once and dotted in place; for more, a tile of weights is
//! unpacked once and runs against all of them.

use super::super::exec::{Exec, RegionId, Scratch, Slot, head, scratch_for};
use super::super::plan::SplitStep;
use crate::cpu::kernels::FEW;
use crate::format::GgmlType;
use crate::graph::{Graph, Heads, Rows, Stack, View, WeightId};

/// The same within a larger batch, for those of its rows that chose an expert: panels are faster from here on, and the
/// rows of such a batch have no bits to keep.
const FEW_OF_MANY: usize = 4;

/// Bytes of a matrix that an item streams, about: enough for streams that are some pages long, few enough to share out evenly.
const ITEM_BYTES: usize = 96 << 10;

/// Weight rows of an item when there are many rows of activations, unless kernels like more.
pub(in super::super) const TILE: usize = 64;

/// Where the activations of a product come from.
#[derive(Clone, Copy)]
pub(in super::super) enum Input {
    /// F32 columns of a buffer.
    F32(View),
    /// A region of F32 rows of this many columns.
    Plain(RegionId, usize),
    /// A group of quantized rows.
    Q8(Slot, usize),
}

/// Weight rows of an item for `n` rows of activations, `many` if those are many, of a matrix of `n_out` rows.
pub(in super::super) fn tile_rows(x: &Exec<'_>, w: WeightId, n_out: usize, n: usize, many: usize) -> usize {
    if n > FEW {
        return many.min(n_out);
    }
    let bytes = x.graph.weight(w).row_bytes() * n_out;
    // As many for each thread, and whole multiples of eight rows, so that kernels that do several at once seldom have a rest.
    let items = bytes.div_ceil(ITEM_BYTES).next_multiple_of(x.threads);
    n_out.div_ceil(items.max(1)).next_multiple_of(8).min(MOST_ROWS).min(n_out)
}

/// Weight rows of an item for few rows of activations at the most.
const MOST_ROWS: usize = 256;

/// Rows of a weight matrix against rows of activations.
pub(in super::super) struct Tile<'a> {
    pub ty: GgmlType,
    /// The encoded rows, one after another.
    pub w: &'a [u8],
    pub row_bytes: usize,
    pub n_out: usize,
}

impl<'a> Tile<'a> {
    /// Rows `first .. first + n_out` of a tensor.
    pub fn new(graph: &'a Graph, w: WeightId, first: usize, n_out: usize) -> Self {
        let t = graph.weight(w);
        let row_bytes = t.row_bytes();
        Tile { ty: t.ty(), w: &t.bytes()[first * row_bytes..(first + n_out) * row_bytes], row_bytes, n_out }
    }

    /// `y[i * y_stride + r] = w[r] · x[i]` for rows `first .. first + n` of the input.
    ///
    /// # Safety
    /// - The input rows were written in an earlier phase.
    /// - `y` is valid for writing those places, and nothing else refers to them.
    pub unsafe fn product(
        &self,
        x: &Exec<'_>,
        input: Input,
        (first, n): (usize, usize),
        y: *mut f32,
        y_stride: usize,
    ) {
        let k = x.kernels;
        // SAFETY: passed on from the caller; the tile's rows are whole rows of a checked tensor.
        unsafe {
            match input {
                Input::Q8(slot, group) => {
                    let rows = x.q8(slot, group, first, n);
                    let few = if x.batch.len() > FEW { FEW_OF_MANY } else { FEW };
                    if n <= few {
                        k.matvec_q8(self.ty, self.w, self.row_bytes, self.n_out, rows, y, y_stride);
                    } else {
                        k.gemm_q8(self.ty, self.w, self.row_bytes, self.n_out, rows, y, y_stride);
                    }
                }
                Input::F32(_) | Input::Plain(..) => {
                    let (from, width, stride) = match input {
                        Input::F32(v) => (x.ptr(v, first), v.width, x.stride(v)),
                        Input::Plain(r, width) => (x.region(r).wrapping_add(first * width), width, width),
                        Input::Q8(..) => return,
                    };
                    let rows = std::slice::from_raw_parts(from, (n - 1) * stride + width);
                    let (ty, w, bytes) = (self.ty, self.w, self.row_bytes);
                    k.matvec_f32(ty, width, w, bytes, self.n_out, rows, n, stride, y, y_stride);
                }
            }
        }
    }
}

/// One matrix of a [`LinearStep`].
pub(in super::super) struct Part {
    pub w: WeightId,
    pub bias: Option<std::sync::Arc<[f32]>>,
    pub input: Input,
    pub y: View,
    /// Weight rows of an item with many rows of activations.
    pub many: usize,
}

/// `y = x · wᵀ + bias`, or added to `y`.
pub(in super::super) struct LinearStep {
    pub parts: Vec<Part>,
    pub rows: Rows,
    pub add: bool,
}

impl LinearStep {
    fn tile(&self, x: &Exec<'_>, p: &Part) -> usize {
        tile_rows(x, p.w, p.y.width, x.n_rows(self.rows), p.many)
    }
}

impl SplitStep for LinearStep {
    fn items(&self, x: &Exec<'_>) -> usize {
        if x.n_rows(self.rows) == 0 {
            return 0;
        }
        self.parts.iter().map(|p| p.y.width.div_ceil(self.tile(x, p))).sum()
    }

    fn run(&self, x: &Exec<'_>, mut item: usize, mut scratch: Scratch<'_>) {
        for p in &self.parts {
            let tile = self.tile(x, p);
            let items = p.y.width.div_ceil(tile);
            if item >= items {
                item -= items;
                continue;
            }
            let first = item * tile;
            let n_out = tile.min(p.y.width - first);
            let n = x.n_rows(self.rows);
            let y = p.y.cols(first, n_out);
            let t = Tile::new(x.graph, p.w, first, n_out);
            if !self.add && p.bias.is_none() {
                // SAFETY: the item owns these columns of all rows; inputs are of earlier phases.
                unsafe { t.product(x, p.input, (0, n), x.ptr(y, 0), x.stride(y)) };
                return;
            }
            let out = scratch.floats(n * n_out);
            // SAFETY: as above, and `out` has `n` rows of `n_out`.
            unsafe { t.product(x, p.input, (0, n), out.as_mut_ptr(), n_out) };
            for (i, out) in out.chunks_exact_mut(n_out).enumerate() {
                if let Some(bias) = &p.bias {
                    x.kernels.add(&bias[first..first + n_out], out);
                }
                // SAFETY: the item owns these columns of every row.
                let to = unsafe { x.row_mut(y, i) };
                if self.add {
                    x.kernels.add(out, to);
                } else {
                    to.copy_from_slice(out);
                }
            }
            return;
        }
    }

    fn scratch(&self, max_rows: usize) -> usize {
        let widest = self.parts.iter().map(|p| p.y.width.min(MOST_ROWS)).max().unwrap_or(0);
        let many = self.parts.iter().map(|p| p.y.width.min(p.many)).max().unwrap_or(0);
        scratch_for(&[4 * widest * FEW, 4 * many * max_rows])
    }
}

/// `y = silu(x · gateᵀ) ⊙ (x · upᵀ)`.
pub(in super::super) struct GateUpStep {
    pub gate: (WeightId, Input),
    pub up: (WeightId, Input),
    pub y: View,
    pub rows: Rows,
    /// Weight rows of each matrix of an item with many rows of activations.
    pub many: usize,
}

impl GateUpStep {
    fn tile(&self, x: &Exec<'_>) -> usize {
        tile_rows(x, self.gate.0, self.y.width, x.n_rows(self.rows), self.many)
    }
}

impl SplitStep for GateUpStep {
    fn items(&self, x: &Exec<'_>) -> usize {
        if x.n_rows(self.rows) == 0 { 0 } else { self.y.width.div_ceil(self.tile(x)) }
    }

    fn run(&self, x: &Exec<'_>, item: usize, mut scratch: Scratch<'_>) {
        let tile = self.tile(x);
        let first = item * tile;
        let n_out = tile.min(self.y.width - first);
        let n = x.n_rows(self.rows);
        let y = self.y.cols(first, n_out);
        let up = scratch.floats(n * n_out);
        let gates = Tile::new(x.graph, self.gate.0, first, n_out);
        let ups = Tile::new(x.graph, self.up.0, first, n_out);
        // SAFETY: the item owns these columns of all rows; inputs are of earlier phases.
        unsafe {
            gates.product(x, self.gate.1, (0, n), x.ptr(y, 0), x.stride(y));
            ups.product(x, self.up.1, (0, n), up.as_mut_ptr(), n_out);
        }
        for (i, up) in up.chunks_exact(n_out).enumerate() {
            // SAFETY: as above.
            x.kernels.swiglu(unsafe { x.row_mut(y, i) }, up);
        }
    }

    fn scratch(&self, max_rows: usize) -> usize {
        scratch_for(&[4 * MOST_ROWS * FEW, 4 * self.many * max_rows])
    }
}

/// `y[h] = x[h] · w[h]ᵀ`, a head an item.
pub(in super::super) struct HeadLinearStep {
    pub x: Heads,
    pub slot: Option<Slot>,
    pub w: Stack,
    pub y: Heads,
    pub rows: Rows,
}

impl SplitStep for HeadLinearStep {
    fn items(&self, x: &Exec<'_>) -> usize {
        if x.n_rows(self.rows) == 0 { 0 } else { self.x.n }
    }

    fn run(&self, x: &Exec<'_>, h: usize, _scratch: Scratch<'_>) {
        let input = self.slot.map_or(Input::F32(head(self.x, h)), |s| Input::Q8(s, h));
        let t = Tile::new(x.graph, self.w.w, self.w.row(h, 0), self.w.rows);
        let y = head(self.y, h);
        let n = x.n_rows(self.rows);
        // SAFETY: the item owns the columns of its head; inputs are of earlier phases.
        unsafe { t.product(x, input, (0, n), x.ptr(y, 0), x.stride(y)) };
    }

    fn scratch(&self, _max_rows: usize) -> usize {
        0
    }
}
