//! One answer: prompt in, events to the output, what came of it back. Shared by one-shot and chat.

use std::ops::ControlFlow;

use models::generate::{self, Draw, Event, Finish, GenerateOptions, Summary};
use models::grammar::Grammar;
use models::template::{ChatTemplate, Message, RenderOptions, prompt_opens_think};
use models::tokenizer::TokenId;
use models::{Constraint, Reasoning, Session};

use crate::cli::args::{DisplayArgs, ThinkArg};
use crate::cli::settings::{EngineSettings, GenerationSettings};
use crate::failure::{Outcome, Result};
use crate::model::{self, Loaded};
use crate::output::{Output, Report};
use crate::term::color::Colors;
use crate::term::interrupt::Guard;
use crate::term::log;
use crate::term::progress::{Display, Progress, Unit};

/// Everything that `run` and `chat` are told.
pub struct Settings {
    pub generation: GenerationSettings,
    pub engine: EngineSettings,
    pub display: DisplayArgs,
    pub colors: Colors,
    pub quiet: bool,
    /// What answers are to be like, ready for the model.
    pub grammar: Option<Grammar>,
}

/// A prompt in tokens, and how its answer is to be read.
pub struct Prepared {
    pub tokens: Vec<TokenId>,
    /// Whether reasoning is told from the answer.
    pub split: bool,
    /// Whether the prompt has opened the reasoning.
    pub inside_think: bool,
    /// Whether the model may reason before the answer.
    pub reasoning: Reasoning,
    /// So many tokens at the end are the beginning of the answer, which goes on.
    pub resumed: usize,
}

/// What came of a prompt.
pub struct Answer {
    pub summary: Summary,
    /// The answer, without the reasoning.
    pub text: String,
    /// Whether there was any reasoning.
    pub reasoned: bool,
    pub seed: u64,
}

/// A conversation as the model wants it.
///
/// # Errors
/// If the template rejects it.
pub fn prepare(
    loaded: &Loaded,
    template: &ChatTemplate,
    messages: &[Message],
    think: Option<ThinkArg>,
) -> Result<Prepared> {
    let text = template.render(messages, &RenderOptions::default())?;
    Ok(Prepared {
        tokens: loaded.tokenizer.encode_prompt(&text),
        split: think != Some(ThinkArg::Raw),
        inside_think: prompt_opens_think(&text),
        reasoning: Reasoning::Free,
        resumed: 0,
    })
}

/// Answers a prompt. Ctrl-C ends the answer and keeps what there is of it.
///
/// # Errors
/// If the prompt does not fit the context, or standard output cannot be written.
pub fn answer(
    loaded: &Loaded,
    session: &mut Session,
    prompt: &Prepared,
    settings: &Settings,
    output: &mut dyn Output,
) -> Result<Answer> {
    let generation = &settings.generation;
    let trained = loaded.model.base().n_ctx_train;
    model::check_length(prompt.tokens.len(), session.n_ctx(), trained, generation.limit)?;
    let options = GenerateOptions {
        n_predict: generation.limit,
        ignore_eos: generation.ignore_eos,
        inside_think: prompt.inside_think,
        show_special: settings.display.think == Some(ThinkArg::Raw),
        split_reasoning: prompt.split,
        think_budget: generation.think_budget,
        stop: generation.stop.clone(),
        resumed: prompt.resumed,
    };
    let mut constraint = settings.grammar.as_ref().map(Grammar::begin);
    let constraint = constraint.as_mut().map(|c| (c as &mut dyn Constraint, prompt.reasoning));
    let (mut sampler, seed) = loaded.sampler(&generation.sampling);
    let mut teller = Teller {
        output,
        progress: Some(Progress::new(Display::of_stderr(settings.quiet), "reading the prompt", Unit::Tokens)),
        text: String::new(),
        reasoned: false,
    };
    let mut failure = None;
    let guard = Guard::new();
    let summary = generate::generate(
        session,
        &loaded.tokenizer,
        &prompt.tokens,
        &options,
        Draw { sampler: &mut sampler, constraint },
        guard.cancel(),
        &mut |event| match teller.tell(event) {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => {
                failure = Some(e);
                ControlFlow::Break(())
            }
        },
    )?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    teller.progress = None;
    let report = Report::new(&loaded.name, loaded.time, seed, &summary);
    teller.output.done(&report)?;
    Ok(Answer { text: teller.text, reasoned: teller.reasoned, summary, seed })
}

/// Hands events on to the output and the progress bar, and keeps the answer.
struct Teller<'a> {
    output: &'a mut dyn Output,
    progress: Option<Progress>,
    text: String,
    reasoned: bool,
}

impl Teller<'_> {
    fn tell(&mut self, event: Event<'_>) -> Result<()> {
        match event {
            Event::Prompt { done, total, .. } => {
                if let Some(progress) = &mut self.progress {
                    progress.update(done as u64, total as u64);
                }
            }
            // The bar goes before the first character comes.
            Event::Token(_) => self.progress = None,
            Event::Think(_) => self.reasoned = true,
            Event::Text(text) => self.text.push_str(text),
        }
        self.output.event(event)
    }
}

impl Answer {
    /// How the command ends that gave it.
    pub fn outcome(&self) -> Outcome {
        match self.summary.finish {
            Finish::Interrupted => Outcome::Interrupted,
            _ if self.is_missing() => Outcome::Fruitless,
            _ => Outcome::Done,
        }
    }

    /// Says how fast it was, if that is asked for; gives back what there is to say.
    pub fn statistics(&self, loaded: &Loaded, settings: &Settings) -> String {
        let report = Report::new(&loaded.name, loaded.time, self.seed, &self.summary);
        let statistics = report.statistics();
        if settings.display.stats {
            log::plain(&statistics);
        }
        statistics
    }

    /// Says what the user should know about the end of the answer.
    pub fn note_end(&self, settings: &Settings, n_ctx: usize) {
        let limit = settings.generation.limit;
        match self.summary.finish {
            Finish::Length if self.is_missing() => log::note(&format!(
                "no answer: all tokens went into reasoning; {}",
                model::length_note(&self.summary, limit, n_ctx)
            )),
            Finish::Length => log::note(&model::length_note(&self.summary, limit, n_ctx)),
            Finish::Stop if self.is_missing() => log::note("no answer: the model ended within its reasoning"),
            Finish::Stop | Finish::Interrupted => {}
        }
        if self.summary.unfinished && !self.is_missing() && self.summary.finish != Finish::Interrupted {
            log::note("the answer is incomplete: it ends before its grammar or schema lets it");
        }
    }

    /// Whether there was reasoning and then no answer.
    pub fn is_missing(&self) -> bool {
        let s = &self.summary;
        self.reasoned && self.text.is_empty() && s.finish != Finish::Interrupted && s.stopped_by.is_none()
    }
}
