//! llama: queries and keys are rotated in adjacent pairs, so their rows change places.

use super::super::convert::{Conversion, Rows};
use super::super::rope;
use super::Base;
use crate::error::Result;

pub fn convert(c: &mut Conversion<'_>) -> Result<()> {
    let base = Base::load(c, 0, None)?;
    let head_dim = base.head_dim(c)?;
    if !head_dim.is_multiple_of(2) {
        return Err(c.config.invalid("head_dim", format!("is {head_dim}; pairs are rotated")));
    }
    c.key("attention.key_length", head_dim as u32);
    c.key("attention.value_length", head_dim as u32);
    c.key("vocab_size", base.n_vocab as u32);
    c.key("rope.dimension_count", head_dim as u32);
    base.embedding(c)?;
    let n_ff = c.dim("intermediate_size")?;
    for il in 0..base.n_layer {
        base.norms(c, il)?;
        base.attention(c, il, head_dim, Rows::Interleaved(head_dim))?;
        base.ffn(c, il, "mlp", "", n_ff)?;
    }
    base.output(c)?;
    // Last, when heads of this length have been found: a file may claim any.
    if let Some(factors) = rope::llama3_factors(c.config, head_dim)? {
        c.computed("rope_freqs.weight", factors)?;
    }
    Ok(())
}
