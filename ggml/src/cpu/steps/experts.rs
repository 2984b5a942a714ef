//! The chosen experts of a mixture: pairs of (row, expert) grouped by expert, so that an expert's weights are read once
//! for all rows that chose it, and dealt out by rows of weights rather than by experts.
//!
//! | phase | items |
//! |---|---|
//! | [`Group`] | one: counts, order of the pairs |
//! | [`Gather`] | pairs: their activations, in that order |
//! | [`ExpertGateUp`] | (active expert, tile of n_ff) |
//! | [`QuantizePairs`] | pairs |
//! | [`ExpertDown`], few rows | (active expert, tile of n_embd) |
//! | [`Combine`], few rows | rows: the weighted sum, in the order of choice |
//! | [`ExpertSum`], many rows | tiles of n_embd: the weighted sum, expert by expert, so that no more than a tile of it waits |

use super::super::exec::{Exec, Grouping, RegionId, Scratch, Slot, scratch_for};
use super::super::plan::{RowStep, SplitStep};
use super::matrix::{Input, Tile, tile_rows};
use crate::act::SUM;
use crate::cpu::kernels::FEW;
use crate::graph::{SKIPPED, SelId, Stack, View};

/// Sorts the pairs by expert, and announces the weights of those that were chosen: where the file is larger than memory, the
/// system fetches them all at once.
pub(in super::super) struct Group {
    pub sel: SelId,
    pub to: Grouping,
    /// Gate, up and down.
    pub stacks: [Stack; 3],
}

/// The grouping of a batch: `start[e] .. start[e + 1]` are the places of the pairs of expert e in the order; `active` are the
/// experts that have any; `order[place]` is a pair, `row · n_used + j`, and `place_of[pair]` its place. Pairs that are skipped have none,
/// so that there may be fewer places than pairs.
struct Groups<'a> {
    start: &'a [u32],
    active: &'a [u32],
    order: &'a [u32],
    place_of: &'a [u32],
}

/// In place of the place of a pair that is skipped.
const NOWHERE: u32 = u32::MAX;

impl Groups<'_> {
    /// The place of a choice of a row.
    fn place(&self, pair: usize) -> Option<usize> {
        Some(self.place_of[pair]).filter(|p| *p != NOWHERE).map(|p| p as usize)
    }

    fn n_places(&self) -> usize {
        self.start.last().map_or(0, |n| *n as usize)
    }
}

impl Grouping {
    /// Words of the whole region for `rows` rows.
    pub fn words_for(&self, rows: usize) -> usize {
        self.table_words() + 2 * self.n_used * rows
    }

    /// # Safety
    /// [`Group`] has run in an earlier phase.
    unsafe fn read<'a>(&self, x: &Exec<'a>) -> Groups<'a> {
        let (n, pairs) = (self.n_expert, x.batch.len() * self.n_used);
        // SAFETY: the region has so many words for `max_rows` rows, and `Group` has written them.
        unsafe {
            let words = std::slice::from_raw_parts(x.words(*self), self.table_words() + 2 * pairs);
            let (table, orders) = words.split_at(self.table_words());
            let n_active = table[n + 1] as usize;
            let (order, place_of) = orders.split_at(pairs);
            Groups { start: &table[..=n], active: &table[n + 2..n + 2 + n_active], order, place_of }
        }
    }
}

impl SplitStep for Group {
    fn items(&self, _x: &Exec<'_>) -> usize {
        1
    }

    fn run(&self, x: &Exec<'_>, _item: usize, mut scratch: Scratch<'_>) {
        let (n, pairs) = (self.to.n_expert, x.batch.len() * self.to.n_used);
        // SAFETY: this is the only item, nothing else touches the region in this phase, and the selections of all rows
        // lie one after another.
        let (words, chosen) = unsafe {
            (
                std::slice::from_raw_parts_mut(x.words(self.to), self.to.table_words() + 2 * pairs),
                std::slice::from_raw_parts(x.chosen(self.sel, 0), pairs),
            )
        };
        let (table, orders) = words.split_at_mut(self.to.table_words());
        let (order, place_of) = orders.split_at_mut(pairs);
        let (start, active) = table.split_at_mut(n + 1);
        start.fill(0);
        let counted = || chosen.iter().enumerate().filter(|(_, c)| c.0 != SKIPPED);
        counted().for_each(|(_, c)| start[c.0 as usize + 1] += 1);
        let mut n_active = 0;
        for e in 0..n {
            if start[e + 1] > 0 {
                active[1 + n_active] = e as u32;
                n_active += 1;
            }
            start[e + 1] += start[e];
        }
        active[0] = n_active as u32;
        for w in self.stacks {
            for &e in &active[1..=n_active] {
                let first = w.row(e as usize, 0);
                x.graph.weight(w.w).will_need(first..first + w.rows);
            }
        }
        let next: &mut [u32] = bytemuck::cast_slice_mut(scratch.floats(n));
        next.copy_from_slice(&start[..n]);
        place_of.fill(NOWHERE);
        for (pair, c) in counted() {
            let place = &mut next[c.0 as usize];
            order[*place as usize] = pair as u32;
            place_of[pair] = *place;
            *place += 1;
        }
    }

    fn scratch(&self, _max_rows: usize) -> usize {
        scratch_for(&[4 * self.to.n_expert])
    }
}

/// Copies the activations of each pair to its place in the order. A single row is not copied: all its pairs read it.
pub(in super::super) struct Gather {
    pub from: Input,
    pub to: Input,
    pub grouping: Grouping,
}

impl SplitStep for Gather {
    fn items(&self, x: &Exec<'_>) -> usize {
        if x.batch.len() == 1 { 0 } else { x.batch.len() * self.grouping.n_used }
    }

    fn run(&self, x: &Exec<'_>, place: usize, _scratch: Scratch<'_>) {
        // SAFETY: grouping and activations are of earlier phases; the item owns its place, which lies in another region.
        unsafe {
            let groups = self.grouping.read(x);
            if place >= groups.n_places() {
                return;
            }
            let row = groups.order[place] as usize / self.grouping.n_used;
            match (self.from, self.to) {
                (Input::F32(view), Input::Plain(region, k)) => {
                    x.region(region).add(place * k).copy_from_nonoverlapping(x.ptr(view, row), k);
                }
                (Input::Q8(slot, group), Input::Q8(to, _)) => {
                    let (from, to) = (x.q8_ptrs(slot, group, row), x.q8_ptrs(to, 0, place));
                    to.0.copy_from_nonoverlapping(from.0, slot.k);
                    to.1.copy_from_nonoverlapping(from.1, slot.k / slot.block);
                    to.2.copy_from_nonoverlapping(from.2, slot.k / SUM);
                }
                _ => unreachable!("the plan gathers like to like"),
            }
        }
    }

    fn scratch(&self, _max_rows: usize) -> usize {
        0
    }
}

/// The activations of an expert's pairs: gathered, or the one row that there is.
fn pair_input(
    x: &Exec<'_>,
    single: Input,
    gathered: Input,
    start: &[u32],
    e: usize,
) -> (Input, (usize, usize)) {
    if x.batch.len() == 1 {
        return (single, (0, 1));
    }
    (gathered, (start[e] as usize, (start[e + 1] - start[e]) as usize))
}

/// One of the two products of an expert's gate and up.
#[derive(Clone, Copy)]
pub(in super::super) struct ExpertInput {
    pub w: Stack,
    /// The rows of the batch.
    pub single: Input,
    /// The rows of the pairs.
    pub gathered: Input,
}

/// `hidden[place] = silu(gate[e] x) ⊙ (up[e] x)`.
pub(in super::super) struct ExpertGateUp {
    pub gate: ExpertInput,
    pub up: ExpertInput,
    pub grouping: Grouping,
    /// `[pairs, n_ff]`.
    pub hidden: RegionId,
}

impl ExpertGateUp {
    fn tile(&self, x: &Exec<'_>) -> usize {
        expert_tile(x, self.gate.w)
    }
}

impl SplitStep for ExpertGateUp {
    fn items(&self, x: &Exec<'_>) -> usize {
        // SAFETY: the grouping is of an earlier phase.
        let active = unsafe { self.grouping.read(x) }.active.len();
        active * self.gate.w.rows.div_ceil(self.tile(x))
    }

    fn run(&self, x: &Exec<'_>, item: usize, mut scratch: Scratch<'_>) {
        let (tile, n_ff) = (self.tile(x), self.gate.w.rows);
        // SAFETY: the grouping is of an earlier phase.
        let groups = unsafe { self.grouping.read(x) };
        let e = groups.active[item / n_ff.div_ceil(tile)] as usize;
        let first = item % n_ff.div_ceil(tile) * tile;
        let n_out = tile.min(n_ff - first);
        let (start, n) = (groups.start[e] as usize, (groups.start[e + 1] - groups.start[e]) as usize);
        let up = scratch.floats(n * n_out);
        let hidden = x.region(self.hidden).wrapping_add(start * n_ff + first);
        let product = |p: ExpertInput, y, stride| {
            let (input, rows) = pair_input(x, p.single, p.gathered, groups.start, e);
            let t = Tile::new(x.graph, p.w.w, p.w.row(e, first), n_out);
            // SAFETY: the item owns these columns of the places of its expert; inputs are of earlier phases.
            unsafe { t.product(x, input, rows, y, stride) };
        };
        product(self.gate, hidden, n_ff);
        product(self.up, up.as_mut_ptr(), n_out);
        for (i, up) in up.chunks_exact(n_out).enumerate() {
            // SAFETY: as above.
            let gate = unsafe { std::slice::from_raw_parts_mut(hidden.add(i * n_ff), n_out) };
            x.kernels.swiglu(gate, up);
        }
    }

    fn scratch(&self, max_rows: usize) -> usize {
        // A tile for few rows is no larger.
        scratch_for(&[4 * TILE * max_rows.max(FEW)])
    }
}

/// Weight rows of an item when there are many rows of activations. Larger than elsewhere, because there are many items
/// anyhow, and an expert's rows of activations, which are few, are prepared for each.
const TILE: usize = 256;

/// Weight rows of an item, which belong to one expert.
fn expert_tile(x: &Exec<'_>, w: Stack) -> usize {
    tile_rows(x, w.w, w.rows, x.batch.len(), TILE)
}

/// Copies the hidden rows of a row's pairs to where the operation wants them, in the order of choice.
pub(in super::super) struct KeepHidden {
    pub grouping: Grouping,
    pub hidden: RegionId,
    /// `[tokens, n_used · n_ff]`.
    pub to: View,
}

impl RowStep for KeepHidden {
    fn run(&self, x: &Exec<'_>, i: usize, _scratch: Scratch<'_>) {
        let n_used = self.grouping.n_used;
        // SAFETY: grouping and hidden rows are of earlier phases; the step owns row `i` of `to`.
        unsafe {
            let (groups, to) = (self.grouping.read(x), x.row_mut(self.to, i));
            let n_ff = to.len() / n_used;
            for (j, to) in to.chunks_exact_mut(n_ff).enumerate() {
                let Some(place) = groups.place(i * n_used + j) else { continue };
                let from = x.region(self.hidden).add(place * n_ff);
                to.copy_from_slice(std::slice::from_raw_parts(from, n_ff));
            }
        }
    }
}

/// Quantizes the hidden rows of the pairs.
pub(in super::super) struct QuantizePairs {
    pub hidden: RegionId,
    pub slot: Slot,
    pub grouping: Grouping,
}

impl SplitStep for QuantizePairs {
    fn items(&self, x: &Exec<'_>) -> usize {
        // SAFETY: the grouping is of an earlier phase.
        unsafe { self.grouping.read(x) }.n_places()
    }

    fn run(&self, x: &Exec<'_>, place: usize, _scratch: Scratch<'_>) {
        let k = self.slot.k;
        let (qs, d, sums) = x.q8_ptrs(self.slot, 0, place);
        // SAFETY: the hidden rows are of an earlier phase; the item owns its row of the slot.
        unsafe {
            x.kernels.quantize_row(
                std::slice::from_raw_parts(x.region(self.hidden).add(place * k), k),
                self.slot.block,
                std::slice::from_raw_parts_mut(qs, k),
                std::slice::from_raw_parts_mut(d, k / self.slot.block),
                std::slice::from_raw_parts_mut(sums, k / SUM),
            );
        }
    }

    fn scratch(&self, _max_rows: usize) -> usize {
        0
    }
}

/// `out[place] = down[e] · hidden[place]`, for few rows.
pub(in super::super) struct ExpertDown {
    pub w: Stack,
    pub input: Input,
    pub grouping: Grouping,
    /// `[pairs, n_embd]`.
    pub out: RegionId,
}

impl ExpertDown {
    /// Floats of the products for at most `max_rows` rows.
    pub fn out_floats(n_embd: usize, n_used: usize, max_rows: usize) -> usize {
        n_embd * n_used * max_rows.min(FEW)
    }

    fn tile(&self, x: &Exec<'_>) -> usize {
        expert_tile(x, self.w)
    }
}

impl SplitStep for ExpertDown {
    fn items(&self, x: &Exec<'_>) -> usize {
        if x.batch.len() > FEW {
            return 0;
        }
        // SAFETY: the grouping is of an earlier phase.
        let active = unsafe { self.grouping.read(x) }.active.len();
        active * self.w.rows.div_ceil(self.tile(x))
    }

    fn run(&self, x: &Exec<'_>, item: usize, _scratch: Scratch<'_>) {
        let (tile, n_embd) = (self.tile(x), self.w.rows);
        // SAFETY: the grouping is of an earlier phase.
        let groups = unsafe { self.grouping.read(x) };
        let e = groups.active[item / n_embd.div_ceil(tile)] as usize;
        let first = item % n_embd.div_ceil(tile) * tile;
        let n_out = tile.min(n_embd - first);
        let (start, n) = (groups.start[e] as usize, (groups.start[e + 1] - groups.start[e]) as usize);
        let out = x.region(self.out).wrapping_add(start * n_embd + first);
        let t = Tile::new(x.graph, self.w.w, self.w.row(e, first), n_out);
        // SAFETY: the item owns these columns of the places of its expert; inputs are of earlier phases.
        unsafe { t.product(x, self.input, (start, n), out, n_embd) };
    }

    fn scratch(&self, _max_rows: usize) -> usize {
        0
    }
}

/// `y[row] += w · down[e] hidden[place]` for every pair, for many rows.
pub(in super::super) struct ExpertSum {
    pub w: Stack,
    pub input: Input,
    pub grouping: Grouping,
    pub sel: SelId,
    pub y: View,
}

impl ExpertSum {
    /// Columns of an item, each of which goes through all experts.
    fn tile(&self) -> usize {
        if self.w.rows < 64 * SUM_TILE { SUM_TILE / 2 } else { SUM_TILE }
    }
}

/// See [`ExpertSum::tile`]: at least 64 items where there are so many.
const SUM_TILE: usize = 128;

impl SplitStep for ExpertSum {
    fn items(&self, x: &Exec<'_>) -> usize {
        if x.batch.len() > FEW { self.w.rows.div_ceil(self.tile()) } else { 0 }
    }

    fn run(&self, x: &Exec<'_>, item: usize, mut scratch: Scratch<'_>) {
        let first = item * self.tile();
        let n_out = self.tile().min(self.w.rows - first);
        let columns = self.y.cols(first, n_out);
        let n_used = self.grouping.n_used;
        let out = scratch.floats(n_out * x.batch.len());
        // SAFETY: the grouping is of an earlier phase.
        let groups = unsafe { self.grouping.read(x) };
        for &e in groups.active {
            let e = e as usize;
            let places = groups.start[e] as usize..groups.start[e + 1] as usize;
            let t = Tile::new(x.graph, self.w.w, self.w.row(e, first), n_out);
            // SAFETY: `out` has room for a row of each pair, of which a row of the batch has one with an expert; inputs are of
            // earlier phases.
            unsafe { t.product(x, self.input, (places.start, places.len()), out.as_mut_ptr(), n_out) };
            for (pair, out) in groups.order[places].iter().zip(out.chunks_exact(n_out)) {
                let (row, j) = (*pair as usize / n_used, *pair as usize % n_used);
                // SAFETY: the choice is of an earlier phase, and the item owns these columns of all rows.
                unsafe { x.kernels.axpy((*x.chosen(self.sel, row).add(j)).1, out, x.row_mut(columns, row)) };
            }
        }
    }

    fn scratch(&self, max_rows: usize) -> usize {
        scratch_for(&[4 * SUM_TILE * max_rows])
    }
}

/// `y += Σⱼ wⱼ · out[place of pair j]`, for few rows.
pub(in super::super) struct Combine {
    pub sel: SelId,
    pub grouping: Grouping,
    pub out: RegionId,
    pub y: View,
}

impl RowStep for Combine {
    fn run(&self, x: &Exec<'_>, i: usize, _scratch: Scratch<'_>) {
        if x.batch.len() > FEW {
            return;
        }
        let (n_used, n) = (self.grouping.n_used, self.y.width);
        // SAFETY: choice, grouping and products are of earlier phases; the step owns row `i` of `y`.
        unsafe {
            let groups = self.grouping.read(x);
            let y = x.row_mut(self.y, i);
            for j in 0..n_used {
                let Some(place) = groups.place(i * n_used + j) else { continue };
                let out = std::slice::from_raw_parts(x.region(self.out).add(place * n), n);
                x.kernels.axpy((*x.chosen(self.sel, i).add(j)).1, out, y);
            }
        }
    }
}
