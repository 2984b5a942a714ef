//! The chosen experts of a mixture.

use super::{Access, Operation};
use crate::error::Result;
use crate::graph::{Graph, Rows, SKIPPED, SelId, Stack, View, ensure};
use crate::reference::{Machine, silu};

/// `y += Σⱼ wⱼ · down[eⱼ](silu(gate[eⱼ] x) ⊙ up[eⱼ] x)` over the chosen experts (eⱼ, wⱼ) of a row that are not
/// [skipped](crate::graph::SKIPPED), in their order.
#[derive(Clone, Debug)]
pub struct Experts {
    /// `[tokens, n_embd]`.
    pub x: View,
    /// The choice.
    pub sel: SelId,
    /// A matrix `[n_embd, n_ff]` an expert.
    pub gate: Stack,
    /// A matrix `[n_embd, n_ff]` an expert.
    pub up: Stack,
    /// A matrix `[n_ff, n_embd]` an expert.
    pub down: Stack,
    /// `[tokens, n_embd]`, added to.
    pub y: View,
    /// `[tokens, n_used · n_ff]`, where the input of `down` is to be kept for each choice, side by side. For one that is
    /// skipped, nothing is.
    pub hidden: Option<View>,
}

impl Operation for Experts {
    fn name(&self) -> &'static str {
        "experts"
    }

    fn check(&self, g: &Graph) -> Result<()> {
        let (n_embd, n_ff) = (self.x.width, self.gate.rows);
        let ok = self.gate.fits(g.weight(self.gate.w), n_embd, n_ff)
            && self.up.fits(g.weight(self.up.w), n_embd, n_ff)
            && self.down.fits(g.weight(self.down.w), n_ff, self.y.width)
            && (self.up.n, self.down.n) == (self.gate.n, self.gate.n)
            && self.x.buf != self.y.buf
            && g.rows(self.x.buf) == Rows::Tokens
            && g.rows(self.y.buf) == Rows::Tokens
            && self
                .hidden
                .is_none_or(|h| h.width == n_ff * g.n_used(self.sel) && g.rows(h.buf) == Rows::Tokens);
        ensure(ok, self.name(), || {
            let [gate, up, down] = [self.gate, self.up, self.down].map(|s| g.weight(s.w).clone());
            format!("{gate:?}, {up:?}, {down:?} from {n_embd} to {} columns", self.y.width)
        })
    }

    fn access(&self, a: &mut Access) {
        a.reads.extend([self.x, self.y]);
        a.writes.push(self.y);
        a.writes.extend(self.hidden);
        a.sel_reads.push(self.sel);
    }

    fn reference(&self, m: &mut Machine<'_>) {
        let [gate, up, down] = [self.gate, self.up, self.down].map(|s| m.weight(s.w));
        for i in 0..m.batch().len() {
            for (j, (expert, weight)) in m.chosen(self.sel, i).to_vec().into_iter().enumerate() {
                if expert == SKIPPED {
                    continue;
                }
                let e = expert as usize;
                let xg = m.activations(gate.ty(), m.row(self.x, i));
                let xu = m.activations(up.ty(), m.row(self.x, i));
                let hidden: Vec<f32> = (0..self.gate.rows)
                    .map(|r| silu(xg.dot(gate.row(self.gate.row(e, r)))) * xu.dot(up.row(self.up.row(e, r))))
                    .collect();
                if let Some(kept) = self.hidden {
                    m.row_mut(kept.cols(j * hidden.len(), hidden.len()), i).copy_from_slice(&hidden);
                }
                let hidden = m.activations(down.ty(), &hidden);
                let out: Vec<f32> =
                    (0..self.y.width).map(|r| hidden.dot(down.row(self.down.row(e, r)))).collect();
                let y = m.row_mut(self.y, i);
                y.iter_mut().zip(out).for_each(|(y, o)| *y += weight * o);
            }
        }
    }
}
