//! Root mean square normalization (Zhang and Sennrich, 2019).

use super::{Access, Operation};
use crate::error::Result;
use crate::graph::{Graph, View, WeightId, ensure};
use crate::reference::Machine;

/// `y = x / sqrt(mean(x²) + eps) · weight`, over groups of the weight's length: the whole row, or each head.
///
/// `y` may be `x`.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    /// `[rows, groups · n]`.
    pub x: View,
    /// `[n]`, F32.
    pub weight: WeightId,
    /// Added to the mean square.
    pub eps: f32,
    /// As `x`.
    pub y: View,
}

impl Operation for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn check(&self, g: &Graph) -> Result<()> {
        let w = g.weight(self.weight);
        let n = w.shape().n_elements();
        let ok = self.x.width == self.y.width
            && self.x.width.is_multiple_of(n)
            && w.shape().row_len() == n
            && (self.x == self.y || !self.x.overlaps(self.y))
            && g.rows(self.x.buf) == g.rows(self.y.buf);
        ensure(ok, self.name(), || format!("{w:?} does not divide rows of {}", self.x.width))
    }

    fn access(&self, a: &mut Access) {
        a.reads.push(self.x);
        a.writes.push(self.y);
    }

    fn reference(&self, m: &mut Machine<'_>) {
        let w = m.weight(self.weight).to_f32();
        for i in 0..m.n_rows(self.x.buf) {
            let x = m.row(self.x, i).to_vec();
            let y = m.row_mut(self.y, i);
            for (x, y) in x.chunks(w.len()).zip(y.chunks_mut(w.len())) {
                let mean = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>() / w.len() as f64;
                let scale = 1.0 / (mean as f32 + self.eps).sqrt();
                for ((y, x), w) in y.iter_mut().zip(x).zip(&w) {
                    *y = x * scale * w;
                }
            }
        }
    }
}
