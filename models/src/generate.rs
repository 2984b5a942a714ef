//! Generation: a prompt goes in, events come out. Every front end consumes the same events, so that stopping, reasoning
//! and statistics exist once.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::reasoning::{Part, Splitter};
use crate::sampler::Sampler;
use crate::session::{Session, Want};
use crate::tokenizer::{Encode, Tokenizer};

/// What happens while a model answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event<'a> {
    /// So many tokens of the prompt have been processed, `reused` of them by an earlier turn.
    Prompt {
        /// Tokens done.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
        /// Tokens that the cache had already.
        reused: usize,
    },
    /// A token has been drawn. Its text may come later, or with others.
    Token(u32),
    /// A piece of the reasoning, whole characters.
    Think(&'a str),
    /// A piece of the answer, whole characters.
    Text(&'a str),
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended its answer.
    Stop,
    /// The limit of tokens, or the context, is reached.
    Length,
    /// The caller asked.
    Interrupted,
}

/// How to generate.
#[derive(Clone, Debug, Default)]
pub struct GenerateOptions {
    /// Tokens to generate at the most; the rest of the context if not given.
    pub n_predict: Option<usize>,
    /// Go on after the model ended its answer.
    pub ignore_eos: bool,
    /// Whether the prompt has opened the reasoning.
    pub inside_think: bool,
    /// Give the text of control tokens too.
    pub show_special: bool,
    /// Split the text into reasoning and answer; otherwise all of it is answer.
    pub split_reasoning: bool,
    /// Tokens of reasoning at the most: when they are spent, the reasoning is closed and the model goes on with the answer.
    pub think_budget: Option<usize>,
}

/// What a generation did.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of it that the cache had already.
    pub reused_tokens: usize,
    /// The tokens that were drawn, a final end token included.
    pub tokens: Vec<u32>,
    /// Tokens of the reasoning among them.
    pub think_tokens: usize,
    /// Whether it ended within the reasoning.
    pub thinking: bool,
    /// Time to process the prompt.
    pub prompt_time: Duration,
    /// Time to generate, from the end of the prompt on.
    pub generate_time: Duration,
}

/// Processes `prompt`, as far as the session does not hold it already, and generates.
///
/// `cancel` is looked at between pieces of the prompt and between tokens. `on_event` ends the generation with `Break`. What
/// has been processed and drawn stays in the session (all but the last token drawn, which nothing followed).
///
/// # Errors
/// [`Error::ContextFull`] if the prompt leaves no room for a token; nothing has been done then.
pub fn generate(
    session: &mut Session,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    options: &GenerateOptions,
    sampler: &mut Sampler,
    cancel: &AtomicBool,
    on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Summary> {
    let n_ctx = session.n_ctx();
    if prompt.len() >= n_ctx {
        return Err(Error::ContextFull { needed: prompt.len() + 1, n_ctx });
    }
    let start = Instant::now();
    let (logits, reused) = process_prompt(session, prompt, cancel, on_event)?;
    let mut run = Run {
        session,
        tokenizer,
        options,
        cancel,
        on_event,
        split: Splitter::new(tokenizer, options.inside_think),
        closing: None,
        summary: Summary {
            finish: Finish::Interrupted,
            prompt_tokens: prompt.len(),
            reused_tokens: reused,
            tokens: vec![],
            think_tokens: 0,
            thinking: options.inside_think,
            prompt_time: start.elapsed(),
            generate_time: Duration::ZERO,
        },
    };
    let start = Instant::now();
    if let Some(logits) = logits {
        run.summary.finish = run.generate(prompt, logits, sampler)?;
    }
    run.summary.generate_time = start.elapsed();
    Ok(run.summary)
}

/// The logits after the prompt, `None` if it was interrupted, and the tokens that were there already.
fn process_prompt(
    session: &mut Session,
    prompt: &[u32],
    cancel: &AtomicBool,
    on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<(Option<Vec<f32>>, usize)> {
    let (total, reused) = (prompt.len(), session.keep_prefix(prompt));
    let mut last = vec![];
    let mut tell = |done: usize| {
        let flow = on_event(Event::Prompt { done, total, reused });
        if cancel.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { flow }
    };
    if tell(reused).is_break() {
        return Ok((None, reused));
    }
    let flow = session.eval_with(&prompt[reused..], Want::Last, &mut |done, logits| {
        last.extend_from_slice(logits);
        tell(reused + done)
    })?;
    Ok((flow.is_continue().then_some(last), reused))
}

struct Run<'a> {
    session: &'a mut Session,
    tokenizer: &'a Tokenizer,
    options: &'a GenerateOptions,
    cancel: &'a AtomicBool,
    on_event: &'a mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    split: Splitter,
    /// What closes the reasoning when its budget is spent, as far as it is still to come, the next token last.
    closing: Option<Vec<u32>>,
    summary: Summary,
}

impl Run<'_> {
    fn generate(&mut self, prompt: &[u32], mut logits: Vec<f32>, sampler: &mut Sampler) -> Result<Finish> {
        let limit = self.options.n_predict.unwrap_or(usize::MAX);
        let mut history = prompt.to_vec();
        let mut decoder = self.tokenizer.decoder(self.options.show_special);
        // A prompt that opens the reasoning ends with a line's end; behind it the empty line of no reasoning belongs.
        let mut ends_line = false;
        let finish = loop {
            if self.summary.tokens.len() >= limit {
                break Finish::Length;
            }
            if self.cancel.load(Ordering::Relaxed) {
                break Finish::Interrupted;
            }
            let token = match self.close(ends_line) {
                Some(token) => token,
                None => sampler.sample(&mut logits, &history),
            };
            history.push(token);
            self.summary.tokens.push(token);
            if self.split.is_thinking() {
                self.summary.think_tokens += 1;
            }
            if (self.on_event)(Event::Token(token)).is_break() {
                break Finish::Interrupted;
            }
            if self.tokenizer.is_eog(token) && !self.options.ignore_eos {
                break Finish::Stop;
            }
            let text = decoder.push(token);
            ends_line = if text.is_empty() { ends_line } else { text.ends_with('\n') };
            if self.tell(Some(token), text).is_break() {
                break Finish::Interrupted;
            }
            if self.session.tokens().len() >= self.session.n_ctx() {
                break Finish::Length;
            }
            if self.summary.tokens.len() < limit {
                logits = self.session.eval(&[token], Want::Last)?;
            }
        };
        self.summary.thinking = self.split.is_thinking();
        let rest = decoder.finish().to_string();
        let _ = self.tell(None, &rest);
        Ok(finish)
    }

    /// The next token of what closes the reasoning, if its budget is spent.
    fn close(&mut self, ends_line: bool) -> Option<u32> {
        let spent = self.options.think_budget.is_some_and(|n| self.summary.think_tokens >= n);
        if self.closing.is_none() && spent && self.split.is_thinking() {
            let text = if ends_line { "</think>\n\n" } else { "\n</think>\n\n" };
            let encode = Encode { add_special: false, parse_special: true };
            self.closing = Some(self.tokenizer.encode(text, encode).into_iter().rev().collect());
        }
        self.closing.as_mut()?.pop()
    }

    /// Hands on the text of a token, or the rest at the end.
    fn tell(&mut self, token: Option<u32>, text: &str) -> ControlFlow<()> {
        let mut flow = ControlFlow::Continue(());
        let on_event = &mut *self.on_event;
        let mut emit = |part: Part<'_>| {
            if flow.is_continue() {
                flow = match part {
                    Part::Think(t) => on_event(Event::Think(t)),
                    Part::Text(t) => on_event(Event::Text(t)),
                };
            }
        };
        let raw = !self.options.split_reasoning;
        if raw && !text.is_empty() {
            emit(Part::Text(text));
        }
        let emit = |part: Part<'_>| {
            if !raw {
                emit(part)
            }
        };
        match token {
            Some(token) => self.split.push(token, text, emit),
            None => self.split.finish(text, emit),
        }
        flow
    }
}
