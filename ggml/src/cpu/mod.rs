//! The CPU backend.
//!
//! | file | what it holds |
//! |---|---|
//! | `kernels` | arithmetic, per instruction set |
//! | `pool` | threads that walk a step together |
//! | `plan` | phases and the arena |
//! | `compile` | operations to steps |
//! | `steps` | the steps |
//! | `exec` | what a step works on |
//! | `measure` | bandwidth and peak of the machine |

mod compile;
mod exec;
pub mod kernels;
mod measure;
mod plan;
pub mod pool;
mod steps;

use std::cell::UnsafeCell;
use std::num::NonZeroUsize;
use std::sync::Arc;

use crate::backend::{Backend, Program, Share, check_rows, check_values};
use crate::cache::{Cache, LayerCache};
use crate::error::{Error, Result};
use crate::graph::{BufId, Graph, Row, Rows, SelId, Tally, TallyId};
use crate::memory::AlignedBuf;
use crate::reference::check_tokens;
use exec::{Exec, TallyPtr};
use kernels::Kernels;
use plan::Plan;
use pool::Pool;

/// Runs graphs on the processor.
pub struct Cpu {
    pool: Arc<Pool>,
    kernels: &'static Kernels,
}

impl Cpu {
    /// A backend of so many threads with the best kernels of this machine, or those that `FATHOM_CPU` names.
    ///
    /// # Errors
    /// If the threads cannot be made.
    pub fn new(threads: NonZeroUsize) -> std::io::Result<Self> {
        Cpu::with_kernels(threads, kernels::kernels())
    }

    /// A backend with the given kernels.
    ///
    /// # Errors
    /// If the threads cannot be made.
    pub fn with_kernels(threads: NonZeroUsize, kernels: &'static Kernels) -> std::io::Result<Self> {
        Ok(Cpu { pool: Arc::new(Pool::new(threads)?), kernels })
    }

    /// Number of threads.
    pub fn n_threads(&self) -> usize {
        self.pool.n_threads()
    }

    /// The instruction set of its kernels.
    pub fn isa(&self) -> kernels::Isa {
        self.kernels.isa()
    }
}

impl Backend for Cpu {
    fn name(&self) -> String {
        format!("cpu ({}, {} threads)", self.kernels.isa().name(), self.pool.n_threads())
    }

    fn compile_share(
        &self,
        graph: &Graph,
        layers: &[LayerCache],
        max_rows: usize,
        share: &Share,
    ) -> Result<Box<dyn Program>> {
        check_cache_types(layers)?;
        let plan = compile::compile(graph, layers, max_rows, share, (self.kernels, self.n_threads()));
        let memory = |what, bytes| AlignedBuf::huge(bytes).ok_or(Error::OutOfMemory { what, bytes });
        let arena = memory("activations", 4 * plan.arena)?;
        let scratch: Result<Vec<_>> = (0..self.pool.n_threads())
            .map(|_| Ok(ThreadMemory(UnsafeCell::new(memory("scratch memory of a thread", plan.scratch)?))))
            .collect();
        Ok(Box::new(CpuProgram {
            graph: graph.clone(),
            tallies: graph.tallies.iter().map(|t| Tally::new(*t)).collect(),
            plan,
            arena,
            scratch: scratch?,
            pool: self.pool.clone(),
            kernels: self.kernels,
            max_rows,
            batch: vec![],
            outputs: vec![],
        }))
    }
}

/// Formats that cache rows can have.
pub const CACHE_TYPES: [crate::GgmlType; 3] =
    [crate::GgmlType::F32, crate::GgmlType::F16, crate::GgmlType::Q8_0];

/// Refuses a cache of other formats.
pub(crate) fn check_cache_types(layers: &[LayerCache]) -> Result<()> {
    for (il, l) in layers.iter().enumerate() {
        if [l.k_ty, l.v_ty()].iter().any(|t| !CACHE_TYPES.contains(t)) {
            let (k, v) = (l.k_ty, l.v_ty());
            return Err(Error::Unsupported(format!(
                "layer {il}: a cache of {k} and {v}; known are F32, F16, Q8_0"
            )));
        }
    }
    Ok(())
}

/// Scratch memory that only its thread touches.
struct ThreadMemory(UnsafeCell<AlignedBuf>);

// SAFETY: within a region each thread takes the one with its own number, and there is one region at a time.
unsafe impl Sync for ThreadMemory {}

struct CpuProgram {
    graph: Graph,
    tallies: Vec<Tally>,
    plan: Plan,
    arena: AlignedBuf,
    scratch: Vec<ThreadMemory>,
    pool: Arc<Pool>,
    kernels: &'static Kernels,
    max_rows: usize,
    /// The latest batch, and its rows whose output is wanted.
    batch: Vec<Row>,
    outputs: Vec<usize>,
}

impl CpuProgram {
    fn buffer(&self, buf: BufId) -> Result<(*mut f32, usize)> {
        let b = self.graph.bufs.get(buf.0 as usize).ok_or_else(|| Error::Batch("no such buffer".into()))?;
        let rows = if b.rows == Rows::Tokens { self.batch.len() } else { self.outputs.len() };
        let at = self.arena.as_ptr().cast::<f32>().wrapping_add(self.plan.offsets[buf.0 as usize]);
        Ok((at, rows * b.width))
    }

    /// The choices of the batch: where, and how many.
    fn choices(&self, sel: SelId) -> (*mut (u32, f32), usize) {
        let at = self.plan.offsets[self.plan.first_sel + sel.0 as usize];
        let at = self.arena.as_ptr().cast::<f32>().wrapping_add(at);
        (at.cast(), self.batch.len() * self.graph.n_used(sel))
    }
}

impl Program for CpuProgram {
    fn begin(&mut self, batch: &[Row], _cache: &Cache) -> Result<()> {
        check_rows(batch.len(), self.max_rows)?;
        check_tokens(&self.graph, batch)?;
        self.batch = batch.to_vec();
        self.outputs = (0..batch.len()).filter(|&i| batch[i].output).collect();
        Ok(())
    }

    fn write(&mut self, buf: BufId, values: &[f32]) -> Result<()> {
        let (at, len) = self.buffer(buf)?;
        check_values(values.len(), len)?;
        // SAFETY: the buffer has room for `len` values, and nothing runs now.
        unsafe { at.copy_from_nonoverlapping(values.as_ptr(), len) };
        Ok(())
    }

    fn n_parts(&self) -> usize {
        self.plan.parts.len()
    }

    fn run_part(&mut self, part: usize, cache: &mut Cache) -> Result<()> {
        let tally = |(t, shape): (&mut Tally, _)| {
            let (sums, counts) = (t.sums.as_mut_ptr(), t.counts.as_mut_ptr());
            TallyPtr { shape, sums, counts }
        };
        let tallies: Vec<_> =
            self.tallies.iter_mut().zip(self.graph.tallies.iter().copied()).map(tally).collect();
        let exec = Exec {
            graph: &self.graph,
            batch: &self.batch,
            outputs: &self.outputs,
            cache,
            kernels: self.kernels,
            threads: self.pool.n_threads(),
            arena: self.arena.as_ptr().cast(),
            offsets: &self.plan.offsets,
            max_rows: self.max_rows,
            first_sel: self.plan.first_sel,
            tallies: &tallies,
        };
        let (scratch, phases) = (&self.scratch, &self.plan.phases[self.plan.parts[part].clone()]);
        self.pool.run(&|worker| {
            // SAFETY: this thread alone has this number.
            let memory = unsafe { &mut *scratch[worker.id()].0.get() }.as_mut_slice();
            for phase in phases {
                worker.for_each(phase.items(&exec), |item| phase.run(&exec, item, memory));
            }
        });
        Ok(())
    }

    fn read(&self, buf: BufId) -> Result<Vec<f32>> {
        let (at, len) = self.buffer(buf)?;
        // SAFETY: the buffer has room for the rows of the latest run, and nothing runs while `self` is borrowed.
        Ok(unsafe { std::slice::from_raw_parts(at, len) }.to_vec())
    }

    fn chosen(&self, sel: SelId) -> Result<Vec<(u32, f32)>> {
        let (at, len) = self.choices(sel);
        // SAFETY: the region has room for the choices of all rows, and nothing runs while `self` is borrowed.
        Ok(unsafe { std::slice::from_raw_parts(at, len) }.to_vec())
    }

    fn choose(&mut self, sel: SelId, chosen: &[(u32, f32)]) -> Result<()> {
        let (at, len) = self.choices(sel);
        check_values(chosen.len(), len)?;
        // SAFETY: as above.
        unsafe { at.copy_from_nonoverlapping(chosen.as_ptr(), len) };
        Ok(())
    }

    fn rest(&mut self) {
        self.arena.discard();
        self.scratch.iter_mut().for_each(|memory| memory.0.get_mut().discard());
    }

    fn tally(&self, tally: TallyId) -> Result<Tally> {
        self.tallies.get(tally.0 as usize).cloned().ok_or_else(|| Error::Batch("no such tally".into()))
    }
}
