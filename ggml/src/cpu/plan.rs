//! From a recorded list of operations to phases that threads walk together.
//!
//! An operation becomes one or more steps. A **row step** does a row by itself and touches nothing of another row (a norm,
//! a rotation); row steps that follow each other form a chain, which a thread walks row by row without waiting for anyone. A
//! **split step** has items of its own making (tiles of a matrix, heads). Steps go into one phase as long as none
//! touches what another writes; between phases the threads meet.
//!
//! The same reads and writes give the life of every buffer, and with it a place in one arena where buffers whose
//! lives do not overlap share memory. Every buffer has room for `max_rows` rows, so places do not depend on the batch.

use std::ops::Range;

use super::exec::{Exec, RegionId, Scratch, Slot};
use super::steps::matrix::Input;
use crate::act::ActFormat;
use crate::arena::{Life, place};
use crate::backend::{Seam, Share};
use crate::graph::{Graph, Rows, TallyId, View};
use crate::ops::Access;

/// Work on single rows.
pub(super) trait RowStep: Send + Sync {
    /// Does row `i`.
    fn run(&self, x: &Exec<'_>, i: usize, scratch: Scratch<'_>);

    /// Bytes of scratch for a row.
    fn scratch(&self) -> usize {
        0
    }
}

/// Work in items of its own making.
pub(super) trait SplitStep: Send + Sync {
    /// Items for this batch; every thread asks, in the phase in which they run.
    fn items(&self, x: &Exec<'_>) -> usize;

    /// Does an item.
    fn run(&self, x: &Exec<'_>, item: usize, scratch: Scratch<'_>);

    /// Bytes of scratch for an item of a batch of `max_rows` rows.
    fn scratch(&self, max_rows: usize) -> usize;
}

/// Row steps over the same rows, walked row by row.
#[derive(Default)]
pub(super) struct Chain {
    steps: Vec<Box<dyn RowStep>>,
    uses: Uses,
}

/// Steps that run side by side.
#[derive(Default)]
pub(super) struct Phase {
    tokens: Chain,
    outputs: Chain,
    splits: Vec<Box<dyn SplitStep>>,
    split_uses: Uses,
}

impl Phase {
    /// Items of all steps for this batch.
    pub fn items(&self, x: &Exec<'_>) -> usize {
        let chain = |c: &Chain, rows: Rows| if c.steps.is_empty() { 0 } else { x.n_rows(rows) };
        let chains = chain(&self.tokens, Rows::Tokens) + chain(&self.outputs, Rows::Outputs);
        chains + self.splits.iter().map(|s| s.items(x)).sum::<usize>()
    }

    /// Does an item of one of the steps.
    pub fn run(&self, x: &Exec<'_>, mut item: usize, scratch: &mut [u8]) {
        // Split steps first: they are the long ones.
        for step in &self.splits {
            let n = step.items(x);
            if item < n {
                return step.run(x, item, Scratch(scratch));
            }
            item -= n;
        }
        for (chain, rows) in [(&self.tokens, Rows::Tokens), (&self.outputs, Rows::Outputs)] {
            if chain.steps.is_empty() {
                continue;
            }
            if item < x.n_rows(rows) {
                return chain.steps.iter().for_each(|s| s.run(x, item, Scratch(&mut *scratch)));
            }
            item -= x.n_rows(rows);
        }
    }

    fn scratch(&self, max_rows: usize) -> usize {
        let rows = self.tokens.steps.iter().chain(&self.outputs.steps).map(|s| s.scratch());
        rows.chain(self.splits.iter().map(|s| s.scratch(max_rows))).max().unwrap_or(0)
    }
}

/// Something that is read or written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Resource {
    /// Columns of a buffer.
    Columns(View),
    /// A whole region.
    Region(RegionId),
    /// Rows of a layer of the cache.
    Cache(usize),
    /// A tally.
    Tally(TallyId),
}

impl Resource {
    fn overlaps(&self, other: &Resource) -> bool {
        match (self, other) {
            (Resource::Columns(a), Resource::Columns(b)) => a.overlaps(*b),
            (a, b) => a == b,
        }
    }

    fn region(&self) -> Option<RegionId> {
        match self {
            Resource::Columns(v) => Some(RegionId(v.buf.0 as usize)),
            Resource::Region(r) => Some(*r),
            Resource::Cache(_) | Resource::Tally(_) => None,
        }
    }
}

/// What a step reads and writes.
#[derive(Clone, Debug, Default)]
pub(super) struct Uses {
    pub reads: Vec<Resource>,
    pub writes: Vec<Resource>,
}

impl Uses {
    /// Reads of the first, writes of the second.
    pub fn new(
        reads: impl IntoIterator<Item = Resource>,
        writes: impl IntoIterator<Item = Resource>,
    ) -> Self {
        Uses { reads: reads.into_iter().collect(), writes: writes.into_iter().collect() }
    }

    fn conflicts(&self, other: &Uses) -> bool {
        let touch = |writes: &[Resource], o: &Uses| {
            writes.iter().any(|w| o.reads.iter().chain(&o.writes).any(|r| w.overlaps(r)))
        };
        touch(&self.writes, other) || touch(&other.writes, self)
    }

    fn extend(&mut self, other: &Uses) {
        self.reads.extend(&other.reads);
        self.writes.extend(&other.writes);
    }

    fn all(&self) -> impl Iterator<Item = &Resource> {
        self.reads.iter().chain(&self.writes)
    }
}

/// Takes steps in order and makes the plan.
pub(super) struct Planner<'g> {
    pub graph: &'g Graph,
    pub max_rows: usize,
    /// Floats of each region.
    regions: Vec<usize>,
    first_sel: usize,
    phases: Vec<Phase>,
    /// First phase of each part.
    parts: Vec<usize>,
    /// Phase of the latest split step.
    last_split: usize,
    /// Views that have been quantized and not written since.
    quantized: Vec<(View, usize, Slot)>,
    /// Activations that have been gathered for a grouping: from where, by which grouping, to where.
    gathered: Vec<(Resource, RegionId, Input)>,
}

/// Phases and the arena they work in.
pub(super) struct Plan {
    pub phases: Vec<Phase>,
    /// Phases of each part.
    pub parts: Vec<Range<usize>>,
    pub offsets: Vec<usize>,
    pub first_sel: usize,
    /// Floats of the arena.
    pub arena: usize,
    /// Bytes of scratch a thread.
    pub scratch: usize,
}

impl<'g> Planner<'g> {
    pub fn new(graph: &'g Graph, max_rows: usize) -> Self {
        let mut regions: Vec<usize> = graph.bufs.iter().map(|b| b.width * max_rows).collect();
        let first_sel = regions.len();
        regions.extend(graph.sels.iter().map(|n| n * max_rows * size_of::<(u32, f32)>() / 4));
        Planner {
            graph,
            max_rows,
            regions,
            first_sel,
            phases: vec![],
            parts: vec![],
            last_split: 0,
            quantized: vec![],
            gathered: vec![],
        }
    }

    /// Begins a part: what comes now runs after all that came before, and others may have written buffers meanwhile.
    pub fn part(&mut self) {
        self.parts.push(self.phases.len());
        self.quantized.clear();
    }

    /// A new region of so many floats.
    pub fn region(&mut self, floats: usize) -> RegionId {
        self.regions.push(floats);
        RegionId(self.regions.len() - 1)
    }

    /// A new region for quantized rows of `k` columns: `groups` of them with `per_token` rows for each of the batch.
    pub fn slot(&mut self, k: usize, format: ActFormat, groups: usize, per_token: usize) -> Slot {
        let mut slot = Slot { region: RegionId(0), k, block: format.block(), groups, per_token };
        slot.region = self.region(slot.columns().0 * self.max_rows);
        slot
    }

    /// The region of a selection.
    pub fn sel_region(&self, sel: crate::graph::SelId) -> RegionId {
        RegionId(self.first_sel + sel.0 as usize)
    }

    /// The uses that an operation states.
    pub fn uses(&self, a: &Access) -> Uses {
        let columns = |v: &View| Resource::Columns(*v);
        let sel = |s: &crate::graph::SelId| Resource::Region(self.sel_region(*s));
        let cache = |l: &usize| Resource::Cache(*l);
        Uses::new(
            a.reads
                .iter()
                .map(columns)
                .chain(a.sel_reads.iter().map(sel))
                .chain(a.cache_reads.iter().map(cache)),
            a.writes
                .iter()
                .map(columns)
                .chain(a.sel_writes.iter().map(sel))
                .chain(a.cache_writes.iter().map(cache))
                .chain(a.tally_writes.iter().map(|t| Resource::Tally(*t))),
        )
    }

    /// A view that has been quantized with this block before and not been written since.
    pub fn find_quantized(&self, v: View, block: usize) -> Option<Slot> {
        self.quantized.iter().find(|q| q.0 == v && q.1 == block).map(|q| q.2)
    }

    /// Remembers a quantized view.
    pub fn remember_quantized(&mut self, v: View, slot: Slot) {
        self.quantized.push((v, slot.block, slot));
    }

    /// Activations gathered from there for that grouping before.
    pub fn find_gathered(&self, from: Resource, grouping: RegionId) -> Option<Input> {
        self.gathered.iter().find(|g| g.0 == from && g.1 == grouping).map(|g| g.2)
    }

    /// Remembers gathered activations. A grouping belongs to one operation, so they do not grow stale.
    pub fn remember_gathered(&mut self, from: Resource, grouping: RegionId, to: Input) {
        self.gathered.push((from, grouping, to));
    }

    fn forget_written(&mut self, uses: &Uses) {
        self.quantized.retain(|q| !uses.writes.iter().any(|w| w.overlaps(&Resource::Columns(q.0))));
    }

    /// Appends a row step. It may join a chain that it depends on, since a chain is walked row by row.
    pub fn row_step(&mut self, rows: Rows, step: impl RowStep + 'static, uses: Uses) {
        self.forget_written(&uses);
        let phase = self.earliest(&uses, Some(rows));
        let p = &mut self.phases[phase];
        let chain = if rows == Rows::Tokens { &mut p.tokens } else { &mut p.outputs };
        chain.steps.push(Box::new(step));
        chain.uses.extend(&uses);
    }

    /// Appends a split step.
    pub fn split_step(&mut self, step: impl SplitStep + 'static, uses: Uses) {
        self.forget_written(&uses);
        self.last_split = self.earliest(&uses, None);
        self.push_split(step, &uses);
    }

    /// Appends a split step to the phase of the split step before it, because the two never have items in the same batch.
    pub fn split_step_beside(&mut self, step: impl SplitStep + 'static, uses: Uses) {
        self.push_split(step, &uses);
    }

    fn push_split(&mut self, step: impl SplitStep + 'static, uses: &Uses) {
        let p = &mut self.phases[self.last_split];
        p.splits.push(Box::new(step));
        p.split_uses.extend(uses);
    }

    /// The first phase that a step can be in, made if need be: behind the last one that it conflicts with, or in that one if
    /// the conflict is with the chain that it would join.
    fn earliest(&mut self, uses: &Uses, chain: Option<Rows>) -> usize {
        let mut phase = self.parts.last().copied().unwrap_or(0);
        for (i, p) in self.phases.iter().enumerate().skip(phase).rev() {
            let tokens = p.tokens.uses.conflicts(uses);
            let outputs = p.outputs.uses.conflicts(uses);
            let (same, other) = match chain {
                Some(Rows::Tokens) => (tokens, outputs),
                Some(Rows::Outputs) => (outputs, tokens),
                None => (false, tokens || outputs),
            };
            if other || p.split_uses.conflicts(uses) {
                phase = i + 1;
                break;
            }
            if same {
                phase = i;
                break;
            }
        }
        if phase == self.phases.len() {
            self.phases.push(Phase::default());
        }
        phase
    }

    /// Places the regions and hands out the plan.
    pub fn finish(self, share: &Share) -> Plan {
        let ends = self.parts.iter().skip(1).copied().chain([self.phases.len()]);
        let parts: Vec<_> = self.parts.iter().zip(ends).map(|(first, end)| *first..end).collect();
        let lives = self.lives(&parts, share);
        let (offsets, arena) = place(&self.regions, &lives);
        let scratch = self.phases.iter().map(|p| p.scratch(self.max_rows)).max().unwrap_or(0);
        Plan { phases: self.phases, parts, offsets, first_sel: self.first_sel, arena, scratch }
    }

    /// First and last phase of each region; inputs live from the start, outputs to the end, what others write or read from or
    /// to the part beside which they do.
    fn lives(&self, parts: &[Range<usize>], share: &Share) -> Vec<Life> {
        let mut lives: Vec<Life> = vec![None; self.regions.len()];
        let mut touch = |r: RegionId, p: usize| {
            let life = lives[r.0].get_or_insert((p, p));
            *life = (life.0.min(p), life.1.max(p));
        };
        for (i, p) in self.phases.iter().enumerate() {
            let uses = [&p.split_uses, &p.tokens.uses, &p.outputs.uses];
            uses.iter().flat_map(|u| u.all()).filter_map(Resource::region).for_each(|r| touch(r, i));
        }
        self.graph.inputs.iter().for_each(|b| touch(RegionId(b.0 as usize), 0));
        self.graph.outputs.iter().for_each(|b| touch(RegionId(b.0 as usize), usize::MAX));
        share.choices.iter().for_each(|(part, sel)| touch(self.sel_region(*sel), parts[*part].start));
        for seam in &share.seams {
            let phase = match *seam {
                Seam::Before(part, _) => parts[part].start,
                Seam::After(part, _) => parts[part].end.saturating_sub(1),
            };
            touch(RegionId(seam.buf().0 as usize), phase);
        }
        lives
    }
}
