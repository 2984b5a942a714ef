//! Runs batches of a model: compiled steps and the cache.

use std::sync::Arc;

use ggml_sys::GgmlType;
use ggml_sys::backend::{Backend, Program};
use ggml_sys::cache::{Cache, LayerCache};
use ggml_sys::graph::{BufId, Row};

use crate::arch::MlaForm;
use crate::error::Result;
use crate::model::{Model, Watch};
use crate::record::Watched;

/// Rows of a batch at the most: longer prompts are processed in pieces.
pub const DEFAULT_BATCH: usize = 512;

/// How an [`Engine`] runs.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Positions of a sequence.
    pub n_ctx: usize,
    /// Type of key rows (and of latents); the model's default if not given.
    pub k_ty: Option<GgmlType>,
    /// Type of value rows.
    pub v_ty: Option<GgmlType>,
    /// Rows of a batch.
    pub n_batch: usize,
    /// The form of multi-head latent attention; the cheaper one if not given.
    pub mla: Option<MlaForm>,
}

/// What a step leaves for the rows that asked, in batch order.
pub struct StepOutput {
    /// `[outputs, n_vocab]`.
    pub logits: Vec<f32>,
    /// Hidden states behind the final norm: `[outputs, n_embd]`.
    pub hidden: Vec<f32>,
}

/// What met a weight: sums of squares of its input columns over all rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// The tensor's name.
    pub name: String,
    /// `[matrices, n_in]`.
    pub sums: Vec<f64>,
    /// Rows that were added: for each expert, or one number where every matrix met every row.
    pub counts: Vec<u64>,
}

/// A model on a backend with a cache.
pub struct Engine {
    model: Arc<Model>,
    backend: Arc<dyn Backend>,
    options: EngineOptions,
    layers: Vec<LayerCache>,
    cache: Cache,
    watch: Watch,
    /// Compiled when first used.
    programs: Vec<(MlaForm, Compiled)>,
    /// The form that ran last.
    latest: Option<MlaForm>,
    /// What goes on if the backend fails.
    fallback: Option<Arc<dyn Backend>>,
}

struct Compiled {
    program: Box<dyn Program>,
    hidden: BufId,
    logits: BufId,
    watched: Vec<Watched>,
}

impl Engine {
    /// Plans the cache; compiles nothing yet.
    ///
    /// # Errors
    /// If a cache type does not fit the model's rows.
    pub fn new(model: Arc<Model>, backend: Arc<dyn Backend>, options: EngineOptions) -> Result<Engine> {
        let default = model.default_cache_type();
        let layers = model.network().cache(options.k_ty.unwrap_or(default), options.v_ty.unwrap_or(default));
        let cache = backend.cache(&layers, options.n_ctx)?;
        let (watch, programs) = (Watch::Nothing, vec![]);
        Ok(Engine { model, backend, options, layers, cache, watch, programs, latest: None, fallback: None })
    }

    /// Names the backend that goes on if a device fails, see [`Engine::fall_back`].
    pub fn with_fallback(mut self, backend: Arc<dyn Backend>) -> Engine {
        self.fallback = Some(backend);
        self
    }

    /// Takes all memory of devices now that steps will need: for the weights, the buffers and a full context.
    ///
    /// # Errors
    /// If there is not so much.
    pub fn prepare(&mut self) -> Result<()> {
        self.cache.reserve()?;
        let form = self.options.mla.unwrap_or(MlaForm::Absorbed);
        self.compiled(form).map(|_| ())
    }

    /// Goes on with the fallback, if there is one, and an empty cache; says whether it does.
    ///
    /// # Errors
    /// If the cache cannot be made.
    pub fn fall_back(&mut self) -> Result<bool> {
        let Some(backend) = self.fallback.take() else { return Ok(false) };
        self.programs.clear();
        self.cache = backend.cache(&self.layers, self.options.n_ctx)?;
        self.backend = backend;
        Ok(true)
    }

    /// Watches what meets the weights, from the next step on. Multi-head latent attention takes its absorbed form then, in
    /// which all its weights are multiplied by something that the step has.
    pub fn watch(&mut self, watch: Watch) {
        self.programs.clear();
        self.watch = watch;
    }

    /// What has been seen of each weight that is [watched](Engine::watch).
    ///
    /// # Errors
    /// If the backend cannot tell.
    pub fn observations(&self) -> Result<Vec<Observation>> {
        let mut observations = vec![];
        for (_, c) in &self.programs {
            for w in &c.watched {
                let mut tally = c.program.tally(w.tally)?;
                if !w.experts {
                    tally.counts.truncate(1);
                }
                let name = self.model.weights().get(w.weight).name().into();
                observations.push(Observation { name, sums: tally.sums, counts: tally.counts });
            }
        }
        Ok(observations)
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The backend.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// How it runs.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// The cache.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The cache, for rolling back and sharing.
    pub fn cache_mut(&mut self) -> &mut Cache {
        &mut self.cache
    }

    /// Runs a batch of up to [`EngineOptions::n_batch`] rows.
    ///
    /// # Errors
    /// If the rows do not follow what the cache has or the context is full; the cache is as before then.
    pub fn step(&mut self, rows: &[Row]) -> Result<StepOutput> {
        let before: Vec<(u32, usize)> = rows.iter().map(|r| (r.seq, self.cache.len(r.seq))).collect();
        let result = match self.cache.prepare(rows) {
            Ok(()) => self.run(self.form(rows), rows),
            Err(e) => Err(e.into()),
        };
        if result.is_err() {
            before.iter().rev().for_each(|&(seq, len)| self.cache.truncate(seq, len));
        }
        result
    }

    fn form(&self, rows: &[Row]) -> MlaForm {
        if self.watch != Watch::Nothing {
            return MlaForm::Absorbed;
        }
        if self.options.mla.is_none() && self.backend.prefers_absorbed() {
            return MlaForm::Absorbed;
        }
        let keys = rows.iter().map(|r| r.pos as usize + 1).max().unwrap_or(0);
        let cheaper =
            || self.model.network().mla().map_or(MlaForm::Absorbed, |c| c.cheaper(rows.len(), keys));
        self.options.mla.unwrap_or_else(cheaper)
    }

    fn run(&mut self, form: MlaForm, rows: &[Row]) -> Result<StepOutput> {
        let index = self.compiled(form)?;
        // Only one of them needs its buffers: those of a long prompt are large, and it may be long until the next.
        if self.latest.replace(form) != Some(form) {
            let others = self.programs.iter_mut().filter(|(other, _)| *other != form);
            others.for_each(|(_, c)| c.program.rest());
        }
        let c = &mut self.programs[index].1;
        c.program.run(rows, &mut self.cache, &[])?;
        Ok(StepOutput { logits: c.program.read(c.logits)?, hidden: c.program.read(c.hidden)? })
    }

    /// The program for a form.
    fn compiled(&mut self, form: MlaForm) -> Result<usize> {
        if let Some(i) = self.programs.iter().position(|p| p.0 == form) {
            return Ok(i);
        }
        let step = self.model.record_watching(form, self.watch)?;
        let program = self.backend.compile(&step.graph, &self.layers, self.options.n_batch)?;
        let (hidden, logits, watched) = (step.hidden, step.logits, step.watched);
        self.programs.push((form, Compiled { program, hidden, logits, watched }));
        Ok(self.programs.len() - 1)
    }
}
