//! qwen2, qwen3 and qwen3moe.

use super::super::convert::{Conversion, Rows};
use super::{Base, head_keys};
use crate::error::Result;

pub fn qwen2(c: &mut Conversion<'_>) -> Result<()> {
    let base = Base::load(c, 0, None)?;
    head_keys(c)?;
    let head_dim = base.head_dim(c)?;
    let n_ff = c.dim("intermediate_size")?;
    base.embedding(c)?;
    for il in 0..base.n_layer {
        base.norms(c, il)?;
        base.attention(c, il, head_dim, Rows::Same)?;
        base.ffn(c, il, "mlp", "", n_ff)?;
    }
    base.output(c)
}

pub fn qwen3(c: &mut Conversion<'_>) -> Result<()> {
    let base = Base::load(c, 0, None)?;
    head_keys(c)?;
    let n_ff = c.dim("intermediate_size")?;
    base.embedding(c)?;
    for il in 0..base.n_layer {
        attention_with_norms(&base, c, il)?;
        base.ffn(c, il, "mlp", "", n_ff)?;
    }
    base.output(c)
}

pub fn qwen3moe(c: &mut Conversion<'_>) -> Result<()> {
    let base = Base::load(c, 0, None)?;
    head_keys(c)?;
    let (n_expert, n_ff) = (c.dim("num_experts")?, c.dim("moe_intermediate_size")?);
    c.key("expert_feed_forward_length", n_ff as u32);
    base.embedding(c)?;
    for il in 0..base.n_layer {
        attention_with_norms(&base, c, il)?;
        base.experts(c, il, n_expert, n_ff)?;
    }
    base.output(c)
}

/// Attention whose queries and keys are normalized per head.
fn attention_with_norms(base: &Base, c: &mut Conversion<'_>, il: usize) -> Result<()> {
    let head_dim = base.head_dim(c)?;
    base.norms(c, il)?;
    base.attention(c, il, head_dim, Rows::Same)?;
    for part in ["q_norm", "k_norm"] {
        let from = format!("model.layers.{il}.self_attn.{part}.weight");
        c.tensor(&from, &format!("blk.{il}.attn_{part}.weight"), &[head_dim], Rows::Same)?;
    }
    Ok(())
}
