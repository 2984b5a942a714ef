//! From a list of operations and a placement to what each backend does, and when.

use std::collections::HashMap;

use crate::backend::{Seam, Share};
use crate::error::Result;
use crate::graph::{BufId, Graph, Rows, SelId, Stack, TallyId, View, WeightId};
use crate::ops::{Access, Add, Experts, Op};

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Run a part of a backend's program.
    Run { backend: usize, part: usize },
    /// Bring the rows of a buffer from one program to another.
    Move { buf: BufId, from: usize, to: usize },
    /// Fill a buffer with zeros.
    Clear { buf: BufId, backend: usize },
    /// Divide the choices of a mixture between host and device.
    Split { mixture: usize },
}

/// A mixture on the host some of whose experts may be in slots of the device that has the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mixture {
    /// The device's operation.
    pub op: usize,
    pub host: usize,
    pub device: usize,
    pub sel: SelId,
    /// Gate, up and down.
    pub stacks: [Stack; 3],
}

impl Mixture {
    /// What it is known by.
    pub fn gate(&self) -> WeightId {
        self.stacks[0].w
    }
}

/// What is known about backends.
pub(super) struct Places<'a> {
    /// The backend of each weight.
    pub weights: &'a [usize],
    /// The backend of each layer of the cache.
    pub layers: &'a [usize],
    /// Whether a backend computes while it is told to, and not later.
    pub host: &'a [bool],
    /// Whether the experts of this gate have slots on a device.
    pub slotted: &'a dyn Fn(WeightId, usize) -> bool,
}

/// Where things are to be found.
#[derive(Debug, Default)]
pub(super) struct Homes {
    /// The first backend that takes an input.
    pub first: HashMap<BufId, usize>,
    /// The backend that wrote a buffer last.
    pub last: HashMap<BufId, usize>,
    pub tallies: HashMap<TallyId, usize>,
}

pub(super) struct Schedule {
    /// The graph with experts summed apart where that is better.
    pub graph: Graph,
    /// What each backend runs.
    pub shares: Vec<Share>,
    pub actions: Vec<Action>,
    pub homes: Homes,
    pub mixtures: Vec<Mixture>,
}

/// A run of operations on one backend, and what another does meanwhile.
struct Stage {
    backend: usize,
    ops: Vec<usize>,
    meanwhile: Option<(usize, Vec<usize>)>,
}

/// Makes the schedule of some operations, in order.
///
/// # Errors
/// If an operation that has to be added does not fit the graph.
pub(super) fn schedule(graph: &Graph, places: &Places<'_>, ops: &[usize]) -> Result<Schedule> {
    let mut only = graph.clone();
    only.ops = ops.iter().map(|&i| graph.ops()[i].clone()).collect();
    let (graph, mixtures) = apart(&only, &backends(&only, places), places)?;
    let mut backends = backends(&graph, places);
    mixtures.iter().for_each(|m| backends[m.op] = m.device);
    let stages = stages(&graph, &backends);
    let n = places.weights.iter().chain(places.layers).max().map_or(1, |b| b + 1);
    let mut s = Scheduler {
        graph: &graph,
        mixtures: &mixtures,
        host: places.host,
        shares: vec![Share::default(); n],
        actions: vec![],
        homes: Homes::default(),
        valid: HashMap::new(),
    };
    stages.iter().for_each(|stage| s.stage(stage));
    for (i, op) in graph.ops().iter().enumerate() {
        for tally in access(op).tally_writes {
            s.homes.tallies.insert(tally, backends[i]);
        }
    }
    let Scheduler { shares, actions, mut homes, valid, .. } = s;
    homes.last = valid.into_iter().filter_map(|(buf, on)| Some((buf, *on.first()?))).collect();
    Ok(Schedule { graph, shares, actions, homes, mixtures })
}

fn access(op: &Op) -> Access {
    let mut a = Access::default();
    op.operation().access(&mut a);
    a
}

/// The backend of each operation: that of its weights or its layer of the cache; what has neither goes with what came before,
/// and a router with its experts.
fn backends(graph: &Graph, places: &Places<'_>) -> Vec<usize> {
    let of = |w: WeightId| places.weights.get(w.0 as usize).copied();
    let layer = |il: usize| places.layers.get(il).copied();
    let experts = |sel: SelId| {
        graph.ops().iter().find_map(|op| match op {
            Op::Experts(o) if o.sel == sel => of(o.gate.w),
            _ => None,
        })
    };
    let mut before = 0;
    let backend = |op: &Op| {
        let own = match op {
            Op::Embed(o) => of(o.table),
            Op::RmsNorm(o) => of(o.weight),
            Op::Linear(o) => o.parts.first().and_then(|p| of(p.w)),
            Op::HeadLinear(o) => of(o.w.w),
            Op::GateUp(o) => of(o.gate),
            Op::Experts(o) => of(o.gate.w),
            Op::Router(o) => experts(o.sel),
            Op::SumSquares(o) => o.sel.and_then(experts),
            Op::StoreKv(o) => layer(o.layer),
            Op::Attention(o) => layer(o.layer),
            Op::MlaNaive(o) => layer(o.layer),
            Op::SelectOutputs(_) | Op::Add(_) | Op::RopeTable(_) | Op::Rope(_) => None,
        };
        before = own.unwrap_or(before);
        before
    };
    graph.ops().iter().map(backend).collect()
}

/// Lets experts whose results are wanted on another backend sum into a buffer of their own, which is added before anything but
/// further sums touches the stream. Those in slots go into the stream before.
fn apart(graph: &Graph, backends: &[usize], places: &Places<'_>) -> Result<(Graph, Vec<Mixture>)> {
    let (mut out, ops) = (graph.clone(), graph.ops());
    out.ops.clear();
    let mut mixtures = vec![];
    let mut sums: HashMap<usize, View> = HashMap::new();
    let mut waiting: Vec<Add> = vec![];
    let mut writer: HashMap<BufId, usize> = HashMap::new();
    for (op, &backend) in ops.iter().zip(backends) {
        let a = access(op);
        let only_adds = |y: View| matches!(op, Op::Linear(o) if o.add && o.x.buf != y.buf);
        let touched =
            |add: &Add| a.reads.iter().chain(&a.writes).any(|v| v.buf == add.y.buf) && !only_adds(add.y);
        for add in waiting.extract_if(.., |add| touched(add)) {
            out.push(add)?;
        }
        match op {
            Op::Experts(o) if writer.get(&o.y.buf).is_some_and(|w| *w != backend) => {
                let device = writer.get(&o.y.buf).copied().unwrap_or(backend);
                let is_host = |b: usize| places.host.get(b).is_some_and(|host| *host);
                // Who keeps the hidden activations keeps those of all experts.
                let slots = o.hidden.is_none() && is_host(backend) && !is_host(device);
                if slots && (places.slotted)(o.gate.w, device) {
                    let (op, sel, stacks) = (out.ops.len(), o.sel, [o.gate, o.up, o.down]);
                    out.push(o.clone())?;
                    mixtures.push(Mixture { op, host: backend, device, sel, stacks });
                }
                let sum = *sums.entry(o.y.width).or_insert_with(|| out.buffer(o.y.width, Rows::Tokens));
                out.push(Experts { y: sum, ..o.clone() })?;
                waiting.push(Add { x: sum, y: o.y });
            }
            op => out.push(op.clone())?,
        }
        writer.extend(a.writes.iter().map(|v| (v.buf, backend)));
    }
    for add in waiting {
        out.push(add)?;
    }
    Ok((out, mixtures))
}

/// Whether two operations must stay in order.
fn conflict(a: &Access, b: &Access) -> bool {
    let writes = |a: &Access, b: &Access| {
        a.writes.iter().any(|w| b.reads.iter().chain(&b.writes).any(|v| v.buf == w.buf))
            || a.sel_writes.iter().any(|s| b.sel_reads.contains(s) || b.sel_writes.contains(s))
            || a.cache_writes.iter().any(|l| b.cache_reads.contains(l) || b.cache_writes.contains(l))
            || a.tally_writes.iter().any(|t| b.tally_writes.contains(t))
    };
    writes(a, b) || writes(b, a)
}

fn stages(graph: &Graph, backends: &[usize]) -> Vec<Stage> {
    let all: Vec<Access> = graph.ops().iter().map(access).collect();
    let free = |op: usize, of: &[usize]| of.iter().all(|&o| !conflict(&all[op], &all[o]));
    let mut stages: Vec<Stage> = vec![];
    for (op, &backend) in backends.iter().enumerate() {
        if let Some(last) = stages.last_mut() {
            let beside = last.meanwhile.as_ref().map_or(&[][..], |m| &m.1);
            if last.backend == backend && free(op, beside) {
                last.ops.push(op);
                continue;
            }
            if last.backend != backend && free(op, &last.ops) {
                let meanwhile = last.meanwhile.get_or_insert((backend, vec![]));
                if meanwhile.0 == backend {
                    meanwhile.1.push(op);
                    continue;
                }
            }
        }
        stages.push(Stage { backend, ops: vec![op], meanwhile: None });
    }
    stages
}

struct Scheduler<'g> {
    graph: &'g Graph,
    mixtures: &'g [Mixture],
    host: &'g [bool],
    shares: Vec<Share>,
    actions: Vec<Action>,
    homes: Homes,
    /// Backends that have the rows of a buffer as they are now, the one that wrote them first.
    valid: HashMap<BufId, Vec<usize>>,
}

impl Scheduler<'_> {
    fn stage(&mut self, stage: &Stage) {
        self.bring(stage.backend, &stage.ops);
        let Some((backend, ops)) = &stage.meanwhile else { return self.run(stage.backend, &stage.ops) };
        self.bring(*backend, ops);
        let mut both = [(*backend, ops), (stage.backend, &stage.ops)];
        // What is only begun comes first.
        if self.host.get(*backend).is_some_and(|host| *host) {
            both.reverse();
        }
        both.into_iter().for_each(|(backend, ops)| self.run(backend, ops));
    }

    /// Moves what these operations find in buffers to their backend, before its next part.
    fn bring(&mut self, backend: usize, ops: &[usize]) {
        let mut written: Vec<BufId> = vec![];
        for &op in ops {
            if let Some(mixture) = self.mixtures.iter().position(|m| m.op == op) {
                let part = self.shares[backend].parts.len();
                self.shares[backend].choices.push((part, self.mixtures[mixture].sel));
                self.actions.push(Action::Split { mixture });
            }
            let op = &self.graph.ops()[op];
            let a = access(op);
            for v in a.reads.iter().filter(|v| !written.contains(&v.buf)) {
                self.need(backend, v.buf, true);
            }
            for v in &a.writes {
                // What is written as a whole need not be there before.
                let whole = v.col == 0 && v.width == self.graph.width(v.buf);
                if !whole && !written.contains(&v.buf) {
                    self.need(backend, v.buf, false);
                }
                written.push(v.buf);
            }
        }
    }

    fn need(&mut self, backend: usize, buf: BufId, read: bool) {
        let next = self.shares[backend].parts.len();
        let on = self.valid.entry(buf).or_default();
        if on.contains(&backend) {
            return;
        }
        match on.first().copied() {
            Some(from) => {
                on.push(backend);
                let last = self.shares[from].parts.len().saturating_sub(1);
                self.shares[from].seams.push(Seam::After(last, buf));
                self.shares[backend].seams.push(Seam::Before(next, buf));
                self.actions.push(Action::Move { buf, from, to: backend });
            }
            None if self.graph.inputs.contains(&buf) => {
                on.push(backend);
                self.homes.first.insert(buf, backend);
                self.shares[backend].seams.push(Seam::Before(next, buf));
            }
            // Sums that begin here.
            None if read => {
                on.push(backend);
                self.shares[backend].seams.push(Seam::Before(next, buf));
                self.actions.push(Action::Clear { buf, backend });
            }
            None => {}
        }
    }

    fn run(&mut self, backend: usize, ops: &[usize]) {
        let part = self.shares[backend].parts.len();
        self.shares[backend].parts.push(ops.to_vec());
        self.actions.push(Action::Run { backend, part });
        for &op in ops {
            for v in access(&self.graph.ops()[op]).writes {
                self.valid.insert(v.buf, vec![backend]);
            }
            // A sum apart is spent once it has been added: the next one begins with zeros.
            if let Op::Add(o) = &self.graph.ops()[op] {
                self.valid.remove(&o.x.buf);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::graph::Weights;
    use crate::ops::{GateUp, Gating, Linear, Projection, RmsNorm, Router};
    use crate::tensor::{Shape, Tensor};

    /// A mixture with a shared expert, whose routed experts lie on backend 0 and everything else on backend 1.
    fn mixture() -> (Graph, Vec<usize>) {
        let mut weights = Weights::default();
        let mut places = vec![];
        let mut add = |dims: &[usize], place: usize| {
            let shape = Shape::new(dims).unwrap();
            places.push(place);
            weights.add(Tensor::from_f32("w", shape, &vec![0.0; shape.n_elements()]).unwrap())
        };
        let (norm, gate_inp) = (add(&[8], 1), add(&[8, 4], 1));
        let [gate, up, down] = [[8, 6, 4], [8, 6, 4], [6, 8, 4]].map(|dims| add(&dims, 0));
        let [s_gate, s_up, s_down] = [[8, 6], [8, 6], [6, 8]].map(|dims| add(&dims, 1));
        let mut g = Graph::new(Arc::new(weights));
        let (x, h) = (g.input(8, Rows::Tokens), g.buffer(8, Rows::Tokens));
        let (logits, hidden, y) =
            (g.buffer(4, Rows::Tokens), g.buffer(6, Rows::Tokens), g.buffer(8, Rows::Tokens));
        let sel = g.selection(2);
        let linear = |x, w, y, add| Linear { x, parts: vec![Projection { w, bias: None, y }], add };
        let norm = |x, y| RmsNorm { x, weight: norm, eps: 1e-6, y };
        g.push(norm(x, x)).unwrap();
        g.push(norm(x, h)).unwrap();
        g.push(linear(h, gate_inp, logits, false)).unwrap();
        let gating = Gating::Softmax;
        g.push(Router { logits, bias: None, gating, groups: None, normalize: false, scale: 1.0, sel })
            .unwrap();
        let stack = |w, rows| Stack { w, row0: 0, stride: rows, rows, n: 4 };
        let (gate, up, down) = (stack(gate, 6), stack(up, 6), stack(down, 8));
        g.push(Experts { x: h, sel, gate, up, down, y: x, hidden: None }).unwrap();
        g.push(GateUp { x: h, gate: s_gate, up: s_up, y: hidden }).unwrap();
        g.push(linear(hidden, s_down, x, true)).unwrap();
        g.push(norm(x, y)).unwrap();
        g.output(y);
        (g, places)
    }

    /// Backend 0 is the host.
    fn places<'a>(weights: &'a [usize], slotted: &'a dyn Fn(WeightId, usize) -> bool) -> Places<'a> {
        Places { weights, layers: &[], host: &[true, false], slotted }
    }

    fn runs(s: &Schedule) -> Vec<(usize, Vec<&'static str>)> {
        let ran = s.actions.iter().filter_map(|a| match *a {
            Action::Run { backend, part } => Some((backend, &s.shares[backend].parts[part])),
            _ => None,
        });
        ran.map(|(b, ops)| (b, ops.iter().map(|&i| s.graph.ops()[i].operation().name()).collect())).collect()
    }

    #[test]
    fn experts_in_slots_are_begun_before_the_others() {
        let (graph, weights) = mixture();
        let all: Vec<usize> = (0..graph.ops().len()).collect();
        let s = schedule(&graph, &places(&weights, &|_, device| device == 1), &all).unwrap();
        let expected = [
            (1, vec!["rms_norm", "rms_norm", "linear"]),
            (0, vec!["router"]),
            (1, vec!["experts", "gate_up", "linear"]),
            (0, vec!["experts"]),
            (1, vec!["add", "rms_norm"]),
        ];
        assert_eq!(runs(&s), expected);
        let Mixture { host, device, op, sel, .. } = s.mixtures[0];
        assert_eq!((host, device, s.mixtures.len()), (0, 1, 1));
        // The one that adds to the stream, whose choices are written before its part.
        assert_eq!((op, s.shares[1].parts[1][0]), (op, op));
        assert_eq!(s.shares[1].choices, [(1, sel)]);
        // What the host needs is there before the device has something to do.
        let at = |what: &dyn Fn(&Action) -> bool| s.actions.iter().position(what).unwrap();
        let begun = at(&|a| matches!(a, Action::Run { backend: 1, part: 1 }));
        let last = s.actions.iter().rposition(|a| matches!(a, Action::Move { from: 1, to: 0, .. })).unwrap();
        let split = at(&|a| matches!(a, Action::Split { mixture: 0 }));
        let routed = at(&|a| matches!(a, Action::Run { backend: 0, part: 0 }));
        assert!(routed < split && split < begun && last < begun, "{:?}", s.actions);
    }

    #[test]
    fn the_shared_expert_is_computed_while_the_chosen_ones_are() {
        let (graph, weights) = mixture();
        let all: Vec<usize> = (0..graph.ops().len()).collect();
        let s = schedule(&graph, &places(&weights, &|_, _| false), &all).unwrap();
        let runs = runs(&s);
        let expected = [
            (1, vec!["rms_norm", "rms_norm", "linear"]),
            // Begun before the experts, which do not wait for it.
            (1, vec!["gate_up", "linear"]),
            (0, vec!["router", "experts"]),
            (1, vec!["add", "rms_norm"]),
        ];
        assert_eq!(runs, expected);
        // The input and the logits go there, zeros to sum into, and the sum comes back.
        let moves = s.actions.iter().filter(|a| matches!(a, Action::Move { .. })).count();
        let clears = s.actions.iter().filter(|a| matches!(a, Action::Clear { backend: 0, .. })).count();
        assert_eq!((moves, clears), (3, 1));
    }
}
