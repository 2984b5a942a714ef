//! Tensors for fathom: GGUF files, block formats, operations and backends.
//!
//! The crate reads and writes GGML's public file and block formats and contains no code of the C
//! library. It is the only crate of the workspace with `unsafe` code.
//!
//! | module | what it holds |
//! |---|---|
//! | [`gguf`] | files: header, metadata, tensor table, shards, writing |
//! | [`format`](mod@format) | the table of block formats: layout, unpacking, encoding |
//! | [`tensor`] | shapes and immutable bytes: a view of the map, or owned |
//! | [`act`] | activations quantized to 8-bit blocks |
//! | [`graph`] | the recorded list of operations of a step |
//! | [`ops`] | each operation: shape check and scalar reference |
//! | [`cache`] | the key/value cache: chunks of rows behind a table |
//! | [`backend`] | what runs a graph |
//! | [`cpu`], [`cuda`] | the backends |
//! | [`hybrid`] | backends that share a graph |

pub mod act;
mod arena;
pub mod backend;
pub mod cache;
pub mod cpu;
pub mod cuda;
pub mod error;
pub mod format;
pub mod gguf;
pub mod graph;
pub mod hybrid;
pub mod memory;
pub mod ops;
pub mod reference;
pub mod tensor;

pub use error::{Error, Result};
pub use format::GgmlType;
pub use tensor::{Bytes, Shape, Tensor};
