//! From what was typed to what is meant: raw arguments, then validated settings.

pub mod args;
pub mod complete;
pub mod config;
pub mod examples;
pub mod habits;
pub mod lookup;
pub mod mistyped;
pub mod parse;
pub mod rewrite;
pub mod rules;
pub mod settings;
