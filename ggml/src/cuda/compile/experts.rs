//! The router, and the chosen experts.

use super::matrix::{Grouping, Input, Matrices, Products};
use super::rows::quantize_args;
use super::{Compiler, FEW, Launcher, RegionId, Slot};
use crate::act::ActFormat;
use crate::cuda::args::{
    self, CombineArgs, GroupArgs, MatvecArgs, QuantizeArgs, RopeArgs, RouterArgs, SiluMulArgs, TILE_BYTES,
};
use crate::cuda::modules::{Geometry, Kernel};
use crate::error::{Error, Result};
use crate::graph::{Rows, View, WeightId};
use crate::ops::{Experts, Gating, GroupScore, Router};

/// Experts that the kernels can choose among at the most.
const MAX_EXPERTS: usize = 1024;

/// Pairs of rows and chosen experts: what the launches of a mixture have in common.
#[derive(Clone, Copy)]
struct Pairs {
    ids: RegionId,
    weights: RegionId,
    n_used: usize,
    grouping: Grouping,
}

impl Pairs {
    fn n(&self, l: &Launcher<'_>) -> u32 {
        l.n(Rows::Tokens) * self.n_used as u32
    }

    /// A product of all pairs; each reads the activations of pair / `x_div`.
    ///
    /// # Safety
    /// `m` names memory for all pairs.
    unsafe fn launch(
        &self,
        l: &Launcher<'_>,
        products: &Products,
        m: MatvecArgs,
        x_div: usize,
    ) -> Result<()> {
        let m = MatvecArgs { ids: l.at(self.ids), x_div: x_div as u32, n_rows: 1, ..m };
        if l.n_rows.0 <= FEW {
            // SAFETY: as the caller says: a pair is a group of one row.
            unsafe { products.launch_few(m, self.n(l)) }
        } else {
            // SAFETY: as the caller says.
            unsafe {
                products.launch_grouped(l, MatvecArgs { n_rows: self.n(l), ..m }, self.grouping, self.n(l))
            }
        }
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
        let ((ids, weights), n_used) = (self.sel(o.sel), self.graph.n_used(o.sel));
        let o = o.clone();
        self.steps.push(Box::new(move |l| {
            let args = RouterArgs {
                logits: l.view(o.logits),
                bias,
                ids: l.at(ids),
                weights: l.at(weights),
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

    pub(super) fn experts(&mut self, o: &Experts) -> Result<()> {
        let pairs = self.pairs(o)?;
        let (n_ff, n_embd, n_used) = (o.gate.rows, o.y.width, pairs.n_used);
        let hidden = self.temporary(n_used * n_ff);
        self.expert_gate_up(o, pairs, hidden)?;
        if let Some(to) = o.hidden {
            self.keep_hidden(hidden, to, n_used)?;
        }
        let down = self.matrices(o.down)?;
        let products = self.products(down.ty, false)?;
        let input = self.hidden_input(o.down.w, hidden, n_ff, n_used)?;
        let out = self.temporary(n_used * n_embd);
        self.steps.push(Box::new(move |l| {
            let mut m = MatvecArgs { y: pair_rows(l, out, n_embd), ..down.args() };
            input.fill(l, &mut m, n_ff);
            // SAFETY: hidden and out have a row for each pair; ids are experts of the stack.
            unsafe { pairs.launch(l, &products, m, 1) }
        }));
        let (combine, y): (Kernel<CombineArgs>, View) = (self.kernel("combine")?, o.y);
        self.steps.push(Box::new(move |l| {
            let (n, n_used) = (n_embd as u32, n_used as u32);
            let args = CombineArgs { out: l.at(out), weights: l.at(pairs.weights), y: l.view(y), n, n_used };
            // SAFETY: `out` has a row for each pair.
            unsafe { combine.launch(Geometry::new([n.div_ceil(256), l.n(Rows::Tokens), 1], 256), &args) }
        }));
        Ok(())
    }

    /// A region for this operation alone.
    fn temporary(&mut self, per_row: usize) -> RegionId {
        let region = self.region(Rows::Tokens, per_row, 0);
        self.touch(region);
        region
    }

    /// Sorts the pairs by expert, if there are many rows.
    fn pairs(&mut self, o: &Experts) -> Result<Pairs> {
        let ((ids, weights), n_used, n_expert) = (self.sel(o.sel), self.graph.n_used(o.sel), o.gate.n);
        let kernel: Kernel<GroupArgs> = self.kernel("group")?;
        let order = self.temporary(n_used);
        let fixed = n_expert * TILE_BYTES / 4;
        // A row has no more tiles than pairs.
        let tiles = self.region(Rows::Tokens, n_used * TILE_BYTES / 4, fixed);
        let n_tiles = self.region(Rows::Tokens, 0, 4);
        self.touch(tiles);
        self.touch(n_tiles);
        let pairs = Pairs { ids, weights, n_used, grouping: Grouping { order, tiles, n_tiles, n_expert } };
        self.steps.push(Box::new(move |l| {
            let args = GroupArgs {
                ids: l.at(ids),
                order: l.at(order),
                tile_list: l.at(tiles),
                n_tiles: l.at(n_tiles),
                n_pairs: pairs.n(l),
                n_expert: n_expert as u32,
            };
            let blocks = u32::from(l.n_rows.0 > FEW);
            // SAFETY: there is room for all pairs, and for the tiles that they are cut into.
            unsafe { kernel.launch(Geometry::new([blocks, 1, 1], 1024), &args) }
        }));
        Ok(pairs)
    }

    fn expert_gate_up(&mut self, o: &Experts, pairs: Pairs, hidden: RegionId) -> Result<()> {
        let (gate, up, n_ff) = (self.matrices(o.gate)?, self.matrices(o.up)?, o.gate.rows);
        if gate.ty != up.ty {
            let other = self.temporary(pairs.n_used * n_ff);
            self.expert_product(o, o.gate.w, gate, pairs, hidden)?;
            self.expert_product(o, o.up.w, up, pairs, other)?;
            let kernel: Kernel<SiluMulArgs> = self.kernel("silu_mul")?;
            self.steps.push(Box::new(move |l| {
                let (rows, n) = (l.rows(hidden, n_ff), n_ff as u32);
                let args = SiluMulArgs { gate: rows, up: l.rows(other, n_ff), y: rows, n };
                // SAFETY: both have a row for each pair.
                unsafe { kernel.launch(Geometry::new([n.div_ceil(256), pairs.n(l), 1], 256), &args) }
            }));
            return Ok(());
        }
        let input = self.input(o.x.heads(1), o.gate.w)?;
        let products = self.products(gate.ty, true)?;
        self.steps.push(Box::new(move |l| {
            let y = pair_rows(l, hidden, n_ff);
            let mut m = MatvecArgs { w_up: up.at, matrix_bytes_up: up.bytes, y, ..gate.args() };
            fill_by_row(input, l, &mut m);
            // SAFETY: pairs read the row that chose; `hidden` has a row for each.
            unsafe { pairs.launch(l, &products, m, pairs.n_used) }
        }));
        Ok(())
    }

    fn expert_product(
        &mut self,
        o: &Experts,
        w: WeightId,
        m: Matrices,
        pairs: Pairs,
        y: RegionId,
    ) -> Result<()> {
        let (input, products) = (self.input(o.x.heads(1), w)?, self.products(m.ty, false)?);
        self.steps.push(Box::new(move |l| {
            let mut args = MatvecArgs { y: pair_rows(l, y, m.n_out), ..m.args() };
            fill_by_row(input, l, &mut args);
            // SAFETY: as for both at once.
            unsafe { pairs.launch(l, &products, args, pairs.n_used) }
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
