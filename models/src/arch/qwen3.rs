//! qwen3: qwen2 without biases, with norms on each query and key head. R1-0528's 8B distill, which uses YaRN.

use ggml_sys::ops::Pairing;

use super::Network;
use super::llama::dense;
use crate::error::Result;
use crate::loader::Loader;

pub fn load(l: &mut Loader<'_>) -> Result<Box<dyn Network>> {
    dense(l, Pairing::Halves, true)
}
