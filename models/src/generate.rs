//! Generation: a prompt goes in, events come out. Every front end consumes the same events, so that stopping, reasoning
//! and statistics exist once.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::constraint::{Constraint, Guide, Reasoning};
use crate::error::{Error, Result};
use crate::reasoning::{Part, Splitter};
use crate::sampler::Sampler;
use crate::session::{Session, Want};
use crate::stop::StopFinder;
use crate::tokenizer::{Decoder, Encode, TokenId, Tokenizer};

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
    /// The model ended its answer, a stop text did, or nothing can follow by its constraint.
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
    /// Texts that end the answer before them ([`stop`](crate::stop)). Reasoning that is split off is not searched.
    pub stop: Vec<String>,
    /// The answer goes on: so many tokens at the end of the prompt are its beginning. `inside_think` is said of what is before them.
    pub resumed: usize,
}

/// How tokens are drawn.
pub struct Draw<'a> {
    /// From what is allowed.
    pub sampler: &'a mut Sampler,
    /// What is allowed in the answer, if not all is, and what may come before it.
    pub constraint: Option<(&'a mut dyn Constraint, Reasoning)>,
}

impl<'a> From<&'a mut Sampler> for Draw<'a> {
    fn from(sampler: &'a mut Sampler) -> Self {
        Draw { sampler, constraint: None }
    }
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
    /// The stop text that ended it.
    pub stopped_by: Option<String>,
    /// Whether it ended before its constraint allows it.
    pub unfinished: bool,
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
/// [`Error::ContextFull`] if the prompt leaves no room for a token; nothing has been done then. [`Error::Constraint`] if no token is
/// allowed.
pub fn generate<'d>(
    session: &mut Session,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    options: &GenerateOptions,
    draw: impl Into<Draw<'d>>,
    cancel: &AtomicBool,
    on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Summary> {
    let n_ctx = session.n_ctx();
    if prompt.len() >= n_ctx {
        return Err(Error::ContextFull { needed: prompt.len() + 1, n_ctx });
    }
    let start = Instant::now();
    let (logits, reused) = process_prompt(session, prompt, cancel, on_event)?;
    let prompt_time = start.elapsed();
    let start = Instant::now();
    let Draw { sampler, constraint } = draw.into();
    let (constraint, reasoning): (Option<&mut dyn Constraint>, _) = match constraint {
        Some((constraint, reasoning)) => (Some(constraint), reasoning),
        None => (None, Reasoning::None),
    };
    let mut run = Run {
        session,
        tokenizer,
        options,
        cancel,
        on_event,
        muted: false,
        decoder: tokenizer.decoder(options.show_special),
        split: Splitter::new(tokenizer, options.inside_think),
        stop: StopFinder::new(&options.stop),
        guide: Guide::new(constraint, tokenizer, options.inside_think, reasoning),
        to_come: vec![],
        closed: false,
        ends_line: false,
        summary: Summary {
            finish: Finish::Interrupted,
            prompt_tokens: prompt.len(),
            reused_tokens: reused,
            tokens: vec![],
            think_tokens: 0,
            thinking: options.inside_think,
            stopped_by: None,
            unfinished: false,
            prompt_time,
            generate_time: Duration::ZERO,
        },
    };
    if let Some(logits) = logits {
        run.resume(&prompt[prompt.len().saturating_sub(options.resumed)..])?;
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
    /// Whether text is not handed on, because it was before.
    muted: bool,
    decoder: Decoder<'a>,
    split: Splitter,
    stop: StopFinder,
    guide: Guide<'a>,
    /// Tokens that come without being drawn, the next one last.
    to_come: Vec<TokenId>,
    /// Whether the reasoning was closed because its budget was spent.
    closed: bool,
    /// Whether the text so far ends a line. A prompt that opens the reasoning does; behind it the empty line of no
    /// reasoning belongs.
    ends_line: bool,
    summary: Summary,
}

impl Run<'_> {
    fn generate(
        &mut self,
        prompt: &[TokenId],
        mut logits: Vec<f32>,
        sampler: &mut Sampler,
    ) -> Result<Finish> {
        let limit = self.options.n_predict.unwrap_or(usize::MAX);
        let mut history = prompt.to_vec();
        let finish = loop {
            if self.guide.is_done() {
                break Finish::Stop;
            }
            if self.summary.tokens.len() >= limit {
                break Finish::Length;
            }
            if self.cancel.load(Ordering::Relaxed) {
                break Finish::Interrupted;
            }
            self.close_if_spent();
            let given = self.to_come.pop();
            let token = match given {
                Some(token) => token,
                None => {
                    self.guide.allow(&mut logits)?;
                    sampler.sample(&mut logits, &history)
                }
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
            if self.take(token, given.is_some())?.is_break() {
                break if self.stop.found().is_some() { Finish::Stop } else { Finish::Interrupted };
            }
            if self.session.tokens().len() >= self.session.n_ctx() {
                break Finish::Length;
            }
            if self.summary.tokens.len() < limit && !self.guide.is_done() {
                logits = self.session.eval(&[token], Want::Last)?;
            }
        };
        self.finish();
        self.summary.unfinished = self.guide.is_unfinished();
        self.summary.stopped_by = self.stop.found().map(str::to_owned);
        Ok(finish)
    }

    /// Brings everything that reads an answer to where an earlier generation ended with these tokens.
    fn resume(&mut self, tokens: &[TokenId]) -> Result<()> {
        if tokens.is_empty() {
            return Ok(());
        }
        self.muted = true;
        for &token in tokens {
            let given = self.to_come.pop_if(|next| *next == token).is_some();
            let _ = self.take(token, given)?;
        }
        self.finish();
        self.muted = false;
        Ok(())
    }

    /// Reads a token, `given` or drawn, and hands on its text. Breaks if the caller asks, or a stop text has come.
    fn take(&mut self, token: TokenId, given: bool) -> Result<ControlFlow<()>> {
        let text = self.decoder.push(token).to_owned();
        if !text.is_empty() {
            self.ends_line = text.ends_with('\n');
        }
        let flow = self.tell(Some(token), &text);
        if self.guide.took(token, given, self.split.is_thinking())? {
            self.to_come = self.encode_reversed("\n\n");
        }
        Ok(flow)
    }

    /// Closes the reasoning if its budget is spent: as the model would, token by token.
    fn close_if_spent(&mut self) {
        let spent = self.options.think_budget.is_some_and(|n| self.summary.think_tokens >= n);
        if !self.closed && spent && self.split.is_thinking() {
            self.closed = true;
            self.to_come =
                self.encode_reversed(if self.ends_line { "</think>\n\n" } else { "\n</think>\n\n" });
        }
    }

    fn encode_reversed(&self, text: &str) -> Vec<TokenId> {
        let encode = Encode { add_special: false, parse_special: true };
        self.tokenizer.encode(text, encode).into_iter().rev().collect()
    }

    /// Hands on what is held back at the end.
    fn finish(&mut self) {
        self.summary.thinking = self.split.is_thinking();
        let rest = self.decoder.finish().to_owned();
        let _ = self.tell(None, &rest);
        let rest = self.stop.finish();
        if !(self.muted || rest.is_empty()) {
            let _ = (self.on_event)(Event::Text(&rest));
        }
    }

    /// Hands on the text of a token, or the rest at the end.
    fn tell(&mut self, token: Option<TokenId>, text: &str) -> ControlFlow<()> {
        let mut flow = ControlFlow::Continue(());
        let Run { on_event, stop, guide, split, muted, options, .. } = self;
        let mut emit = |part: Part<'_>| {
            let answer;
            let event = match part {
                Part::Think(text) => Event::Think(text),
                // Of a token that closes the reasoning in letters and goes on: not what the constraint allowed.
                Part::Text(_) if guide.is_free() && options.split_reasoning => return,
                Part::Text(text) => {
                    answer = stop.push(text);
                    Event::Text(&answer)
                }
            };
            if flow.is_continue() && !*muted && !matches!(event, Event::Text("")) {
                flow = on_event(event);
            }
        };
        let raw = !options.split_reasoning;
        if raw && !text.is_empty() {
            emit(Part::Text(text));
        }
        let emit = |part: Part<'_>| {
            if !raw {
                emit(part)
            }
        };
        match token {
            Some(token) => split.push(token, text, emit),
            None => split.finish(text, emit),
        }
        match stop.found() {
            Some(_) => ControlFlow::Break(()),
            None => flow,
        }
    }
}
