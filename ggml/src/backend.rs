//! What runs a graph. The CPU is one backend, a GPU another, the scalar [`crate::reference`] a third; one
//! conformance test holds them all to the reference.

use crate::cache::{Cache, LayerCache};
use crate::error::Result;
use crate::graph::{BufId, Graph, Row, Tally, TallyId};

/// A device that compiles and runs graphs.
pub trait Backend: Send + Sync {
    /// What people call it: `cpu (avx512vnni, 2 threads)`.
    fn name(&self) -> String;

    /// An empty cache where its programs want it, for up to `capacity` positions a sequence: in the host's memory unless the
    /// backend has its own.
    ///
    /// # Errors
    /// If a row does not fit the blocks of its format.
    fn cache(&self, layers: &[LayerCache], capacity: usize) -> Result<Cache> {
        Cache::new(layers, capacity)
    }

    /// Compiles a graph for batches of up to `max_rows` rows over a cache with the given layers.
    fn compile(&self, graph: &Graph, layers: &[LayerCache], max_rows: usize) -> Result<Box<dyn Program>>;
}

/// A compiled graph with its buffers.
pub trait Program: Send {
    /// Runs the list over a batch, appending the rows it stores to the cache.
    ///
    /// The cache must be one of the backend's ([`Backend::cache`]) and already have room for the rows ([`Cache::prepare`]). Values of the input buffers are
    /// given row-major.
    fn run(&mut self, batch: &[Row], cache: &mut Cache, inputs: &[(BufId, &[f32])]) -> Result<()>;

    /// The rows of an output buffer of the latest run, row-major.
    fn read(&self, buf: BufId) -> Result<Vec<f32>>;

    /// What a tally of the graph holds after all runs so far.
    fn tally(&self, tally: TallyId) -> Result<Tally>;
}
