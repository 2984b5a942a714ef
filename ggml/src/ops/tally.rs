//! Watching a model run: sums of squares of activations, of which importance matrices are made.

use super::{Access, Operation};
use crate::error::Result;
use crate::graph::{Graph, Heads, Rows, SelId, TallyId, ensure};
use crate::reference::Machine;

/// Adds the squares of `x` to a [tally](TallyId), which lasts from run to run.
///
/// Without `sel`, head `h` belongs to group `h` of the tally. With it, groups are experts: what a row has belongs to the
/// experts that it chose, one head for each choice, or one head for all of them.
#[derive(Clone, Copy, Debug)]
pub struct SumSquares {
    /// Heads of as many columns as the tally has.
    pub x: Heads,
    /// The choice.
    pub sel: Option<SelId>,
    /// Where the sums are kept.
    pub to: TallyId,
}

impl SumSquares {
    /// The head that belongs to choice `j` of a row.
    pub(crate) fn head_of(&self, j: usize) -> usize {
        if self.x.n == 1 { 0 } else { j }
    }
}

impl Operation for SumSquares {
    fn name(&self) -> &'static str {
        "sum_squares"
    }

    fn check(&self, g: &Graph) -> Result<()> {
        let tally = g.tally_shape(self.to);
        let ok = match self.sel {
            None => self.x.n == tally.groups,
            Some(sel) => g.rows(self.x.buf) == Rows::Tokens && (self.x.n == 1 || self.x.n == g.n_used(sel)),
        };
        ensure(ok && self.x.width == tally.width, self.name(), || format!("{:?} into {tally:?}", self.x))
    }

    fn access(&self, a: &mut Access) {
        a.reads.push(self.x.span());
        a.sel_reads.extend(self.sel);
        a.tally_writes.push(self.to);
    }

    fn reference(&self, m: &mut Machine<'_>) {
        for i in 0..m.n_rows(self.x.buf) {
            let groups: Vec<usize> = match self.sel {
                None => (0..self.x.n).collect(),
                Some(sel) => m.chosen(sel, i).iter().map(|c| c.0 as usize).collect(),
            };
            for (j, group) in groups.into_iter().enumerate() {
                let head = if self.sel.is_some() { self.head_of(j) } else { j };
                let x = m.head(self.x, i, head).to_vec();
                m.tally_mut(self.to).add(group, &x);
            }
        }
    }
}
