//! Products with weight matrices. Activations meet quantized weights as 8-bit blocks, see [`crate::act`].

use super::{Access, Operation};
use crate::error::Result;
use crate::graph::{Graph, Heads, Stack, View, WeightId, ensure};
use crate::reference::Machine;

/// One matrix of a [`Linear`].
#[derive(Clone, Copy, Debug)]
pub struct Projection {
    /// `[n_in, n_out]`.
    pub w: WeightId,
    /// `[n_out]`, F32.
    pub bias: Option<WeightId>,
    /// `[rows, n_out]`.
    pub y: View,
}

/// `y = x · wᵀ + bias` for several matrices over the same input, such as Q, K and V;
/// with `add`, the products are added to what `y` holds: the residual stream.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[rows, n_in]`.
    pub x: View,
    /// The matrices.
    pub parts: Vec<Projection>,
    /// Whether to add to `y`.
    pub add: bool,
}

impl Operation for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn check(&self, g: &Graph) -> Result<()> {
        for p in &self.parts {
            let w = g.weight(p.w);
            let [n_in, n_out, ..] = w.shape().0;
            let ok = (n_in, n_out) == (self.x.width, p.y.width)
                && w.shape().n_rows() == n_out
                && g.rows(self.x.buf) == g.rows(p.y.buf)
                && self.x.buf != p.y.buf;
            ensure(ok, self.name(), || format!("{w:?} from {} to {} columns", self.x.width, p.y.width))?;
            if let Some(b) = p.bias {
                let b = g.weight(b);
                ensure(b.shape().n_elements() == n_out, self.name(), || {
                    format!("{b:?} is no bias of {w:?}")
                })?;
            }
        }
        Ok(())
    }

    fn access(&self, a: &mut Access) {
        a.reads.push(self.x);
        for p in &self.parts {
            a.writes.push(p.y);
            if self.add {
                a.reads.push(p.y);
            }
        }
    }

    fn reference(&self, m: &mut Machine<'_>) {
        for p in &self.parts {
            let w = m.weight(p.w);
            let bias = p.bias.map(|b| m.weight(b).to_f32());
            for i in 0..m.n_rows(self.x.buf) {
                let x = m.activations(w.ty(), m.row(self.x, i));
                let mut y: Vec<f32> = (0..p.y.width).map(|r| x.dot(w.row(r))).collect();
                if let Some(b) = &bias {
                    y.iter_mut().zip(b).for_each(|(y, b)| *y += b);
                }
                let out = m.row_mut(p.y, i);
                for (out, y) in out.iter_mut().zip(y) {
                    *out = if self.add { *out + y } else { y };
                }
            }
        }
    }
}

/// `y[h] = x[h] · w[h]ᵀ`: a matrix of its own for each head, as MLA's absorbed form needs them.
#[derive(Clone, Debug)]
pub struct HeadLinear {
    /// `n` heads of `n_in` columns.
    pub x: Heads,
    /// `n` matrices `[n_in, n_out]`.
    pub w: Stack,
    /// `n` heads of `n_out` columns.
    pub y: Heads,
}

impl Operation for HeadLinear {
    fn name(&self) -> &'static str {
        "head_linear"
    }

    fn check(&self, g: &Graph) -> Result<()> {
        let t = g.weight(self.w.w);
        let ok = self.w.fits(t, self.x.width, self.y.width)
            && self.x.n == self.y.n
            && self.w.n == self.x.n
            && g.rows(self.x.buf) == g.rows(self.y.buf)
            && self.x.buf != self.y.buf;
        ensure(ok, self.name(), || format!("{t:?} from {:?} to {:?}", self.x, self.y))
    }

    fn access(&self, a: &mut Access) {
        a.reads.push(self.x.span());
        a.writes.push(self.y.span());
    }

    fn reference(&self, m: &mut Machine<'_>) {
        let w = m.weight(self.w.w);
        for i in 0..m.n_rows(self.x.buf) {
            for h in 0..self.x.n {
                let x = m.activations(w.ty(), m.head(self.x, i, h));
                let y: Vec<f32> = (0..self.w.rows).map(|r| x.dot(w.row(self.w.row(h, r)))).collect();
                m.head_mut(self.y, i, h).copy_from_slice(&y);
            }
        }
    }
}
