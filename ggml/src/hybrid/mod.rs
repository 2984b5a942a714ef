//! Backends that share a graph: some layers here and some there, or everything on a device but the experts.
//!
//! The list of operations is cut into **stages**, runs of operations on one backend. Buffers that a stage needs and another backend
//! has are moved before it. While a stage runs, another backend may do what comes after it and does not depend on it: the
//! shared expert on a device while the processor computes the chosen ones. For that, experts that are computed elsewhere than
//! the stream that they are added to sum into a buffer of their own, which is added later.

mod schedule;

use std::sync::Arc;

use crate::backend::{Backend, Program, Share};
use crate::cache::{Cache, LayerCache};
use crate::error::{Error, Result};
use crate::graph::{BufId, Graph, Row, Rows, Tally, TallyId};
use schedule::{Action, Schedule};

/// Which backend has what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The backend of each weight, in the order of the table.
    pub weights: Vec<usize>,
    /// The backend of each layer's cache.
    pub layers: Vec<usize>,
}

/// Several backends as one.
pub struct Hybrid {
    backends: Vec<Arc<dyn Backend>>,
    placement: Placement,
}

impl Hybrid {
    /// Backends that share graphs over the weights of one table.
    ///
    /// # Errors
    /// If there are too few backends for the placement.
    pub fn new(backends: Vec<Arc<dyn Backend>>, placement: Placement) -> Result<Hybrid> {
        let highest = placement.weights.iter().chain(&placement.layers).max();
        if highest.is_some_and(|b| *b >= backends.len()) || backends.is_empty() {
            return Err(Error::Unsupported(format!("a placement on more than {} backends", backends.len())));
        }
        Ok(Hybrid { backends, placement })
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
        let Schedule { graph, shares, actions, homes } =
            schedule::schedule(graph, &self.placement, &share.parts[0])?;
        let mut programs: Vec<Option<Box<dyn Program>>> = vec![];
        for b in 0..self.backends.len() {
            // A backend without operations is left alone.
            programs.push(match shares.get(b) {
                Some(s) if !s.parts.is_empty() => {
                    Some(self.backends[b].compile_share(&graph, layers, max_rows, s)?)
                }
                _ => None,
            });
        }
        Ok(Box::new(HybridProgram { graph, programs, actions, homes, batch: (0, 0) }))
    }
}

struct HybridProgram {
    graph: Graph,
    /// By backend; `None` for one that has nothing to do.
    programs: Vec<Option<Box<dyn Program>>>,
    actions: Vec<Action>,
    homes: schedule::Homes,
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
        }
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
        (0..self.actions.len()).try_for_each(|i| self.act(self.actions[i], cache))
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
