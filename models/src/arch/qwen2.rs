//! qwen2: llama's shape with rotary halves and biases on Q, K and V. The 1.5B to 32B distills of R1.

use ggml_sys::ops::Pairing;

use super::Network;
use super::llama::dense;
use crate::error::Result;
use crate::loader::Loader;

pub fn load(l: &mut Loader<'_>) -> Result<Box<dyn Network>> {
    dense(l, Pairing::Halves, false)
}
