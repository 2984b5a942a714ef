//! Recorded operations to launches.
//!
//! A step is a closure that puts one or more launches into the stream. It knows shapes, weights and regions; how many rows there
//! are and where the arenas lie it asks the [`Launcher`] of the run. Everything else that changes from batch to batch
//! (tokens, positions, chunks of the cache) lies in device memory, so that launches can be captured once and replayed.

mod attention;
mod experts;
mod matrix;
mod rope_store;
mod rows;

use std::ops::Range;
use std::sync::Arc;

pub(super) use attention::cache_type;

use super::args::{self, Args};
use super::device::Memory;
use super::driver::DevicePtr;
use super::modules::{Kernel, Modules};
use super::streamed::Buffers;
use super::weights::Weights;
use crate::act::{ActFormat, SUM};
use crate::arena::Life;
use crate::backend::{Seam, Share, SlotMemory};
use crate::cache::LayerCache;
use crate::error::Result;
use crate::graph::{BufId, Graph, Heads, Rows, SelId, Stack, View, WeightId};
use crate::ops::{Access, Op};

/// Rows up to which weights are streamed and dotted; beyond, tiles are multiplied.
pub(super) const FEW: usize = 8;

/// What puts launches into the stream.
pub(super) type Step = Box<dyn Fn(&Launcher<'_>) -> Result<()> + Send>;

/// A region of the arenas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RegionId(pub usize);

/// How large a region is: a number of floats for each row, and some besides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Region {
    pub rows: Rows,
    pub per_row: usize,
    pub fixed: usize,
    /// Rows that there is room for at the most.
    pub most: usize,
}

impl Region {
    /// Floats for so many rows of the batch.
    pub fn floats(&self, rows: usize) -> usize {
        self.per_row * rows.min(self.most) + self.fixed
    }
}

/// Where a selection has its ids, and behind them its weights: `n_used` of both for each row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sel {
    pub region: RegionId,
    n_used: usize,
}

impl Sel {
    fn ids(self, l: &Launcher<'_>) -> DevicePtr {
        l.at(self.region)
    }

    fn weights(self, l: &Launcher<'_>) -> DevicePtr {
        self.ids(l) + 4 * u64::from(l.n(Rows::Tokens)) * self.n_used as u64
    }
}

/// Rows of 8-bit activations in a region: `per_row` of them for each row of the batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    region: RegionId,
    k: usize,
    block: usize,
    per_row: usize,
}

/// What a compiled graph is.
pub(super) struct Plan {
    pub steps: Vec<Step>,
    /// Steps of each part.
    pub parts: Vec<Range<usize>>,
    pub regions: Vec<Region>,
    pub lives: Vec<Life>,
    /// Weights and constants that the steps name.
    pub _keep: Vec<Arc<Memory>>,
    /// Sums and counts of each tally.
    pub tallies: Vec<(Memory, Memory)>,
    /// Where selections are.
    pub sels: Vec<Sel>,
    /// Slots that steps name.
    pub _slots: Vec<Arc<dyn SlotMemory>>,
    /// Whether the batches of few rows may be captured: all that changes between them lies in device memory.
    pub capturable: bool,
}

/// What a step asks of a run.
pub(super) struct Launcher<'a> {
    pub regions: &'a [Region],
    /// Where each region begins.
    pub places: &'a [DevicePtr],
    /// Rows that regions have room for: of tokens, of outputs.
    pub capacity: (usize, usize),
    /// Rows of the batch: tokens, outputs.
    pub n_rows: (usize, usize),
    /// Spans of keys of the longest row.
    pub n_spans: u32,
    pub batch: args::Batch,
    /// Keys and values of each layer in chunks.
    pub layers: &'a [(args::CacheRows, args::CacheRows)],
    pub naive: Option<&'a super::naive::Scratch>,
}

impl Launcher<'_> {
    /// Rows of this kind in the batch.
    pub fn n(&self, rows: Rows) -> u32 {
        (if rows == Rows::Tokens { self.n_rows.0 } else { self.n_rows.1 }) as u32
    }

    /// The first byte of a region.
    pub fn at(&self, region: RegionId) -> DevicePtr {
        self.places[region.0]
    }

    /// The heads as kernels take them.
    pub fn heads(&self, h: Heads) -> args::Heads {
        let buf = h.buf.0 as usize;
        let at = self.places[buf] + 4 * h.col as u64;
        args::Heads { at, stride: self.regions[buf].per_row as u64, head: h.stride as u64 }
    }

    /// The columns as kernels take them.
    pub fn view(&self, v: View) -> args::View {
        let h = self.heads(v.heads(1));
        args::View { at: h.at, stride: h.stride }
    }

    /// A region of whole rows of floats.
    pub fn rows(&self, region: RegionId, width: usize) -> args::View {
        args::View { at: self.at(region), stride: width as u64 }
    }

    /// The 8-bit rows as kernels take them.
    pub fn q8(&self, s: Slot) -> args::Q8 {
        let region = self.regions[s.region.0];
        let rows = if region.rows == Rows::Tokens { self.capacity.0 } else { self.capacity.1 };
        let n = (rows.min(region.most) * s.per_row * s.k) as u64;
        // Kernels load integers and sums 16 bytes at a time, which rows of whole blocks keep aligned; scales come last.
        let qs = self.at(s.region);
        let sums = qs + n;
        args::Q8 { qs, d: sums + 2 * n / SUM as u64, sums }
    }
}

/// No 8-bit rows.
const NO_Q8: args::Q8 = args::Q8 { qs: 0, d: 0, sums: 0 };

impl Slot {
    /// Floats of a row of the batch, for integers, scales and sums.
    fn floats(k: usize, block: usize, per_row: usize) -> usize {
        per_row * (k / 4 + k / block + k / SUM / 2)
    }
}

/// What compiles a graph.
pub(super) struct Compiler<'g> {
    graph: &'g Graph,
    layers: &'g [LayerCache],
    modules: &'g Modules,
    weights: &'g Weights,
    regions: Vec<Region>,
    lives: Vec<Life>,
    steps: Vec<Step>,
    keep: Vec<Arc<Memory>>,
    tallies: Vec<(Memory, Memory)>,
    capturable: bool,
    sels: Vec<Sel>,
    slots: Vec<Arc<dyn SlotMemory>>,
    /// Rows that the regions of the operation at hand have room for at the most.
    most: usize,
    /// Heads that have been quantized and not been written since.
    quantized: Vec<(Heads, Slot)>,
    /// Where in the share the operation is that is being compiled: its part, and its place in it.
    part: (usize, usize),
    /// Operations before it.
    step: usize,
    /// Operations from the next on that are compiled already.
    ahead: usize,
    share: &'g Share,
    /// What experts in host memory pass through.
    buffers: Option<Arc<Buffers>>,
}

/// Compiles a share of a graph over a cache with these layers.
///
/// # Errors
/// If an operation has no kernel, or the device has no room for a weight.
pub(super) fn compile(
    graph: &Graph,
    layers: &[LayerCache],
    modules: &Modules,
    weights: &Weights,
    share: &Share,
) -> Result<Plan> {
    let region =
        |b: &crate::graph::Buf| Region { rows: b.rows, per_row: b.width, fixed: 0, most: usize::MAX };
    let regions: Vec<Region> = graph.bufs.iter().map(region).collect();
    let mut c = Compiler {
        graph,
        layers,
        modules,
        weights,
        lives: vec![None; regions.len()],
        regions,
        steps: vec![],
        keep: vec![],
        tallies: vec![],
        capturable: true,
        sels: vec![],
        slots: vec![],
        most: usize::MAX,
        quantized: vec![],
        part: (0, 0),
        step: 0,
        ahead: 0,
        share,
        buffers: None,
    };
    c.buffers = c.stream_buffers()?;
    for &n_used in &graph.sels {
        let region = c.region(Rows::Tokens, 2 * n_used, 0);
        c.sels.push(Sel { region, n_used });
    }
    for t in &graph.tallies {
        let sums = weights.zeroed("sums of activations", 8 * t.groups * t.width)?;
        c.tallies.push((sums, weights.zeroed("counts of activations", 8 * t.groups)?));
    }
    let mut parts = vec![];
    for (p, part) in share.parts.iter().enumerate() {
        // Others may have written buffers meanwhile.
        c.quantized.clear();
        let (first, first_op) = (c.steps.len(), c.step);
        for (i, &op) in part.iter().enumerate() {
            c.part = (p, i);
            c.compile(op)?;
            c.uses(&graph.ops()[op]);
            c.step += 1;
        }
        parts.push(first..c.steps.len());
        share.choices.iter().filter(|(part, _)| *part == p).for_each(|(_, sel)| {
            c.touch_from(c.sel(*sel).region, first_op);
        });
        for seam in &share.seams {
            match *seam {
                Seam::Before(part, b) if part == p => c.touch_from(buf(b), first_op),
                Seam::After(part, b) if part == p => c.touch_from(buf(b), c.step.saturating_sub(1)),
                _ => {}
            }
        }
    }
    graph.inputs.iter().for_each(|b| c.touch_from(buf(*b), 0));
    graph.outputs.iter().for_each(|b| c.touch_from(buf(*b), usize::MAX));
    let Compiler { steps, regions, lives, keep, tallies, sels, slots, capturable, .. } = c;
    Ok(Plan { steps, parts, regions, lives, _keep: keep, tallies, sels, _slots: slots, capturable })
}

impl Compiler<'_> {
    fn compile(&mut self, i: usize) -> Result<()> {
        let op = &self.graph.ops()[i];
        // What has been quantized and is now written is stale. No operation writes what it reads quantized.
        let writes = access(op).writes;
        self.quantized.retain(|q| !writes.iter().any(|w| w.overlaps(q.0.span())));
        if self.ahead > 0 {
            self.ahead -= 1;
            return Ok(());
        }
        match op {
            Op::Embed(o) => self.embed(o),
            Op::SelectOutputs(o) => self.select_outputs(o),
            Op::Add(o) => self.add(o),
            Op::RmsNorm(o) => self.norm(o),
            Op::RopeTable(o) => self.rope_table(o),
            Op::Rope(o) => {
                if self.rope_store()? {
                    return Ok(());
                }
                self.rope(o)
            }
            Op::SumSquares(o) => self.sum_squares(o),
            Op::Linear(o) => self.linear(o),
            Op::HeadLinear(o) => self.head_linear(o),
            Op::GateUp(o) => self.gate_up(o),
            Op::StoreKv(o) => self.store(o),
            Op::Attention(o) => self.attention(o),
            Op::MlaNaive(o) => self.mla_naive(o),
            Op::Router(o) => self.router(o),
            Op::Experts(o) => self.experts(o, i),
        }
    }

    /// A new region.
    fn region(&mut self, rows: Rows, per_row: usize, fixed: usize) -> RegionId {
        self.region_of(Region { rows, per_row, fixed, most: usize::MAX })
    }

    fn region_of(&mut self, region: Region) -> RegionId {
        self.regions.push(region);
        self.lives.push(None);
        RegionId(self.regions.len() - 1)
    }

    /// Says that the operation at hand needs a region.
    fn touch(&mut self, region: RegionId) {
        self.touch_from(region, self.step);
    }

    /// Says that the operation at hand needs the recorder's buffers and selections that it names.
    fn uses(&mut self, op: &Op) {
        let a = access(op);
        a.reads.iter().chain(&a.writes).for_each(|v| self.touch(buf(v.buf)));
        for s in a.sel_reads.iter().chain(&a.sel_writes) {
            self.touch(self.sel(*s).region);
        }
    }

    fn touch_from(&mut self, region: RegionId, at: usize) {
        let life = self.lives[region.0].get_or_insert((at, at));
        *life = (life.0.min(at), life.1.max(at));
    }

    fn sel(&self, s: SelId) -> Sel {
        self.sels[s.0 as usize]
    }

    fn rows_of(&self, b: BufId) -> Rows {
        self.graph.rows(b)
    }

    fn kernel<A: Args>(&self, name: &str) -> Result<Kernel<A>> {
        self.modules.kernel(name)
    }

    /// The values of a small tensor, on the device as F32.
    fn floats(&mut self, w: WeightId) -> Result<DevicePtr> {
        let memory = self.weights.floats(self.graph.weight(w))?;
        let at = memory.at();
        self.keep.push(memory);
        Ok(at)
    }

    /// Numbers on the device that only this graph uses.
    fn constant(&mut self, values: &[f32]) -> Result<DevicePtr> {
        let memory = Arc::new(self.weights.own(bytemuck::cast_slice(values))?);
        let at = memory.at();
        self.keep.push(memory);
        Ok(at)
    }

    /// The encoded rows of a tensor on the device.
    fn encoded(&mut self, w: WeightId) -> Result<DevicePtr> {
        let memory = self.weights.encoded(self.graph.weight(w))?;
        let at = memory.at();
        self.keep.push(memory);
        Ok(at)
    }

    /// A tensor's matrices.
    fn matrices(&mut self, s: Stack) -> Result<matrix::Matrices> {
        let m = self.elsewhere(s);
        Ok(matrix::Matrices { at: self.encoded(s.w)? + s.row0 as u64 * m.row, ..m })
    }

    /// The same, but for where they are.
    fn elsewhere(&self, s: Stack) -> matrix::Matrices {
        let t = self.graph.weight(s.w);
        let row = t.row_bytes() as u64;
        let (k, bytes) = (t.shape().row_len(), s.stride as u64 * row);
        matrix::Matrices { at: 0, ty: t.ty(), row, bytes, k, n_out: s.rows }
    }

    /// Whether products with `w` take 8-bit activations, and in what blocks.
    fn act(&self, w: WeightId) -> ActFormat {
        self.graph.weight(w).ty().format().act()
    }
}

fn buf(b: BufId) -> RegionId {
    RegionId(b.0 as usize)
}

fn access(op: &Op) -> Access {
    let mut a = Access::default();
    op.operation().access(&mut a);
    a
}
