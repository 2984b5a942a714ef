//! How an answer leaves the program: as text, or as JSON.

pub mod json;
mod markdown;
pub mod text;

use std::io::IsTerminal;
use std::time::Duration;

use models::generate::{Event, Finish, Summary};
use serde::{Serialize, Serializer};

use crate::cli::args::{DisplayArgs, FormatArg, ThinkArg};
use crate::failure::Result;
use crate::term::color::Colors;
use crate::term::progress::Display;
use json::{JsonOutput, LinesOutput};
use text::{Place, TextOutput, View};

/// Takes the events of one answer after another.
pub trait Output {
    /// An answer goes on of which this was shown before.
    fn resume(&mut self, _answer: &str) {}

    /// Something happened.
    ///
    /// # Errors
    /// If standard output cannot be written.
    fn event(&mut self, event: Event<'_>) -> Result<()>;

    /// The answer has ended.
    ///
    /// # Errors
    /// If standard output cannot be written.
    fn done(&mut self, report: &Report<'_>) -> Result<()>;
}

/// What is known of an answer when it has ended.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    /// Name of the model.
    pub model: &'a str,
    /// Why it ended.
    #[serde(serialize_with = "finish_name")]
    pub finish_reason: Finish,
    /// The stop text that ended it.
    pub stop_text: Option<&'a str>,
    /// Numbers of tokens.
    pub usage: Usage,
    /// How long it took.
    pub timings: Timings,
    /// What seeds the random numbers.
    pub seed: u64,
    /// What was generated, the end token included.
    pub token_ids: &'a [u32],
}

/// Numbers of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Of the prompt.
    pub prompt_tokens: usize,
    /// Of the prompt, as far as an earlier turn had them.
    pub cached_tokens: usize,
    /// Generated.
    pub completion_tokens: usize,
    /// Of these, those of the reasoning.
    pub reasoning_tokens: usize,
    /// Of prompt and answer.
    pub total_tokens: usize,
}

/// How long it took. Speeds are tokens per second, none if nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Timings {
    /// To load the model.
    pub load_ms: f64,
    /// To process what was new in the prompt.
    pub prompt_ms: f64,
    pub prompt_per_second: Option<f64>,
    /// To generate.
    pub predicted_ms: f64,
    pub predicted_per_second: Option<f64>,
}

impl<'a> Report<'a> {
    /// From what the engine reports.
    pub fn new(model: &'a str, load: Duration, seed: u64, summary: &'a Summary) -> Self {
        let s = summary;
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let speed =
            |n: usize, time: Duration| (n > 0 && !time.is_zero()).then(|| n as f64 / time.as_secs_f64());
        Report {
            model,
            finish_reason: s.finish,
            stop_text: s.stopped_by.as_deref(),
            usage: Usage {
                prompt_tokens: s.prompt_tokens,
                cached_tokens: s.reused_tokens,
                completion_tokens: s.tokens.len(),
                reasoning_tokens: s.think_tokens,
                total_tokens: s.prompt_tokens + s.tokens.len(),
            },
            timings: Timings {
                load_ms: ms(load),
                prompt_ms: ms(s.prompt_time),
                prompt_per_second: speed(s.prompt_tokens - s.reused_tokens, s.prompt_time),
                predicted_ms: ms(s.generate_time),
                predicted_per_second: speed(s.tokens.len(), s.generate_time),
            },
            seed,
            token_ids: &s.tokens,
        }
    }

    /// The lines of `--stats` and `/stats`.
    pub fn statistics(&self) -> String {
        let (u, t) = (&self.usage, &self.timings);
        let line = |what: &str, tokens: usize, ms: f64, speed: Option<f64>| {
            let speed = speed.map_or(String::new(), |s| format!(", {s:.1} tokens/s"));
            format!("{what}: {tokens} tokens in {:.2} s{speed}\n", ms / 1e3)
        };
        let reused = match u.cached_tokens {
            0 => String::new(),
            n => format!("reused: {n} tokens of the prompt\n"),
        };
        let new = u.prompt_tokens - u.cached_tokens;
        format!(
            "load:   {:.2} s\n{reused}{}{}",
            t.load_ms / 1e3,
            line("prompt", new, t.prompt_ms, t.prompt_per_second),
            line("answer", u.completion_tokens, t.predicted_ms, t.predicted_per_second),
        )
    }
}

fn finish_name<S: Serializer>(finish: &Finish, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
        Finish::Interrupted => "interrupted",
    })
}

/// The output to standard output in a format.
pub fn stdout(format: FormatArg, display: &DisplayArgs, colors: Colors, quiet: bool) -> Box<dyn Output> {
    let (out, think) = (std::io::stdout(), display.think);
    match format {
        FormatArg::Json => Box::new(JsonOutput::new(out, think)),
        FormatArg::Jsonl => Box::new(LinesOutput::new(out, think)),
        FormatArg::Text => {
            let (terminal, watched) = (out.is_terminal(), std::io::stderr().is_terminal());
            let reasoning = Place::new(think, terminal, watched);
            let dimmed = match reasoning {
                Place::Stdout => colors.stdout,
                _ => colors.stderr,
            };
            let view = View {
                reasoning,
                terminal,
                dimmed,
                styled: terminal && colors.stdout && !display.no_style,
                counted: think == Some(ThinkArg::Hide) && Display::of_stderr(quiet) == Display::Bar,
            };
            Box::new(TextOutput::new(Colors::raw_stdout(), std::io::stderr(), view))
        }
    }
}
