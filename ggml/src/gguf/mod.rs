//! GGUF files.

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);
