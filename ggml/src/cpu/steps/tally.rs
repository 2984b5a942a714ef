//! Sums of squares of activations, dealt out by columns, so that each is a sum in the order of the rows.

use super::super::exec::{Exec, Scratch, TallyPtr, head};
use super::super::plan::SplitStep;
use crate::ops::SumSquares;

/// Columns of an item.
const COLUMNS: usize = 512;

impl SumSquares {
    fn tally(&self, x: &Exec<'_>) -> TallyPtr {
        x.tallies[self.to.0 as usize]
    }

    /// Adds `n` columns from `first` on of a head of row `i` to a group.
    ///
    /// # Safety
    /// - The calling item owns these columns of the tally, and the counts if they are the first.
    /// - The head was written in an earlier phase, and `i` is a row of the batch.
    unsafe fn add(&self, x: &Exec<'_>, (i, h): (usize, usize), group: usize, (first, n): (usize, usize)) {
        let tally = self.tally(x);
        assert!(group < tally.shape.groups, "group {group} of {}", tally.shape.groups);
        // SAFETY: passed on from the caller; a tally has `width` sums and a count for each group.
        unsafe {
            let values = x.row(head(self.x, h).cols(first, n), i);
            let at = tally.sums.add(group * tally.shape.width + first);
            let sums = std::slice::from_raw_parts_mut(at, n);
            sums.iter_mut().zip(values).for_each(|(sum, &v)| *sum += f64::from(v) * f64::from(v));
            if first == 0 {
                *tally.counts.add(group) += 1;
            }
        }
    }
}

impl SplitStep for SumSquares {
    fn items(&self, x: &Exec<'_>) -> usize {
        // Rows choose their experts as they like, so that only columns can be dealt out then.
        let heads = if self.sel.is_some() { 1 } else { self.x.n };
        if x.n_rows(x.graph.rows(self.x.buf)) == 0 { 0 } else { heads * self.x.width.div_ceil(COLUMNS) }
    }

    fn run(&self, x: &Exec<'_>, item: usize, _scratch: Scratch<'_>) {
        let per_head = self.x.width.div_ceil(COLUMNS);
        let (h, first) = (item / per_head, item % per_head * COLUMNS);
        let columns = (first, COLUMNS.min(self.x.width - first));
        for i in 0..x.n_rows(x.graph.rows(self.x.buf)) {
            // SAFETY: no other item has these columns of these groups; choices and activations are of earlier phases.
            unsafe {
                match self.sel {
                    None => self.add(x, (i, h), h, columns),
                    Some(sel) => {
                        for j in 0..x.graph.n_used(sel) {
                            let expert = (*x.chosen(sel, i).add(j)).0 as usize;
                            self.add(x, (i, self.head_of(j)), expert, columns);
                        }
                    }
                }
            }
        }
    }

    fn scratch(&self, _max_rows: usize) -> usize {
        0
    }
}
