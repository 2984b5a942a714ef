//! MLA in its naive form, a head an item: keys and values of a tile of the cache are made for the head and attended to by all
//! rows of the batch, with a running softmax over the tiles.
//!
//! Everything is a product of F32 rows with an F32 panel: keys `[elements, keys]` of the head's matrix with the transposed
//! latents, values `[keys, elements]` of the latents with the transposed matrix, scores of the queries with the keys, outputs
//! of the weights with the values.

use std::ptr::null;

use super::super::exec::{Exec, Scratch, head, scratch_for};
use super::super::kernels::NOTHING_AHEAD;
use super::super::plan::SplitStep;
use super::attention::{KEYS, QUERIES, panel_stride, rows_from};
use crate::cache::CHUNK;
use crate::format::GgmlType;
use crate::graph::Stack;
use crate::ops::{KeyUp, MlaNaive};

/// [`MlaNaive`], a head an item.
pub(in super::super) struct NaiveHeads {
    pub op: MlaNaive,
    pub k_ty: GgmlType,
}

/// Memory of an item; `[rows, columns]` have rows of [`panel_stride`] of their columns.
struct Memory<'a> {
    /// `n_nope` rows of `kv_lora_rank` numbers.
    k_up: &'a mut [f32],
    /// `[kv_lora_rank, n_v]`.
    v_up: &'a mut [f32],
    /// A row as it is decoded.
    row: &'a mut [f32],
    /// Cached rows of a tile, transposed: `[latent + rope, KEYS]`.
    across: &'a mut [f32],
    /// The latents of a tile: `[KEYS, kv_lora_rank]`.
    latents: &'a mut [f32],
    /// `[n_nope + n_rope, KEYS]`.
    keys: &'a mut [f32],
    /// `[KEYS, n_v]`.
    values: &'a mut [f32],
    /// `[QUERIES, KEYS]`.
    scores: &'a mut [f32],
    /// Running maximum and sum of each row, and factors of a step.
    max: &'a mut [f32],
    sum: &'a mut [f32],
    factors: &'a mut [f32],
}

impl NaiveHeads {
    fn sizes(&self, rows: usize) -> [usize; 11] {
        let (o, r) = (&self.op, self.op.kv_lora_rank);
        let keys = panel_stride(KEYS);
        [
            o.n_nope * r,
            r * panel_stride(o.y.width),
            r.max(o.n_nope),
            (r + self.n_rope()) * keys,
            KEYS * panel_stride(r),
            o.q.width * keys,
            KEYS * panel_stride(o.y.width),
            QUERIES * keys,
            rows,
            rows,
            rows,
        ]
    }

    fn n_rope(&self) -> usize {
        self.op.q.width - self.op.n_nope
    }

    /// Calls `each` with the number and the values of every row of a head's matrix.
    fn decode(x: &Exec<'_>, s: Stack, h: usize, row: &mut [f32], mut each: impl FnMut(usize, &[f32])) {
        let t = x.graph.weight(s.w);
        let row = &mut row[..t.shape().row_len()];
        for r in 0..s.rows {
            t.ty().format().decode(t.row(s.row(h, r)), row);
            each(r, row);
        }
    }

    fn decode_up(&self, x: &Exec<'_>, h: usize, m: &mut Memory<'_>) {
        let (r, stride) = (self.op.kv_lora_rank, panel_stride(self.op.y.width));
        let transpose = |to: &mut [f32], stride: usize, column: usize, values: &[f32]| {
            values.iter().enumerate().for_each(|(d, v)| to[d * stride + column] = *v);
        };
        NaiveHeads::decode(x, self.op.v_up, h, m.row, |d, values| transpose(m.v_up, stride, d, values));
        match self.op.k_up {
            KeyUp::Rows(s) => {
                NaiveHeads::decode(x, s, h, m.row, |d, v| m.k_up[d * r..][..r].copy_from_slice(v));
            }
            KeyUp::Transposed(s) => {
                NaiveHeads::decode(x, s, h, m.row, |c, values| transpose(m.k_up, r, c, values));
            }
        }
    }

    /// Keys and values of the head for cached rows `at .. at + n` of a sequence, which lie in one tile.
    fn expand(&self, x: &Exec<'_>, seq: u32, (at, n): (usize, usize), m: &mut Memory<'_>) {
        let (k, r, nope, n_v) = (x.kernels, self.op.kv_lora_rank, self.op.n_nope, self.op.y.width);
        let (keys, latents, values) = (panel_stride(KEYS), panel_stride(r), panel_stride(n_v));
        let rows = rows_from(x.cache.keys(seq, self.op.layer, 0, at / CHUNK), at);
        // SAFETY: the chunk has these rows, written in earlier phases; `sizes` has made room for the panels.
        unsafe {
            k.widen(self.k_ty, rows, n, r + self.n_rope(), (m.across.as_mut_ptr(), keys), true, null());
            k.widen(self.k_ty, rows, n, r, (m.latents.as_mut_ptr(), latents), false, null());
            let to = (m.keys.as_mut_ptr(), keys);
            k.gemm_f32((m.k_up.as_ptr(), r, nope), r, (m.across.as_ptr(), keys, n), to, None, NOTHING_AHEAD);
            let to = (m.values.as_mut_ptr(), values);
            k.gemm_f32(
                (m.latents.as_ptr(), latents, n),
                r,
                (m.v_up.as_ptr(), values, n_v),
                to,
                None,
                NOTHING_AHEAD,
            );
        }
        m.keys[nope * keys..].copy_from_slice(&m.across[r * keys..]);
    }

    /// Rows `first .. first + rows` of the batch, of one sequence, attend to the tile's keys `at .. at + n`.
    fn attend(
        &self,
        x: &Exec<'_>,
        h: usize,
        (first, rows): (usize, usize),
        (at, n): (usize, usize),
        m: &mut Memory<'_>,
    ) {
        let (k, o, n_v, stride) = (x.kernels, &self.op, self.op.y.width, panel_stride(KEYS));
        let (q, y) = (head(o.q, h), head(o.y, h));
        let range = first..first + rows;
        // SAFETY: queries are of an earlier phase; the panel and the scores have room.
        unsafe {
            let q = (x.ptr(q, first).cast_const(), x.stride(q), rows);
            let panel = (m.keys.as_ptr(), stride, n);
            k.gemm_f32(q, o.q.width, panel, (m.scores.as_mut_ptr(), stride), None, NOTHING_AHEAD);
        }
        let seen = (x.batch[first].pos as isize + 1 - at as isize, 1);
        let running = (&mut m.max[range.clone()], &mut m.sum[range.clone()], &mut m.factors[range.clone()]);
        k.softmax_step((m.scores, stride, n), o.scale, seen, running);
        // SAFETY: as above; the item owns this head of the output.
        unsafe {
            let p = (m.scores.as_ptr(), stride, rows);
            let panel = (m.values.as_ptr(), panel_stride(n_v), n_v);
            let y = (x.ptr(y, first), x.stride(y));
            k.gemm_f32(p, n, panel, y, Some(&m.factors[range]), NOTHING_AHEAD);
        }
    }
}

impl SplitStep for NaiveHeads {
    fn items(&self, _x: &Exec<'_>) -> usize {
        self.op.q.n
    }

    fn run(&self, x: &Exec<'_>, h: usize, mut scratch: Scratch<'_>) {
        let [k_up, v_up, row, across, latents, keys, values, scores, max, sum, factors] =
            self.sizes(x.batch.len()).map(|n| scratch.floats(n));
        let mut m = Memory { k_up, v_up, row, across, latents, keys, values, scores, max, sum, factors };
        m.max.fill(f32::NEG_INFINITY);
        m.sum.fill(0.0);
        self.decode_up(x, h, &mut m);
        let mut first = 0;
        while first < x.batch.len() {
            let n = x.batch[first..].iter().take_while(|r| r.seq == x.batch[first].seq).count();
            for i in first..first + n {
                // SAFETY: the item owns this head of the output.
                unsafe { x.row_mut(head(self.op.y, h), i) }.fill(0.0);
            }
            let longest = x.batch[first + n - 1].pos as usize + 1;
            for at in (0..longest).step_by(KEYS) {
                let tile = (at, KEYS.min(longest - at));
                self.expand(x, x.batch[first].seq, tile, &mut m);
                for i in (first..first + n).step_by(QUERIES) {
                    let rows = QUERIES.min(first + n - i);
                    // Rows of a prompt see nothing of the tiles behind them.
                    if x.batch[i + rows - 1].pos as usize >= at {
                        self.attend(x, h, (i, rows), tile, &mut m);
                    }
                }
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
