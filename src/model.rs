//! A model made ready: file, tokenizer, template, and a session of the size that was asked for.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ggml_sys::GgmlType;
use ggml_sys::cpu::pool::default_threads;
use ggml_sys::cpu::{Cpu, kernels};
use ggml_sys::gguf::Gguf;
use models::generate::Summary;
use models::memory::MemoryPlan;
use models::sampler::{Sampler, SamplerOptions};
use models::template::ChatTemplate;
use models::tokenizer::{TokenId, Tokenizer};
use models::{EngineOptions, MlaForm, Model, Session};
use serde::Serialize;

use crate::cli::args::MlaArg;
use crate::cli::settings::{Context, EngineSettings, Sampling, Source};
use crate::devices::{self, Leeway};
use crate::failure::{Failure, Result};
use crate::loading::Loading;
use crate::size::Bytes;
use crate::term::log;
use crate::term::progress::Display;

/// A loaded model.
pub struct Loaded {
    /// What to call it.
    pub name: String,
    pub model: Arc<Model>,
    pub tokenizer: Tokenizer,
    /// Time that it took.
    pub time: Duration,
}

/// Opens the file of a model.
///
/// # Errors
/// If it is none.
pub fn open(source: &Source) -> Result<Gguf> {
    match source {
        Source::Named(path) | Source::Setting(path, _) => Ok(Gguf::open(path)?),
        Source::Bundled { .. } => bundled::open(),
    }
}

/// Bytes of the tensors of a type.
#[derive(Serialize)]
pub struct TypeSize {
    #[serde(rename = "type")]
    pub name: &'static str,
    pub tensors: usize,
    pub bytes: u64,
}

/// Sizes by type, the largest first.
pub fn sizes_by_type(gguf: &Gguf) -> Vec<TypeSize> {
    let mut by_type = BTreeMap::<&'static str, (usize, u64)>::new();
    for t in gguf.tensors() {
        let entry = by_type.entry(t.ty().name()).or_default();
        *entry = (entry.0 + 1, entry.1.saturating_add(t.bytes().len() as u64));
    }
    let size = |(name, (tensors, bytes))| TypeSize { name, tensors, bytes };
    let mut types: Vec<TypeSize> = by_type.into_iter().map(size).collect();
    types.sort_by_key(|t| std::cmp::Reverse(t.bytes));
    types
}

/// Says which model is used if nobody named one.
pub fn announce(source: &Source) {
    match source {
        Source::Named(_) | Source::Bundled { named: true } => {}
        Source::Setting(path, origin) => {
            log::note(&format!("the model is {} ({origin})", path.display()));
        }
        Source::Bundled { named: false } => log::note(
            "no model is named: this is tiny-r1, a small model for demonstration that can do sums; \
             name another with -m FILE",
        ),
    }
}

/// Loads a model and brings its weights into memory.
///
/// # Errors
/// If the file is bad or of an unknown architecture, or does not fit where it should go.
pub fn load(source: &Source, loading: Loading, quiet: bool) -> Result<Loaded> {
    let (start, display) = (Instant::now(), Display::of_stderr(quiet));
    let loaded = from_gguf(loading.copied(open(source)?, display)?, source)?;
    loading.fill(loaded.model.gguf(), display);
    Ok(Loaded { time: start.elapsed(), ..loaded })
}

/// Makes a model of an open file.
///
/// # Errors
/// If it is of an unknown architecture, or something in it is missing or does not fit.
pub fn from_gguf(gguf: Gguf, source: &Source) -> Result<Loaded> {
    let start = Instant::now();
    let name = name(&gguf, source);
    let tokenizer = Tokenizer::from_gguf(gguf.metadata())?;
    let model = Arc::new(Model::load(gguf)?);
    Ok(Loaded { name, model, tokenizer, time: start.elapsed() })
}

/// The name of the file, without its ending.
fn name(gguf: &Gguf, source: &Source) -> String {
    match source {
        Source::Bundled { .. } => bundled::NAME.into(),
        _ => gguf.path().file_stem().unwrap_or_default().to_string_lossy().into_owned(),
    }
}

impl Loaded {
    /// The model's chat template, or that of its family.
    ///
    /// # Errors
    /// If there is none, or it is broken.
    pub fn template(&self) -> Result<ChatTemplate> {
        let template = ChatTemplate::from_gguf(self.model.gguf().metadata(), &self.tokenizer)
            .map_err(|e| Failure::from(e).or_hint("--raw continues a text without a template"))?;
        if let Some(name) = template.built_in() {
            log::note(&format!("the file has no chat template: this is {name}'s"));
        }
        Ok(template)
    }

    /// An empty session.
    ///
    /// # Errors
    /// If the context takes more memory than there is, or a format does not fit the model.
    pub fn session(&self, settings: &EngineSettings, context: Context) -> Result<Session> {
        let options = engine_options(settings, self.context(settings, context)?);
        let cpu = Arc::new(backend(settings.threads.unwrap_or_else(default_threads))?);
        let leeway = leeway(settings, context);
        let engine = devices::engine(&self.model, cpu, &options, &settings.devices, leeway)?;
        let (backend, n_batch) = (engine.backend().name(), engine.options().n_batch);
        ::log::info!("{} on {backend}: context {}, batches of {n_batch}", self.name, engine.options().n_ctx);
        Ok(Session::new(engine))
    }

    /// Where its parts would be placed with so many tokens of context, in words.
    ///
    /// # Errors
    /// If what is wished for does not fit, or a device does not answer.
    pub fn placement(&self, settings: &EngineSettings, n_ctx: usize) -> Result<String> {
        let cpu = || backend(settings.threads.unwrap_or_else(default_threads)).map(Arc::new);
        let (options, leeway) = (engine_options(settings, n_ctx), leeway(settings, settings.context));
        devices::foresee(&self.model, cpu, &options, &settings.devices, leeway)
    }

    /// Tokens of context: what was asked for, if there is memory for it.
    fn context(&self, settings: &EngineSettings, context: Context) -> Result<usize> {
        let plan = MemoryPlan::new(&self.model, settings.cache.0, settings.cache.1);
        let trained = plan.n_ctx_train;
        let n_ctx = match context {
            Context::Fitting => {
                let n = plan.default_context();
                if n < trained {
                    log::note(&format!(
                        "the context is {n} tokens, which fit into memory; the model allows {trained} (-c)"
                    ));
                }
                return Ok(n);
            }
            Context::Full => trained,
            Context::Tokens(n) => n,
        };
        check_memory(&plan, n_ctx, settings.cache, |fits| format!("-c {fits} fits"))?;
        if n_ctx > trained {
            ::log::warn!(
                "the model was made for {trained} tokens of context; beyond them it may talk nonsense"
            );
        }
        Ok(n_ctx)
    }

    /// How to draw tokens: as asked, else as the file says, else as R1 recommends.
    pub fn sampling(&self, asked: &Sampling) -> SamplerOptions {
        let (model, r1) = (self.model.sampling_defaults(), SamplerOptions::default());
        SamplerOptions {
            temperature: asked.temperature.or(model.temperature).unwrap_or(r1.temperature),
            top_k: asked.top_k.or(model.top_k).unwrap_or(r1.top_k),
            top_p: asked.top_p.or(model.top_p).unwrap_or(r1.top_p),
            min_p: asked.min_p.or(model.min_p).unwrap_or(r1.min_p),
            repeat_penalty: asked.repeat_penalty.unwrap_or(r1.repeat_penalty),
            repeat_last_n: asked.repeat_last_n.unwrap_or(r1.repeat_last_n),
            frequency_penalty: asked.frequency_penalty.unwrap_or(r1.frequency_penalty),
            presence_penalty: asked.presence_penalty.unwrap_or(r1.presence_penalty),
            seed: asked.seed.unwrap_or_else(random_seed),
        }
    }

    /// A sampler, and the seed it uses.
    pub fn sampler(&self, asked: &Sampling) -> (Sampler, u64) {
        let options = self.sampling(asked);
        ::log::info!("{options:?}");
        (Sampler::new(options), options.seed)
    }
}

/// The processor with so many threads, and the kernels that the environment asks for.
///
/// # Errors
/// If there are no such kernels or threads.
pub fn backend(threads: NonZeroUsize) -> Result<Cpu> {
    let kernels = kernels::from_environment()
        .map_err(|e| Failure::new(format!("FATHOM_CPU: {e}")).or_hint("leave it unset for the best one"))?;
    Cpu::with_kernels(threads, kernels).map_err(|e| {
        Failure::new(format!("cannot start {threads} threads: {e}")).or_hint("use fewer with -t")
    })
}

fn engine_options(settings: &EngineSettings, n_ctx: usize) -> EngineOptions {
    EngineOptions {
        n_ctx,
        k_ty: settings.cache.0,
        v_ty: settings.cache.1,
        n_batch: settings.n_batch.min(n_ctx),
        mla: mla_form(settings.mla),
    }
}

fn leeway(settings: &EngineSettings, context: Context) -> Leeway {
    Leeway { context: context == Context::Fitting, batches: settings.longer_batches }
}

/// The form of latent attention that is asked for; `None` is whichever costs less.
pub fn mla_form(arg: MlaArg) -> Option<MlaForm> {
    match arg {
        MlaArg::Auto => None,
        MlaArg::Absorbed => Some(MlaForm::Absorbed),
        MlaArg::Naive => Some(MlaForm::Naive),
    }
}

/// Refuses a context that takes more memory than there is; `fitting` words the advice for one of so many tokens, which fits.
///
/// # Errors
/// If it does.
pub fn check_memory(
    plan: &MemoryPlan,
    n_ctx: usize,
    cache: (Option<GgmlType>, Option<GgmlType>),
    fitting: impl FnOnce(u64) -> String,
) -> Result<()> {
    let need = (n_ctx as u64).saturating_mul(plan.per_position).saturating_add(plan.derived);
    let Some(available) = plan.available.filter(|a| need > *a) else { return Ok(()) };
    let fits = available.saturating_sub(plan.derived) / plan.per_position.max(1);
    let what = format!(
        "a context of {n_ctx} tokens takes {}, and {} of memory are free",
        Bytes(need),
        Bytes(available)
    );
    let failure = Failure::new(what).or_hint(match fits {
        // To -c, 0 is all that the model allows.
        0 => "not a single token fits: end other programs, or choose a smaller model".into(),
        _ => fitting(fits),
    });
    let smallest = Some(GgmlType::Q8_0);
    Err(match cache == (smallest, smallest) || fits == 0 {
        true => failure,
        false => failure.and_hint("-ctk q8_0 -ctv q8_0 takes less"),
    })
}

/// A seed that can be given to `-s`: 32 bits, as in llama.cpp.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()) & u64::from(u32::MAX)
}

/// Refuses a prompt that leaves no room for an answer, with the context that would fit it.
///
/// # Errors
/// If it does not fit.
pub fn check_length(prompt: usize, n_ctx: usize, trained: usize, limit: Option<usize>) -> Result<()> {
    if prompt < n_ctx {
        return Ok(());
    }
    /// Tokens for an answer where no limit is given.
    const ANSWER: usize = 1024;
    let what = format!("the prompt has {prompt} tokens and the context {n_ctx}");
    let wanted = prompt.saturating_add(limit.unwrap_or(ANSWER).max(1)).next_multiple_of(256);
    Err(Failure::new(what).or_hint(if prompt < trained {
        format!("-c {} fits", wanted.min(trained))
    } else {
        format!("the model allows {trained}: shorten the prompt, or try -c {wanted} at your own risk")
    }))
}

/// Refuses token ids that the model does not have.
///
/// # Errors
/// Names the first of them.
pub fn check_tokens(tokens: &[TokenId], n_vocab: usize) -> Result<()> {
    match tokens.iter().position(|&id| id as usize >= n_vocab) {
        None => Ok(()),
        Some(at) => {
            let what =
                format!("token {at} (counted from 0) is {}, which the model does not have", tokens[at]);
            Err(Failure::new(what).or_hint(format!("its tokens are 0 to {}", n_vocab.saturating_sub(1))))
        }
    }
}

/// Why an answer is shorter than it could be, for a note.
pub fn length_note(summary: &Summary, limit: Option<usize>, n_ctx: usize) -> String {
    match limit {
        Some(n) if summary.tokens.len() >= n => format!("the answer ends at {n} tokens (-n)"),
        _ => format!("the context of {n_ctx} tokens is full (-c)"),
    }
}

/// The model in the binary.
#[cfg(feature = "bundled")]
mod bundled {
    use std::sync::Arc;

    use ggml_sys::gguf::Gguf;
    use ggml_sys::tensor::Backing;

    use crate::failure::Result;

    pub use crate::cli::lookup::BUNDLED as NAME;

    /// On a cache line, as tensors in a map are.
    #[repr(align(64))]
    struct Aligned<T: ?Sized>(T);

    static FILE: &Aligned<[u8]> = &Aligned(*include_bytes!("../models/tiny-r1/tiny-r1-q8_0.gguf"));

    struct Bytes;

    impl AsRef<[u8]> for Bytes {
        fn as_ref(&self) -> &[u8] {
            &FILE.0
        }
    }

    impl Backing for Bytes {}

    pub fn open() -> Result<Gguf> {
        Ok(Gguf::from_bytes(Arc::new(Bytes), NAME)?)
    }
}

#[cfg(not(feature = "bundled"))]
mod bundled {
    use ggml_sys::gguf::Gguf;

    use crate::failure::{Failure, Result};

    pub const NAME: &str = "";

    pub fn open() -> Result<Gguf> {
        Err(Failure::usage("no model is named, and this build has none in it", "name one with -m FILE"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_that_does_not_fit_is_refused_with_what_would() {
        assert!(check_length(99, 100, 4096, None).is_ok());
        let failure = check_length(100, 100, 4096, Some(50)).unwrap_err();
        assert_eq!(failure.message(), Some("the prompt has 100 tokens and the context 100"));
        assert_eq!(failure.hint(), Some("-c 256 fits"));
        assert_eq!(check_length(4090, 512, 4096, None).unwrap_err().hint(), Some("-c 4096 fits"));
        assert!(check_length(5000, 4096, 4096, None).unwrap_err().hint().unwrap().contains("4096"));
    }

    #[test]
    fn a_context_that_does_not_fit_is_refused_with_advice_that_helps() {
        let plan = |available| MemoryPlan {
            weights: 1 << 30,
            derived: 100,
            per_position: 1000,
            n_ctx_train: 4096,
            available,
        };
        let check = |available, cache| check_memory(&plan(available), 500, cache, |n| format!("{n} fit"));
        let q8_0 = Some(GgmlType::Q8_0);
        assert!(check(None, (None, None)).is_ok() && check(Some(500_100), (None, None)).is_ok());
        let hint = |available, cache| check(Some(available), cache).unwrap_err().hint().unwrap().to_owned();
        assert_eq!(hint(500_099, (None, None)), "499 fit; -ctk q8_0 -ctv q8_0 takes less");
        assert_eq!(hint(400_000, (q8_0, q8_0)), "399 fit");
        assert!(hint(1099, (None, None)).starts_with("not a single token fits"));
    }
}
