//! Sums of buffers.

use super::{Access, Operation};
use crate::error::Result;
use crate::graph::{Graph, View, ensure};
use crate::reference::Machine;

/// `y += x`.
#[derive(Clone, Copy, Debug)]
pub struct Add {
    /// `[rows, n]`.
    pub x: View,
    /// `[rows, n]`, of another buffer.
    pub y: View,
}

impl Operation for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn check(&self, g: &Graph) -> Result<()> {
        let ok = self.x.width == self.y.width
            && g.rows(self.x.buf) == g.rows(self.y.buf)
            && self.x.buf != self.y.buf;
        ensure(ok, self.name(), || format!("{:?} to {:?}", self.x, self.y))
    }

    fn access(&self, a: &mut Access) {
        a.reads.extend([self.x, self.y]);
        a.writes.push(self.y);
    }

    fn reference(&self, m: &mut Machine<'_>) {
        for i in 0..m.n_rows(self.x.buf) {
            let x = m.row(self.x, i).to_vec();
            m.row_mut(self.y, i).iter_mut().zip(x).for_each(|(y, x)| *y += x);
        }
    }
}
