//! Storing keys and values, and attention over them.

use super::{Access, Operation};
use crate::error::Result;
use crate::graph::{Graph, Heads, Rows, ensure};
use crate::reference::Machine;

/// Writes the key and value rows of the batch into a layer of the cache, encoded in its formats.
#[derive(Clone, Debug)]
pub struct StoreKv {
    /// The layer of the cache.
    pub layer: usize,
    /// `n_head_kv` heads of keys.
    pub k: Heads,
    /// `n_head_kv` heads of values; `None` where values are part of the key rows (MLA).
    pub v: Option<Heads>,
}

impl Operation for StoreKv {
    fn name(&self) -> &'static str {
        "store_kv"
    }

    fn check(&self, g: &Graph) -> Result<()> {
        let ok = g.rows(self.k.buf) == Rows::Tokens && self.v.is_none_or(|v| v.n == self.k.n);
        ensure(ok, self.name(), || format!("{:?} and {:?}", self.k, self.v))
    }

    fn access(&self, a: &mut Access) {
        a.reads.push(self.k.span());
        a.reads.extend(self.v.map(Heads::span));
        a.cache_writes.push(self.layer);
    }

    fn reference(&self, m: &mut Machine<'_>) {
        for i in 0..m.batch().len() {
            for h in 0..self.k.n {
                let k = m.head(self.k, i, h).to_vec();
                m.store_key(self.layer, i, h, &k);
                if let Some(v) = self.v {
                    let v = m.head(v, i, h).to_vec();
                    m.store_value(self.layer, i, h, &v);
                }
            }
        }
    }
}

/// Causal attention of each row over its own sequence up to and including its position:
/// `y[h] = Σᵢ softmaxᵢ(scale · q[h]·kᵢ) vᵢ`, query head h using key/value head h · n_head_kv / n_head.
///
/// With one head of rows `[latent | rope]` whose values are key prefixes this is MLA's absorbed form.
#[derive(Clone, Debug)]
pub struct Attention {
    /// The layer of the cache.
    pub layer: usize,
    /// Key/value heads of that layer.
    pub n_head_kv: usize,
    /// `n_head` heads of key width.
    pub q: Heads,
    /// Factor of the scores.
    pub scale: f32,
    /// `n_head` heads of value width.
    pub y: Heads,
}

impl Operation for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn check(&self, g: &Graph) -> Result<()> {
        let ok = self.q.n == self.y.n
            && self.n_head_kv > 0
            && self.q.n.is_multiple_of(self.n_head_kv)
            && g.rows(self.q.buf) == Rows::Tokens
            && g.rows(self.y.buf) == Rows::Tokens
            && self.q.buf != self.y.buf;
        ensure(ok, self.name(), || format!("{:?} over {} heads to {:?}", self.q, self.n_head_kv, self.y))
    }

    fn access(&self, a: &mut Access) {
        a.reads.push(self.q.span());
        a.writes.push(self.y.span());
        a.cache_reads.push(self.layer);
    }

    fn reference(&self, m: &mut Machine<'_>) {
        let group = self.q.n / self.n_head_kv;
        for i in 0..m.batch().len() {
            let n = m.batch()[i].pos as usize + 1;
            for h in 0..self.q.n {
                let q = m.head(self.q, i, h).to_vec();
                let keys: Vec<Vec<f32>> = (0..n).map(|p| m.cached_key(self.layer, i, h / group, p)).collect();
                let weights = softmax(&scores(&q, &keys, self.scale));
                let mut y = vec![0f64; self.y.width];
                for (p, w) in weights.iter().enumerate() {
                    let v = m.cached_value(self.layer, i, h / group, p);
                    y.iter_mut().zip(&v).for_each(|(y, v)| *y += w * f64::from(*v));
                }
                m.head_mut(self.y, i, h).iter_mut().zip(y).for_each(|(out, y)| *out = y as f32);
            }
        }
    }
}

/// `scale · q·k` for every key, in F64.
pub(super) fn scores(q: &[f32], keys: &[Vec<f32>], scale: f32) -> Vec<f64> {
    let dot = |k: &Vec<f32>| q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    keys.iter().map(|k| dot(k) * f64::from(scale)).collect()
}

/// Softmax in F64.
pub(super) fn softmax(scores: &[f64]) -> Vec<f64> {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exp: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.iter().map(|e| e / sum).collect()
}
