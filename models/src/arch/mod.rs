//! The table of architectures: one file and one line each.

mod blocks;
mod deepseek2;
mod llama;
mod qwen2;
mod qwen3;
mod qwen3moe;

use ggml_sys::GgmlType;
use ggml_sys::cache::LayerCache;
use ggml_sys::graph::{View, WeightId};

use crate::error::Result;
use crate::loader::Loader;
use crate::record::Recorder;

/// A kind of model: its name in files, and how to load it.
pub struct Architecture {
    /// `general.architecture`.
    pub name: &'static str,
    /// Reads hyperparameters and weights.
    pub load: fn(&mut Loader<'_>) -> Result<Box<dyn Network>>,
}

/// All architectures.
pub static ARCHITECTURES: &[Architecture] = &[
    Architecture { name: "llama", load: llama::load },
    Architecture { name: "qwen2", load: qwen2::load },
    Architecture { name: "qwen3", load: qwen3::load },
    Architecture { name: "qwen3moe", load: qwen3moe::load },
    Architecture { name: "deepseek2", load: deepseek2::load },
];

/// What every model has.
#[derive(Clone, Debug)]
pub struct Base {
    /// Layers of the main model.
    pub n_layer: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Rows of the embedding, which can be more than the tokenizer has tokens.
    pub n_vocab: usize,
    /// Positions that the model was made for.
    pub n_ctx_train: usize,
    /// Epsilon of the norms.
    pub rms_eps: f32,
    /// `[n_embd, n_vocab]`.
    pub token_embd: WeightId,
    /// `[n_embd]`.
    pub output_norm: WeightId,
    /// `[n_embd, n_vocab]`; the embedding again where the file has none.
    pub output: WeightId,
    /// Whether it has.
    pub tied: bool,
}

impl Base {
    fn load(l: &mut Loader<'_>) -> Result<Base> {
        let n_embd = l.usize("embedding_length")?;
        // Files disagree about vocab_size; the rows of the embedding are what counts.
        let n_vocab = match l.find("token_embd.weight") {
            Some(t) => t.shape().n_rows(),
            None => l.metadata().strings("tokenizer.ggml.tokens")?.map_or(1, |t| t.len()),
        };
        let token_embd = l.matrix("token_embd.weight", &[n_embd, n_vocab])?;
        let output = l.find_matrix("output.weight", &[n_embd, n_vocab])?;
        Ok(Base {
            n_layer: l.n_layer()?,
            n_embd,
            n_vocab,
            n_ctx_train: l.usize("context_length")?,
            rms_eps: l.find_f32("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-6),
            token_embd,
            output_norm: l.vector("output_norm.weight", n_embd)?,
            output: output.unwrap_or(token_embd),
            tied: output.is_none(),
        })
    }
}

/// Which form of multi-head latent attention a graph uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MlaForm {
    /// Queries go to the latent space: what generation uses.
    #[default]
    Absorbed,
    /// Keys and values of every head are made from the latents: less work for long prompts.
    Naive,
}

/// Arithmetic of MLA's two forms for one layer, to choose the cheaper: see [`MlaCost::cheaper`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MlaCost {
    /// Elements of the latent.
    pub rank: usize,
    /// Elements of a key without position, with position, and of a value.
    pub dims: (usize, usize, usize),
}

impl MlaCost {
    /// The form that takes fewer multiplications for `rows` new positions after which there are `keys`.
    ///
    /// Per head, absorbed: rows·keys·(2·rank + rope) for scores and sums, rows·rank·(nope + v) to enter and leave the latent
    /// space. Naive: rows·keys·(nope + rope + v), and keys·rank·(nope + v) to make keys and values.
    pub fn cheaper(&self, rows: usize, keys: usize) -> MlaForm {
        let (nope, rope, v) = self.dims;
        let [rows, keys, rank] = [rows, keys, self.rank].map(|n| n as u128);
        let [nope, rope, v] = [nope, rope, v].map(|n| n as u128);
        let absorbed = rows * keys * (2 * rank + rope) + rows * rank * (nope + v);
        let naive = rows * keys * (nope + rope + v) + keys * rank * (nope + v);
        if naive < absorbed { MlaForm::Naive } else { MlaForm::Absorbed }
    }
}

/// A loaded architecture.
pub trait Network: Send + Sync {
    /// What every model has.
    fn base(&self) -> &Base;

    /// What each layer keeps in the cache.
    fn cache(&self, k: GgmlType, v: GgmlType) -> Vec<LayerCache>;

    /// Records the layers, from tokens to the residual stream behind the last layer.
    fn layers(&self, r: &mut Recorder<'_>, form: MlaForm) -> Result<View>;

    /// The arithmetic of MLA, where that is the attention.
    fn mla(&self) -> Option<MlaCost> {
        None
    }

    /// Experts of a mixture layer and how many a token uses, where there are any.
    fn experts(&self) -> Option<(usize, usize)> {
        None
    }
}
