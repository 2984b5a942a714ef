//! A chat: turns until the user ends it.

mod obey;

use std::io::IsTerminal;

use models::Session;
use models::generate::Finish;
use models::template::ChatTemplate;

use super::answer::{self, Settings};
use crate::chat::conversation::{Conversation, Cut, Turn};
use crate::chat::lines::{Input, Lines};
use crate::chat::slash::Slash;
use crate::cli::args::FormatArg;
use crate::failure::{Outcome, Result};
use crate::input;
use crate::model::Loaded;
use crate::output;
use crate::streams;
use crate::term::{interrupt, log};

/// A conversation and everything that it needs to go on.
pub struct Chat {
    loaded: Loaded,
    template: ChatTemplate,
    session: Session,
    settings: Settings,
    conversation: Conversation,
    /// Files that go before what is said next.
    attached: Vec<String>,
    /// Statistics of the last answer.
    statistics: Option<String>,
    /// Whether somebody is there to read what is not an answer.
    terminal: bool,
}

impl Chat {
    /// A chat in which nothing has been said.
    ///
    /// # Errors
    /// If the model has no template, or the context does not fit.
    pub fn new(loaded: Loaded, mut settings: Settings) -> Result<Self> {
        Ok(Chat {
            template: loaded.template()?,
            session: loaded.session(&settings.engine, settings.engine.context)?,
            conversation: Conversation { system: settings.generation.system.take(), turns: Vec::new() },
            loaded,
            settings,
            attached: Vec::new(),
            statistics: None,
            terminal: std::io::stdin().is_terminal() && std::io::stdout().is_terminal(),
        })
    }

    /// Talks until the input ends, or for one turn if `single`. `first` is said first.
    ///
    /// # Errors
    /// If something fails that another turn would not mend.
    pub fn talk(mut self, first: Option<String>, single: bool) -> Result<Outcome> {
        let mut lines = Lines::new(!self.settings.display.no_history)?;
        if self.terminal {
            interrupt::be_patient();
            log::note(&format!("chat with {}: /help lists commands, Ctrl-D ends", self.loaded.name));
        }
        let mut waiting = first.map(Input::Block);
        loop {
            let input = match waiting.take() {
                Some(input) => input,
                None => lines.next()?,
            };
            let outcome = match input {
                Input::Dropped => continue,
                Input::End => {
                    if self.terminal {
                        // What the shell says next begins its own line.
                        streams::print("\n")?;
                    }
                    return Ok(Outcome::Done);
                }
                Input::Text(text) | Input::Block(text) if text.trim().is_empty() => continue,
                Input::Block(text) => self.turn(text).map(Some),
                Input::Text(text) => match Slash::parse(&text) {
                    Ok(Some(Slash::Bye)) => return Ok(Outcome::Done),
                    Ok(Some(slash)) => self.obey(slash),
                    Ok(None) => self.turn(text).map(Some),
                    Err(mistake) => Err(mistake),
                },
            };
            match outcome {
                Ok(Some(outcome)) if single || (outcome == Outcome::Interrupted && !self.terminal) => {
                    return Ok(outcome);
                }
                Ok(_) => {}
                Err(failure) if single || failure.message().is_none() => return Err(failure),
                Err(failure) => log::failure(&failure),
            }
        }
    }

    /// The user says something, the model answers. What fails counts as not said.
    fn turn(&mut self, text: String) -> Result<Outcome> {
        let user = input::join(&self.attached, &[text], false);
        self.conversation.turns.push(Turn { user, ..Turn::default() });
        let outcome = self.answer(Cut::default());
        match outcome {
            Ok(_) => self.attached.clear(),
            Err(_) => drop(self.conversation.turns.pop()),
        }
        outcome
    }

    /// Answers the last question, from where `cut` ended. Ctrl-C keeps what there is by then.
    fn answer(&mut self, mut cut: Cut) -> Result<Outcome> {
        let display = &self.settings.display;
        let question = self.conversation.question();
        let mut prompt = answer::prepare(&self.loaded, &self.template, &question, display.think)?;
        prompt.tokens.extend(&cut.tokens);
        prompt.resumed = cut.tokens.len();
        let mut output = output::stdout(FormatArg::Text, display, self.settings.colors, self.settings.quiet);
        output.resume(self.conversation.turns.last().map_or("", |turn| &turn.answer));
        let too_long = prompt.tokens.len() >= self.session.n_ctx();
        let answer = answer::answer(&self.loaded, &mut self.session, &prompt, &self.settings, &mut *output);
        let answer = answer.map_err(|e| match self.conversation.turns.len() {
            2.. if too_long => e.and_hint("/forget drops the oldest turns, /clear all of them"),
            _ => e,
        })?;
        let summary = &answer.summary;
        if self.terminal && !summary.tokens.is_empty() {
            streams::print("\n")?;
        }
        answer.note_end(&self.settings, self.session.n_ctx());
        if summary.finish == Finish::Length && self.terminal {
            let full = prompt.tokens.len() + summary.tokens.len() > self.session.n_ctx();
            log::note(if full { "/forget makes room, then /continue goes on" } else { "/continue goes on" });
        }
        if summary.finish == Finish::Interrupted && summary.tokens.is_empty() && self.terminal {
            log::note("stopped before the answer: /continue goes on, /undo takes the question back");
        }
        self.statistics = Some(answer.statistics(&self.loaded, &self.settings));
        if let Some(turn) = self.conversation.turns.last_mut() {
            // What `--think raw` leaves together is no answer as long as it is reasoning.
            if !summary.thinking {
                turn.answer += without_reasoning(&answer.text);
            }
            cut.tokens.extend(&summary.tokens);
            turn.cut = (summary.finish != Finish::Stop).then_some(cut);
        }
        Ok(answer.outcome())
    }
}

/// The answer in what `--think raw` leaves together: what follows the reasoning.
fn without_reasoning(text: &str) -> &str {
    match text.rsplit_once("</think>") {
        Some((_, answer)) => answer.trim_start_matches('\n'),
        None => text,
    }
}
