//! The table of architectures that are converted: one file (or a function of one) and one line each.

mod deepseek;
mod llama;
mod qwen;

use super::convert::{Conversion, Rows, product};
use super::json::{Object, describe};
use super::rope;
use crate::error::Result;

/// A kind of model: its name in config.json, its name in GGUF files, and how the one becomes the other.
pub(super) struct Architecture {
    /// The entry of `architectures`.
    pub class: &'static str,
    /// `general.architecture`.
    pub name: &'static str,
    /// Sets the keys under the architecture's prefix and lists the tensors.
    pub convert: fn(&mut Conversion<'_>) -> Result<()>,
}

/// All architectures.
pub(super) static ARCHITECTURES: &[Architecture] = &[
    Architecture { class: "LlamaForCausalLM", name: "llama", convert: llama::convert },
    Architecture { class: "Qwen2ForCausalLM", name: "qwen2", convert: qwen::qwen2 },
    Architecture { class: "Qwen3ForCausalLM", name: "qwen3", convert: qwen::qwen3 },
    Architecture { class: "Qwen3MoeForCausalLM", name: "qwen3moe", convert: qwen::qwen3moe },
    Architecture { class: "DeepseekV2ForCausalLM", name: "deepseek2", convert: deepseek::v2 },
    Architecture { class: "DeepseekV3ForCausalLM", name: "deepseek2", convert: deepseek::v3 },
];

/// The architecture that config.json names.
pub(super) fn of(config: &Object) -> Result<&'static Architecture> {
    const KEY: &str = "architectures";
    let known = || ARCHITECTURES.iter().map(|a| a.class).collect::<Vec<_>>().join(", ");
    let Some(classes) = config.find_array(KEY)? else {
        return Err(config.invalid(KEY, format!("is missing; known are {}", known())));
    };
    let of = |class: &serde_json::Value| ARCHITECTURES.iter().find(|a| class.as_str() == Some(a.class));
    classes.first().and_then(of).ok_or_else(|| {
        let what = classes.first().map_or("empty".into(), describe);
        config.invalid(KEY, format!("is {what}, which has no conversion; known are {}", known()))
    })
}

/// What every model has.
struct Base {
    n_layer: usize,
    n_embd: usize,
    n_head: usize,
    n_head_kv: usize,
    n_vocab: usize,
}

impl Base {
    /// Reads the hyperparameters and sets the keys that all architectures share. `block_count` counts layers that
    /// predict further tokens too, `n_head_kv` is what the file says of the heads that the cache holds.
    fn load(c: &mut Conversion<'_>, n_nextn: usize, n_head_kv: Option<u32>) -> Result<Base> {
        let base = Base {
            n_layer: c.dim("num_hidden_layers")?,
            n_embd: c.dim("hidden_size")?,
            n_head: c.dim("num_attention_heads")?,
            n_head_kv: match c.find_dim("num_key_value_heads")? {
                Some(n) => n,
                None => c.dim("num_attention_heads")?,
            },
            n_vocab: c.dim("vocab_size")?,
        };
        let n_blocks = base.n_layer.checked_add(n_nextn).and_then(|n| u32::try_from(n).ok());
        let n_blocks = n_blocks.ok_or_else(|| c.config.invalid("num_hidden_layers", "is too large"))?;
        c.key("block_count", n_blocks);
        c.key("context_length", c.config.count("max_position_embeddings")?);
        c.key("embedding_length", base.n_embd as u32);
        c.copy_count("intermediate_size", "feed_forward_length")?;
        c.key("attention.head_count", base.n_head as u32);
        c.key("attention.head_count_kv", n_head_kv.unwrap_or(base.n_head_kv as u32));
        rope::keys(c)?;
        c.key("attention.layer_norm_rms_epsilon", c.config.number("rms_norm_eps")? as f32);
        c.copy_count("num_experts", "expert_count")?;
        c.copy_count("n_routed_experts", "expert_count")?;
        c.copy_count("num_experts_per_tok", "expert_used_count")?;
        Ok(base)
    }

    /// Elements of a head: `head_dim`, or what the width divides into.
    fn head_dim(&self, c: &Conversion<'_>) -> Result<usize> {
        match c.find_dim("head_dim")? {
            Some(n) => Ok(n),
            None if self.n_embd.is_multiple_of(self.n_head) => Ok(self.n_embd / self.n_head),
            None => {
                let what = format!("is {}, and {} heads do not divide it", self.n_embd, self.n_head);
                Err(c.config.invalid("hidden_size", what))
            }
        }
    }

    /// The embedding.
    fn embedding(&self, c: &mut Conversion<'_>) -> Result<()> {
        let shape = [self.n_vocab, self.n_embd];
        c.tensor("model.embed_tokens.weight", "token_embd.weight", &shape, Rows::Same)
    }

    /// The last norm and the output matrix, unless that is the embedding.
    fn output(&self, c: &mut Conversion<'_>) -> Result<()> {
        const HEAD: &str = "lm_head.weight";
        c.tensor("model.norm.weight", "output_norm.weight", &[self.n_embd], Rows::Same)?;
        let tied = c.config.find_bool("tie_word_embeddings")?;
        if tied.unwrap_or(!c.checkpoint.has(HEAD)) {
            // Some checkpoints hold it all the same.
            c.checkpoint.drop(HEAD);
            return Ok(());
        }
        c.tensor(HEAD, "output.weight", &[self.n_vocab, self.n_embd], Rows::Same)
    }

    /// The norms of layer `il`.
    fn norms(&self, c: &mut Conversion<'_>, il: usize) -> Result<()> {
        for (from, to) in [("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm")] {
            let from = format!("model.layers.{il}.{from}.weight");
            c.tensor(&from, &format!("blk.{il}.{to}.weight"), &[self.n_embd], Rows::Same)?;
        }
        Ok(())
    }

    /// Ordinary attention of layer `il`; `rotated` is the order of rows of queries and keys. Biases as there are.
    fn attention(&self, c: &mut Conversion<'_>, il: usize, head_dim: usize, rotated: Rows) -> Result<()> {
        let n_q = product(c.config, "num_attention_heads", &[self.n_head, head_dim])?;
        let n_kv = product(c.config, "num_key_value_heads", &[self.n_head_kv, head_dim])?;
        for (from, to, shape, rows) in [
            ("q_proj", "attn_q", [n_q, self.n_embd], rotated),
            ("k_proj", "attn_k", [n_kv, self.n_embd], rotated),
            ("v_proj", "attn_v", [n_kv, self.n_embd], Rows::Same),
            ("o_proj", "attn_output", [self.n_embd, n_q], Rows::Same),
        ] {
            let (from, to) = (format!("model.layers.{il}.self_attn.{from}"), format!("blk.{il}.{to}"));
            c.tensor(&format!("{from}.weight"), &format!("{to}.weight"), &shape, rows)?;
            c.find_tensor(&format!("{from}.bias"), &format!("{to}.bias"), &shape[..1], rows)?;
        }
        Ok(())
    }

    /// A feed-forward network of layer `il`, `from` under the layer, with `to` behind the names.
    fn ffn(&self, c: &mut Conversion<'_>, il: usize, from: &str, to: &str, n_ff: usize) -> Result<()> {
        for (part, shape) in self.ffn_parts(n_ff) {
            let from = format!("model.layers.{il}.{from}.{part}_proj.weight");
            c.tensor(&from, &format!("blk.{il}.ffn_{part}{to}.weight"), &shape, Rows::Same)?;
        }
        Ok(())
    }

    /// Router and experts of layer `il`.
    fn experts(&self, c: &mut Conversion<'_>, il: usize, n_expert: usize, n_ff: usize) -> Result<()> {
        let mlp = format!("model.layers.{il}.mlp");
        let router = format!("blk.{il}.ffn_gate_inp.weight");
        c.tensor(&format!("{mlp}.gate.weight"), &router, &[n_expert, self.n_embd], Rows::Same)?;
        for (part, shape) in self.ffn_parts(n_ff) {
            let from = |i| format!("{mlp}.experts.{i}.{part}_proj.weight");
            c.stack(from, &format!("blk.{il}.ffn_{part}_exps.weight"), n_expert, shape)?;
        }
        Ok(())
    }

    fn ffn_parts(&self, n_ff: usize) -> [(&'static str, [usize; 2]); 3] {
        [("gate", [n_ff, self.n_embd]), ("up", [n_ff, self.n_embd]), ("down", [self.n_embd, n_ff])]
    }
}

/// The length of a head, where config.json states it.
fn head_keys(c: &mut Conversion<'_>) -> Result<()> {
    c.copy_count("head_dim", "attention.key_length")?;
    c.copy_count("head_dim", "attention.value_length")
}
