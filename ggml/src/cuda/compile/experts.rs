//! The router, and the chosen experts.

use std::ops::Range;
use std::sync::Arc;

use super::matrix::{Grouping, Input, Products};
use super::rows::quantize_args;
use super::{Compiler, FEW, Launcher, Region, RegionId, Sel, Slot, Step};
use crate::act::ActFormat;
use crate::backend::SLOT_ROWS;
use crate::cuda::args::{
    self, CombineArgs, CutArgs, GroupArgs, MatvecArgs, QuantizeArgs, RopeArgs, RouterArgs, SiluMulArgs,
    TILE_BYTES,
};
use crate::cuda::driver::DevicePtr;
use crate::cuda::modules::{Geometry, Kernel};
use crate::cuda::streamed::{Buffers, HostStack, buffer_bytes};
use crate::error::{Error, Result};
use crate::graph::{Rows, Stack, View, WeightId};
use crate::ops::{Experts, Gating, GroupScore, Op, Router};

/// Experts that the kernels can choose among at the most.
const MAX_EXPERTS: usize = 1024;

/// Pairs of rows and chosen experts: what the launches of a mixture have in common.
#[derive(Clone, Copy)]
struct Pairs {
    sel: Sel,
    n_used: usize,
    grouping: Grouping,
    /// Tiles of a piece of experts, where those pass through the device.
    piece: Option<Grouping>,
    /// Where matrices are, if they are in slots.
    slots: Option<Slots>,
}

/// Where gate, up and down of the first slot are, and the bytes to those of the next.
#[derive(Clone, Copy)]
struct Slots {
    at: [DevicePtr; 3],
    stride: u64,
}

impl Pairs {
    fn n(&self, l: &Launcher<'_>) -> u32 {
        l.n(Rows::Tokens) * self.n_used as u32
    }

    /// Whether pairs are multiplied tile by tile, and not one by one.
    fn grouped(&self, l: &Launcher<'_>) -> bool {
        self.piece.is_some() || l.n_rows.0 > FEW
    }
}

/// A product of all pairs with one stack of matrices, or with those of gate and up.
struct Product {
    products: Products,
    /// The matrices, as kernels take them; their addresses too, unless they pass through.
    m: MatvecArgs,
    passing: Option<Passing>,
    pairs: Pairs,
    /// Pairs that read the same activations.
    x_div: usize,
}

/// Matrices in host memory.
struct Passing {
    buffers: Arc<Buffers>,
    stacks: Vec<HostStack>,
    n_expert: usize,
    cut: Kernel<CutArgs>,
    piece: Grouping,
}

impl Product {
    /// Puts the product into the stream: pair by pair, tile by tile, or piece by piece of experts.
    ///
    /// # Safety
    /// What `fill` names is memory for all pairs.
    unsafe fn launch(&self, l: &Launcher<'_>, fill: impl FnOnce(&mut MatvecArgs)) -> Result<()> {
        let (pairs, n) = (&self.pairs, self.pairs.n(l));
        let mut m = MatvecArgs { ids: pairs.sel.ids(l), x_div: self.x_div as u32, n_rows: 1, ..self.m };
        fill(&mut m);
        if !pairs.grouped(l) {
            // SAFETY: as the caller says: a pair is a group of one row.
            return unsafe { self.products.launch_few(m, n) };
        }
        m.n_rows = n;
        match &self.passing {
            // SAFETY: as the caller says.
            None => unsafe { self.products.launch_grouped(l, m, pairs.grouping, n) },
            // SAFETY: as the caller says.
            Some(p) => unsafe { self.launch_passing(l, m, p) },
        }
    }

    /// The same for matrices in host memory: each is sent once, whoever chose it.
    ///
    /// # Safety
    /// As above.
    unsafe fn launch_passing(&self, l: &Launcher<'_>, m: MatvecArgs, p: &Passing) -> Result<()> {
        let (at_once, all) = (p.buffers.experts_at_once(&p.stacks), self.pairs.grouping);
        let piece = |first: usize| first..p.n_expert.min(first + at_once);
        for first in (0..p.n_expert).step_by(at_once) {
            let experts = piece(first);
            p.stacks.iter().for_each(|s| s.announce(piece(experts.end)));
            p.buffers.pass(&p.stacks, experts.clone(), |places| {
                let args = CutArgs {
                    tile_list: l.at(all.tiles),
                    n_tiles: l.at(all.n_tiles),
                    to: l.at(p.piece.tiles),
                    n_to: l.at(p.piece.n_tiles),
                    first: first as u32,
                    n: experts.len() as u32,
                };
                // SAFETY: there is room for as many tiles as there are.
                unsafe { p.cut.launch(Geometry::new([1, 1, 1], 256), &args)? };
                let [w, w_up] = [0, 1].map(|i| places.get(i).copied().unwrap_or(0));
                let grouping = Grouping { n_expert: experts.len(), ..p.piece };
                // SAFETY: as the caller says; the tiles name matrices that are there.
                unsafe {
                    self.products.launch_grouped(l, MatvecArgs { w, w_up, ..m }, grouping, self.pairs.n(l))
                }
            })?;
        }
        Ok(())
    }
}

impl Compiler<'_> {
    pub(super) fn router(&mut self, o: &Router) -> Result<()> {
        let n_expert = o.logits.width;
        if n_expert > MAX_EXPERTS {
            return Err(Error::Unsupported(format!(
                "{n_expert} experts; CUDA chooses among up to {MAX_EXPERTS}"
            )));
        }
        let kernel: Kernel<RouterArgs> = self.kernel("router")?;
        let bias = o.bias.map(|b| self.floats(b)).transpose()?.unwrap_or(0);
        let (sel, n_used) = (self.sel(o.sel), self.graph.n_used(o.sel));
        let o = o.clone();
        self.steps.push(Box::new(move |l| {
            let args = RouterArgs {
                logits: l.view(o.logits),
                bias,
                ids: sel.ids(l),
                weights: sel.weights(l),
                n_expert: n_expert as u32,
                n_used: n_used as u32,
                sigmoid: u32::from(o.gating == Gating::Sigmoid),
                n_groups: o.groups.map_or(1, |g| g.n as u32),
                used_groups: o.groups.map_or(1, |g| g.used as u32),
                top2: u32::from(o.groups.is_some_and(|g| g.score == GroupScore::Top2Sum)),
                normalize: u32::from(o.normalize),
                scale: o.scale,
            };
            // SAFETY: a row has a logit for each expert, and room for as many choices.
            unsafe { kernel.launch(Geometry::new([l.n(Rows::Tokens), 1, 1], 32), &args) }
        }));
        Ok(())
    }

    /// Operation `i`, of all experts or of those in slots.
    pub(super) fn experts(&mut self, o: &Experts, i: usize) -> Result<()> {
        let Some(slots) = self.share.slots.iter().find(|s| s.0 == i).map(|s| s.1.clone()) else {
            return self.all_experts(o, None);
        };
        // What others read too is there for long batches as well.
        for stack in [o.gate, o.up] {
            self.input(o.x.heads(1), stack.w)?;
        }
        let first = self.steps.len();
        self.most = SLOT_ROWS;
        let at = slots.matrices.map(|m| slots.memory.address() + m as u64);
        let compiled = self.all_experts(o, Some(Slots { at, stride: slots.stride as u64 }));
        self.most = usize::MAX;
        self.slots.push(slots.memory);
        for step in self.steps.split_off(first) {
            let or_rest: Step = Box::new(move |l| if l.n_rows.0 > SLOT_ROWS { Ok(()) } else { step(l) });
            self.steps.push(or_rest);
        }
        compiled
    }

    fn all_experts(&mut self, o: &Experts, slots: Option<Slots>) -> Result<()> {
        let pairs = self.pairs(o, slots)?;
        let (n_ff, n_embd, n_used) = (o.gate.rows, o.y.width, pairs.n_used);
        let hidden = self.temporary(n_used * n_ff);
        self.expert_gate_up(o, pairs, hidden)?;
        if let Some(to) = o.hidden {
            self.keep_hidden(hidden, to, n_used)?;
        }
        let input = self.hidden_input(o.down.w, hidden, n_ff, n_used)?;
        let product = self.product(&[o.down], 2, pairs, 1)?;
        let out = self.temporary(n_used * n_embd);
        self.steps.push(Box::new(move |l| {
            let fill = |m: &mut MatvecArgs| {
                m.y = pair_rows(l, out, n_embd);
                input.fill(l, m, n_ff);
            };
            // SAFETY: hidden and out have a row for each pair; ids are experts of the stack.
            unsafe { product.launch(l, fill) }
        }));
        let (combine, y): (Kernel<CombineArgs>, View) = (self.kernel("combine")?, o.y);
        self.steps.push(Box::new(move |l| {
            let (n, n_used) = (n_embd as u32, n_used as u32);
            let args = CombineArgs { out: l.at(out), weights: pairs.sel.weights(l), y: l.view(y), n, n_used };
            // SAFETY: `out` has a row for each pair.
            unsafe { combine.launch(Geometry::new([n.div_ceil(256), l.n(Rows::Tokens), 1], 256), &args) }
        }));
        Ok(())
    }

    /// A region for this operation alone.
    fn temporary(&mut self, per_row: usize) -> RegionId {
        let region = self.region_of(Region { rows: Rows::Tokens, per_row, fixed: 0, most: self.most });
        self.touch(region);
        region
    }

    /// Sorts the pairs by expert, if there are many rows.
    fn pairs(&mut self, o: &Experts, slots: Option<Slots>) -> Result<Pairs> {
        let (sel, n_used, n_expert) = (self.sel(o.sel), self.graph.n_used(o.sel), o.gate.n);
        let kernel: Kernel<GroupArgs> = self.kernel("group")?;
        let order = self.temporary(n_used);
        let grouping = self.grouping(order, n_used, n_expert);
        let piece = self.is_streamed(o).then(|| self.grouping(order, n_used, n_expert));
        let pairs = Pairs { sel, n_used, grouping, piece, slots };
        self.steps.push(Box::new(move |l| {
            let args = GroupArgs {
                ids: sel.ids(l),
                order: l.at(order),
                tile_list: l.at(grouping.tiles),
                n_tiles: l.at(grouping.n_tiles),
                n_pairs: pairs.n(l),
                n_expert: n_expert as u32,
            };
            let blocks = u32::from(pairs.grouped(l));
            // SAFETY: there is room for all pairs, and for the tiles that they are cut into.
            unsafe { kernel.launch(Geometry::new([blocks, 1, 1], 1024), &args) }
        }));
        Ok(pairs)
    }

    /// Room for the tiles of a grouping.
    fn grouping(&mut self, order: RegionId, n_used: usize, n_expert: usize) -> Grouping {
        let fixed = n_expert * TILE_BYTES / 4;
        // A row has no more tiles than pairs.
        let per_row = n_used * TILE_BYTES / 4;
        let tiles = self.region_of(Region { rows: Rows::Tokens, per_row, fixed, most: self.most });
        let n_tiles = self.region(Rows::Tokens, 0, 4);
        self.touch(tiles);
        self.touch(n_tiles);
        Grouping { order, tiles, n_tiles, n_expert }
    }

    /// Whether experts pass through the device.
    fn is_streamed(&self, o: &Experts) -> bool {
        [o.gate, o.up, o.down].iter().any(|s| self.share.streamed.weights.contains(&s.w))
    }

    /// The buffers through which experts of this share pass, if there are such.
    pub(super) fn stream_buffers(&self) -> Result<Option<Arc<Buffers>>> {
        let mut groups = vec![];
        for &op in self.share.parts.iter().flatten() {
            if let Op::Experts(o) = &self.graph.ops()[op]
                && self.is_streamed(o)
            {
                groups.extend([vec![o.gate, o.up], vec![o.down]]);
            }
        }
        if groups.is_empty() {
            return Ok(None);
        }
        let of = |g: Vec<Stack>| g.into_iter().map(|s| HostStack::new(self.graph, s)).collect();
        let groups: Vec<Vec<HostStack>> = groups.into_iter().map(of).collect();
        self.weights.buffers(buffer_bytes(self.share.streamed.buffer, &groups)).map(|b| Some(Arc::new(b)))
    }

    /// Products with one stack, or with gate and up in one format; `first` is 0, 1 or 2 for gate, up and down.
    fn product(&mut self, stacks: &[Stack], first: usize, pairs: Pairs, x_div: usize) -> Result<Product> {
        let (ty, gated) = (self.graph.weight(stacks[0].w).ty(), stacks.len() > 1);
        let products = self.products(ty, gated)?;
        let (m, passing) = match (pairs.piece, pairs.slots) {
            (_, Some(Slots { at, stride })) => {
                let m = self.elsewhere(stacks[0]).args();
                let w_up = if gated { at[first + 1] } else { 0 };
                (MatvecArgs { w: at[first], w_up, matrix_bytes: stride, matrix_bytes_up: stride, ..m }, None)
            }
            (None, None) => {
                let first = self.matrices(stacks[0])?;
                let up = if gated { Some(self.matrices(stacks[1])?) } else { None };
                let (w_up, matrix_bytes_up) = up.map_or((0, 0), |up| (up.at, up.bytes));
                (MatvecArgs { w_up, matrix_bytes_up, ..first.args() }, None)
            }
            (Some(piece), None) => {
                let host: Vec<HostStack> = stacks.iter().map(|s| HostStack::new(self.graph, *s)).collect();
                let Some(buffers) = self.buffers.clone() else {
                    return Err(Error::Unsupported("experts to be sent without buffers".into()));
                };
                let (n_expert, cut) = (pairs.grouping.n_expert, self.kernel("cut")?);
                // In buffers they lie one after another.
                let one = host[0].matrix_bytes() as u64;
                let m = self.elsewhere(stacks[0]).args();
                let m = MatvecArgs { matrix_bytes: one, matrix_bytes_up: one, ..m };
                // What is sent depends on nothing in device memory, but the host has work to do for each batch.
                self.capturable = false;
                (m, Some(Passing { buffers, stacks: host, n_expert, cut, piece }))
            }
        };
        Ok(Product { products, m, passing, pairs, x_div })
    }

    fn expert_gate_up(&mut self, o: &Experts, pairs: Pairs, hidden: RegionId) -> Result<()> {
        let n_ff = o.gate.rows;
        if self.graph.weight(o.gate.w).ty() != self.graph.weight(o.up.w).ty() {
            let other = self.temporary(pairs.n_used * n_ff);
            self.expert_product(o, 0..1, pairs, hidden)?;
            self.expert_product(o, 1..2, pairs, other)?;
            let kernel: Kernel<SiluMulArgs> = self.kernel("silu_mul")?;
            self.steps.push(Box::new(move |l| {
                let (rows, n) = (l.rows(hidden, n_ff), n_ff as u32);
                let args = SiluMulArgs { gate: rows, up: l.rows(other, n_ff), y: rows, n };
                // SAFETY: both have a row for each pair.
                unsafe { kernel.launch(Geometry::new([n.div_ceil(256), pairs.n(l), 1], 256), &args) }
            }));
            return Ok(());
        }
        self.expert_product(o, 0..2, pairs, hidden)
    }

    /// A product of the rows that chose with gate (0), up (1), or both.
    fn expert_product(&mut self, o: &Experts, which: Range<usize>, pairs: Pairs, y: RegionId) -> Result<()> {
        let stacks = &[o.gate, o.up][which.clone()];
        let (n_ff, input) = (o.gate.rows, self.input(o.x.heads(1), stacks[0].w)?);
        let product = self.product(stacks, which.start, pairs, pairs.n_used)?;
        self.steps.push(Box::new(move |l| {
            let fill = |m: &mut MatvecArgs| {
                m.y = pair_rows(l, y, n_ff);
                fill_by_row(input, l, m);
            };
            // SAFETY: pairs read the row that chose; `y` has a row for each.
            unsafe { product.launch(l, fill) }
        }));
        Ok(())
    }

    /// Copies the hidden rows to where they are to be kept: a rotation of no pairs.
    fn keep_hidden(&mut self, hidden: RegionId, to: View, n_used: usize) -> Result<()> {
        let (kernel, n_ff): (Kernel<RopeArgs>, _) = (self.kernel("rope")?, to.width / n_used);
        self.steps.push(Box::new(move |l| {
            let x = args::Heads { at: l.at(hidden), stride: to.width as u64, head: n_ff as u64 };
            let (y, table) = (l.heads(to.heads(n_used)), args::View { at: 0, stride: 0 });
            let args = RopeArgs { x, y, table, pairs: 0, width: n_ff as u32, halves: 0 };
            // SAFETY: without pairs the table is not read; both have these heads.
            unsafe { kernel.launch(Geometry::new([l.n(Rows::Tokens), n_used as u32, 1], 64), &args) }
        }));
        Ok(())
    }

    /// The hidden rows as products with `w` take them.
    fn hidden_input(
        &mut self,
        w: WeightId,
        hidden: RegionId,
        n_ff: usize,
        n_used: usize,
    ) -> Result<HiddenInput> {
        let format = self.act(w);
        if format == ActFormat::F32 {
            return Ok(HiddenInput::Floats(hidden));
        }
        let (k, block) = (n_ff, format.block());
        let region = self.temporary(Slot::floats(k, block, n_used));
        let slot = Slot { region, k, block, per_row: n_used };
        let kernel: Kernel<QuantizeArgs> = self.kernel("quantize")?;
        self.steps.push(Box::new(move |l| {
            let x = args::Heads { at: l.at(hidden), stride: (n_used * n_ff) as u64, head: n_ff as u64 };
            let args = quantize_args(x, l.q8(slot), slot, n_used);
            // SAFETY: the slot has a row for each pair.
            unsafe { kernel.launch(Geometry::new([l.n(Rows::Tokens), n_used as u32, 1], 256), &args) }
        }));
        Ok(HiddenInput::Q8(slot))
    }
}

/// The hidden rows of the pairs, one after another.
#[derive(Clone, Copy)]
enum HiddenInput {
    Floats(RegionId),
    Q8(Slot),
}

impl HiddenInput {
    fn fill(self, l: &Launcher<'_>, m: &mut MatvecArgs, n_ff: usize) {
        match self {
            HiddenInput::Floats(r) => m.x = pair_rows(l, r, n_ff),
            HiddenInput::Q8(s) => m.q = l.q8(s),
        }
    }
}

/// Rows of pairs as groups of one row, and as rows.
fn pair_rows(l: &Launcher<'_>, region: RegionId, width: usize) -> args::Heads {
    args::Heads { at: l.at(region), stride: width as u64, head: width as u64 }
}

/// The rows of the batch as groups.
fn fill_by_row(input: Input, l: &Launcher<'_>, m: &mut MatvecArgs) {
    input.fill(l, m);
    m.x.head = m.x.stride;
}
