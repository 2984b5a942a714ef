//! Backends that share a graph: some layers here and some there, or everything on a device but the experts.
//!
//! The list of operations is cut into **stages**, runs of operations on one backend. Buffers that a stage needs and another backend
//! has are moved before it. While a stage runs, another backend may do what comes after it and does not depend on it: the
//! shared expert on a device while the processor computes the chosen ones. For that, experts that are computed elsewhere than
//! the stream that they are added to sum into a buffer of their own, which is added later.
//!
//! Memory that is left on a device is slots for experts of the host, which come and go: see `slots`. The chosen experts of a row are then
//! computed in two places, those in slots on the device of their layer, the others where they lie.
//!
//! Long batches may be placed otherwise than short ones: experts are then sent to a device, piece by piece, instead of being
//! computed where they lie. There are two schedules for that, and a program of each backend for both; they share the cache.

mod schedule;
mod slots;

use std::sync::{Arc, Mutex, MutexGuard};

use crate::backend::{Backend, Program, SLOT_ROWS, Share, SlotUse, Streamed};
use crate::cache::{Cache, LayerCache};
use crate::error::{Error, Result};
use crate::graph::{BufId, Graph, Row, Rows, Tally, TallyId, WeightId};
use schedule::{Action, Mixture, Places, Schedule};
use slots::Slots;

/// Which backend has what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The backend of each weight, in the order of the table.
    pub weights: Vec<usize>,
    /// The backend of each layer's cache.
    pub layers: Vec<usize>,
    /// What is otherwise for long batches.
    pub streaming: Option<Streaming>,
    /// What of each backend's memory is for slots; backends beyond the end have none.
    pub slots: Vec<Slotting>,
}

/// Memory of a backend for experts that are elsewhere otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slotting {
    /// Bytes.
    pub bytes: usize,
    /// Slots at the most.
    pub most: usize,
}

/// Experts that are sent to another backend for batches of many rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Streaming {
    /// Rows of such a batch at least.
    pub min_rows: usize,
    /// The backend that computes with each weight then. Only experts may be elsewhere than otherwise: they are sent to it.
    pub weights: Vec<usize>,
    /// Bytes of each of the two buffers through which they pass.
    pub buffer: usize,
}

/// Several backends as one.
pub struct Hybrid {
    backends: Vec<Arc<dyn Backend>>,
    placement: Placement,
    /// Made with the first program, and shared by all.
    slots: Mutex<Option<Shared>>,
}

/// Slots that several programs have.
type Shared = Arc<Mutex<Slots>>;

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(|e| e.into_inner())
}

impl Hybrid {
    /// Backends that share graphs over the weights of one table.
    ///
    /// # Errors
    /// If there are too few backends for the placement.
    pub fn new(backends: Vec<Arc<dyn Backend>>, placement: Placement) -> Result<Hybrid> {
        let streamed = placement.streaming.iter().flat_map(|s| &s.weights);
        let highest = placement.weights.iter().chain(&placement.layers).chain(streamed).max();
        if highest.is_some_and(|b| *b >= backends.len()) || backends.is_empty() {
            return Err(Error::Unsupported(format!("a placement on more than {} backends", backends.len())));
        }
        Ok(Hybrid { backends, placement, slots: Mutex::default() })
    }

    /// What is done where and when, and the slots for it, if there are such.
    fn scheduled(
        &self,
        graph: &Graph,
        ops: &[usize],
        weights: &[usize],
    ) -> Result<(Schedule, Option<Shared>)> {
        let host: Vec<bool> = self.backends.iter().map(|b| b.memory().is_none()).collect();
        let with = |slotted: &dyn Fn(WeightId, usize) -> bool| {
            let places = Places { weights, layers: &self.placement.layers, host: &host, slotted };
            schedule::schedule(graph, &places, ops)
        };
        let room = |b: usize| self.placement.slots.get(b).is_some_and(|s| s.bytes > 0 && s.most > 0);
        let possible = with(&|_, device| room(device))?;
        if possible.mixtures.is_empty() {
            return Ok((possible, None));
        }
        let mut made = locked(&self.slots);
        let slots = match &*made {
            Some(slots) => slots.clone(),
            None => {
                let memory = |b: usize, bytes| self.backends[b].slot_memory(bytes);
                let slots = Slots::new(&possible.graph, &possible.mixtures, &self.placement.slots, memory)?;
                made.insert(Arc::new(Mutex::new(slots))).clone()
            }
        };
        // Those of a size for which there is no room have none.
        let has = |gate, _| locked(&slots).stack(gate).is_some();
        Ok((with(&has)?, Some(slots)))
    }

    /// A program of batches of up to `max_rows` rows where `weights` lie like this, those that are elsewhere otherwise being sent.
    fn program(
        &self,
        (graph, ops): (&Graph, &[usize]),
        layers: &[LayerCache],
        max_rows: usize,
        weights: &[usize],
    ) -> Result<HybridProgram> {
        let (mut schedule, slots) = self.scheduled(graph, ops, weights)?;
        for m in &schedule.mixtures {
            let stack = slots.as_ref().and_then(|s| locked(s).stack(m.gate()));
            schedule.shares[m.device].slots.extend(stack.map(|stack| (m.op, stack)));
        }
        let Schedule { graph, mut shares, actions, homes, mixtures } = schedule;
        let buffer = self.placement.streaming.as_ref().map_or(0, |s| s.buffer);
        let moved = |b: usize| {
            let pairs = (0u32..).zip(weights.iter().zip(&self.placement.weights));
            pairs.filter(|(_, (now, usual))| **now == b && now != usual).map(|(id, _)| WeightId(id)).collect()
        };
        let mut programs: Vec<Option<Box<dyn Program>>> = vec![];
        for (b, backend) in self.backends.iter().enumerate() {
            // A backend without operations is left alone.
            programs.push(match shares.get_mut(b) {
                Some(s) if !s.parts.is_empty() => {
                    s.streamed = Streamed { weights: moved(b), buffer };
                    Some(backend.compile_share(&graph, layers, max_rows, s)?)
                }
                _ => None,
            });
        }
        Ok(HybridProgram { graph, programs, actions, homes, mixtures, slots, batch: (0, 0) })
    }
}

impl Backend for Hybrid {
    fn name(&self) -> String {
        self.backends.iter().map(|b| b.name()).collect::<Vec<_>>().join(" + ")
    }

    fn prefers_absorbed(&self) -> bool {
        self.backends.iter().any(|b| b.prefers_absorbed())
    }

    fn cache(&self, layers: &[LayerCache], capacity: usize) -> Result<Cache> {
        let memories = self.backends.iter().map(|b| b.memory()).collect();
        Cache::in_memories(layers, capacity, memories, &self.placement.layers[..layers.len()])
    }

    fn slot_use(&self) -> Option<SlotUse> {
        locked(&self.slots).as_ref().map(|slots| locked(slots).so_far())
    }

    fn compile_share(
        &self,
        graph: &Graph,
        layers: &[LayerCache],
        max_rows: usize,
        share: &Share,
    ) -> Result<Box<dyn Program>> {
        if share.parts.len() != 1 || !share.seams.is_empty() {
            return Err(Error::Unsupported("a share of a graph among backends that share it".into()));
        }
        let list = (graph, &share.parts[0][..]);
        let usual = |rows| self.program(list, layers, rows, &self.placement.weights);
        match &self.placement.streaming {
            Some(s) if s.min_rows <= max_rows => Ok(Box::new(ByRows {
                few: usual(s.min_rows.saturating_sub(1).max(1))?,
                many: self.program(list, layers, max_rows, &s.weights)?,
                min_rows: s.min_rows,
                is_long: false,
            })),
            _ => Ok(Box::new(usual(max_rows)?)),
        }
    }
}

/// A program for short batches and one for long ones.
struct ByRows {
    few: HybridProgram,
    many: HybridProgram,
    /// Rows of a long batch at least.
    min_rows: usize,
    /// Whether the latest batch is one.
    is_long: bool,
}

impl ByRows {
    fn current(&self) -> &HybridProgram {
        if self.is_long { &self.many } else { &self.few }
    }

    fn current_mut(&mut self) -> &mut HybridProgram {
        if self.is_long { &mut self.many } else { &mut self.few }
    }
}

impl Program for ByRows {
    fn begin(&mut self, batch: &[Row], cache: &Cache) -> Result<()> {
        let is_long = batch.len() >= self.min_rows;
        if is_long != self.is_long {
            self.current_mut().rest();
            self.is_long = is_long;
        }
        self.current_mut().begin(batch, cache)
    }

    fn write(&mut self, buf: BufId, values: &[f32]) -> Result<()> {
        self.current_mut().write(buf, values)
    }

    fn run_part(&mut self, part: usize, cache: &mut Cache) -> Result<()> {
        self.current_mut().run_part(part, cache)
    }

    fn n_parts(&self) -> usize {
        1
    }

    fn read(&self, buf: BufId) -> Result<Vec<f32>> {
        self.current().read(buf)
    }

    fn rest(&mut self) {
        self.few.rest();
        self.many.rest();
    }

    fn tally(&self, tally: TallyId) -> Result<Tally> {
        let (mut sum, more) = (self.few.tally(tally)?, self.many.tally(tally)?);
        sum.sums.iter_mut().zip(&more.sums).for_each(|(a, b)| *a += b);
        sum.counts.iter_mut().zip(&more.counts).for_each(|(a, b)| *a += b);
        Ok(sum)
    }
}

struct HybridProgram {
    graph: Graph,
    /// By backend; `None` for one that has nothing to do.
    programs: Vec<Option<Box<dyn Program>>>,
    actions: Vec<Action>,
    homes: schedule::Homes,
    mixtures: Vec<Mixture>,
    slots: Option<Shared>,
    /// Tokens and outputs of the batch.
    batch: (usize, usize),
}

impl HybridProgram {
    fn program(&mut self, backend: usize) -> Result<&mut Box<dyn Program>> {
        self.programs[backend].as_mut().ok_or_else(|| Error::Batch("a backend without operations".into()))
    }

    fn act(&mut self, action: Action, cache: &mut Cache) -> Result<()> {
        match action {
            Action::Run { backend, part } => self.program(backend)?.run_part(part, cache),
            Action::Move { buf, from, to } => {
                let values = self.program(from)?.read(buf)?;
                self.program(to)?.write(buf, &values)
            }
            Action::Clear { buf, backend } => {
                let rows = if self.graph.rows(buf) == Rows::Tokens { self.batch.0 } else { self.batch.1 };
                let zeros = vec![0.0; rows * self.graph.width(buf)];
                self.program(backend)?.write(buf, &zeros)
            }
            Action::Split { mixture } => self.split(self.mixtures[mixture]),
        }
    }

    /// Says which of the chosen experts the host computes, and which the device.
    fn split(&mut self, m: Mixture) -> Result<()> {
        let Some(slots) = self.slots.clone() else { return Ok(()) };
        let chosen = self.program(m.host)?.chosen(m.sel)?;
        let Some(split) = locked(&slots).split(m.gate(), &chosen, self.batch.0 <= SLOT_ROWS) else {
            return Ok(());
        };
        self.program(m.device)?.choose(m.sel, &split.device)?;
        if split.host != chosen {
            self.program(m.host)?.choose(m.sel, &split.host)?;
        }
        Ok(())
    }
}

impl Program for HybridProgram {
    fn begin(&mut self, batch: &[Row], cache: &Cache) -> Result<()> {
        self.batch = (batch.len(), batch.iter().filter(|r| r.output).count());
        self.programs.iter_mut().flatten().try_for_each(|p| p.begin(batch, cache))
    }

    fn write(&mut self, buf: BufId, values: &[f32]) -> Result<()> {
        let home = self.homes.first.get(&buf).copied();
        match home {
            Some(backend) => self.program(backend)?.write(buf, values),
            // Nobody reads it.
            None => Ok(()),
        }
    }

    fn run_part(&mut self, _part: usize, cache: &mut Cache) -> Result<()> {
        if let Some(slots) = &self.slots {
            locked(slots).begin(self.batch.0);
        }
        (0..self.actions.len()).try_for_each(|i| self.act(self.actions[i], cache))?;
        if let Some(slots) = &self.slots {
            locked(slots).end();
        }
        Ok(())
    }

    fn n_parts(&self) -> usize {
        1
    }

    fn read(&self, buf: BufId) -> Result<Vec<f32>> {
        let none = || Error::Batch("no such buffer".into());
        let home = self.homes.last.get(&buf).ok_or_else(none)?;
        self.programs[*home].as_ref().ok_or_else(none)?.read(buf)
    }

    fn rest(&mut self) {
        self.programs.iter_mut().flatten().for_each(|p| p.rest());
    }

    fn tally(&self, tally: TallyId) -> Result<Tally> {
        let none = || Error::Batch("no such tally".into());
        let home = self.homes.tallies.get(&tally).ok_or_else(none)?;
        self.programs[*home].as_ref().ok_or_else(none)?.tally(tally)
    }
}
