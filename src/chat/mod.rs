//! The parts of a chat that need no model: reading what is typed, and the commands in it.

pub mod lines;
pub mod slash;
