//! Attention over the cache, without a matrix of scores in memory (Dao et al., 2022).
//!
//! Keys are walked chunk by chunk with a running maximum, a running sum and a running weighted sum of values. A sequence is
//! divided into **spans** of whole chunks, at most [`MAX_SPANS`] of them, by its length alone: each span has its own running state,
//! and the states are merged in order. So a long context can be shared out among threads, and the result depends neither on
//! their number nor on the other rows of the batch.
//!
//! Few rows: an item is (row, key/value head, span, block of query heads), and [`Merge`] puts spans together.
//! Many rows: an item is (block of rows, key/value head, block of query heads) and does all spans itself; rows that share
//! keys are scored together.

use super::super::exec::{Exec, RegionId, Scratch, head, scratch_for};
use super::super::plan::{RowStep, SplitStep};
use super::matrix::FEW;
use crate::act::{Q8Rows, SUM};
use crate::cache::CHUNK;
use crate::format::{GgmlType, Kind};
use crate::ops::Attention;

/// Spans of a sequence at the most.
pub(in super::super) const MAX_SPANS: usize = 64;

/// Queries (rows × heads) that an item scores together when there are many rows.
const QUERIES: usize = 64;

/// Chunks of a span for a row that sees `n` positions.
fn span_chunks(n: usize) -> usize {
    n.div_ceil(CHUNK).div_ceil(MAX_SPANS)
}

/// Spans of a row that sees `n` positions.
fn n_spans(n: usize) -> usize {
    n.div_ceil(CHUNK).div_ceil(span_chunks(n))
}

/// The positions that row `i` of the batch sees.
fn visible(x: &Exec<'_>, i: usize) -> usize {
    x.batch[i].pos as usize + 1
}

/// The state of a running softmax: maximum, sum, and the weighted sum of values.
struct Running<'a> {
    max: &'a mut [f32],
    sum: &'a mut [f32],
    /// `[queries, v_dim]`.
    acc: &'a mut [f32],
}

impl Running<'_> {
    fn reset(&mut self) {
        self.max.fill(f32::NEG_INFINITY);
        self.sum.fill(0.0);
        self.acc.fill(0.0);
    }
}

/// Queries of some rows and heads of one key/value head, and memory to attend with.
struct Queries<'a> {
    /// First row of the batch, rows; they belong to one sequence.
    first: usize,
    rows: usize,
    /// First query head, heads.
    h0: usize,
    heads: usize,
    /// `[rows · heads, k_dim]`.
    q: &'a mut [f32],
    /// `[rows · heads, CHUNK]`.
    scores: &'a mut [f32],
    /// Quantized queries for a quantized cache.
    qs: &'a mut [i8],
    d: &'a mut [f32],
    sums: &'a mut [i16],
}

/// One [`Attention`], with what both of its forms need.
#[derive(Clone)]
pub(in super::super) struct Attend {
    pub op: Attention,
    pub k_ty: GgmlType,
    pub v_ty: GgmlType,
}

impl Attend {
    fn group(&self) -> usize {
        self.op.q.n / self.op.n_head_kv
    }

    fn v_dim(&self) -> usize {
        self.op.y.width
    }

    fn quantized(&self) -> bool {
        matches!(self.k_ty.format().kind, Kind::Blocks(_))
    }

    /// Bytes of scratch for so many queries.
    fn scratch_bytes(&self, n: usize) -> usize {
        let k = self.op.q.width;
        let floats = [n * k, n * CHUNK, n * k / 32 + 16, n, n, n * self.v_dim(), n, n, n * self.v_dim()];
        scratch_for(&floats.map(|f| 4 * f)) + scratch_for(&[n * k, n * k / SUM * 2 + 64])
    }

    fn queries<'a>(
        &self,
        x: &Exec<'_>,
        (first, rows): (usize, usize),
        (h0, heads): (usize, usize),
        scratch: &mut Scratch<'a>,
    ) -> Queries<'a> {
        let (n, k) = (rows * heads, self.op.q.width);
        let q = scratch.floats(n * k);
        for (j, q) in q.chunks_exact_mut(k).enumerate() {
            // SAFETY: queries were written in an earlier phase.
            q.copy_from_slice(unsafe { x.row(head(self.op.q, h0 + j % heads), first + j / heads) });
        }
        let scores = scratch.floats(n * CHUNK);
        let (mut qs, mut d, mut sums): (&mut [i8], &mut [f32], &mut [i16]) = (&mut [], &mut [], &mut []);
        if self.quantized() {
            qs = bytemuck::cast_slice_mut(scratch.bytes(n * k));
            d = scratch.floats(n * k / 32);
            sums = bytemuck::cast_slice_mut(scratch.bytes(n * k / SUM * 2));
            x.kernels.quantize_row(q, 32, qs, d, sums);
        }
        Queries { first, rows, h0, heads, q, scores, qs, d, sums }
    }

    /// Attends to one chunk: scores, then weights under the running maximum, then values.
    fn chunk(&self, x: &Exec<'_>, q: &mut Queries<'_>, chunk: usize, state: &mut Running<'_>) {
        let (k_dim, v_dim, heads) = (self.op.q.width, self.v_dim(), q.heads);
        let seq = x.batch[q.first].seq;
        let kv_head = q.h0 / self.group();
        let n_keys = (visible(x, q.first + q.rows - 1) - chunk * CHUNK).min(CHUNK);
        let keys = x.cache.keys(seq, self.op.layer, kv_head, chunk);
        let values = x.cache.values(seq, self.op.layer, kv_head, chunk);
        let out = q.scores.as_mut_ptr();
        // SAFETY: the chunk has rows for all its positions, of which `n_keys` have been written in earlier
        // phases; scores have CHUNK numbers for every query.
        unsafe {
            if self.quantized() {
                let rows =
                    Q8Rows { k: k_dim, rows: q.rows * heads, block: 32, qs: q.qs, d: q.d, sums: q.sums };
                x.kernels.attn_scores_q8(rows, keys.ptr, keys.stride, n_keys, self.op.scale, out, CHUNK);
            } else {
                let (ty, scale) = (self.k_ty, self.op.scale);
                x.kernels.attn_scores(ty, q.q, k_dim, keys.ptr, keys.stride, n_keys, scale, out, CHUNK);
            }
        }
        for (j, scores) in q.scores.chunks_exact_mut(CHUNK).enumerate() {
            // Rows before the last see fewer keys; the rest weighs nothing.
            let n = visible(x, q.first + j / heads).saturating_sub(chunk * CHUNK).min(n_keys);
            scores[n..n_keys].fill(0.0);
            if n == 0 {
                continue;
            }
            let max = x.kernels.max(&scores[..n]).max(state.max[j]);
            let sum = x.kernels.softmax_exp(&mut scores[..n], max);
            let shrink = (state.max[j] - max).exp();
            if shrink != 1.0 {
                x.kernels.scale(shrink, &mut state.acc[j * v_dim..][..v_dim]);
            }
            state.sum[j] = state.sum[j] * shrink + sum;
            state.max[j] = max;
        }
        // SAFETY: as for the keys; `acc` has `v_dim` numbers for every query.
        unsafe {
            let n = q.rows * heads;
            let (p, acc) = (&*q.scores, state.acc.as_mut_ptr());
            x.kernels.attn_values(
                self.v_ty,
                p,
                CHUNK,
                n,
                values.ptr,
                values.stride,
                n_keys,
                v_dim,
                acc,
                v_dim,
            );
        }
    }

    fn running<'a>(&self, n: usize, scratch: &mut Scratch<'a>) -> Running<'a> {
        let mut state =
            Running { max: scratch.floats(n), sum: scratch.floats(n), acc: scratch.floats(n * self.v_dim()) };
        state.reset();
        state
    }

    /// Writes `acc / sum` of each query to the output.
    fn write(&self, x: &Exec<'_>, q: &Queries<'_>, state: &Running<'_>) {
        for (j, acc) in state.acc.chunks_exact(self.v_dim()).enumerate() {
            // SAFETY: the item owns these heads of these rows of the output.
            let y = unsafe { x.row_mut(head(self.op.y, q.h0 + j % q.heads), q.first + j / q.heads) };
            y.copy_from_slice(acc);
            x.kernels.scale(1.0 / state.sum[j], y);
        }
    }
}

/// Adds a span's state to that of the spans before it.
fn merge(x: &Exec<'_>, (max, sum, acc): (&mut f32, &mut f32, &mut [f32]), span: (f32, f32, &[f32])) {
    let new = max.max(span.0);
    let (old_factor, factor) = ((*max - new).exp(), (span.0 - new).exp());
    x.kernels.scale(old_factor, acc);
    x.kernels.axpy(factor, span.2, acc);
    *sum = *sum * old_factor + span.1 * factor;
    *max = new;
}

/// Attention of few rows: a span an item.
pub(in super::super) struct FewRows {
    pub attend: Attend,
    /// `[FEW rows, MAX_SPANS, n_head, v_dim + 2]`: states of spans.
    pub spans: RegionId,
}

impl FewRows {
    /// Floats of the region of spans.
    pub fn span_floats(op: &Attention, rows: usize) -> usize {
        rows.min(FEW) * MAX_SPANS * op.q.n * (op.y.width + 2)
    }

    fn span_at(op: &Attention, x: &Exec<'_>, spans: RegionId, i: usize, span: usize, h: usize) -> *mut f32 {
        let index = (i * MAX_SPANS + span) * op.q.n + h;
        x.region(spans).wrapping_add(index * (op.y.width + 2))
    }

    /// Blocks of query heads: more when there are few other items to share out.
    fn head_blocks(&self, x: &Exec<'_>) -> usize {
        let others: usize =
            (0..x.batch.len()).map(|i| n_spans(visible(x, i)) * self.attend.op.n_head_kv).sum();
        16usize.div_ceil(others).clamp(1, self.attend.group())
    }
}

impl SplitStep for FewRows {
    fn items(&self, x: &Exec<'_>) -> usize {
        if x.batch.len() > FEW {
            return 0;
        }
        let per_span = self.attend.op.n_head_kv * self.head_blocks(x);
        (0..x.batch.len()).map(|i| n_spans(visible(x, i)) * per_span).sum()
    }

    fn run(&self, x: &Exec<'_>, mut item: usize, mut scratch: Scratch<'_>) {
        let (op, group, blocks) = (&self.attend.op, self.attend.group(), self.head_blocks(x));
        let per_span = op.n_head_kv * blocks;
        let mut i = 0;
        while item >= n_spans(visible(x, i)) * per_span {
            item -= n_spans(visible(x, i)) * per_span;
            i += 1;
        }
        let (span, kv, block) = (item / per_span, item % per_span / blocks, item % blocks);
        let (b0, b1) = (block * group / blocks, (block + 1) * group / blocks);
        if b0 == b1 {
            return;
        }
        let mut q = self.attend.queries(x, (i, 1), (kv * group + b0, b1 - b0), &mut scratch);
        let mut state = self.attend.running(b1 - b0, &mut scratch);
        let n = visible(x, i);
        let per = span_chunks(n);
        for chunk in span * per..((span + 1) * per).min(n.div_ceil(CHUNK)) {
            self.attend.chunk(x, &mut q, chunk, &mut state);
        }
        if n_spans(n) == 1 {
            return self.attend.write(x, &q, &state);
        }
        for (j, acc) in state.acc.chunks_exact(op.y.width).enumerate() {
            let at = FewRows::span_at(op, x, self.spans, i, span, q.h0 + j);
            // SAFETY: the place belongs to this span and head alone.
            let to = unsafe { std::slice::from_raw_parts_mut(at, op.y.width + 2) };
            (to[0], to[1]) = (state.max[j], state.sum[j]);
            to[2..].copy_from_slice(acc);
        }
    }

    fn scratch(&self, _max_rows: usize) -> usize {
        self.attend.scratch_bytes(self.attend.group())
    }
}

/// Puts the spans of a row together.
pub(in super::super) struct Merge {
    pub op: Attention,
    pub spans: RegionId,
}

impl RowStep for Merge {
    fn run(&self, x: &Exec<'_>, i: usize, _scratch: Scratch<'_>) {
        let spans = n_spans(visible(x, i));
        if x.batch.len() > FEW || spans == 1 {
            return;
        }
        for h in 0..self.op.q.n {
            // SAFETY: the step owns row `i` of the output.
            let y = unsafe { x.row_mut(head(self.op.y, h), i) };
            y.fill(0.0);
            let (mut max, mut sum) = (f32::NEG_INFINITY, 0.0);
            for span in 0..spans {
                let at = FewRows::span_at(&self.op, x, self.spans, i, span, h);
                // SAFETY: written in an earlier phase.
                let from = unsafe { std::slice::from_raw_parts(at, y.len() + 2) };
                merge(x, (&mut max, &mut sum, y), (from[0], from[1], &from[2..]));
            }
            x.kernels.scale(1.0 / sum, y);
        }
    }
}

/// Attention of many rows: a block of rows an item.
pub(in super::super) struct ManyRows {
    pub attend: Attend,
}

impl ManyRows {
    /// Query heads and rows of an item.
    fn block(&self) -> (usize, usize) {
        let heads = self.attend.group().min(QUERIES);
        (heads, (QUERIES / heads).max(1))
    }
}

impl SplitStep for ManyRows {
    fn items(&self, x: &Exec<'_>) -> usize {
        if x.batch.len() <= FEW {
            return 0;
        }
        let (heads, rows) = self.block();
        x.batch.len().div_ceil(rows) * self.attend.op.n_head_kv * self.attend.group().div_ceil(heads)
    }

    fn run(&self, x: &Exec<'_>, item: usize, scratch: Scratch<'_>) {
        let (heads, rows) = self.block();
        let group = self.attend.group();
        let blocks = group.div_ceil(heads);
        let per_rows = self.attend.op.n_head_kv * blocks;
        // Last rows first: they see the most keys and take longest.
        let block = x.batch.len().div_ceil(rows) - 1 - item / per_rows;
        let (kv, b) = (item % per_rows / blocks, item % blocks);
        let h0 = kv * group + b * heads;
        let n_heads = heads.min(group - b * heads);
        let (mut i, end) = (block * rows, ((block + 1) * rows).min(x.batch.len()));
        let memory = scratch.0;
        while i < end {
            let same = (i..end).take_while(|&j| x.batch[j].seq == x.batch[i].seq).count();
            self.rows(x, (i, same), (h0, n_heads), Scratch(&mut *memory));
            i += same;
        }
    }

    fn scratch(&self, _max_rows: usize) -> usize {
        let (heads, rows) = self.block();
        self.attend.scratch_bytes(heads * rows)
    }
}

impl ManyRows {
    /// Rows of one sequence. Rows of different lengths may have different spans: then each goes by itself.
    fn rows(
        &self,
        x: &Exec<'_>,
        (first, n): (usize, usize),
        heads: (usize, usize),
        mut scratch: Scratch<'_>,
    ) {
        let (shortest, longest) = (visible(x, first), visible(x, first + n - 1));
        if span_chunks(shortest) != span_chunks(longest) {
            let memory = scratch.0;
            (first..first + n).for_each(|i| self.rows(x, (i, 1), heads, Scratch(&mut *memory)));
            return;
        }
        let attend = &self.attend;
        let queries = n * heads.1;
        let mut q = attend.queries(x, (first, n), heads, &mut scratch);
        let total = attend.running(queries, &mut scratch);
        let mut state = attend.running(queries, &mut scratch);
        let (per, chunks) = (span_chunks(longest), longest.div_ceil(CHUNK));
        for span in 0..n_spans(longest) {
            state.reset();
            for chunk in span * per..((span + 1) * per).min(chunks) {
                attend.chunk(x, &mut q, chunk, &mut state);
            }
            for (j, acc) in state.acc.chunks_exact(attend.v_dim()).enumerate() {
                if state.sum[j] > 0.0 || state.sum[j].is_nan() {
                    let to = &mut total.acc[j * attend.v_dim()..][..attend.v_dim()];
                    merge(x, (&mut total.max[j], &mut total.sum[j], to), (state.max[j], state.sum[j], acc));
                }
            }
        }
        attend.write(x, &q, &total);
    }
}
