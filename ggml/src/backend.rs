//! What runs a graph. The CPU is one backend, a GPU another, the scalar [`crate::reference`] a third; one
//! conformance test holds them all to the reference.

use std::sync::Arc;

use crate::cache::{Cache, ChunkMemory, LayerCache};
use crate::error::{Error, Result};
use crate::graph::{BufId, Graph, Row, Tally, TallyId, WeightId};

/// A device that compiles and runs graphs.
pub trait Backend: Send + Sync {
    /// What people call it: `cpu (avx512vnni, 2 threads)`.
    fn name(&self) -> String;

    /// The memory that its programs want their layers of the cache in; `None` is the host's.
    fn memory(&self) -> Option<Arc<dyn ChunkMemory>> {
        None
    }

    /// Whether latent attention is to take its absorbed form whatever the lengths are.
    fn prefers_absorbed(&self) -> bool {
        false
    }

    /// An empty cache where its programs want it, for up to `capacity` positions a sequence.
    ///
    /// # Errors
    /// If a row does not fit the blocks of its format.
    fn cache(&self, layers: &[LayerCache], capacity: usize) -> Result<Cache> {
        Cache::in_memories(layers, capacity, vec![self.memory()], &vec![0; layers.len()])
    }

    /// Compiles a share of a graph for batches of up to `max_rows` rows over a cache with the given layers.
    ///
    /// # Errors
    /// If the backend cannot do an operation, or has no room for it.
    fn compile_share(
        &self,
        graph: &Graph,
        layers: &[LayerCache],
        max_rows: usize,
        share: &Share,
    ) -> Result<Box<dyn Program>>;

    /// Compiles a whole graph.
    ///
    /// # Errors
    /// As [`Backend::compile_share`].
    fn compile(&self, graph: &Graph, layers: &[LayerCache], max_rows: usize) -> Result<Box<dyn Program>> {
        self.compile_share(graph, layers, max_rows, &Share::whole(graph))
    }
}

/// The operations of a graph that one program runs, where several share it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Operations in order, in parts; between parts, others may run.
    pub parts: Vec<Vec<usize>>,
    /// Buffers that are written or read between parts, besides inputs and outputs of the graph.
    pub seams: Vec<Seam>,
    /// What a backend with a memory of its own leaves in the host's.
    pub streamed: Streamed,
}

/// Weights of experts that are sent to a device whenever they are used, in pieces, and not kept there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Streamed {
    /// All weights of these experts.
    pub weights: Vec<WeightId>,
    /// Bytes of each of two buffers through which they pass; more if that is not enough for one expert.
    pub buffer: usize,
}

/// A buffer handed over between parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seam {
    /// Written by others before the part.
    Before(usize, BufId),
    /// Read by others after the part.
    After(usize, BufId),
}

impl Seam {
    /// The buffer.
    pub fn buf(self) -> BufId {
        let (Seam::Before(_, buf) | Seam::After(_, buf)) = self;
        buf
    }
}

impl Share {
    /// All of a graph in one part.
    pub fn whole(graph: &Graph) -> Share {
        Share { parts: vec![(0..graph.ops().len()).collect()], ..Share::default() }
    }
}

/// A compiled graph, or a share of one, with its buffers.
pub trait Program: Send {
    /// Takes a batch, whose parts are run next. The cache must be one of the backend's ([`Backend::cache`]) and already have
    /// room for the rows ([`Cache::prepare`]).
    ///
    /// # Errors
    /// If the batch does not fit.
    fn begin(&mut self, batch: &[Row], cache: &Cache) -> Result<()>;

    /// Fills an input, or a buffer that is shared, with the values of the rows of the batch, row-major.
    ///
    /// # Errors
    /// If there are too many or too few.
    fn write(&mut self, buf: BufId, values: &[f32]) -> Result<()>;

    /// Runs a part over the batch, appending the rows it stores to the cache. It may be done only when something is read.
    ///
    /// # Errors
    /// If a device fails.
    fn run_part(&mut self, part: usize, cache: &mut Cache) -> Result<()>;

    /// Number of parts.
    fn n_parts(&self) -> usize;

    /// Runs the whole list over a batch, given the values of the inputs.
    ///
    /// # Errors
    /// If the batch or an input does not fit, or a device fails.
    fn run(&mut self, batch: &[Row], cache: &mut Cache, inputs: &[(BufId, &[f32])]) -> Result<()> {
        self.begin(batch, cache)?;
        inputs.iter().try_for_each(|(buf, values)| self.write(*buf, values))?;
        (0..self.n_parts()).try_for_each(|part| self.run_part(part, cache))
    }

    /// The rows of an output or a shared buffer of the latest batch, row-major.
    ///
    /// # Errors
    /// If there is no such buffer, or the device failed on the way.
    fn read(&self, buf: BufId) -> Result<Vec<f32>>;

    /// Gives memory back that only runs need, because another program runs next. What could be read is lost, but for tallies.
    fn rest(&mut self) {}

    /// What a tally of the graph holds after all runs so far.
    ///
    /// # Errors
    /// If there is no such tally, or a device fails.
    fn tally(&self, tally: TallyId) -> Result<Tally>;
}

/// Complains about a number of values that is not the buffer's.
pub(crate) fn check_values(given: usize, fit: usize) -> Result<()> {
    if given == fit {
        return Ok(());
    }
    Err(Error::Batch(format!("an input of {given} values where {fit} fit")))
}

/// Complains about a batch of no rows or too many.
pub(crate) fn check_rows(rows: usize, max_rows: usize) -> Result<()> {
    if (1..=max_rows).contains(&rows) {
        return Ok(());
    }
    Err(Error::Batch(format!("{rows} rows where 1 to {max_rows} fit")))
}
