//! deepseek2: multi-head latent attention, experts, and the layer that predicts the token after the next.
//!
//! The up-projection of the latent is split into keys, transposed, and values, as absorbed attention wants them. To
//! that form attention has one key/value head, whose length is rank plus rotated elements.

use super::super::convert::{Conversion, Rows, product};
use super::super::rope;
use super::Base;
use crate::error::Result;

/// The values of `expert_gating_func`.
const SOFTMAX: u32 = 1;
const SIGMOID: u32 = 2;

pub fn v2(c: &mut Conversion<'_>) -> Result<()> {
    convert(c, SOFTMAX)
}

pub fn v3(c: &mut Conversion<'_>) -> Result<()> {
    convert(c, SIGMOID)
}

/// What is particular to DeepSeek.
struct Config {
    q_lora_rank: Option<usize>,
    kv_lora_rank: usize,
    n_nope: usize,
    n_rope: usize,
    n_v: usize,
    /// Layers before the first with experts.
    n_dense: usize,
    moe: Option<Moe>,
}

struct Moe {
    n_expert: usize,
    n_ff: usize,
    n_shared: usize,
}

fn convert(c: &mut Conversion<'_>, gating: u32) -> Result<()> {
    let n_nextn = n_nextn(c)?;
    let base = Base::load(c, n_nextn, Some(1))?;
    let config = Config::load(c, &base)?;
    config.keys(c, &base, gating)?;
    if n_nextn > 0 {
        c.key("nextn_predict_layers", n_nextn as u32);
    }
    base.embedding(c)?;
    for il in 0..base.n_layer {
        config.layer(c, &base, il)?;
    }
    for il in base.n_layer..base.n_layer + n_nextn {
        config.layer(c, &base, il)?;
        nextn(c, &base, il)?;
    }
    base.output(c)
}

/// Layers that predict further tokens: none if the checkpoint has been made without them, whatever config.json says.
fn n_nextn(c: &Conversion<'_>) -> Result<usize> {
    let n_layer = c.dim("num_hidden_layers")?;
    let n = c.config.find_count("num_nextn_predict_layers")?.unwrap_or(0) as usize;
    Ok(if c.checkpoint.has_prefix(&format!("model.layers.{n_layer}.")) { n } else { 0 })
}

impl Config {
    fn load(c: &Conversion<'_>, base: &Base) -> Result<Config> {
        let moe = match c.find_dim("n_routed_experts")? {
            Some(n_expert) => Some(Moe {
                n_expert,
                n_ff: c.dim("moe_intermediate_size")?,
                n_shared: c.config.find_count("n_shared_experts")?.unwrap_or(0) as usize,
            }),
            None => None,
        };
        let n_dense = match (&moe, c.config.find_count("first_k_dense_replace")?) {
            (None, _) => base.n_layer,
            (Some(_), n) => n.unwrap_or(0) as usize,
        };
        Ok(Config {
            q_lora_rank: c.find_dim("q_lora_rank")?,
            kv_lora_rank: c.dim("kv_lora_rank")?,
            n_nope: c.dim("qk_nope_head_dim")?,
            n_rope: c.dim("qk_rope_head_dim")?,
            n_v: c.dim("v_head_dim")?,
            n_dense,
            moe,
        })
    }

    fn keys(&self, c: &mut Conversion<'_>, base: &Base, gating: u32) -> Result<()> {
        let sum = |a: usize, b: usize| u32::try_from(a.saturating_add(b));
        let too_large = |key: &str| c.config.invalid(key, "is too large");
        let key_length = sum(self.kv_lora_rank, self.n_rope).map_err(|_| too_large("kv_lora_rank"))?;
        let key_length_mla = sum(self.n_nope, self.n_rope).map_err(|_| too_large("qk_nope_head_dim"))?;
        c.copy_count("n_group", "expert_group_count")?;
        c.copy_count("topk_group", "expert_group_used_count")?;
        if self.moe.is_some() {
            let gating = match c.config.find_str("scoring_func")? {
                Some("softmax") => SOFTMAX,
                Some("sigmoid") => SIGMOID,
                Some(_) => return Err(c.config.invalid("scoring_func", "is neither softmax nor sigmoid")),
                // Not written by newer transformers: each class knows one.
                None => gating,
            };
            c.key("expert_gating_func", gating);
        }
        c.key("attention.key_length", key_length);
        c.key("attention.value_length", self.kv_lora_rank as u32);
        c.key("leading_dense_block_count", self.n_dense as u32);
        c.key("vocab_size", base.n_vocab as u32);
        if let Some(rank) = self.q_lora_rank {
            c.key("attention.q_lora_rank", rank as u32);
        }
        c.key("attention.kv_lora_rank", self.kv_lora_rank as u32);
        c.key("attention.key_length_mla", key_length_mla);
        c.key("attention.value_length_mla", self.n_v as u32);
        let (n_ff, n_shared) = match &self.moe {
            Some(moe) => (moe.n_ff, moe.n_shared),
            None => (c.dim("intermediate_size")?, 0),
        };
        c.key("expert_feed_forward_length", n_ff as u32);
        c.key("expert_shared_count", n_shared as u32);
        if let Some(scale) = c.config.find_number("routed_scaling_factor")? {
            c.key("expert_weights_scale", scale as f32);
        }
        if c.config.find_bool("norm_topk_prob")? == Some(true) {
            c.key("expert_weights_norm", true);
        }
        c.key("rope.dimension_count", self.n_rope as u32);
        if let Some(mscale) = rope::parameters(c.config)?.find_number("mscale_all_dim")? {
            // Of the logarithm of the factor: a tenth, as the formula of YaRN has it.
            c.key("rope.scaling.yarn_log_multiplier", (0.1 * mscale) as f32);
        }
        Ok(())
    }

    fn layer(&self, c: &mut Conversion<'_>, base: &Base, il: usize) -> Result<()> {
        base.norms(c, il)?;
        self.attention(c, base, il)?;
        match &self.moe {
            Some(moe) if il >= self.n_dense => {
                base.experts(c, il, moe.n_expert, moe.n_ff)?;
                let bias = format!("model.layers.{il}.mlp.gate.e_score_correction_bias");
                c.find_tensor(&bias, &format!("blk.{il}.exp_probs_b.bias"), &[moe.n_expert], Rows::Same)?;
                if moe.n_shared > 0 {
                    let n_ff = product(c.config, "n_shared_experts", &[moe.n_shared, moe.n_ff])?;
                    base.ffn(c, il, "mlp.shared_experts", "_shexp", n_ff)?;
                }
                Ok(())
            }
            _ => {
                let n_ff = c.dim("intermediate_size")?;
                base.ffn(c, il, "mlp", "", n_ff)
            }
        }
    }

    fn attention(&self, c: &mut Conversion<'_>, base: &Base, il: usize) -> Result<()> {
        let from = |part: &str| format!("model.layers.{il}.self_attn.{part}.weight");
        let to = |part: &str| format!("blk.{il}.{part}.weight");
        let n_q = product(c.config, "num_attention_heads", &[base.n_head, self.n_nope + self.n_rope])?;
        match self.q_lora_rank {
            Some(rank) => {
                c.tensor(&from("q_a_proj"), &to("attn_q_a"), &[rank, base.n_embd], Rows::Same)?;
                c.tensor(&from("q_a_layernorm"), &to("attn_q_a_norm"), &[rank], Rows::Same)?;
                c.tensor(&from("q_b_proj"), &to("attn_q_b"), &[n_q, rank], Rows::Same)?;
            }
            None => c.tensor(&from("q_proj"), &to("attn_q"), &[n_q, base.n_embd], Rows::Same)?,
        }
        let rank = self.kv_lora_rank;
        let shape = [rank + self.n_rope, base.n_embd];
        c.tensor(&from("kv_a_proj_with_mqa"), &to("attn_kv_a_mqa"), &shape, Rows::Same)?;
        c.tensor(&from("kv_a_layernorm"), &to("attn_kv_a_norm"), &[rank], Rows::Same)?;
        let (keys, values) = (to("attn_k_b"), to("attn_v_b"));
        let parts = [self.n_nope, self.n_v];
        c.up_projection(&from("kv_b_proj"), [&keys, &values], base.n_head, parts, rank)?;
        let n_out = product(c.config, "v_head_dim", &[base.n_head, self.n_v])?;
        c.tensor(&from("o_proj"), &to("attn_output"), &[base.n_embd, n_out], Rows::Same)
    }
}

/// What the layer `il` has beyond an ordinary one: it joins the hidden state with the embedding of the next token.
/// Embedding and head are copies of the main ones, and some checkpoints leave them out.
fn nextn(c: &mut Conversion<'_>, base: &Base, il: usize) -> Result<()> {
    let n = base.n_embd;
    let joined = product(c.config, "hidden_size", &[n, 2])?;
    for (from, to, shape, needed) in [
        ("eh_proj", "eh_proj", &[n, joined][..], true),
        ("enorm", "enorm", &[n], true),
        ("hnorm", "hnorm", &[n], true),
        ("embed_tokens", "embed_tokens", &[base.n_vocab, n], false),
        ("shared_head.head", "shared_head_head", &[base.n_vocab, n], false),
        ("shared_head.norm", "shared_head_norm", &[n], true),
    ] {
        let (from, to) = (format!("model.layers.{il}.{from}.weight"), format!("blk.{il}.nextn.{to}.weight"));
        if needed {
            c.tensor(&from, &to, shape, Rows::Same)?;
        } else {
            c.find_tensor(&from, &to, shape, Rows::Same)?;
        }
    }
    Ok(())
}
