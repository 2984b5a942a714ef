//! What the tests of fathom share: fixtures, and readers for the expected values in them.
//!
//! The fixtures lie compressed in tests/fixtures (its README says what each is). They are unpacked
//! once into target/fixtures, on first use. As a part of tests, this crate panics when something
//! is not as it should be.

pub mod compare;
mod cuda_driver;
pub mod exam;
pub mod fixtures;
pub mod raw_gguf;
pub mod reference;
pub mod sha256;
pub mod tensors;
mod unpack;
mod widen;

pub use cuda_driver::cuda_driver;
