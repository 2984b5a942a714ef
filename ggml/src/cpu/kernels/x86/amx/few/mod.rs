//! Few activation rows: those of an expert in a prompt.
//!
//! A panel of weights has them transposed, which takes longer than 16 activation rows take to run against it. Here the roles are
//! swapped: rows of weights go into tiles as they lie, and the activations, of which there are few, are transposed once for
//! all rows of weights. A lane is an activation row.

mod rows32;
mod super_rows;

use std::ops::Range;

use super::super::super::matvec::{Args, STEP, Weights};
use super::super::super::simd::{Kernel, Simd};
use super::block32::BLOCKS;
use super::{Amx, LINE, Plain, ROWS, Shape, Sums, with_room};
pub(super) use rows32::{MOST as MOST_32, Rows32};
pub(super) use super_rows::Rows as SuperRows;

/// Activation rows that take this way at most, in groups of [`ROWS`].
pub(super) const MOST: usize = 4 * ROWS;

/// Steps times groups that are transposed at once: some 300 KB, in the second-level cache.
const COLUMNS: usize = 64;

/// Sums of one run of tiles: two for each group, or those of all blocks of two groups.
type SharedSums = [[Sums; BLOCKS]; 2];

/// A step of 16 rows of weights as they lie.
pub(super) trait Swapped<W: Weights<Amx>>: Sized {
    /// A step of a group of activation rows, as columns.
    type Columns;

    /// Elements that a multiplication takes.
    const ELEMENTS: usize;

    /// Transposes activation rows from `first` on, zeros where there are fewer than 16.
    ///
    /// # Safety
    /// `first` is a row, `step` a step of it.
    unsafe fn fill(columns: &mut Self::Columns, s: Amx, args: &Args<'_>, first: usize, step: usize);

    /// Unpacks a step of 16 rows from `first` on, the last one again where there are fewer.
    ///
    /// # Safety
    /// `first` is a row, `step` a step of it.
    unsafe fn build(&mut self, s: Amx, w: W, args: &Args<'_>, first: usize, step: usize);

    /// What tiles can do while vectors unpack the next rows.
    ///
    /// # Safety
    /// Rows have been built and columns filled, and tiles have their shape.
    unsafe fn start(&self, columns: &[Self::Columns], sums: &mut SharedSums);

    /// The rest, after [`Swapped::start`]: adds the products with each group to its results.
    ///
    /// # Safety
    /// As before.
    unsafe fn finish(
        &self,
        s: Amx,
        columns: &[Self::Columns],
        sums: &mut SharedSums,
        results: &mut [Results],
    );
}

/// Results of 16 rows of weights for a group of activation rows.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Results([[f32; ROWS]; ROWS]);

impl Results {
    const ZERO: Results = Results([[0.0; ROWS]; ROWS]);

    /// What has been stored of the results of rows from `row` on and activation rows from `first` on.
    ///
    /// # Safety
    /// The results of the arguments are valid for reads.
    #[inline(always)]
    unsafe fn load(s: Amx, args: &Args<'_>, row: usize, first: usize) -> Results {
        let (mut rows, mut results) = (Results::ZERO, Results::ZERO);
        let lanes = ROWS.min(args.n_w - row);
        // SAFETY: those are results; the arrays have the sizes of their types.
        unsafe {
            for t in 0..ROWS.min(args.x.rows - first) {
                let y = args.y.add((first + t) * args.y_stride + row);
                s.store(rows.0[t].as_mut_ptr(), s.load_first(y, lanes));
            }
            s.transpose(rows.0.as_ptr().cast(), LINE, results.0.as_mut_ptr().cast());
        }
        results
    }

    /// Stores them where [`Results::load`] finds them.
    ///
    /// # Safety
    /// The results of the arguments are valid for writes.
    #[inline(always)]
    unsafe fn store(&self, s: Amx, args: &Args<'_>, row: usize, first: usize) {
        let mut rows = Results::ZERO;
        let lanes = ROWS.min(args.n_w - row);
        // SAFETY: those are results; the arrays have the sizes of their types.
        unsafe {
            s.transpose(self.0.as_ptr().cast(), LINE, rows.0.as_mut_ptr().cast());
            for t in 0..ROWS.min(args.x.rows - first) {
                let y = args.y.add((first + t) * args.y_stride + row);
                s.store_first(y, lanes, s.load(rows.0[t].as_ptr()));
            }
        }
    }
}

/// Memory of a product.
struct Work<P, C> {
    columns: [C; COLUMNS],
    /// Weights that run and those that are being unpacked.
    rows: [P; 2],
    sums: SharedSums,
    results: [Results; MOST / ROWS],
}

// SAFETY: kinds of rows and columns are made of integers and floats.
unsafe impl<P, C> Plain for Work<P, C> {}

/// At most [`MOST`] activation rows against all weights.
pub(super) fn product<P: Swapped<W>, W: Weights<Amx>>(s: Amx, w: W, args: &Args<'_>) {
    with_room(|work: &mut Work<P, P::Columns>| {
        let mut shape = Shape { elements: P::ELEMENTS, rows: 0 };
        shape.set_rows(ROWS);
        let (steps, groups) = (args.x.k.div_ceil(STEP), args.x.rows.div_ceil(ROWS));
        let pass = COLUMNS / groups;
        for begin in (0..steps).step_by(pass) {
            let steps = begin..steps.min(begin + pass);
            s.vectorize(Pass { w, args, steps, groups, work });
        }
    });
}

/// All activation rows against some steps of all weights. Tiles have their shape.
struct Pass<'a, W, P, C> {
    w: W,
    args: &'a Args<'a>,
    steps: Range<usize>,
    groups: usize,
    work: &'a mut Work<P, C>,
}

impl<W: Weights<Amx>, P: Swapped<W>> Kernel<Amx> for Pass<'_, W, P, P::Columns> {
    #[inline(always)]
    fn run(self, s: Amx) {
        let Pass { w, args, steps, groups, work } = self;
        let Work { columns, rows, sums, results } = work;
        let n = steps.len();
        // SAFETY: whoever made `args` promised rows of weights and of activations and room for the results; tiles have
        // their shape, and what they load has been filled or built.
        unsafe {
            for (i, step) in steps.clone().enumerate() {
                for g in 0..groups {
                    P::fill(&mut columns[i * groups + g], s, args, g * ROWS, step);
                }
            }
            // Row by row, the steps of a row in order: while vectors unpack one of them, tiles multiply the one before.
            let items = args.n_w.div_ceil(ROWS) * n;
            for item in 0..=items {
                let before = item.checked_sub(1);
                let of = |at: usize| at % n * groups..(at % n + 1) * groups;
                if let Some(at) = before {
                    rows[at % 2].start(&columns[of(at)], sums);
                }
                if item < items {
                    let (row, step) = (item / n * ROWS, steps.start + item % n);
                    rows[item % 2].build(s, w, args, row, step);
                }
                if let Some(at) = before {
                    let row = at / n * ROWS;
                    if at.is_multiple_of(n) {
                        for g in 0..groups {
                            let is_first = steps.start == 0;
                            results[g] =
                                if is_first { Results::ZERO } else { Results::load(s, args, row, g * ROWS) };
                        }
                    }
                    rows[at % 2].finish(s, &columns[of(at)], sums, results);
                    if (at + 1).is_multiple_of(n) {
                        for g in 0..groups {
                            results[g].store(s, args, row, g * ROWS);
                        }
                    }
                }
            }
        }
    }
}
