//! The gated half of a feed-forward network (SwiGLU, Shazeer 2020).

use super::{Access, Operation};
use crate::error::Result;
use crate::graph::{Graph, View, WeightId, ensure};
use crate::reference::{Machine, silu};

/// `y = silu(x · gateᵀ) ⊙ (x · upᵀ)`.
#[derive(Clone, Debug)]
pub struct GateUp {
    /// `[rows, n_embd]`.
    pub x: View,
    /// `[n_embd, n_ff]`.
    pub gate: WeightId,
    /// `[n_embd, n_ff]`.
    pub up: WeightId,
    /// `[rows, n_ff]`.
    pub y: View,
}

impl Operation for GateUp {
    fn name(&self) -> &'static str {
        "gate_up"
    }

    fn check(&self, g: &Graph) -> Result<()> {
        for w in [self.gate, self.up] {
            let w = g.weight(w);
            let ok = w.shape().0 == [self.x.width, self.y.width, 1, 1]
                && g.rows(self.x.buf) == g.rows(self.y.buf)
                && self.x.buf != self.y.buf;
            ensure(ok, self.name(), || format!("{w:?} from {} to {} columns", self.x.width, self.y.width))?;
        }
        Ok(())
    }

    fn access(&self, a: &mut Access) {
        a.reads.push(self.x);
        a.writes.push(self.y);
    }

    fn reference(&self, m: &mut Machine<'_>) {
        let (gate, up) = (m.weight(self.gate), m.weight(self.up));
        for i in 0..m.n_rows(self.x.buf) {
            let xg = m.activations(gate.ty(), m.row(self.x, i));
            let xu = m.activations(up.ty(), m.row(self.x, i));
            let y: Vec<f32> =
                (0..self.y.width).map(|r| silu(xg.dot(gate.row(r))) * xu.dot(up.row(r))).collect();
            m.row_mut(self.y, i).copy_from_slice(&y);
        }
    }
}
