//! The error type of operations, graphs and backends. Files have their own, [`crate::gguf::Error`].

/// What can go wrong while a graph is recorded, compiled or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operand does not have the shape the operation asks for.
    #[error("{op}: {what}")]
    Shape {
        /// Name of the operation.
        op: &'static str,
        /// The operand, what was expected and what was found.
        what: String,
    },
    /// The backend cannot do this.
    #[error("{0}")]
    Unsupported(String),
    /// The cache has no room for the rows of the batch.
    #[error("the context is full: {needed} positions are needed and {capacity} fit")]
    CacheFull {
        /// Positions that the sequence would have after the step.
        needed: usize,
        /// Positions that fit.
        capacity: usize,
    },
    /// A batch that does not fit the model or the cache.
    #[error("bad batch: {0}")]
    Batch(String),
    /// The machine would not give the memory.
    #[error("out of memory: {what} needs {bytes} bytes")]
    OutOfMemory {
        /// What the memory was for.
        what: &'static str,
        /// How much was asked for.
        bytes: usize,
    },
    /// A device failed, and with it all that it holds.
    #[error("{device}: {what} failed: {why}")]
    Device {
        /// Its name.
        device: String,
        /// What it was asked to do.
        what: &'static str,
        /// What its driver says.
        why: String,
    },
}

impl From<Error> for std::io::Error {
    fn from(e: Error) -> Self {
        std::io::Error::other(e)
    }
}

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
