//! Attention over the cache, without a matrix of scores in memory (Dao et al., 2022).
//!
//! Keys are walked in tiles with a running maximum, a running sum and a running weighted sum of values. A tile of the
//! cache is read once for all queries that share its key/value head: with grouped heads those of the group, with MLA's absorbed form
//! all heads. If they are few, its rows are made into numbers as they are multiplied, where they lie; if they are many, once for all of
//! them, in a panel that stays in cache.
//!
//! **Few rows**, [`FewRows`]: reading the cache is what takes time. A sequence is divided into **spans** of whole tiles, at most
//! [`MAX_SPANS`] of them, by its length alone: each span has its own running state, and [`Merge`] puts them together in
//! order. So a long context can be shared out among threads, and the result depends neither on their number nor on the
//! other rows of the batch. Scores of 8-bit keys are integer products.
//!
//! **Many rows**, [`ManyRows`]: arithmetic is what takes time. An item is (block of rows, key/value head, block of query heads) and
//! walks all keys by itself; both products run over panels at the speed of a matrix product.

use std::ptr::null;

use super::super::exec::{Exec, RegionId, Scratch, head, scratch_for};
use super::super::kernels::{NOTHING_AHEAD, panel_bytes};
use super::super::plan::{RowStep, SplitStep};
use crate::act::{Q8Rows, SUM};
use crate::cache::{CHUNK, RowsAt};
use crate::cpu::kernels::FEW;
use crate::format::{GgmlType, Kind};
use crate::ops::Attention;

/// Spans of a sequence at the most.
pub(in super::super) const MAX_SPANS: usize = 16;

/// Keys of a tile for few rows at the most, and of the shortest span.
const TILE: usize = 64;
/// See [`TILE`].
const SHORTEST: usize = 128;

/// Keys of a tile for many rows, and queries (rows × heads) that share its panels.
pub(super) const KEYS: usize = 128;
/// See [`KEYS`].
pub(super) const QUERIES: usize = 128;

/// Queries up to which keys and values are widened as they are multiplied, instead of once for all.
const DIRECT: usize = 12;

/// Columns of values that are widened together where rows are long.
const STRIP: usize = 64;

// No tile crosses the end of a chunk.
const _: () = assert!(CHUNK.is_multiple_of(TILE) && CHUNK.is_multiple_of(KEYS));

/// Numbers from row to row of a panel: a cache line more than there are, or rows of powers of two would all meet in a few
/// sets of the cache.
pub(super) fn panel_stride(width: usize) -> usize {
    width.next_multiple_of(16) + 16
}

/// Positions of a span for a row that sees `n` positions.
fn span_len(n: usize) -> usize {
    n.div_ceil(MAX_SPANS).next_multiple_of(TILE).max(SHORTEST)
}

/// Spans of a row that sees `n` positions.
fn n_spans(n: usize) -> usize {
    n.div_ceil(span_len(n))
}

/// The positions that row `i` of the batch sees.
fn visible(x: &Exec<'_>, i: usize) -> usize {
    x.batch[i].pos as usize + 1
}

/// Rows of a head from position `at` on, within its chunk.
pub(super) fn rows_from(chunk: RowsAt, at: usize) -> (*const u8, usize) {
    (chunk.ptr.wrapping_add(at % CHUNK * chunk.stride), chunk.stride)
}

/// The state of a running softmax: maximum, sum, and the weighted sum of values, which is to shrink by a factor.
struct Running<'a> {
    max: &'a mut [f32],
    sum: &'a mut [f32],
    factors: &'a mut [f32],
    /// `[queries, v_dim]`.
    acc: &'a mut [f32],
}

/// Queries that attend together: rows `first .. first + rows`, which belong to one sequence and follow each other, and heads
/// `h0 .. h0 + heads`, which share a key/value head. Query `j` is head `h0 + j % heads` of row `first + j / heads`.
#[derive(Clone, Copy)]
struct Block {
    first: usize,
    rows: usize,
    h0: usize,
    heads: usize,
}

impl Block {
    fn n(&self) -> usize {
        self.rows * self.heads
    }

    /// What the rows see of keys from `at` on, as [`super::super::kernels::Kernels::softmax_step`] takes it.
    fn seen(&self, x: &Exec<'_>, at: usize) -> (isize, usize) {
        (visible(x, self.first) as isize - at as isize, self.heads)
    }

    /// The positions that the last row sees.
    fn longest(&self, x: &Exec<'_>) -> usize {
        visible(x, self.first + self.rows - 1)
    }
}

/// One [`Attention`], with what both of its forms need.
#[derive(Clone)]
pub(in super::super) struct Attend {
    pub op: Attention,
    pub k_ty: GgmlType,
    pub v_ty: GgmlType,
    /// Whether values are the first elements of the keys.
    pub prefix: bool,
}

impl Attend {
    fn group(&self) -> usize {
        self.op.q.n / self.op.n_head_kv
    }

    fn k_dim(&self) -> usize {
        self.op.q.width
    }

    fn v_dim(&self) -> usize {
        self.op.y.width
    }

    fn quantized(&self) -> bool {
        matches!(self.k_ty.format().kind, Kind::Blocks(_))
    }

    /// Whether queries of few rows meet keys and values where they lie, without a panel.
    fn direct(&self, b: Block) -> bool {
        b.n() <= DIRECT
    }

    /// Copies the queries of a block: `[queries, k_dim]`.
    fn gather(&self, x: &Exec<'_>, b: Block, to: &mut [f32]) {
        for (j, q) in to.chunks_exact_mut(self.k_dim()).enumerate() {
            // SAFETY: queries were written in an earlier phase.
            q.copy_from_slice(unsafe { x.row(head(self.op.q, b.h0 + j % b.heads), b.first + j / b.heads) });
        }
    }

    /// Floats of a [`Running`] of `n` queries.
    fn running_sizes(&self, n: usize) -> [usize; 4] {
        [n, n, n, n * self.v_dim()]
    }

    fn running<'a>(&self, n: usize, scratch: &mut Scratch<'a>) -> Running<'a> {
        let [max, sum, factors, acc] = self.running_sizes(n).map(|n| scratch.floats(n));
        max.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        acc.fill(0.0);
        Running { max, sum, factors, acc }
    }

    /// Writes `acc / sum` of query `j` to the output.
    fn write(&self, x: &Exec<'_>, b: Block, j: usize, state: &Running<'_>) {
        // SAFETY: the item owns these heads of these rows of the output.
        let y = unsafe { x.row_mut(head(self.op.y, b.h0 + j % b.heads), b.first + j / b.heads) };
        y.copy_from_slice(&state.acc[j * self.v_dim()..][..self.v_dim()]);
        x.kernels.scale(1.0 / state.sum[j], y);
    }
}

/// Attention of few rows: a span an item.
pub(in super::super) struct FewRows {
    pub attend: Attend,
    /// For each row and head, states of its spans: `[MAX_SPANS, v_dim]` sums, then maximums, then sums of weights.
    pub spans: RegionId,
}

/// Where a tile is, as [`rows_from`] gives it, and where the next one is.
struct Tile {
    keys: (*const u8, usize),
    values: (*const u8, usize),
    next_keys: *const u8,
    next_values: *const u8,
}

/// Memory of an item of few rows.
struct FewMemory<'a> {
    /// The queries: `[queries, k_dim]`.
    q: &'a mut [f32],
    /// The same arranged for 8-bit keys.
    panels: &'a mut [u8],
    /// A tile of keys or values.
    rows: &'a mut [f32],
    /// `[queries, TILE]`.
    scores: &'a mut [f32],
}

impl FewRows {
    /// Floats of the region of spans.
    pub fn span_floats(op: &Attention, rows: usize) -> usize {
        rows.min(FEW) * op.q.n * MAX_SPANS * (op.y.width + 2)
    }

    /// The states of the spans of a row and head.
    fn spans_of(op: &Attention, x: &Exec<'_>, spans: RegionId, i: usize, h: usize) -> *mut f32 {
        x.region(spans).wrapping_add((i * op.q.n + h) * MAX_SPANS * (op.y.width + 2))
    }

    /// The group of rows from `first` on: they follow each other in one sequence and have spans of the same length.
    fn group_rows(x: &Exec<'_>, first: usize) -> usize {
        let (seq, len) = (x.batch[first].seq, span_len(visible(x, first)));
        let same = |&i: &usize| x.batch[i].seq == seq && span_len(visible(x, i)) == len;
        (first..x.batch.len()).take_while(same).count()
    }

    /// The groups of rows, and how many spans each has.
    fn groups<'b>(x: &'b Exec<'_>) -> impl Iterator<Item = (usize, usize, usize)> + 'b {
        let mut first = 0;
        std::iter::from_fn(move || {
            let rows = (first < x.batch.len()).then(|| FewRows::group_rows(x, first))?;
            first += rows;
            Some((first - rows, rows, n_spans(visible(x, first - 1))))
        })
    }

    /// Blocks of query heads. A tile is read once for a block, so there is one if there are spans enough to share out, and up
    /// to eight if not; and there are more if each still has sixteen heads, which pay for the reading.
    fn head_blocks(&self, x: &Exec<'_>) -> usize {
        let spans: usize = FewRows::groups(x).map(|g| g.2).sum();
        let (others, group) = (spans * self.attend.op.n_head_kv, self.attend.group());
        8usize.div_ceil(others).min(group.div_ceil(4)).max(64usize.div_ceil(others).min(group / 16)).max(1)
    }

    /// Bytes of the pieces of [`FewMemory`] for `n` queries.
    fn sizes(&self, n: usize) -> [usize; 4] {
        let (k, v) = (self.attend.k_dim(), self.attend.v_dim());
        let panels = if self.attend.quantized() { panel_bytes(n, k) } else { 0 };
        [4 * n * k, panels, 4 * TILE * panel_stride(k.max(v)), 4 * n * TILE]
    }

    /// Bytes that quantizing `n` queries takes meanwhile.
    fn quantize_sizes(&self, n: usize) -> [usize; 3] {
        let k = if self.attend.quantized() { self.attend.k_dim() } else { 0 };
        [n * k, 4 * n * k / 32, 2 * n * k / SUM]
    }

    fn memory<'a>(&self, x: &Exec<'_>, b: Block, scratch: &mut Scratch<'a>) -> FewMemory<'a> {
        let [q, panels, rows, scores] = self.sizes(b.n());
        let mut m = FewMemory {
            q: scratch.floats(q / 4),
            panels: scratch.bytes(panels),
            rows: scratch.floats(rows / 4),
            scores: scratch.floats(scores / 4),
        };
        self.attend.gather(x, b, m.q);
        if self.attend.quantized() {
            self.arrange(x, b, &mut m, scratch);
        }
        m
    }

    fn arrange(&self, x: &Exec<'_>, b: Block, m: &mut FewMemory<'_>, scratch: &mut Scratch<'_>) {
        let [qs, d, sums] = self.quantize_sizes(b.n());
        let qs: &mut [i8] = bytemuck::cast_slice_mut(scratch.bytes(qs));
        let d = scratch.floats(d / 4);
        let sums: &mut [i16] = bytemuck::cast_slice_mut(scratch.bytes(sums));
        x.kernels.quantize_row(m.q, 32, qs, d, sums);
        let rows = Q8Rows { k: self.attend.k_dim(), rows: b.n(), block: 32, qs, d, sums };
        x.kernels.arrange_q8(rows, m.panels);
    }

    /// Attends to keys `at .. at + n`, which lie in one tile.
    fn tile(
        &self,
        x: &Exec<'_>,
        b: Block,
        (at, n): (usize, usize),
        m: &mut FewMemory<'_>,
        state: &mut Running<'_>,
    ) {
        let tile = self.find(x, b, at);
        self.score(x, b, n, &tile, m);
        let running = (&mut *state.max, &mut *state.sum, &mut *state.factors);
        x.kernels.softmax_step((m.scores, TILE, n), self.attend.op.scale, b.seen(x, at), running);
        self.weigh(x, b, n, &tile, m, state);
    }

    /// The tile from key `at` on, and the next one.
    fn find(&self, x: &Exec<'_>, b: Block, at: usize) -> Tile {
        let (op, seq, kv) = (&self.attend.op, x.batch[b.first].seq, b.h0 / self.attend.group());
        let keys = |at| rows_from(x.cache.keys(seq, op.layer, kv, at / CHUNK), at);
        let values = |at| rows_from(x.cache.values(seq, op.layer, kv, at / CHUNK), at);
        // The tile that comes next, be it of the span that this thread gets next. After the last one it is this one again.
        let next = if at + TILE < b.longest(x) { at + TILE } else { at };
        Tile { keys: keys(at), values: values(at), next_keys: keys(next).0, next_values: values(next).0 }
    }

    /// Scores of the `n` keys of a tile.
    fn score(&self, x: &Exec<'_>, b: Block, n: usize, tile: &Tile, m: &mut FewMemory<'_>) {
        let (k, a, (keys, stride)) = (x.kernels, &self.attend, tile.keys);
        let (k_dim, to) = (a.k_dim(), (m.scores.as_mut_ptr(), TILE));
        let (panel, wide) = (m.rows.as_mut_ptr(), panel_stride(k_dim.max(a.v_dim())));
        let q = (&*m.q, k_dim);
        // With MLA the second product is long enough to ask for the next tile.
        let ahead = if a.prefix { null() } else { tile.next_keys };
        // SAFETY: a tile lies in one chunk and ends before or with what the last row of the block sees, so `prepare` has
        // counted its keys and an earlier phase has stored them. `sizes` has made room for TILE rows of `wide` numbers, which
        // is no less than `k_dim` rounded up to 16, and for TILE scores of every query, all of this item alone.
        unsafe {
            if a.quantized() {
                k.attn_scores_q8((m.panels, b.n(), k_dim), (keys, stride, ahead), n, to);
            } else if a.direct(b) {
                k.attn_scores(a.k_ty, q, (keys, stride, ahead), n, to);
            } else {
                k.widen(a.k_ty, tile.keys, n, k_dim, (panel, wide), false, ahead);
                k.attn_scores(GgmlType::F32, q, (panel.cast(), 4 * wide, null()), n, to);
            }
        }
    }

    /// Adds the `n` values of a tile, each times its weight.
    fn weigh(
        &self,
        x: &Exec<'_>,
        b: Block,
        n: usize,
        tile: &Tile,
        m: &mut FewMemory<'_>,
        state: &mut Running<'_>,
    ) {
        let (k, a, (values, stride)) = (x.kernels, &self.attend, tile.values);
        let (v_dim, panel, wide) = (a.v_dim(), m.rows.as_mut_ptr(), panel_stride(a.k_dim().max(a.v_dim())));
        let (weights, acc) = ((m.scores.as_ptr(), TILE, b.n()), state.acc.as_mut_ptr());
        let next = (tile.next_values, n * stride);
        // SAFETY: as for the keys, whose tile the values share. If they are widened already, it is as keys, which are as wide at
        // least. `acc` has `v_dim` numbers for every query; what is next is not read.
        unsafe {
            if a.direct(b) {
                let rows = (values, stride, v_dim);
                return k.gemm_rows(a.v_ty, weights, n, rows, (acc, v_dim), Some(state.factors), next);
            }
            if a.prefix && !a.quantized() {
                let rows = (panel.cast_const(), wide, v_dim);
                return k.gemm_f32(weights, n, rows, (acc, v_dim), Some(state.factors), next);
            }
        }
        // In strips that fit the first-level cache.
        let (strip, format) = (if v_dim <= 256 { v_dim } else { STRIP }, a.v_ty.format());
        for c in (0..v_dim).step_by(strip) {
            let (width, wide) = (strip.min(v_dim - c), panel_stride(strip));
            let part = next.1 * c / v_dim..next.1 * (c + width) / v_dim;
            let ahead = (next.0.wrapping_add(part.start), part.len());
            // SAFETY: as above; strips begin with whole blocks and end within rows, and TILE rows of one fit where TILE rows of
            // keys do.
            unsafe {
                let from = (values.add(c / format.block * format.bytes), stride);
                k.widen(a.v_ty, from, n, width, (panel, wide), false, null());
                let rows = (panel.cast_const(), wide, width);
                k.gemm_f32(weights, n, rows, (acc.add(c), v_dim), Some(state.factors), ahead);
            }
        }
    }

    /// Keeps or writes what a span has come to.
    fn finish(&self, x: &Exec<'_>, b: Block, span: usize, state: &Running<'_>) {
        let (op, v) = (&self.attend.op, self.attend.v_dim());
        for j in 0..b.n() {
            let (i, h) = (b.first + j / b.heads, b.h0 + j % b.heads);
            let spans = n_spans(visible(x, i));
            if span >= spans {
                continue; // A later row of the group has one more.
            }
            if spans == 1 {
                self.attend.write(x, b, j, state);
                continue;
            }
            let at = FewRows::spans_of(op, x, self.spans, i, h);
            // SAFETY: the places of this span belong to this item alone.
            unsafe {
                at.add(span * v).copy_from_nonoverlapping(state.acc[j * v..].as_ptr(), v);
                *at.add(MAX_SPANS * v + span) = state.max[j];
                *at.add(MAX_SPANS * (v + 1) + span) = state.sum[j];
            }
        }
    }
}

impl SplitStep for FewRows {
    fn items(&self, x: &Exec<'_>) -> usize {
        if x.batch.len() > FEW {
            return 0;
        }
        let per_span = self.attend.op.n_head_kv * self.head_blocks(x);
        FewRows::groups(x).map(|g| g.2 * per_span).sum()
    }

    fn run(&self, x: &Exec<'_>, mut item: usize, mut scratch: Scratch<'_>) {
        let (group, blocks) = (self.attend.group(), self.head_blocks(x));
        let per_span = self.attend.op.n_head_kv * blocks;
        for (first, rows, spans) in FewRows::groups(x) {
            if item >= spans * per_span {
                item -= spans * per_span;
                continue;
            }
            // A thread gets items that follow each other: all blocks of heads over a span, then the next span.
            let (kv, span, block) = (item / blocks / spans, item / blocks % spans, item % blocks);
            let (b0, b1) = (block * group / blocks, (block + 1) * group / blocks);
            let b = Block { first, rows, h0: kv * group + b0, heads: b1 - b0 };
            let mut state = self.attend.running(b.n(), &mut scratch);
            let mut memory = self.memory(x, b, &mut scratch);
            let (longest, len) = (b.longest(x), span_len(b.longest(x)));
            let end = ((span + 1) * len).min(longest);
            for at in (span * len..end).step_by(TILE) {
                self.tile(x, b, (at, TILE.min(end - at)), &mut memory, &mut state);
            }
            return self.finish(x, b, span, &state);
        }
    }

    fn scratch(&self, max_rows: usize) -> usize {
        let n = max_rows.min(FEW) * self.attend.group();
        let floats = self.attend.running_sizes(n).map(|n| 4 * n);
        scratch_for(&floats) + scratch_for(&self.sizes(n)) + scratch_for(&self.quantize_sizes(n))
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
        let v = self.op.y.width;
        for h in 0..self.op.q.n {
            let at = FewRows::spans_of(&self.op, x, self.spans, i, h);
            // SAFETY: written in an earlier phase; the step owns row `i` of the output.
            unsafe {
                let max = std::slice::from_raw_parts(at.add(MAX_SPANS * v), spans);
                let sum = std::slice::from_raw_parts(at.add(MAX_SPANS * (v + 1)), spans);
                let mut factors = [0f32; MAX_SPANS];
                let factors = &mut factors[..spans];
                factors.copy_from_slice(max);
                x.kernels.softmax_exp(factors, x.kernels.max(max));
                let total: f32 = factors.iter().zip(sum).map(|(f, s)| f * s).sum();
                x.kernels.scale(1.0 / total, factors);
                let y = x.row_mut(head(self.op.y, h), i);
                x.kernels.gemm_f32(
                    (factors.as_ptr(), spans, 1),
                    spans,
                    (at, v, v),
                    (y.as_mut_ptr(), v),
                    None,
                    NOTHING_AHEAD,
                );
            }
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

    /// Floats of an item of `n` queries: queries, keys, values, scores.
    fn sizes(&self, n: usize) -> [usize; 4] {
        let (k, v) = (self.attend.k_dim(), self.attend.v_dim());
        [n * k, k * panel_stride(KEYS), KEYS * panel_stride(v), n * panel_stride(KEYS)]
    }

    /// A block of queries attends to all it sees.
    fn attend(&self, x: &Exec<'_>, b: Block, mut scratch: Scratch<'_>) {
        let (a, k, n) = (&self.attend, x.kernels, b.n());
        let (k_dim, v_dim, stride) = (a.k_dim(), a.v_dim(), panel_stride(KEYS));
        let (seq, kv) = (x.batch[b.first].seq, b.h0 / a.group());
        let state = a.running(n, &mut scratch);
        let [q, keys, values, scores] = self.sizes(n).map(|n| scratch.floats(n));
        a.gather(x, b, q);
        let longest = b.longest(x);
        for at in (0..longest).step_by(KEYS) {
            let n_keys = KEYS.min(longest - at);
            let from = rows_from(x.cache.keys(seq, a.op.layer, kv, at / CHUNK), at);
            // SAFETY: KEYS divides CHUNK, so the keys lie in one chunk, and they end before or with what the last row of the
            // block sees: `prepare` has counted them and an earlier phase has stored them. `sizes` has made room for `k_dim` rows
            // of `stride` numbers, for `n` queries and as many rows of scores, all of this item alone.
            unsafe {
                k.widen(a.k_ty, from, n_keys, k_dim, (keys.as_mut_ptr(), stride), true, null());
                let panel = (keys.as_ptr(), stride, n_keys);
                k.gemm_f32(
                    (q.as_ptr(), k_dim, n),
                    k_dim,
                    panel,
                    (scores.as_mut_ptr(), stride),
                    None,
                    NOTHING_AHEAD,
                );
            }
            let running = (&mut *state.max, &mut *state.sum, &mut *state.factors);
            k.softmax_step((scores, stride, n_keys), a.op.scale, b.seen(x, at), running);
            let from = rows_from(x.cache.values(seq, a.op.layer, kv, at / CHUNK), at);
            // SAFETY: as above; values have KEYS rows of more than `v_dim` rounded up to 16, `acc` has `v_dim` numbers for
            // every query.
            unsafe {
                k.widen(
                    a.v_ty,
                    from,
                    n_keys,
                    v_dim,
                    (values.as_mut_ptr(), panel_stride(v_dim)),
                    false,
                    null(),
                );
                let panel = (values.as_ptr(), panel_stride(v_dim), v_dim);
                let acc = (state.acc.as_mut_ptr(), v_dim);
                let p = (scores.as_ptr(), stride, n);
                k.gemm_f32(p, n_keys, panel, acc, Some(state.factors), NOTHING_AHEAD);
            }
        }
        (0..n).for_each(|j| a.write(x, b, j, &state));
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
        let (h0, heads) = (kv * group + b * heads, heads.min(group - b * heads));
        let (mut first, end) = (block * rows, ((block + 1) * rows).min(x.batch.len()));
        let memory = scratch.0;
        while first < end {
            let rows = (first..end).take_while(|&j| x.batch[j].seq == x.batch[first].seq).count();
            self.attend(x, Block { first, rows, h0, heads }, Scratch(&mut *memory));
            first += rows;
        }
    }

    fn scratch(&self, max_rows: usize) -> usize {
        let (heads, rows) = self.block();
        let n = heads * rows.min(max_rows);
        scratch_for(&self.attend.running_sizes(n).map(|n| 4 * n)) + scratch_for(&self.sizes(n).map(|n| 4 * n))
    }
}
