//! What can go wrong, in one line.

use std::io;
use std::path::{Path, PathBuf};

use ggml_sys::GgmlType;
use ggml_sys::gguf::{self, ErrorKind};

use crate::mix::Mix;

/// An error of planning or writing. Its text is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// About a file: what is wrong with it, or the system's refusal to read or write it.
    #[error(transparent)]
    File(#[from] gguf::Error),
    /// About a Hugging Face folder: what is wrong with it, or is not read.
    #[error(transparent)]
    Folder(gguf::Error),
    /// A type that can be read only.
    #[error("{ty} cannot be written; types that can: {}", names())]
    NoEncoder {
        /// The type.
        ty: GgmlType,
    },
    /// No type has this name.
    #[error("there is no type {name:?}; known types: {}", names())]
    UnknownType {
        /// The name.
        name: String,
    },
    /// No mix has this name.
    #[error("there is no type {name:?}; known are: {}", mixes())]
    UnknownMix {
        /// The name.
        name: String,
    },
    /// A pattern that is no regular expression, or names no tensor.
    #[error("pattern {pattern:?}: {what}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        what: String,
    },
    /// Something about an importance matrix.
    #[error("{path:?}: {what}")]
    Importance {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A type that is garbage where it is not known what matters.
    #[error("tensor '{tensor}' would be {ty}, which is of no use without an importance matrix")]
    NeedsImportance {
        /// The first such tensor.
        tensor: String,
        /// Its type.
        ty: GgmlType,
    },
    /// The output exists, and nobody said to replace it.
    #[error("{0:?} exists already")]
    Exists(PathBuf),
    /// The output is a folder, a device or a pipe, which a file cannot take the place of.
    #[error("{0:?} is no regular file")]
    NotAFile(PathBuf),
    /// The output, or the name that it is written under, is the model that is read.
    #[error("{0:?} is the model that is read")]
    Input(PathBuf),
    /// Another process is writing the same output.
    #[error("{0:?} is being written by another process")]
    Busy(PathBuf),
    /// The disk will not hold the output.
    #[error("{path:?} takes {need} bytes, and {free} are free on its disk")]
    NoSpace {
        /// The output.
        path: PathBuf,
        /// Bytes that it takes.
        need: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// A model that cannot be split as was asked.
    #[error("cannot split the output: {0}")]
    Split(String),
    /// A thread ended that should not have.
    #[error("{0} ended early")]
    Stopped(&'static str),
    /// So many threads cannot be had.
    #[error("cannot start {threads} threads: {what}")]
    Threads {
        /// Threads that were asked for.
        threads: usize,
        /// Why not.
        what: String,
    },
    /// The caller asked.
    #[error("cancelled")]
    Cancelled,
}

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The system's refusal to do something to a file.
    pub(crate) fn io(path: &Path, doing: &'static str, source: io::Error) -> Self {
        gguf::Error::new(&path.display().to_string(), ErrorKind::Io { doing, source }).into()
    }

    /// Something about the contents of a tensor.
    pub(crate) fn tensor(file: &Path, name: &str, what: String) -> Self {
        let kind = ErrorKind::Tensor { name: name.into(), what };
        gguf::Error::new(&file.display().to_string(), kind).into()
    }
}

fn mixes() -> String {
    let names: Vec<_> = Mix::ALL.iter().map(|m| m.name()).collect();
    names.join(", ")
}

fn names() -> String {
    let names: Vec<_> = crate::types().map(GgmlType::name).collect();
    names.join(", ")
}
