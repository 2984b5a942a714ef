//! `fathom show`: what a file is, and the memory it will take.

use std::fmt::Write;

use ggml_sys::gguf::Gguf;
use models::Model;
use models::memory::MemoryPlan;
use models::template::ChatTemplate;
use models::tokenizer::Tokenizer;
use serde::Serialize;

use crate::cli::args::ShowArgs;
use crate::cli::lookup::Lookup;
use crate::cli::settings::{self, Context, EngineSettings};
use crate::failure::{Failure, Outcome, Result};
use crate::size::{Amount, Bytes, Count};
use crate::term::color::{Colors, STRONG};
use crate::{devices, model, streams};

/// Everything that is said. docs/json.md describes the fields.
#[derive(Serialize)]
struct Shown<'a> {
    files: Vec<Shard>,
    architecture: Option<&'a str>,
    name: Option<&'a str>,
    parameters: u64,
    types: Vec<model::TypeSize>,
    tokenizer: Option<TokenizerInfo<'a>>,
    /// "file", the name of a built-in one, or nothing.
    template: Option<String>,
    /// What keeps the model from running; null if nothing does.
    problem: Option<String>,
    model: Option<ModelInfo>,
    tensors: Option<Vec<TensorInfo<'a>>>,
}

#[derive(Serialize)]
struct Shard {
    path: String,
    bytes: u64,
    version: u32,
}

#[derive(Serialize)]
struct TokenizerInfo<'a> {
    kind: &'a str,
    pre: Option<&'a str>,
    tokens: usize,
    bos: Option<u32>,
    eos: Option<u32>,
    end_of_generation: Vec<u32>,
    add_bos: bool,
}

#[derive(Serialize)]
struct ModelInfo {
    layers: usize,
    embedding_length: usize,
    vocabulary_rows: usize,
    experts: Option<usize>,
    experts_used: Option<usize>,
    context_length: usize,
    sampling: SamplingInfo,
    memory: MemoryInfo,
    /// Where its parts would be placed now, in words; why not, if they cannot be as asked for.
    placement: String,
}

#[derive(Serialize)]
struct SamplingInfo {
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
}

#[derive(Serialize)]
struct MemoryInfo {
    /// Mapped from the file.
    weights: u64,
    /// Made at load.
    derived: u64,
    cache_per_token: u64,
    cache_types: [&'static str; 2],
    /// Tokens that the rest is for.
    context: usize,
    cache: u64,
    total: u64,
    available: Option<u64>,
}

#[derive(Serialize)]
struct TensorInfo<'a> {
    name: &'a str,
    r#type: &'static str,
    shape: Vec<usize>,
    bytes: usize,
}

/// Prints what is known of a file. One that holds only a vocabulary is all right.
///
/// # Errors
/// If it is no GGUF file, and, after what is known has been printed, if it has weights or a vocabulary
/// that cannot be used.
pub fn show(args: &ShowArgs, lookup: &Lookup, colors: Colors) -> Result<Outcome> {
    use std::io::Write as _;
    if args.devices {
        let text = devices::list(args.json)?;
        let mut out = colors.styled_stdout();
        streams::written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))?;
        return Ok(Outcome::Done);
    }
    let settings = EngineSettings::new(&args.engine)?;
    let source = settings::choose_only(&args.model, args.name.as_deref(), lookup)?;
    model::announce(&source);
    let gguf = model::open(&source)?;
    let loaded = model::from_gguf(gguf.clone(), &source);
    let shown = Shown::new(&gguf, &loaded, &settings, args.tensors);
    let text = if args.json { serde_json::to_string_pretty(&shown)? + "\n" } else { shown.text() };
    // Without colors the styles are left out of the text.
    let mut out = colors.styled_stdout();
    streams::written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))?;
    let is_vocabulary = gguf.tensors().is_empty() && shown.tokenizer.is_some();
    match loaded {
        Err(failure) if !is_vocabulary => Err(failure),
        _ => Ok(Outcome::Done),
    }
}

impl<'a> Shown<'a> {
    fn new(gguf: &'a Gguf, loaded: &Result<model::Loaded>, settings: &EngineSettings, tensors: bool) -> Self {
        let md = gguf.metadata();
        let text = |key: &str| md.str(key).ok().flatten();
        // The vocabulary of a model that cannot be loaded may be usable all the same.
        let own = loaded.is_err().then(|| Tokenizer::from_gguf(md).ok()).flatten();
        let tokenizer = loaded.as_ref().map_or(own.as_ref(), |loaded| Some(&loaded.tokenizer));
        let template = tokenizer.and_then(|t| ChatTemplate::from_gguf(md, t).ok());
        let problem = loaded.as_ref().err().and_then(Failure::message).map(str::to_owned);
        let parameters = gguf.tensors().iter().map(|t| t.shape().n_elements() as u64);
        Shown {
            files: gguf.shards().iter().map(Shard::new).collect(),
            architecture: text("general.architecture"),
            name: text("general.name"),
            parameters: parameters.fold(0, u64::saturating_add),
            types: model::sizes_by_type(gguf),
            tokenizer: tokenizer.map(|t| TokenizerInfo {
                kind: text("tokenizer.ggml.model").unwrap_or_default(),
                pre: text("tokenizer.ggml.pre"),
                tokens: t.n_vocab(),
                bos: t.bos(),
                eos: t.eos(),
                end_of_generation: t.eog().to_vec(),
                add_bos: t.add_bos(),
            }),
            template: template.map(|t| t.built_in().unwrap_or("file").to_owned()),
            problem,
            model: loaded.as_ref().ok().map(|l| ModelInfo::new(l, settings)),
            tensors: tensors.then(|| gguf.tensors().iter().map(TensorInfo::new).collect()),
        }
    }

    /// As aligned lines.
    fn text(&self) -> String {
        let mut out = String::new();
        for (heading, value) in self.lines() {
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "{STRONG}{heading:<13}{STRONG:#} {}",
                streams::harmless(&value).replace('\n', " ")
            );
        }
        let tensors = self.tensors.iter().flatten();
        let width = tensors.clone().map(|t| t.name.len()).max().unwrap_or(0);
        for t in tensors {
            let size = Bytes(t.bytes as u64).to_string();
            let shape = format!("{:?}", t.shape);
            let _ = writeln!(out, "{:width$}  {:8} {size:>10}  {shape}", streams::harmless(t.name), t.r#type);
        }
        out
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines: Vec<(&str, String)> = self
            .files
            .iter()
            .map(|f| ("file", format!("{}, {}, GGUF {}", f.path, Bytes(f.bytes), f.version)))
            .collect();
        lines.push(("architecture", self.architecture.unwrap_or("not given").into()));
        lines.extend(self.name.map(|name| ("name", name.into())));
        lines.push(("parameters", Amount(self.parameters).to_string()));
        for t in &self.types {
            lines.push((
                "weights",
                format!("{:8} {:>10} in {}", t.name, Bytes(t.bytes).to_string(), Count(t.tensors, "tensor")),
            ));
        }
        lines.extend(self.tokenizer.as_ref().map(|t| ("tokenizer", t.line())));
        let template = match self.template.as_deref() {
            Some("file") => "from the file".into(),
            Some(name) => format!("none in the file; {name}'s is used"),
            None => "none".into(),
        };
        lines.push(("template", template));
        if let Some(model) = &self.model {
            lines.extend(model.lines());
        }
        lines.extend(self.problem.as_ref().map(|problem| ("cannot run", problem.clone())));
        lines
    }
}

impl Shard {
    fn new(shard: &ggml_sys::gguf::Shard) -> Self {
        Shard { path: shard.path().display().to_string(), bytes: shard.size(), version: shard.version() }
    }
}

impl TokenizerInfo<'_> {
    fn line(&self) -> String {
        let mut line = format!("{} tokens, {}", self.tokens, self.kind);
        let _ = self.pre.map_or(Ok(()), |pre| write!(line, " with pre-tokenizer {pre}"));
        let _ = self.bos.map_or(Ok(()), |id| write!(line, ", BOS {id}"));
        let _ = self.eos.map_or(Ok(()), |id| write!(line, ", EOS {id}"));
        line
    }
}

impl ModelInfo {
    fn new(loaded: &model::Loaded, settings: &EngineSettings) -> Self {
        let model: &Model = &loaded.model;
        let (base, experts) = (model.base(), model.network().experts());
        let sampling = loaded.sampling(&settings::Sampling::default());
        let memory = MemoryInfo::new(model, settings);
        ModelInfo {
            layers: base.n_layer,
            embedding_length: base.n_embd,
            vocabulary_rows: base.n_vocab,
            experts: experts.map(|e| e.0),
            experts_used: experts.map(|e| e.1),
            context_length: base.n_ctx_train,
            sampling: SamplingInfo {
                temperature: sampling.temperature,
                top_k: sampling.top_k,
                top_p: sampling.top_p,
                min_p: sampling.min_p,
            },
            placement: match loaded.placement(settings, memory.context) {
                Ok(text) => text,
                Err(e) => format!("not possible: {}", e.message().unwrap_or_default()),
            },
            memory,
        }
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let m = &self.memory;
        let mut layers = format!("{}, {} wide", self.layers, self.embedding_length);
        if let (Some(experts), Some(used)) = (self.experts, self.experts_used) {
            // Writing to a string cannot fail.
            let _ = write!(layers, ", {experts} experts of which {used} are used");
        }
        let mut sampling =
            format!("temperature {}, top-p {}", self.sampling.temperature, self.sampling.top_p);
        if self.sampling.top_k > 0 {
            let _ = write!(sampling, ", top-k {}", self.sampling.top_k);
        }
        if self.sampling.min_p > 0.0 {
            let _ = write!(sampling, ", min-p {}", self.sampling.min_p);
        }
        let [k, v] = m.cache_types;
        let types = if k == v { k.to_owned() } else { format!("{k} and {v}") };
        let mut memory = format!("{} of weights in the file's map", Bytes(m.weights));
        if m.derived > 0 {
            let _ = write!(memory, ", {} made of them", Bytes(m.derived));
        }
        let free = m.available.map_or(String::new(), |a| format!("; {} are free", Bytes(a)));
        vec![
            ("layers", layers),
            ("context", format!("{} tokens", self.context_length)),
            ("sampling", sampling),
            ("memory", memory),
            (
                "cache",
                format!(
                    "{types}, {} a token, {} for {} tokens",
                    Bytes(m.cache_per_token),
                    Bytes(m.cache),
                    m.context
                ),
            ),
            ("in all", format!("{} with {} tokens of context{free}", Bytes(m.total), m.context)),
            ("placement", self.placement.clone()),
        ]
    }
}

impl MemoryInfo {
    fn new(model: &Model, settings: &EngineSettings) -> Self {
        let plan = MemoryPlan::new(model, settings.cache.0, settings.cache.1);
        let context = match settings.context {
            Context::Fitting => plan.default_context(),
            Context::Full => plan.n_ctx_train,
            Context::Tokens(n) => n,
        };
        let default = model.default_cache_type();
        let cache = plan.per_position.saturating_mul(context as u64);
        MemoryInfo {
            weights: plan.weights,
            derived: plan.derived,
            cache_per_token: plan.per_position,
            cache_types: [settings.cache.0, settings.cache.1].map(|ty| ty.unwrap_or(default).name()),
            context,
            cache,
            total: plan.weights.saturating_add(plan.derived).saturating_add(cache),
            available: plan.available,
        }
    }
}

impl<'a> TensorInfo<'a> {
    fn new(tensor: &'a ggml_sys::Tensor) -> Self {
        TensorInfo {
            name: tensor.name(),
            r#type: tensor.ty().name(),
            shape: tensor.shape().used().to_vec(),
            bytes: tensor.bytes().len(),
        }
    }
}
