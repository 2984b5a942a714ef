//! Rows in and out: token embeddings, and the choice of the rows whose output is wanted.

use super::{Access, Operation};
use crate::error::Result;
use crate::graph::{Graph, Rows, View, WeightId, ensure};
use crate::reference::Machine;

/// `y[t] = table[token of row t]`, decoded to F32.
#[derive(Clone, Debug)]
pub struct Embed {
    /// `[n_embd, n_vocab]`.
    pub table: WeightId,
    /// `[tokens, n_embd]`.
    pub y: View,
}

impl Operation for Embed {
    fn name(&self) -> &'static str {
        "embed"
    }

    fn check(&self, g: &Graph) -> Result<()> {
        let t = g.weight(self.table);
        ensure(t.shape().row_len() == self.y.width && g.rows(self.y.buf) == Rows::Tokens, self.name(), || {
            format!("{t:?} does not fill rows of {}", self.y.width)
        })
    }

    fn access(&self, a: &mut Access) {
        a.writes.push(self.y);
    }

    fn reference(&self, m: &mut Machine<'_>) {
        let table = m.weight(self.table);
        for i in 0..m.batch().len() {
            let token = m.batch()[i].token as usize;
            table.ty().format().decode(table.row(token), m.row_mut(self.y, i));
        }
    }
}

/// `y[j] = x[t]` for the rows `t` whose output is wanted, in order.
#[derive(Clone, Debug)]
pub struct SelectOutputs {
    /// `[tokens, n]`.
    pub x: View,
    /// `[outputs, n]`.
    pub y: View,
}

impl Operation for SelectOutputs {
    fn name(&self) -> &'static str {
        "select_outputs"
    }

    fn check(&self, g: &Graph) -> Result<()> {
        let ok = self.x.width == self.y.width
            && (g.rows(self.x.buf), g.rows(self.y.buf)) == (Rows::Tokens, Rows::Outputs);
        ensure(ok, self.name(), || format!("{:?} to {:?}", self.x, self.y))
    }

    fn access(&self, a: &mut Access) {
        a.reads.push(self.x);
        a.writes.push(self.y);
    }

    fn reference(&self, m: &mut Machine<'_>) {
        let wanted: Vec<usize> = (0..m.batch().len()).filter(|&t| m.batch()[t].output).collect();
        for (j, t) in wanted.into_iter().enumerate() {
            let x = m.row(self.x, t).to_vec();
            m.row_mut(self.y, j).copy_from_slice(&x);
        }
    }
}
