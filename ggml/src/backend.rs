//! What runs a graph. The CPU is one backend, a GPU another, the scalar [`crate::reference`] a third; one
//! conformance test holds them all to the reference.

use std::ops::Range;
use std::sync::Arc;

use crate::cache::{Cache, ChunkMemory, LayerCache};
use crate::error::{Error, Result};
use crate::graph::{BufId, Graph, Row, SelId, Tally, TallyId, WeightId};
use crate::tensor::Tensor;

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

    /// So many bytes of its memory for experts that come and go, if it can compute with such ([`Share::slots`]).
    ///
    /// # Errors
    /// If it has no room for them.
    fn slot_memory(&self, _bytes: usize) -> Result<Option<Arc<dyn SlotMemory>>> {
        Ok(None)
    }

    /// What has become of [slots](crate::hybrid::Slotting) so far, if it has such.
    fn slot_use(&self) -> Option<SlotUse> {
        None
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
#[derive(Clone, Default)]
pub struct Share {
    /// Operations in order, in parts; between parts, others may run.
    pub parts: Vec<Vec<usize>>,
    /// Buffers that are written or read between parts, besides inputs and outputs of the graph.
    pub seams: Vec<Seam>,
    /// What a backend with a memory of its own leaves in the host's.
    pub streamed: Streamed,
    /// Selections that others write before a part.
    pub choices: Vec<(usize, SelId)>,
    /// Mixtures, by their operations, that are computed with what is in slots, in batches of up to [`SLOT_ROWS`] rows. In longer ones
    /// they do nothing.
    pub slots: Vec<(usize, SlotStack)>,
}

/// Rows of a batch up to which experts are computed from slots: with more, a batch meets so many experts that most are elsewhere.
pub const SLOT_ROWS: usize = 8;

/// Slots that a mixture's experts may be in: what it chooses are numbers of slots, not of experts. A slot has the matrices of gate, up and
/// down of one expert.
#[derive(Clone)]
pub struct SlotStack {
    /// Where the slots are.
    pub memory: Arc<dyn SlotMemory>,
    /// Where in it each matrix of the first slot begins.
    pub matrices: [usize; 3],
    /// Bytes from one slot to the next.
    pub stride: usize,
}

/// Memory of a device that matrices are brought to while it computes.
pub trait SlotMemory: Send + Sync {
    /// Where it begins, as the device knows it.
    fn address(&self) -> u64;

    /// Begins to bring pieces of tensors, given by their bytes, to places in it. They are copied after all that the device has been
    /// told to do until now, and beside what it is told later. Nothing waits.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If a piece does not fit.
    fn bring(&self, pieces: Vec<Piece>) -> Result<Box<dyn Arrival>>;
}

/// Bytes of a tensor, and where they are to go.
#[derive(Clone)]
pub struct Piece {
    /// The tensor.
    pub tensor: Tensor,
    /// Its bytes.
    pub bytes: Range<usize>,
    /// The first byte in the memory.
    pub to: usize,
}

/// Pieces on their way.
pub trait Arrival: Send {
    /// Whether all have come. Asks, and does not wait.
    ///
    /// # Errors
    /// If they will not.
    fn has_come(&self) -> Result<bool>;
}

/// What slots are and were good for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotUse {
    /// How many there are.
    pub slots: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Chosen experts that were in one.
    pub hits: u64,
    /// Chosen experts that were not, in batches that slots are asked for.
    pub misses: u64,
    /// Experts that were brought to one.
    pub brought: u64,
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

    /// The choices of all rows of the batch, by a router that has run.
    ///
    /// # Errors
    /// If the backend does not hand them out.
    fn chosen(&self, _sel: SelId) -> Result<Vec<(u32, f32)>> {
        Err(Error::Unsupported("choices of this backend for others".into()))
    }

    /// Replaces the choices of all rows of the batch before the part that reads them ([`Share::choices`]).
    /// Those with [`SKIPPED`](crate::graph::SKIPPED) for an expert are left out there.
    ///
    /// # Errors
    /// If there are too many or too few, or the backend does not take them.
    fn choose(&mut self, _sel: SelId, _chosen: &[(u32, f32)]) -> Result<()> {
        Err(Error::Unsupported("choices of others on this backend".into()))
    }

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
