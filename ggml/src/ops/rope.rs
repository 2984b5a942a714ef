//! Rotary position embeddings (Su et al., 2021). Scalings such as YaRN live in the frequencies, which the
//! model computes once.

use std::sync::Arc;

use super::{Access, Operation};
use crate::error::Result;
use crate::graph::{Graph, Heads, Rows, View, ensure};
use crate::reference::Machine;

/// `y[t] = [cos(p·f₀)·scale … cos(p·fₙ)·scale, sin(p·f₀)·scale … sin(p·fₙ)·scale]` with p the position of row t.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// Radians per position, one a pair.
    pub freqs: Arc<[f32]>,
    /// Scale of cosine and sine (YaRN's attention factor, where the model scales there).
    pub scale: f32,
    /// `[tokens, 2 · pairs]`.
    pub y: View,
}

impl RopeTable {
    /// Fills one row.
    pub fn fill(&self, pos: u32, y: &mut [f32]) {
        let (cos, sin) = y.split_at_mut(self.freqs.len());
        for ((c, s), f) in cos.iter_mut().zip(sin).zip(self.freqs.iter()) {
            // The product is F32, as in the implementations that models are trained and compared with.
            let (sin, cos) = (pos as f32 * f).sin_cos();
            *c = cos * self.scale;
            *s = sin * self.scale;
        }
    }
}

impl Operation for RopeTable {
    fn name(&self) -> &'static str {
        "rope_table"
    }

    fn check(&self, g: &Graph) -> Result<()> {
        let ok = self.y.width == 2 * self.freqs.len() && g.rows(self.y.buf) == Rows::Tokens;
        ensure(ok, self.name(), || format!("{} frequencies in {} columns", self.freqs.len(), self.y.width))
    }

    fn access(&self, a: &mut Access) {
        a.writes.push(self.y);
    }

    fn reference(&self, m: &mut Machine<'_>) {
        for i in 0..m.batch().len() {
            let pos = m.batch()[i].pos;
            self.fill(pos, m.row_mut(self.y, i));
        }
    }
}

/// Which elements of a head are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Neighbours: (0, 1), (2, 3), … (llama, deepseek2).
    Adjacent,
    /// Halves: (0, n/2), (1, n/2 + 1), … (qwen; "NeoX").
    Halves,
}

/// Rotates the first `2 · pairs` columns of each head by the angles of a table; the rest is copied.
///
/// `y` may be `x`, or another place with heads of the same width.
#[derive(Clone, Debug)]
pub struct Rope {
    /// The heads.
    pub x: Heads,
    /// Output of a [`RopeTable`].
    pub table: View,
    /// The pairs.
    pub pairing: Pairing,
    /// As `x`.
    pub y: Heads,
}

impl Rope {
    /// Rotates one head in place; `table` is a row of the table.
    pub fn rotate(&self, table: &[f32], y: &mut [f32]) {
        let pairs = table.len() / 2;
        let (cos, sin) = table.split_at(pairs);
        let turn = |a: f32, b: f32, i: usize| (a * cos[i] - b * sin[i], a * sin[i] + b * cos[i]);
        match self.pairing {
            Pairing::Adjacent => {
                for (i, pair) in y[..2 * pairs].as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    (pair[0], pair[1]) = turn(pair[0], pair[1], i);
                }
            }
            Pairing::Halves => {
                let (first, second) = y[..2 * pairs].split_at_mut(pairs);
                for (i, (a, b)) in first.iter_mut().zip(second).enumerate() {
                    (*a, *b) = turn(*a, *b, i);
                }
            }
        }
    }
}

impl Operation for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn check(&self, g: &Graph) -> Result<()> {
        let ok = self.x.width == self.y.width
            && self.x.n == self.y.n
            && self.table.width <= self.x.width
            && self.table.width.is_multiple_of(2)
            && [self.x.buf, self.y.buf, self.table.buf].iter().all(|&b| g.rows(b) == Rows::Tokens);
        ensure(ok, self.name(), || format!("{:?} by {:?} to {:?}", self.x, self.table, self.y))
    }

    fn access(&self, a: &mut Access) {
        a.reads.extend([self.x.span(), self.table]);
        a.writes.push(self.y.span());
    }

    fn reference(&self, m: &mut Machine<'_>) {
        for i in 0..m.batch().len() {
            let table = m.row(self.table, i).to_vec();
            for h in 0..self.x.n {
                let x = m.head(self.x, i, h).to_vec();
                let y = m.head_mut(self.y, i, h);
                y.copy_from_slice(&x);
                self.rotate(&table, y);
            }
        }
    }
}
