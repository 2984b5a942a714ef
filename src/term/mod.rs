//! What is particular to terminals: colors, log lines, progress, Ctrl-C.

pub mod color;
pub mod interrupt;
pub mod log;
pub mod outside;
pub mod progress;
