//! Validated settings: what the arguments mean, checked before anything is loaded.

use std::ffi::{OsStr, OsString};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use ggml_sys::GgmlType;
use ggml_sys::cpu::CACHE_TYPES;

use super::args::{EngineArgs, GenerationArgs, MlaArg, ModelArgs};
use super::config::Origin;
use super::lookup::{Lookup, meant};
use super::mistyped;
use super::rules::Form;
use crate::devices::DeviceSettings;
use crate::failure::{Failure, Result};
use crate::loading::Loading;
use crate::term::log;

/// Rows computed at once where nothing else is said.
const DEFAULT_BATCH: usize = 512;

/// Which model, and whether somebody named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file that the command line names.
    Named(PathBuf),
    /// A file that the setting `model` names, and who set it.
    Setting(PathBuf, Origin),
    /// The one in the binary.
    Bundled {
        /// Somebody has named it.
        named: bool,
    },
}

/// A model, and the words on the command line that are no model.
pub struct Choice {
    pub source: Source,
    /// The words that are text, in order.
    pub words: Vec<String>,
    /// `-` was among the words.
    pub stdin: bool,
}

/// Splits the words of the command line into model and text: with `-m`, all are text; without, the
/// first is the model if there is one of that name.
pub fn choose(model: &ModelArgs, words: &[OsString], lookup: &Lookup) -> Result<Choice> {
    let mut words = words.iter().peekable();
    let source = match &model.model {
        Some(name) => lookup.source(name)?,
        None => {
            let first = words.peek().filter(|w| **w != "-");
            match first.map(|w| lookup.first_word(w)).transpose()?.flatten() {
                Some(source) => {
                    words.next();
                    source
                }
                None => lookup.default_model()?,
            }
        }
    };
    let (stdin, texts): (Vec<&OsString>, Vec<&OsString>) = words.partition(|w| *w == "-");
    let words = texts.into_iter().map(|word| {
        let text = word.to_str().map(str::to_owned);
        text.ok_or_else(|| Failure::usage("the prompt is no UTF-8", "set the terminal to UTF-8"))
    });
    let words: Vec<String> = words.collect::<Result<_>>()?;
    if !matches!(source, Source::Named(_) | Source::Bundled { named: true }) {
        mistyped::check(&words, lookup.commands.iter().map(String::as_str))?;
    }
    Ok(Choice { source, words, stdin: !stdin.is_empty() })
}

/// The model where a command takes nothing but one.
pub fn choose_only(model: &ModelArgs, name: Option<&OsStr>, lookup: &Lookup) -> Result<Source> {
    match (&model.model, name) {
        (Some(_), Some(name)) => Err(Failure::usage(
            format!("'{}' is one model and -m another", name.display()),
            "name one of them",
        )),
        (Some(name), None) => lookup.source(name),
        (None, Some(name)) => lookup.source(name),
        (None, None) => lookup.default_model(),
    }
}

/// How the engine runs.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// Positions of the context.
    pub context: Context,
    /// Threads; one per core if not given.
    pub threads: Option<NonZeroUsize>,
    /// Tokens of a prompt computed at once.
    pub n_batch: usize,
    /// Whether they may be more where that is of use.
    pub longer_batches: bool,
    /// Formats of the cache, where they are not left to the model.
    pub cache: (Option<GgmlType>, Option<GgmlType>),
    /// Form of multi-head latent attention.
    pub mla: MlaArg,
    /// How the file comes into memory.
    pub loading: Loading,
    /// What runs on devices beside the processor.
    pub devices: DeviceSettings,
}

/// How long a context should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// As long as the model allows and memory holds.
    Fitting,
    /// As long as the model allows.
    Full,
    /// So many tokens.
    Tokens(usize),
}

impl EngineSettings {
    /// Checks the options of the engine.
    pub fn new(args: &EngineArgs) -> Result<Self> {
        let threads = args.threads.map(|n| threads("--threads", n)).transpose()?.flatten();
        let threads_batch =
            args.threads_batch.map(|n| self::threads("--threads-batch", n)).transpose()?.flatten();
        if threads_batch.is_some_and(|n| threads.is_some_and(|t| t != n)) {
            log::note("prompts are read with as many threads as answers are written: --threads counts");
        }
        let devices = DeviceSettings::new(&args.devices)?;
        let batch = |name: &str, n: Option<usize>| match n {
            Some(0) => Err(Failure::usage(format!("{name} is 0"), "it is at least 1")),
            n => Ok(n),
        };
        let (b, ub) = (batch("--batch-size", args.batch_size)?, batch("--ubatch-size", args.ubatch_size)?);
        Ok(EngineSettings {
            context: match args.ctx_size {
                None => Context::Fitting,
                Some(0) => Context::Full,
                Some(n) => Context::Tokens(n),
            },
            threads: threads.or(threads_batch),
            longer_batches: b.is_none() && ub.is_none(),
            n_batch: ub.unwrap_or(DEFAULT_BATCH).min(b.unwrap_or(usize::MAX)),
            cache: (
                cache_type("--cache-type-k", args.cache_type_k.as_deref())?,
                cache_type("--cache-type-v", args.cache_type_v.as_deref())?,
            ),
            mla: args.mla,
            loading: Loading::new(&args.loading),
            devices,
        })
    }
}

/// A number of threads; 0 and -1 leave it to the machine, as in llama.cpp.
///
/// # Errors
/// If it is no sensible number.
pub fn threads(name: &str, n: i64) -> Result<Option<NonZeroUsize>> {
    const MOST: i64 = 1024;
    match n {
        -1 | 0 => Ok(None),
        1..=MOST => Ok(usize::try_from(n).ok().and_then(NonZeroUsize::new)),
        _ => Err(Failure::usage(format!("{name} is {n}"), format!("it can be 1 to {MOST}"))),
    }
}

/// A type that the cache can have.
///
/// # Errors
/// If it is another.
pub fn cache_type(name: &str, value: Option<&str>) -> Result<Option<GgmlType>> {
    let Some(value) = value else { return Ok(None) };
    let ty = GgmlType::from_name(value).filter(|ty| CACHE_TYPES.contains(ty));
    ty.map(Some).ok_or_else(|| Failure::usage(format!("{name} is '{value}'"), "it can be f32, f16 or q8_0"))
}

/// What is generated.
#[derive(Clone, Debug, Default)]
pub struct GenerationSettings {
    /// System prompt.
    pub system: Option<String>,
    /// Tokens to generate; without a limit until the model ends or the context is full.
    pub limit: Option<usize>,
    /// Tokens of reasoning at the most; without a limit as many as the model likes.
    pub think_budget: Option<usize>,
    /// Texts that end an answer.
    pub stop: Vec<String>,
    /// What answers are to be like.
    pub form: Option<Form>,
    /// Whether the model's end is no end.
    pub ignore_eos: bool,
    /// What overrides the model's own sampling.
    pub sampling: Sampling,
}

/// Sampling as far as it was asked for; the rest is the model's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sampling {
    pub temperature: Option<f32>,
    /// 0 is all tokens.
    pub top_k: Option<usize>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    pub repeat_penalty: Option<f32>,
    /// `usize::MAX` is all tokens.
    pub repeat_last_n: Option<usize>,
    pub presence_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    pub seed: Option<u64>,
}

/// The names of the numbers that [`Sampling::set`] takes.
pub const SAMPLING_NAMES: [&str; 9] = [
    "temp",
    "top-k",
    "top-p",
    "min-p",
    "repeat-penalty",
    "repeat-last-n",
    "presence-penalty",
    "frequency-penalty",
    "seed",
];

impl Sampling {
    /// Sets one of [`SAMPLING_NAMES`].
    ///
    /// # Errors
    /// If there is no such name, or the value is outside of its range.
    pub fn set(&mut self, name: &str, value: f64) -> Result<()> {
        let range = |ok: bool, range: &str| {
            let wrong = || Failure::usage(format!("{name} is {value}"), format!("it can be {range}"));
            ok.then_some(()).ok_or_else(wrong)
        };
        let whole = value.fract() == 0.0 && (-1.0..=u32::MAX as f64).contains(&value);
        let share = (0.0..=1.0).contains(&value);
        let number = Some(value as f32);
        // Whole numbers from -1 to 2^32 - 1 are exact, and -1 becomes 0.
        let positive = value.max(0.0) as usize;
        match name {
            "temp" => {
                range((0.0..=100.0).contains(&value), "0 to 100")?;
                self.temperature = number;
            }
            "top-k" => {
                range(whole, "a whole number; 0 is all")?;
                self.top_k = Some(positive);
            }
            "top-p" => {
                range(share, "0 to 1")?;
                self.top_p = number;
            }
            "min-p" => {
                range(share, "0 to 1")?;
                self.min_p = number;
            }
            "repeat-penalty" => {
                range(value > 0.0 && value <= 100.0, "more than 0, at most 100")?;
                self.repeat_penalty = number;
            }
            "repeat-last-n" => {
                range(whole, "a whole number; -1 is all")?;
                self.repeat_last_n = Some(if value < 0.0 { usize::MAX } else { positive });
            }
            "presence-penalty" => {
                range(value.abs() <= 100.0, "-100 to 100")?;
                self.presence_penalty = number;
            }
            "frequency-penalty" => {
                range(value.abs() <= 100.0, "-100 to 100")?;
                self.frequency_penalty = number;
            }
            "seed" => {
                range(whole, "a whole number below 2^32; -1 is a new one each time")?;
                self.seed = (value >= 0.0).then_some(positive as u64);
            }
            _ => return Err(no_parameter(name, &SAMPLING_NAMES)),
        }
        Ok(())
    }
}

/// That there is no such parameter, with the one that is meant or all that there are.
pub fn no_parameter(name: &str, known: &[&str]) -> Failure {
    let hint = match meant(name, known.iter().copied()) {
        Some(nearest) => format!("nearest is {nearest}"),
        None => format!("there are {}", known.join(", ")),
    };
    Failure::usage(format!("there is no parameter '{name}'"), hint)
}

impl GenerationSettings {
    /// Checks the options of sampling.
    pub fn new(args: &GenerationArgs) -> Result<Self> {
        let mut sampling = Sampling::default();
        let whole = |n: Option<i64>| n.map(|n| n as f64);
        let real = |x: Option<f32>| x.map(f64::from);
        let given = [
            real(args.temp),
            whole(args.top_k),
            real(args.top_p),
            real(args.min_p),
            real(args.repeat_penalty),
            whole(args.repeat_last_n),
            real(args.presence_penalty),
            real(args.frequency_penalty),
            whole(args.seed),
        ];
        for (name, value) in SAMPLING_NAMES.iter().zip(given) {
            if let Some(value) = value {
                sampling.set(name, value)?;
            }
        }
        let limit = match args.n_predict {
            // -2 is llama.cpp's way to say: until the context is full.
            -1 | -2 => None,
            n => Some(usize::try_from(n).map_err(|_| {
                Failure::usage(format!("-n is {n}"), "it can be a number of tokens, or -1 for no limit")
            })?),
        };
        let budget = match args.think_budget {
            None | Some(-1) => None,
            Some(n) => Some(usize::try_from(n).map_err(|_| {
                let hint = "it can be a number of tokens, or -1 for no limit";
                Failure::usage(format!("--think-budget is {n}"), hint)
            })?),
        };
        Ok(GenerationSettings {
            system: args.system_prompt.clone(),
            limit,
            think_budget: budget,
            stop: stop_texts(&args.stop)?,
            form: Form::new(args)?,
            ignore_eos: args.ignore_eos,
            sampling,
        })
    }
}

/// Refuses a text that would end every answer before it begins.
fn stop_texts(texts: &[String]) -> Result<Vec<String>> {
    match texts.iter().any(String::is_empty) {
        true => Err(Failure::usage("--stop is empty", "give a text, or leave it out")),
        false => Ok(texts.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(model: Option<&str>, words: &[&str], setting: Option<&OsStr>) -> Result<Choice> {
        let args = ModelArgs { model: model.map(OsString::from) };
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let unnamed = setting.map(|name| (name.to_owned(), Origin::Variable("FATHOM_MODEL".into())));
        let mut lookup = Lookup::default();
        lookup.unnamed = unnamed;
        choose(&args, &words, &lookup)
    }

    #[test]
    fn with_m_every_word_is_prompt() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("x.gguf");
        std::fs::write(&model, "GGUF").unwrap();
        let path = model.to_str().unwrap();
        let c = choice(Some(path), &[path, "hi"], None).unwrap();
        assert_eq!(c.source, Source::Named(model.clone()));
        assert_eq!(c.words, [path, "hi"]);
        let c = choice(None, &[path, "hi", "-"], None).unwrap();
        assert_eq!((c.source, c.words), (Source::Named(model.clone()), vec!["hi".to_owned()]));
        assert!(c.stdin);
        let c = choice(None, &["hi"], Some(model.as_os_str())).unwrap();
        assert_eq!(c.source, Source::Setting(model, Origin::Variable("FATHOM_MODEL".into())));
        assert_eq!(choice(None, &["hi"], None).unwrap().source, Source::Bundled { named: false });
    }

    #[test]
    fn numbers_outside_their_range_are_refused_by_name() {
        let mut sampling = Sampling::default();
        for (name, value) in [
            ("temp", -0.1),
            ("temp", f64::NAN),
            ("temp", f64::INFINITY),
            ("top-k", 1.5),
            ("top-k", -2.0),
            ("top-p", 1.01),
            ("min-p", -0.5),
            ("repeat-penalty", 0.0),
            ("repeat-last-n", 1e18),
            ("presence-penalty", f64::NEG_INFINITY),
            ("frequency-penalty", f64::NAN),
            ("seed", 4294967296.0),
        ] {
            let failure = sampling.set(name, value).unwrap_err();
            assert!(failure.message().unwrap().starts_with(name), "{failure:?}");
        }
        assert_eq!(sampling, Sampling::default());
        assert!(sampling.set("tmep", 1.0).unwrap_err().hint().unwrap().contains("temp"));
    }

    #[test]
    fn minus_one_means_what_it_means_in_llama_cpp() {
        let mut sampling = Sampling::default();
        sampling.set("seed", -1.0).unwrap();
        sampling.set("repeat-last-n", -1.0).unwrap();
        sampling.set("top-k", -1.0).unwrap();
        assert_eq!(
            (sampling.seed, sampling.repeat_last_n, sampling.top_k),
            (None, Some(usize::MAX), Some(0))
        );
        assert_eq!(threads("--threads", -1).unwrap(), None);
        assert!(threads("--threads", -2).is_err());
    }

    #[test]
    fn cache_types_are_those_that_the_engine_has() {
        assert_eq!(cache_type("-ctk", Some("q8_0")).unwrap(), Some(GgmlType::Q8_0));
        assert_eq!(cache_type("-ctk", Some("F32")).unwrap(), Some(GgmlType::F32));
        for wrong in ["q4_0", "f64", ""] {
            assert!(cache_type("-ctk", Some(wrong)).is_err(), "{wrong}");
        }
    }
}
