//! A model: a file, its architecture, its weights.

use std::sync::Arc;

use ggml_sys::GgmlType;
use ggml_sys::gguf::{Gguf, Metadata};
use ggml_sys::graph::{BufId, Graph, Weights};

use crate::arch::{ARCHITECTURES, Base, MlaForm, Network};
use crate::error::{Error, Result};
use crate::loader::Loader;
use crate::record::{Recorder, Watched};

/// A loaded model. Its weights are views into the file's map.
pub struct Model {
    gguf: Gguf,
    arch: &'static str,
    network: Box<dyn Network>,
    weights: Arc<Weights>,
}

/// A recorded step and the buffers it leaves.
pub struct StepGraph {
    /// The operations.
    pub graph: Graph,
    /// Hidden states behind the final norm: `[outputs, n_embd]`.
    pub hidden: BufId,
    /// `[outputs, n_vocab]`.
    pub logits: BufId,
    /// The weights whose inputs are watched; none unless that was asked for.
    pub watched: Vec<Watched>,
}

/// Which weights have their inputs watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// None.
    Nothing,
    /// Those of the layers.
    Layers,
    /// These, and the output matrix.
    LayersAndOutput,
}

/// What the file suggests for sampling.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SamplingDefaults {
    /// `general.sampling.temp`.
    pub temperature: Option<f32>,
    /// `general.sampling.top_k`.
    pub top_k: Option<usize>,
    /// `general.sampling.top_p`.
    pub top_p: Option<f32>,
    /// `general.sampling.min_p`.
    pub min_p: Option<f32>,
}

impl SamplingDefaults {
    /// Reads them; a value that is no number of the right kind counts as absent.
    pub fn of(md: &Metadata) -> Self {
        let number = |key: &str| md.f32(key).ok().flatten().filter(|v| v.is_finite() && *v >= 0.0);
        SamplingDefaults {
            temperature: number("general.sampling.temp"),
            top_k: md.usize("general.sampling.top_k").ok().flatten(),
            top_p: number("general.sampling.top_p"),
            min_p: number("general.sampling.min_p"),
        }
    }
}

impl Model {
    /// Reads hyperparameters and finds the weights; nothing of them is read yet.
    ///
    /// # Errors
    /// If the architecture is unknown, or metadata or tensors are missing or do not fit each other.
    pub fn load(gguf: Gguf) -> Result<Model> {
        let name = gguf.metadata().require_str("general.architecture")?;
        let Some(arch) = ARCHITECTURES.iter().find(|a| a.name == name) else {
            return Err(Error::Architecture {
                file: gguf.path().display().to_string(),
                arch: name.into(),
                known: ARCHITECTURES.iter().map(|a| a.name).collect::<Vec<_>>().join(", "),
            });
        };
        let mut loader = Loader::new(&gguf, arch.name);
        let network = (arch.load)(&mut loader)?;
        let weights = Arc::new(loader.weights);
        let model = Model { arch: arch.name, network, weights, gguf };
        model.check_vocabulary()?;
        Ok(model)
    }

    /// A vocabulary may be smaller than the embedding (rows are padded), but a token without a row cannot be embedded.
    fn check_vocabulary(&self) -> Result<()> {
        let tokens = self.gguf.metadata().strings("tokenizer.ggml.tokens")?.map_or(0, |t| t.len());
        let rows = self.base().n_vocab;
        if tokens > rows {
            return Err(Error::Config {
                file: self.gguf.path().display().to_string(),
                what: format!("the tokenizer has {tokens} tokens and token_embd.weight only {rows} rows"),
            });
        }
        Ok(())
    }

    /// The file.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// The architecture's name in files.
    pub fn arch(&self) -> &'static str {
        self.arch
    }

    /// What every model has.
    pub fn base(&self) -> &Base {
        self.network.base()
    }

    /// The architecture.
    pub fn network(&self) -> &dyn Network {
        &*self.network
    }

    /// The weights that the architecture takes from the file, and those derived at load.
    pub fn weights(&self) -> &Arc<Weights> {
        &self.weights
    }

    /// The type that cache rows have unless told otherwise: F32 for a file of F32 matrices, so that nothing is rounded
    /// on the way; F16 for all others.
    pub fn default_cache_type(&self) -> GgmlType {
        let matrices = |t: &&ggml_sys::Tensor| t.shape().n_rows() > 1;
        let all = self.gguf.tensors().iter().filter(matrices).all(|t| t.ty() == GgmlType::F32);
        if all { GgmlType::F32 } else { GgmlType::F16 }
    }

    /// What the file suggests for sampling.
    pub fn sampling_defaults(&self) -> SamplingDefaults {
        SamplingDefaults::of(self.gguf.metadata())
    }

    /// Records a step: embedding, layers, norm and head for the rows whose output is wanted.
    pub fn record(&self, form: MlaForm) -> Result<StepGraph> {
        self.record_watching(form, Watch::Nothing)
    }

    /// As [`Model::record`], and watches what meets the weights.
    pub fn record_watching(&self, form: MlaForm, watch: Watch) -> Result<StepGraph> {
        let mut graph = Graph::new(self.weights.clone());
        let base = self.base();
        let mut r = Recorder::new(&mut graph, base.rms_eps);
        if watch != Watch::Nothing {
            r.watch();
        }
        let x = self.network.layers(&mut r, form)?;
        let mut watched = if watch == Watch::Layers { r.unwatch() } else { vec![] };
        let x = r.select_outputs(x)?;
        let hidden = r.norm(x, base.output_norm)?;
        let [logits] = r.linear(hidden, [base.output.into()])?;
        watched.extend(r.unwatch());
        let (hidden, logits) = (graph.output(hidden), graph.output(logits));
        Ok(StepGraph { graph, hidden, logits, watched })
    }
}
