//! The parts of a chat that need no model: reading what is typed, the commands in it, what has been said.

pub mod complete;
pub mod conversation;
pub mod editor;
pub mod file;
pub mod lines;
pub mod slash;
