//! What can go wrong with a model.

use ggml_sys::gguf;

/// An error of loading or running a model. One line each.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file itself is bad.
    #[error(transparent)]
    File(#[from] gguf::Error),
    /// Nobody taught fathom this architecture.
    #[error("{file}: unknown architecture {arch:?}; known are {known}")]
    Architecture {
        /// The file.
        file: String,
        /// What the file says.
        arch: String,
        /// The names in the table.
        known: String,
    },
    /// A tensor that the architecture needs is not there.
    #[error("{file}: tensor {name} is missing; {expected} was expected")]
    MissingTensor {
        /// The file.
        file: String,
        /// Its name.
        name: String,
        /// Its shape.
        expected: String,
    },
    /// A tensor has another shape than the metadata says.
    #[error("{file}: tensor {name} has the shape {found}; {expected} was expected")]
    TensorShape {
        /// The file.
        file: String,
        /// Its name.
        name: String,
        /// Its shape in the file.
        found: String,
        /// Its shape by the metadata.
        expected: String,
    },
    /// Metadata that makes no model.
    #[error("{file}: {what}")]
    Config {
        /// The file.
        file: String,
        /// What is wrong.
        what: String,
    },
    /// The prompt and what has been said do not fit the context.
    #[error("the context is full: {needed} tokens do not fit {n_ctx}")]
    ContextFull {
        /// Tokens that there would be.
        needed: usize,
        /// Tokens that fit.
        n_ctx: usize,
    },
    /// A grammar or a schema that is none, or more than is taken.
    #[error("{0}")]
    Grammar(String),
    /// The answer cannot go on as its constraint wants.
    #[error("{0}")]
    Constraint(String),
    /// The tensors or the step.
    #[error(transparent)]
    Compute(#[from] ggml_sys::Error),
    /// Threads could not be made.
    #[error("cannot start threads: {0}")]
    Threads(#[from] std::io::Error),
}

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
