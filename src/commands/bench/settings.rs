//! What `bench` measures: each test under each configuration.

use std::num::NonZeroUsize;

use ggml_sys::GgmlType;
use ggml_sys::cpu::pool::default_threads;
use models::loader::MAX_LAYERS;
use models::shapes::{MIXES, Mix, ModelShape, SHAPES};

use crate::cli::args::{BenchArgs, MlaArg};
use crate::cli::lookup::Lookup;
use crate::cli::settings::{self, Source};
use crate::devices::DeviceSettings;
use crate::failure::{Failure, Result};
use crate::loading::Loading;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// So many tokens read, as many at once as a batch holds.
    Prompt(usize),
    /// So many tokens generated, `rows` at once.
    Generate {
        /// Tokens in all.
        n: usize,
        /// Tokens of a step.
        rows: usize,
    },
}

impl Work {
    /// Tokens of a run.
    pub fn tokens(self) -> usize {
        match self {
            Work::Prompt(n) | Work::Generate { n, .. } => n,
        }
    }

    /// What is done before the clock starts: a prompt as it is, one step of a generation.
    pub fn warm_up(self) -> Self {
        match self {
            Work::Prompt(_) => self,
            Work::Generate { n, rows } => Work::Generate { n: rows.min(n), rows },
        }
    }

    /// Tokens of each step, one after another.
    pub fn steps(self, n_batch: usize) -> impl Iterator<Item = usize> {
        let (n, most) = match self {
            Work::Prompt(n) => (n, n_batch),
            Work::Generate { n, rows } => (n, rows),
        };
        (0..n).step_by(most).map(move |done| most.min(n - done))
    }
}

/// Something to measure with so many tokens in the cache before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    pub work: Work,
    pub depth: usize,
}

/// How the engine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    pub threads: NonZeroUsize,
    /// Tokens that `-b` allows at once.
    pub n_batch: usize,
    /// Tokens that `-ub` allows at once.
    pub n_ubatch: usize,
    /// Types of the cache, where they are not left to the model.
    pub cache: (Option<GgmlType>, Option<GgmlType>),
}

impl Config {
    /// Tokens at once.
    pub fn rows(&self) -> usize {
        self.n_batch.min(self.n_ubatch)
    }
}

/// Everything that is asked for.
pub struct BenchSettings {
    pub weights: Weights,
    /// The same number of threads one after another.
    pub configs: Vec<Config>,
    /// By depth, the same one after another.
    pub tests: Vec<Test>,
    pub repeats: usize,
    pub mla: MlaArg,
    pub loading: Loading,
    pub devices: DeviceSettings,
}

/// Where the weights come from.
pub enum Weights {
    /// A file.
    File(Source),
    /// Random ones in memory, with so many layers.
    Random(&'static ModelShape, &'static Mix, Option<usize>),
}

impl BenchSettings {
    /// Checks the options.
    pub fn new(args: &BenchArgs, lookup: &Lookup) -> Result<Self> {
        if args.tests.repetitions == 0 {
            return Err(Failure::usage("--repetitions is 0", "it is at least 1"));
        }
        let configs = configs(args)?;
        let tests = tests(args);
        if tests.is_empty() {
            return Err(Failure::usage("there is nothing to measure", "give -p or -n more than 0"));
        }
        let most = args.tests.batch.iter().copied().max().unwrap_or(1);
        if let Some(c) = configs.iter().find(|c| c.rows() < most) {
            let what = format!("--batch {most} is more than the {} tokens of a batch", c.rows());
            return Err(Failure::usage(what, "a larger -ub allows it"));
        }
        let weights = weights(args, lookup)?;
        let settings = BenchSettings {
            weights,
            configs,
            tests,
            repeats: args.tests.repetitions,
            mla: args.configs.mla,
            loading: Loading::new(&args.configs.loading),
            devices: DeviceSettings::new(&args.devices)?,
        };
        match u32::try_from(settings.n_ctx()) {
            Ok(_) => Ok(settings),
            Err(_) => Err(Failure::usage(
                format!("{} tokens are beyond any context", settings.n_ctx()),
                "give a smaller -p, -n or -d",
            )),
        }
    }

    /// Tokens that are processed in all, for the progress.
    pub fn total_tokens(&self) -> u64 {
        let mut filled = 0;
        let mut total = 0u64;
        for Test { work, depth } in &self.tests {
            total = total
                .saturating_add(depth.saturating_sub(filled) as u64)
                .saturating_add(work.warm_up().tokens() as u64)
                .saturating_add((self.repeats as u64).saturating_mul(work.tokens() as u64));
            filled = *depth;
        }
        total.saturating_mul(self.configs.len() as u64)
    }

    /// Most tokens that any test has in the cache at its end.
    pub fn n_ctx(&self) -> usize {
        self.tests.iter().map(|t| t.depth.saturating_add(t.work.tokens())).max().unwrap_or(1)
    }
}

fn weights(args: &BenchArgs, lookup: &Lookup) -> Result<Weights> {
    let Some(name) = &args.random.shape else {
        for (option, given) in
            [("--mix", args.random.mix.is_some()), ("--layers", args.random.layers.is_some())]
        {
            if given {
                return Err(Failure::usage(format!("{option} is for --shape"), "name a shape with it"));
            }
        }
        let source = settings::choose_only(&args.model, args.name.as_deref(), lookup)?;
        return Ok(Weights::File(source));
    };
    if args.model.model.is_some() || args.name.is_some() {
        return Err(Failure::usage("--shape is one model and there is another", "name one of them"));
    }
    let shape = SHAPES.iter().find(|s| s.name.eq_ignore_ascii_case(name));
    let shape = shape.ok_or_else(|| unknown("shape", name, SHAPES.iter().map(|s| s.name)))?;
    let mix = args.random.mix.as_deref().unwrap_or("q4_k_m");
    let mix = MIXES.iter().find(|m| m.name.eq_ignore_ascii_case(mix));
    let mix = mix.ok_or_else(|| {
        unknown("mix", args.random.mix.as_deref().unwrap_or_default(), MIXES.iter().map(|m| m.name))
    })?;
    if let Some(n) = args.random.layers.filter(|n| !(1..=MAX_LAYERS).contains(n)) {
        return Err(Failure::usage(format!("--layers is {n}"), format!("it can be 1 to {MAX_LAYERS}")));
    }
    Ok(Weights::Random(shape, mix, args.random.layers))
}

fn unknown(what: &str, name: &str, known: impl Iterator<Item = &'static str>) -> Failure {
    let known: Vec<&str> = known.collect();
    Failure::usage(format!("there is no {what} '{name}'"), format!("there are {}", known.join(", ")))
}

/// Every combination of what has several values, threads slowest.
fn configs(args: &BenchArgs) -> Result<Vec<Config>> {
    let mut threads = Vec::new();
    for &n in &args.configs.threads {
        threads.push(settings::threads("--threads", n)?.unwrap_or_else(default_threads));
    }
    if threads.is_empty() {
        threads.push(default_threads());
    }
    for (name, list) in [
        ("--batch-size", &args.configs.batch_size),
        ("--ubatch-size", &args.configs.ubatch_size),
        ("--batch", &args.tests.batch),
    ] {
        if list.contains(&0) {
            return Err(Failure::usage(format!("{name} is 0"), "it is at least 1"));
        }
    }
    let cache_types = |name: &str, list: &[String]| -> Result<Vec<Option<GgmlType>>> {
        if list.is_empty() {
            return Ok(vec![None]);
        }
        list.iter().map(|value| settings::cache_type(name, Some(value))).collect()
    };
    let keys = cache_types("--cache-type-k", &args.configs.cache_type_k)?;
    let values = cache_types("--cache-type-v", &args.configs.cache_type_v)?;
    let mut configs = Vec::new();
    for &threads in &threads {
        for &n_batch in &args.configs.batch_size {
            for &n_ubatch in &args.configs.ubatch_size {
                for &k in &keys {
                    configs.extend(values.iter().map(|&v| Config {
                        threads,
                        n_batch,
                        n_ubatch,
                        cache: (k, v),
                    }));
                }
            }
        }
    }
    Ok(configs)
}

/// Prompts and generations at each depth.
fn tests(args: &BenchArgs) -> Vec<Test> {
    let prompts = args.tests.n_prompt.iter().map(|&n| Work::Prompt(n));
    let generations = args
        .tests
        .n_gen
        .iter()
        .flat_map(|&n| args.tests.batch.iter().map(move |&rows| Work::Generate { n, rows }));
    let works: Vec<Work> = prompts.chain(generations).filter(|w| w.tokens() > 0).collect();
    args.tests.n_depth.iter().flat_map(|&depth| works.iter().map(move |&work| Test { work, depth })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use clap::Parser;

    fn settings(args: &[&str]) -> Result<BenchSettings> {
        let cli = Cli::try_parse_from([&["fathom", "bench"], args].concat()).unwrap();
        let Command::Bench(args) = cli.command else { panic!("{cli:?}") };
        BenchSettings::new(&args, &Lookup::default())
    }

    #[test]
    fn without_options_it_measures_what_llama_bench_does() {
        let s = settings(&[]).unwrap();
        let works: Vec<Work> = s.tests.iter().map(|t| t.work).collect();
        assert_eq!(works, [Work::Prompt(512), Work::Generate { n: 128, rows: 1 }]);
        assert_eq!((s.configs.len(), s.configs[0].rows(), s.repeats, s.n_ctx()), (1, 512, 5, 512));
    }

    #[test]
    fn lists_are_combined_by_threads_and_depths() {
        let s = settings(&["-p", "8,16", "-n", "4", "-n", "0", "--batch", "1,2", "-d", "0,32", "-t", "1,2"]);
        let s = s.unwrap();
        assert_eq!(s.configs.iter().map(|c| c.threads.get()).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(s.tests.iter().map(|t| t.depth).collect::<Vec<_>>(), [0, 0, 0, 0, 32, 32, 32, 32]);
        assert_eq!(s.tests[7].work, Work::Generate { n: 4, rows: 2 });
        assert_eq!(s.n_ctx(), 48);
    }

    #[test]
    fn steps_cover_all_tokens() {
        let steps = |work: Work| work.steps(512).collect::<Vec<_>>();
        assert_eq!(steps(Work::Prompt(1100)), [512, 512, 76]);
        assert_eq!(steps(Work::Generate { n: 5, rows: 2 }), [2, 2, 1]);
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        for (args, what) in [
            (&["-p", "0", "-n", "0"][..], "nothing"),
            (&["-r", "0"], "--repetitions"),
            (&["-t", "-2"], "--threads"),
            (&["--batch", "0"], "--batch"),
            (&["--batch", "600"], "600"),
            (&["-d", "18446744073709551615"], "beyond"),
            (&["--shape", "qwen9"], "qwen9"),
            (&["--shape", "llama-8b", "--mix", "q3"], "q3"),
            (&["--mix", "q4_0"], "--mix"),
            (&["--shape", "llama-8b", "--layers", "0"], "--layers"),
            (&["--shape", "llama-8b", "--layers", "99999"], "--layers"),
            (&["--shape", "llama-8b", "-m", "x"], "--shape"),
            (&["--cache-type-k", "f16,q4_0"], "q4_0"),
        ] {
            let failure = settings(args).err().unwrap();
            assert!(failure.message().unwrap().contains(what), "{failure:?}");
        }
        let failure = settings(&["--shape", "x"]).err().unwrap();
        assert!(SHAPES.iter().all(|s| failure.hint().unwrap().contains(s.name)), "{failure:?}");
    }
}
