//! Recorded operations to steps.

use std::sync::Arc;

use super::exec::{Grouping, Slot};
use super::plan::{Plan, Planner, Resource, Uses};
use super::steps::attention::{Attend, FewRows, ManyRows, Merge};
use super::steps::experts::{
    Combine, ExpertDown, ExpertGateUp, ExpertInput, ExpertSum, Gather, Group, KeepHidden, QuantizePairs,
};
use super::steps::matrix::{GateUpStep, HeadLinearStep, Input, LinearStep, Part, TILE};
use super::steps::mla::NaiveHeads;
use super::steps::rows::{Choose, Norm, Quantize};
use crate::act::ActFormat;
use crate::backend::Share;
use crate::cache::{LayerCache, ValueRows};
use crate::cpu::kernels::Kernels;
use crate::graph::{Graph, Heads, Stack, View, WeightId};
use crate::ops::{Access, Attention, Experts, GateUp, HeadLinear, Linear, Op, Operation};

/// Compiles a share of a graph for batches of up to `max_rows` rows over a cache with these layers, for kernels on so many threads.
pub(super) fn compile(
    graph: &Graph,
    layers: &[LayerCache],
    max_rows: usize,
    share: &Share,
    machine: (&'static Kernels, usize),
) -> Plan {
    let mut c = Compiler { p: Planner::new(graph, max_rows), graph, layers, machine };
    for part in &share.parts {
        c.p.part();
        part.iter().for_each(|&op| c.op(&graph.ops()[op]));
    }
    c.p.finish(share)
}

struct Compiler<'g> {
    p: Planner<'g>,
    graph: &'g Graph,
    layers: &'g [LayerCache],
    /// Kernels and threads.
    machine: (&'static Kernels, usize),
}

impl Compiler<'_> {
    fn op(&mut self, op: &Op) {
        let uses = self.uses(op.operation());
        match op {
            Op::Embed(o) => self.p.row_step(self.graph.rows(o.y.buf), o.clone(), uses),
            Op::Add(o) => self.p.row_step(self.graph.rows(o.y.buf), *o, uses),
            Op::SelectOutputs(o) => self.p.row_step(self.graph.rows(o.y.buf), o.clone(), uses),
            Op::RmsNorm(o) => {
                let weight = self.floats(o.weight);
                self.p.row_step(self.graph.rows(o.x.buf), Norm { op: o.clone(), weight }, uses);
            }
            Op::RopeTable(o) => self.p.row_step(self.graph.rows(o.y.buf), o.clone(), uses),
            Op::Rope(o) => self.p.row_step(self.graph.rows(o.x.buf), o.clone(), uses),
            Op::StoreKv(o) => self.p.row_step(self.graph.rows(o.k.buf), o.clone(), uses),
            Op::Router(o) => {
                let bias = o.bias.map(|b| self.floats(b));
                self.p.row_step(self.graph.rows(o.logits.buf), Choose { op: o.clone(), bias }, uses);
            }
            Op::Linear(o) => self.linear(o, uses),
            Op::HeadLinear(o) => self.head_linear(o, uses),
            Op::GateUp(o) => self.gate_up(o, uses),
            Op::Attention(o) => self.attention(o, uses),
            Op::MlaNaive(o) => {
                let k_ty = self.layers[o.layer].k_ty;
                self.p.split_step(NaiveHeads { op: o.clone(), k_ty }, uses);
            }
            Op::Experts(o) => self.experts(o),
            Op::SumSquares(o) => self.p.split_step(*o, uses),
        }
    }

    fn uses(&self, op: &dyn Operation) -> Uses {
        let mut access = Access::default();
        op.access(&mut access);
        self.p.uses(&access)
    }

    fn floats(&self, w: WeightId) -> Arc<[f32]> {
        self.graph.weight(w).to_f32().into()
    }

    fn act(&self, w: WeightId) -> ActFormat {
        self.graph.weight(w).ty().format().act()
    }

    /// The view as products with `w` take it, quantized if need be.
    fn input(&mut self, view: View, w: WeightId) -> Input {
        match self.act(w) {
            ActFormat::F32 => Input::F32(view),
            format => Input::Q8(self.quantized(view.heads(1), format), 0),
        }
    }

    fn quantized(&mut self, heads: Heads, format: ActFormat) -> Slot {
        let view = heads.span();
        let groups = heads.n;
        if let Some(slot) = self.p.find_quantized(view, format.block()).filter(|s| s.groups == groups) {
            return slot;
        }
        let slot = self.p.slot(heads.width, format, groups, 1);
        let uses = Uses::new([Resource::Columns(view)], [Resource::Region(slot.region)]);
        self.p.row_step(self.graph.rows(heads.buf), Quantize { heads, slot }, uses);
        self.p.remember_quantized(view, slot);
        slot
    }

    /// Weight rows of an item with many rows of activations: as many as kernels like, if two items a thread are left.
    fn many(&self, w: WeightId, n_out: usize) -> usize {
        let (kernels, threads) = self.machine;
        let share = n_out.div_ceil(2 * threads).next_multiple_of(TILE);
        share.min(kernels.many_rows(self.graph.weight(w).ty())).max(TILE)
    }

    fn linear(&mut self, o: &Linear, mut uses: Uses) {
        let mut parts = vec![];
        for p in &o.parts {
            let input = self.input(o.x, p.w);
            uses.reads.push(region(input));
            let bias = p.bias.map(|b| self.floats(b));
            parts.push(Part { w: p.w, bias, input, y: p.y, many: self.many(p.w, p.y.width) });
        }
        let rows = self.graph.rows(o.x.buf);
        self.p.split_step(LinearStep { parts, rows, add: o.add }, uses);
    }

    fn head_linear(&mut self, o: &HeadLinear, mut uses: Uses) {
        let slot = match self.act(o.w.w) {
            ActFormat::F32 => None,
            format => Some(self.quantized(o.x, format)),
        };
        uses.reads.extend(slot.map(|s| Resource::Region(s.region)));
        let rows = self.graph.rows(o.x.buf);
        self.p.split_step(HeadLinearStep { x: o.x, slot, w: o.w, y: o.y, rows }, uses);
    }

    fn gate_up(&mut self, o: &GateUp, mut uses: Uses) {
        let gate = (o.gate, self.input(o.x, o.gate));
        let up = (o.up, self.input(o.x, o.up));
        uses.reads.extend([region(gate.1), region(up.1)]);
        let (rows, many) = (self.graph.rows(o.x.buf), self.many(o.gate, o.y.width));
        self.p.split_step(GateUpStep { gate, up, y: o.y, rows, many }, uses);
    }

    fn attention(&mut self, o: &Attention, uses: Uses) {
        let layer = self.layers[o.layer];
        let prefix = matches!(layer.v, ValueRows::KeyPrefix { .. });
        let attend = Attend { op: o.clone(), k_ty: layer.k_ty, v_ty: layer.v_ty(), prefix };
        let spans = self.p.region(FewRows::span_floats(o, self.p.max_rows));
        let mut few = uses.clone();
        few.writes.push(Resource::Region(spans));
        self.p.split_step(FewRows { attend: attend.clone(), spans }, few);
        let y = Resource::Columns(o.y.span());
        // The same outputs, but never in the same batch: both kinds of items may share a phase.
        self.p.split_step_beside(ManyRows { attend }, uses);
        let merge = Uses::new([Resource::Region(spans), y], [y]);
        self.p.row_step(self.graph.rows(o.y.buf), Merge { op: o.clone(), spans }, merge);
    }

    fn experts(&mut self, o: &Experts) {
        let n_used = self.graph.n_used(o.sel);
        let mut grouping = Grouping { region: super::exec::RegionId(0), n_expert: o.gate.n, n_used };
        grouping.region = self.p.region(grouping.words_for(self.p.max_rows));
        let groups = Resource::Region(grouping.region);
        let sel = Resource::Region(self.p.sel_region(o.sel));
        let stacks = [o.gate, o.up, o.down];
        self.p.split_step(Group { sel: o.sel, to: grouping, stacks }, Uses::new([sel], [groups]));

        let gate = self.gathered(o.x, o.gate, grouping);
        let up = self.gathered(o.x, o.up, grouping);
        let (n_ff, n_embd, pairs) = (o.gate.rows, o.y.width, n_used * self.p.max_rows);
        let hidden = self.p.region(n_ff * pairs);
        let reads: Vec<Resource> = [gate, up]
            .iter()
            .flat_map(|i| [region(i.single), region(i.gathered)])
            .chain([groups, Resource::Columns(o.x)])
            .collect();
        let step = ExpertGateUp { gate, up, grouping, hidden };
        self.p.split_step(step, Uses::new(reads, [Resource::Region(hidden)]));

        if let Some(to) = o.hidden {
            let uses = Uses::new([groups, Resource::Region(hidden)], [Resource::Columns(to)]);
            self.p.row_step(self.graph.rows(to.buf), KeepHidden { grouping, hidden, to }, uses);
        }
        let input = match self.act(o.down.w) {
            ActFormat::F32 => Input::Plain(hidden, n_ff),
            format => {
                let slot = self.p.slot(n_ff, format, 1, n_used);
                let uses = Uses::new([groups, Resource::Region(hidden)], [Resource::Region(slot.region)]);
                self.p.split_step(QuantizePairs { hidden, slot, grouping }, uses);
                Input::Q8(slot, 0)
            }
        };
        let out = self.p.region(ExpertDown::out_floats(n_embd, n_used, self.p.max_rows));
        let uses = Uses::new([region(input), groups], [Resource::Region(out)]);
        self.p.split_step(ExpertDown { w: o.down, input, grouping, out }, uses);

        let y = Resource::Columns(o.y);
        let uses = Uses::new([region(input), groups, sel, y], [y]);
        self.p.split_step(ExpertSum { w: o.down, input, grouping, sel: o.sel, y: o.y }, uses);
        let uses = Uses::new([groups, sel, Resource::Region(out), y], [y]);
        self.p.row_step(self.graph.rows(o.y.buf), Combine { sel: o.sel, grouping, out, y: o.y }, uses);
    }

    /// The activations of the pairs for products with a stack, gathered once for stacks that take them alike.
    fn gathered(&mut self, x: View, w: Stack, grouping: Grouping) -> ExpertInput {
        let single = self.input(x, w.w);
        if let Some(found) = self.p.find_gathered(region(single), grouping.region) {
            return ExpertInput { w, single, gathered: found };
        }
        let gathered = match self.act(w.w) {
            ActFormat::F32 => {
                Input::Plain(self.p.region(x.width * grouping.n_used * self.p.max_rows), x.width)
            }
            format => Input::Q8(self.p.slot(x.width, format, 1, grouping.n_used), 0),
        };
        let uses = Uses::new([region(single), Resource::Region(grouping.region)], [region(gathered)]);
        self.p.split_step(Gather { from: single, to: gathered, grouping }, uses);
        self.p.remember_gathered(region(single), grouping.region, gathered);
        ExpertInput { w, single, gathered }
    }
}

/// What an input reads.
fn region(input: Input) -> Resource {
    match input {
        Input::F32(v) => Resource::Columns(v),
        Input::Plain(r, _) => Resource::Region(r),
        Input::Q8(s, _) => Resource::Region(s.region),
    }
}
