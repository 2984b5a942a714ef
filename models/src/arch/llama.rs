//! llama: grouped-query attention with adjacent rotary pairs, SwiGLU, optional biases. The 8B and 70B distills of R1.

use ggml_sys::ops::Pairing;

use super::blocks::{AttentionConfig, Ffn, Mlp, Transformer};
use super::{Base, Network};
use crate::error::Result;
use crate::loader::Loader;

pub fn load(l: &mut Loader<'_>) -> Result<Box<dyn Network>> {
    if l.find_usize("expert_count")?.unwrap_or(0) > 0 {
        return Err(l.config_error("llama with experts (Mixtral) is not supported"));
    }
    dense(l, Pairing::Adjacent, false)
}

/// A dense transformer, as llama, qwen2 and qwen3 are.
pub fn dense(l: &mut Loader<'_>, pairing: Pairing, qk_norm: bool) -> Result<Box<dyn Network>> {
    let base = Base::load(l)?;
    let attention = AttentionConfig::load(l, &base, pairing)?;
    let n_ff = l.usize("feed_forward_length")?;
    let ffn = |l: &mut Loader<'_>, il| Ok(Mlp::Dense(Ffn::load(l, &base, il, "", n_ff)?));
    let layers = Transformer::load_layers(l, &base, &attention, qk_norm, ffn)?;
    Ok(Box::new(Transformer { base, attention, router: None, layers }))
}
