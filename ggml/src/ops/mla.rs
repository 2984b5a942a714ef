//! Multi-head latent attention in its naive form (DeepSeek-V2, 2024): keys and values of every head are made
//! from the cached latents, then attended to as usual.
//!
//! The absorbed form needs no operation of its own: [`super::HeadLinear`] moves the queries into the latent
//! space, [`super::Attention`] runs over the latents, [`super::HeadLinear`] brings the result back.

use super::attention::{scores, softmax};
use super::{Access, Operation};
use crate::error::Result;
use crate::graph::{Graph, Heads, Rows, Stack, ensure};
use crate::reference::Machine;

/// How the key matrices of the heads are stored. The naive form multiplies the F32 latent with the
/// decoded matrix, so both give the same products.
#[derive(Clone, Copy, Debug)]
pub enum KeyUp {
    /// Rows are key elements: matrices `[kv_lora_rank, n_nope]` (files with `attn_kv_b`).
    Rows(Stack),
    /// Rows are latent elements: matrices `[n_nope, kv_lora_rank]` (files with `attn_k_b`).
    Transposed(Stack),
}

impl KeyUp {
    /// The matrices, whichever way they lie.
    pub fn stack(&self) -> Stack {
        match *self {
            KeyUp::Rows(s) | KeyUp::Transposed(s) => s,
        }
    }
}

/// `y[h] = Σᵢ softmaxᵢ(scale · (q_nope[h]·(k_up[h] cᵢ) + q_rope[h]·rᵢ)) v_up[h] cᵢ` over the cached rows `[cᵢ | rᵢ]`.
#[derive(Clone, Debug)]
pub struct MlaNaive {
    /// The layer of the cache.
    pub layer: usize,
    /// `n_head` heads `[nope | rope]`.
    pub q: Heads,
    /// Elements of the latent.
    pub kv_lora_rank: usize,
    /// Elements of a head without position.
    pub n_nope: usize,
    /// Keys from latents.
    pub k_up: KeyUp,
    /// Values from latents: matrices `[kv_lora_rank, n_v]`.
    pub v_up: Stack,
    /// Factor of the scores.
    pub scale: f32,
    /// `n_head` heads of `n_v` columns.
    pub y: Heads,
}

impl Operation for MlaNaive {
    fn name(&self) -> &'static str {
        "mla_naive"
    }

    fn check(&self, g: &Graph) -> Result<()> {
        let (k, v) = (self.k_up.stack(), self.v_up);
        let (k_cols, k_rows) = match self.k_up {
            KeyUp::Rows(_) => (self.kv_lora_rank, self.n_nope),
            KeyUp::Transposed(_) => (self.n_nope, self.kv_lora_rank),
        };
        let ok = k.fits(g.weight(k.w), k_cols, k_rows)
            && v.fits(g.weight(v.w), self.kv_lora_rank, self.y.width)
            && (k.n, v.n, self.y.n) == (self.q.n, self.q.n, self.q.n)
            && self.q.width > self.n_nope
            && g.rows(self.q.buf) == Rows::Tokens
            && g.rows(self.y.buf) == Rows::Tokens
            && self.q.buf != self.y.buf;
        ensure(ok, self.name(), || format!("{k:?} and {v:?} from {:?} to {:?}", self.q, self.y))
    }

    fn access(&self, a: &mut Access) {
        a.reads.push(self.q.span());
        a.writes.push(self.y.span());
        a.cache_reads.push(self.layer);
    }

    fn reference(&self, m: &mut Machine<'_>) {
        let v_rows = m.weight(self.v_up.w).to_f32();
        for i in 0..m.batch().len() {
            let n = m.batch()[i].pos as usize + 1;
            let rows: Vec<Vec<f32>> = (0..n).map(|p| m.cached_key(self.layer, i, 0, p)).collect();
            for h in 0..self.q.n {
                let q = m.head(self.q, i, h).to_vec();
                let k_up = self.key_matrix(m, h);
                let keys: Vec<Vec<f32>> = rows.iter().map(|row| self.key(&k_up, row)).collect();
                let weights = softmax(&scores(&q, &keys, self.scale));
                let mut latent = vec![0f64; self.kv_lora_rank];
                for (w, row) in weights.iter().zip(&rows) {
                    latent.iter_mut().zip(row).for_each(|(l, c)| *l += w * f64::from(*c));
                }
                for (d, y) in m.head_mut(self.y, i, h).iter_mut().enumerate() {
                    let row = &v_rows[self.v_up.row(h, d) * self.kv_lora_rank..][..self.kv_lora_rank];
                    *y = row.iter().zip(&latent).map(|(a, b)| f64::from(*a) * b).sum::<f64>() as f32;
                }
            }
        }
    }
}

impl MlaNaive {
    /// The key matrix of a head as `[n_nope][kv_lora_rank]`.
    fn key_matrix(&self, m: &Machine<'_>, h: usize) -> Vec<Vec<f32>> {
        let s = self.k_up.stack();
        let t = m.weight(s.w);
        let row = |r: usize| {
            let mut out = vec![0.0; t.shape().row_len()];
            t.ty().format().decode(t.row(s.row(h, r)), &mut out);
            out
        };
        let rows: Vec<Vec<f32>> = (0..s.rows).map(row).collect();
        match self.k_up {
            KeyUp::Rows(_) => rows,
            KeyUp::Transposed(_) => {
                (0..self.n_nope).map(|d| rows.iter().map(|latent| latent[d]).collect()).collect()
            }
        }
    }

    /// `[k_up · c | r]` of one cached row.
    fn key(&self, k_up: &[Vec<f32>], row: &[f32]) -> Vec<f32> {
        let (c, r) = row.split_at(self.kv_lora_rank);
        let dot =
            |k: &Vec<f32>| k.iter().zip(c).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32;
        k_up.iter().map(dot).chain(r.iter().copied()).collect()
    }
}
