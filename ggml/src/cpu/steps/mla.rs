//! MLA in its naive form, a head an item: keys and values of a chunk of the cache are made for the head and attended to by all
//! rows of the batch, with a running softmax over the chunks.
//!
//! Both products leave their results transposed, `[elements, keys]`, because the cached rows play the part of the weights; scores
//! are then sums of key elements weighted by the query, and outputs are dot products of the weights with value elements.

use super::super::exec::{Exec, Scratch, head, scratch_for};
use super::super::plan::SplitStep;
use crate::cache::CHUNK;
use crate::format::{GgmlType, Kind};
use crate::graph::Stack;
use crate::ops::{KeyUp, MlaNaive};

/// Rows of the batch that are scored together.
const ROWS: usize = 32;

/// [`MlaNaive`], a head an item.
pub(in super::super) struct NaiveHeads {
    pub op: MlaNaive,
    pub k_ty: GgmlType,
}

/// Memory of an item.
struct Memory<'a> {
    /// `[n_nope, kv_lora_rank]`.
    k_up: &'a mut [f32],
    /// `[n_v, kv_lora_rank]`.
    v_up: &'a mut [f32],
    /// Decoded rows of a chunk, where the cache is quantized: `[CHUNK, latent + rope]`.
    rows: &'a mut [f32],
    /// `[n_nope, CHUNK]`.
    keys: &'a mut [f32],
    /// `[n_v, CHUNK]`.
    values: &'a mut [f32],
    /// `[ROWS, CHUNK]`.
    scores: &'a mut [f32],
    /// `[ROWS, n_nope]` and `[ROWS, n_rope]`.
    q_nope: &'a mut [f32],
    q_rope: &'a mut [f32],
    /// `[ROWS, n_v]`.
    out: &'a mut [f32],
    /// Running maximum and sum of each row.
    max: &'a mut [f32],
    sum: &'a mut [f32],
}

/// Rows of a chunk as they are multiplied: type, first row, bytes from row to row.
#[derive(Clone, Copy)]
struct ChunkRows {
    ty: GgmlType,
    ptr: *const u8,
    stride: usize,
    n: usize,
}

impl NaiveHeads {
    fn sizes(&self, rows: usize) -> [usize; 11] {
        let (o, r) = (&self.op, self.op.kv_lora_rank);
        let (n_v, n_rope) = (o.y.width, o.q.width - o.n_nope);
        let decoded = if self.quantized() { CHUNK * (r + n_rope) } else { 0 };
        let transposed = if matches!(o.k_up, KeyUp::Transposed(_)) { o.n_nope } else { 0 };
        [
            o.n_nope * r,
            n_v * r,
            decoded.max(transposed),
            o.n_nope * CHUNK,
            n_v * CHUNK,
            ROWS * CHUNK,
            ROWS * o.n_nope,
            ROWS * n_rope,
            ROWS * n_v,
            rows,
            rows,
        ]
    }

    fn quantized(&self) -> bool {
        matches!(self.k_ty.format().kind, Kind::Blocks(_))
    }

    fn decode_rows(x: &Exec<'_>, s: Stack, h: usize, to: &mut [f32]) {
        let t = x.graph.weight(s.w);
        for (r, to) in to.chunks_exact_mut(t.shape().row_len()).enumerate() {
            t.ty().format().decode(t.row(s.row(h, r)), to);
        }
    }

    fn decode_up(&self, x: &Exec<'_>, h: usize, m: &mut Memory<'_>) {
        let (r, nope) = (self.op.kv_lora_rank, self.op.n_nope);
        NaiveHeads::decode_rows(x, self.op.v_up, h, m.v_up);
        match self.op.k_up {
            KeyUp::Rows(s) => NaiveHeads::decode_rows(x, s, h, m.k_up),
            KeyUp::Transposed(s) => {
                let (t, row) = (x.graph.weight(s.w), &mut m.rows[..nope]);
                for c in 0..r {
                    t.ty().format().decode(t.row(s.row(h, c)), row);
                    row.iter().enumerate().for_each(|(d, v)| m.k_up[d * r + c] = *v);
                }
            }
        }
    }

    /// The rows of a chunk, decoded if they are quantized.
    fn chunk_rows(&self, x: &Exec<'_>, seq: u32, chunk: usize, n: usize, m: &mut Memory<'_>) -> ChunkRows {
        let at = x.cache.keys(seq, self.op.layer, 0, chunk);
        if !self.quantized() {
            return ChunkRows { ty: self.k_ty, ptr: at.ptr, stride: at.stride, n };
        }
        let width = self.op.kv_lora_rank + self.op.q.width - self.op.n_nope;
        for (i, to) in m.rows.chunks_exact_mut(width).take(n).enumerate() {
            self.k_ty.format().decode(x.cache.key_row(seq, self.op.layer, 0, chunk * CHUNK + i), to);
        }
        ChunkRows { ty: GgmlType::F32, ptr: m.rows.as_ptr().cast(), stride: 4 * width, n }
    }

    /// Keys and values of the head for a chunk.
    fn expand(&self, x: &Exec<'_>, rows: ChunkRows, m: &mut Memory<'_>) {
        let r = self.op.kv_lora_rank;
        let products = [
            (&*m.k_up, self.op.n_nope, m.keys.as_mut_ptr()),
            (&*m.v_up, self.op.y.width, m.values.as_mut_ptr()),
        ];
        for (up, n, to) in products {
            // SAFETY: a chunk has all its rows, of at least `r` elements; `to` has CHUNK numbers for each of `n` elements.
            unsafe { x.kernels.attn_scores(rows.ty, up, r, rows.ptr, rows.stride, rows.n, 1.0, to, CHUNK) };
            debug_assert_eq!(up.len(), n * r);
        }
    }

    /// All rows `first .. first + n` of the batch, of one sequence, attend to a chunk.
    fn attend(&self, x: &Exec<'_>, h: usize, (first, n): (usize, usize), chunk: usize, m: &mut Memory<'_>) {
        let seq = x.batch[first].seq;
        let n_keys = (x.batch[first + n - 1].pos as usize + 1 - chunk * CHUNK).min(CHUNK);
        let rows = self.chunk_rows(x, seq, chunk, n_keys, m);
        self.expand(x, rows, m);
        for i in (first..first + n).step_by(ROWS) {
            self.attend_rows(x, h, (i, ROWS.min(first + n - i)), chunk, rows, m);
        }
    }

    fn attend_rows(
        &self,
        x: &Exec<'_>,
        h: usize,
        (first, n): (usize, usize),
        chunk: usize,
        rows: ChunkRows,
        m: &mut Memory<'_>,
    ) {
        let (nope, n_v) = (self.op.n_nope, self.op.y.width);
        let n_rope = self.op.q.width - nope;
        let width = rows.ty.format();
        let rope_at = self.op.kv_lora_rank / width.block * width.bytes;
        for i in 0..n {
            // SAFETY: queries are of an earlier phase.
            let q = unsafe { x.row(head(self.op.q, h), first + i) };
            m.q_nope[i * nope..][..nope].copy_from_slice(&q[..nope]);
            m.q_rope[i * n_rope..][..n_rope].copy_from_slice(&q[nope..]);
        }
        let (k, scores) = (x.kernels, m.scores.as_mut_ptr());
        // SAFETY: keys are `[n_nope, CHUNK]`, scores `[ROWS, CHUNK]`, and the rows of the chunk hold their rope part
        // behind the latent.
        unsafe {
            let (q, ptr) = (&m.q_rope[..n * n_rope], rows.ptr.add(rope_at));
            k.attn_scores(rows.ty, q, n_rope, ptr, rows.stride, rows.n, 1.0, scores, CHUNK);
            let keys = m.keys.as_ptr().cast();
            k.attn_values(GgmlType::F32, m.q_nope, nope, n, keys, 4 * CHUNK, nope, rows.n, scores, CHUNK);
        }
        for i in 0..n {
            let row = first + i;
            let seen = (x.batch[row].pos as usize + 1).saturating_sub(chunk * CHUNK).min(rows.n);
            let scores = &mut m.scores[i * CHUNK..][..CHUNK];
            scores[seen..].fill(0.0);
            if seen == 0 {
                continue;
            }
            k.scale(self.op.scale, &mut scores[..seen]);
            let max = k.max(&scores[..seen]).max(m.max[row]);
            let sum = k.softmax_exp(&mut scores[..seen], max);
            let shrink = (m.max[row] - max).exp();
            // SAFETY: the item owns this head of the output.
            k.scale(shrink, unsafe { x.row_mut(head(self.op.y, h), row) });
            m.sum[row] = m.sum[row] * shrink + sum;
            m.max[row] = max;
        }
        // SAFETY: values are `[n_v, CHUNK]`, of which the first `n` of each are multiplied; `out` is `[ROWS, n_v]`.
        unsafe {
            let values = m.values.as_ptr().cast();
            let (p, out) = (&m.scores[..n * CHUNK], m.out.as_mut_ptr());
            k.attn_scores(GgmlType::F32, p, CHUNK, values, 4 * CHUNK, n_v, 1.0, out, n_v);
        }
        for (i, out) in m.out.chunks_exact(n_v).take(n).enumerate() {
            // SAFETY: as above.
            k.add(out, unsafe { x.row_mut(head(self.op.y, h), first + i) });
        }
    }
}

impl SplitStep for NaiveHeads {
    fn items(&self, _x: &Exec<'_>) -> usize {
        self.op.q.n
    }

    fn run(&self, x: &Exec<'_>, h: usize, mut scratch: Scratch<'_>) {
        let [k_up, v_up, rows, keys, values, scores, q_nope, q_rope, out, max, sum] =
            self.sizes(x.batch.len()).map(|n| scratch.floats(n));
        let mut m = Memory { k_up, v_up, rows, keys, values, scores, q_nope, q_rope, out, max, sum };
        m.max.fill(f32::NEG_INFINITY);
        m.sum.fill(0.0);
        // Products run over whole chunks of keys: what is not there counts as zero, not as what memory held.
        m.values.fill(0.0);
        self.decode_up(x, h, &mut m);
        let mut first = 0;
        while first < x.batch.len() {
            let n = x.batch[first..].iter().take_while(|r| r.seq == x.batch[first].seq).count();
            for i in first..first + n {
                // SAFETY: the item owns this head of the output.
                unsafe { x.row_mut(head(self.op.y, h), i) }.fill(0.0);
            }
            let longest = x.batch[first + n - 1].pos as usize + 1;
            for chunk in 0..longest.div_ceil(CHUNK) {
                self.attend(x, h, (first, n), chunk, &mut m);
            }
            for i in first..first + n {
                // SAFETY: as above.
                x.kernels.scale(1.0 / m.sum[i], unsafe { x.row_mut(head(self.op.y, h), i) });
            }
            first += n;
        }
    }

    fn scratch(&self, max_rows: usize) -> usize {
        scratch_for(&self.sizes(max_rows).map(|n| 4 * n))
    }
}
