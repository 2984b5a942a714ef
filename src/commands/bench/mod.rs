//! `fathom bench`: how fast a model reads prompts and writes answers on this machine, and how near that comes to what the
//! machine can do at best.
//!
//! Generation is bound by the bandwidth of memory, a prompt by the arithmetic on bytes. Both are measured here with the same
//! threads before the tests, so that a share says what is left to gain, whatever the machine.

mod report;
mod settings;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ggml_sys::backend::SlotUse;
use ggml_sys::cpu::Cpu;
use ggml_sys::format::random::Random;
use models::clock::strftime;
use models::cost::StepCost;
use models::memory::{self, MemoryPlan};
use models::shapes::{Blueprint, Mix, ModelShape};
use models::{EngineOptions, MlaForm, Model, Session, Want};

use crate::cli::args::BenchArgs;
use crate::cli::lookup::Lookup;
use crate::devices::Leeway;
use crate::failure::{Failure, Outcome, Result};
use crate::loading::{Loading, with_progress};
use crate::size::Bytes;
use crate::term::interrupt::Guard;
use crate::term::progress::{self, Display, Progress, Unit};
use crate::{devices, model, streams};
use report::{Machine, Measured, Subject};
use settings::{BenchSettings, Config, Test, Weights, Work};

/// Bytes of weights that are read to measure the bandwidth: more than any cache holds, if there are as many.
const READ: usize = 2 << 30;
/// Columns for the names of tests.
const WIDTH: usize = 24;

/// Measures, and prints what came of it.
///
/// # Errors
/// If the model cannot be used or what is asked for does not fit into memory.
pub fn bench(args: &BenchArgs, lookup: &Lookup, quiet: bool) -> Result<Outcome> {
    let settings = BenchSettings::new(args, lookup)?;
    let display = match Display::of_stderr(quiet) {
        Display::Bar => Display::Bar,
        _ => Display::Nothing,
    };
    let model = Arc::new(load(&settings.weights, settings.loading, display)?);
    for config in &settings.configs {
        let (plan, n_ctx) = (MemoryPlan::new(&model, config.cache.0, config.cache.1), settings.n_ctx());
        model::check_memory(&plan, n_ctx, config.cache, |fits| {
            format!("-d and -p or -n of {fits} tokens together fit")
        })?;
    }
    let subject = Subject::new(&model);
    let mut bench = Bench::new(&model, &settings, &subject, !args.json, display);
    let outcome = match bench.run() {
        Ok(()) => Outcome::Done,
        Err(Stop::Interrupted) => Outcome::Interrupted,
        Err(Stop::Failed(failure)) => return Err(failure),
    };
    if args.json {
        streams::print(&report::json(&subject, &bench.measured)?)?;
    }
    Ok(outcome)
}

fn load(weights: &Weights, loading: Loading, display: Display) -> Result<Model> {
    Ok(match weights {
        Weights::File(source) => {
            model::announce(source);
            let model = Model::load(loading.copied(model::open(source)?, display)?)?;
            loading.fill(model.gguf(), display);
            model
        }
        Weights::Random(shape, mix, layers) => {
            let model = random_model(shape, mix, *layers, display)?;
            // They are in memory of the process whatever is asked for.
            Loading { no_mmap: true, ..loading }.fill(model.gguf(), display);
            model
        }
    })
}

fn random_model(shape: &ModelShape, mix: &Mix, layers: Option<usize>, display: Display) -> Result<Model> {
    let plan = Blueprint::new(shape, mix, layers)?;
    let size = plan.size()?;
    if let Some(available) = memory::available().filter(|a| size > *a) {
        let what =
            format!("{} takes {}, and {} of memory are free", plan.name(), Bytes(size), Bytes(available));
        return Err(Failure::new(what).or_hint("--layers N makes it smaller"));
    }
    Ok(Model::load(with_progress(display, "making weights", size, |progress| plan.build(progress))?)?)
}

/// Why measuring ends before its end.
enum Stop {
    /// Ctrl-C came.
    Interrupted,
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for Stop {
    fn from(e: E) -> Self {
        Stop::Failed(e.into())
    }
}

/// The measurements of one model.
struct Bench<'a> {
    model: &'a Arc<Model>,
    settings: &'a BenchSettings,
    subject: &'a Subject,
    /// Whether a table is printed on the way.
    table: bool,
    progress: Progress,
    /// Tokens so far, and in all.
    done: (u64, u64),
    guard: Guard,
    measured: Vec<Measured>,
}

impl<'a> Bench<'a> {
    fn new(
        model: &'a Arc<Model>,
        settings: &'a BenchSettings,
        subject: &'a Subject,
        table: bool,
        display: Display,
    ) -> Self {
        let progress = Progress::new(display, "measuring", Unit::Tokens);
        let done = (0, settings.total_tokens());
        let (guard, measured) = (Guard::new(), vec![]);
        Bench { model, settings, subject, table, progress, done, guard, measured }
    }

    /// Measures everything; the machine anew for each number of threads.
    fn run(&mut self) -> Result<(), Stop> {
        let mut before: Option<(Arc<Cpu>, Machine)> = None;
        for config in &self.settings.configs {
            let same = before.take().filter(|(backend, _)| backend.n_threads() == config.threads.get());
            let (backend, machine) = match same {
                Some(same) => same,
                None => self.machine(config)?,
            };
            self.config(config, backend.clone(), &machine)?;
            before = Some((backend, machine));
        }
        Ok(())
    }

    /// The threads of a configuration, and what the machine does with them at best.
    fn machine(&mut self, config: &Config) -> Result<(Arc<Cpu>, Machine), Stop> {
        let backend = Arc::new(model::backend(config.threads)?);
        let weights = self.model.gguf().tensors().iter().map(|t| t.bytes());
        // Shares are those of the device that most of the work is done on.
        let machine = match devices::measure(self.model, &self.settings.devices)? {
            Some(best) => {
                let cpu = format!("{} beside {}", best.name, processor());
                let send = Some((best.copy, best.send));
                Machine { cpu, isa: backend.isa().name(), read: best.read, peak: best.peak, send }
            }
            None => Machine {
                cpu: processor(),
                isa: backend.isa().name(),
                read: backend.read_bandwidth(weights, READ),
                peak: backend.int8_peak(),
                send: None,
            },
        };
        self.check()?;
        if self.measured.is_empty() {
            self.say(&report::heading(self.subject, &machine))?;
        }
        self.say(&report::columns(config.threads.get(), &machine, WIDTH))?;
        Ok((backend, machine))
    }

    /// All tests of a configuration.
    fn config(&mut self, config: &Config, backend: Arc<Cpu>, machine: &Machine) -> Result<(), Stop> {
        let n_ctx = self.settings.n_ctx();
        let options = EngineOptions {
            n_ctx,
            k_ty: config.cache.0,
            v_ty: config.cache.1,
            n_batch: config.rows().min(n_ctx),
            mla: model::mla_form(self.settings.mla),
        };
        let engine =
            devices::engine(self.model, backend, &options, &self.settings.devices, Leeway::default())?;
        let mut session = Session::new(engine);
        let default = self.model.default_cache_type();
        let cache = [config.cache.0, config.cache.1].map(|ty| ty.unwrap_or(default));
        // Both forms of latent attention have the same weights.
        let graph = self.model.record(MlaForm::default())?.graph;
        let cost = StepCost::new(&graph, &self.model.network().cache(cache[0], cache[1]));
        for test in &self.settings.tests {
            let (bytes, macs) = cost_of(&cost, test, config.rows());
            let (time, machine) = (strftime("%FT%TZ", SystemTime::now()), machine.clone());
            let (test, config, samples) = (*test, *config, vec![]);
            let mut m = Measured { test, config, cache, machine, bytes, macs, time, samples, in_slots: None };
            let before = session.engine().backend().slot_use();
            let ended = self.measure(&mut session, &test, &mut m.samples);
            m.in_slots = in_slots(before, session.engine().backend().slot_use());
            if !m.samples.is_empty() {
                self.say(&report::line(&m, &m.label(&self.settings.configs), WIDTH))?;
                self.measured.push(m);
            }
            ended?;
        }
        Ok(())
    }

    /// Times the runs of a test, after the cache has been filled and a run that does not count.
    fn measure(
        &mut self,
        session: &mut Session,
        test: &Test,
        samples: &mut Vec<Duration>,
    ) -> Result<(), Stop> {
        session.truncate(test.depth);
        let have = session.tokens().len();
        self.process(session, Work::Prompt(test.depth - have))?;
        self.process(session, test.work.warm_up())?;
        for _ in 0..self.settings.repeats {
            session.truncate(test.depth);
            debug_assert_eq!(session.tokens().len(), test.depth, "the cache is filled to the depth");
            let start = Instant::now();
            self.process(session, test.work)?;
            samples.push(start.elapsed());
        }
        Ok(())
    }

    /// Appends tokens to the session.
    fn process(&mut self, session: &mut Session, work: Work) -> Result<(), Stop> {
        let want = match work {
            Work::Prompt(_) => Want::Last,
            Work::Generate { .. } => Want::All,
        };
        let mut left = work.tokens();
        for n in work.steps(session.engine().options().n_batch) {
            let at = session.tokens().len();
            left -= n;
            let want = if left > 0 && want == Want::Last { Want::Nothing } else { want };
            let tokens: Vec<u32> = (at..at + n).map(|pos| self.token(pos)).collect();
            session.eval(&tokens, want)?;
            self.done.0 += n as u64;
            self.progress.update(self.done.0, self.done.1);
            self.check()?;
        }
        Ok(())
    }

    /// The token at a position: any, and always the same.
    fn token(&self, pos: usize) -> u32 {
        // The number of tokens fits 32 bits.
        (Random(pos as u64).next() % self.model.base().n_vocab as u64) as u32
    }

    /// Whether to go on.
    fn check(&self) -> Result<(), Stop> {
        if self.guard.is_cancelled() { Err(Stop::Interrupted) } else { Ok(()) }
    }

    /// Prints a piece of the table, if that is what is wanted.
    fn say(&self, text: &str) -> Result<()> {
        let mut result = Ok(());
        if self.table {
            progress::suspend(|| result = streams::print(text));
        }
        result
    }
}

/// The share of chosen experts that were in slots between two points, if any were looked for there.
fn in_slots(before: Option<SlotUse>, after: Option<SlotUse>) -> Option<f64> {
    let (before, after) = (before.unwrap_or_default(), after?);
    let (hits, misses) = (after.hits.saturating_sub(before.hits), after.misses.saturating_sub(before.misses));
    (hits + misses > 0).then(|| hits as f64 / (hits + misses) as f64)
}

/// Bytes and multiplications of a run, at least.
fn cost_of(cost: &StepCost, test: &Test, n_batch: usize) -> (f64, f64) {
    let (mut bytes, mut macs, mut at) = (0.0, 0.0, test.depth);
    let end = at + test.work.tokens();
    for n in test.work.steps(n_batch) {
        at += n;
        let outputs = match test.work {
            Work::Prompt(_) => usize::from(at == end),
            Work::Generate { .. } => n,
        };
        bytes += cost.bytes(n, outputs, at);
        macs += cost.macs(n, outputs);
    }
    (bytes, macs)
}

/// Name of the processor, where the system tells it.
fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':'));
    name.map_or(std::env::consts::ARCH, |(_, name)| name.trim()).to_owned()
}
