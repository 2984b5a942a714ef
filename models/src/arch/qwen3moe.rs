//! qwen3moe: qwen3 with a mixture in every layer: softmax over all experts, weights of the chosen ones normalized.

use ggml_sys::ops::{Gating, Pairing};

use super::blocks::{AttentionConfig, Mlp, Moe, RouterConfig, Transformer};
use super::{Base, Network};
use crate::error::Result;
use crate::loader::Loader;

pub fn load(l: &mut Loader<'_>) -> Result<Box<dyn Network>> {
    let base = Base::load(l)?;
    let attention = AttentionConfig::load(l, &base, Pairing::Halves)?;
    let router = RouterConfig::load(l, Gating::Softmax, true)?;
    let n_ff = match l.find_usize("expert_feed_forward_length")? {
        Some(n) => n,
        None => l.usize("feed_forward_length")? / router.n_used,
    };
    let moe = |l: &mut Loader<'_>, il| Ok(Mlp::Moe(Box::new(Moe::load(l, &base, &router, il, n_ff, None)?)));
    let layers = Transformer::load_layers(l, &base, &attention, true, moe)?;
    Ok(Box::new(Transformer { base, attention, router: Some(router), layers }))
}
