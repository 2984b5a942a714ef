//! A chat: turns until the user ends it.

use std::io::IsTerminal;

use models::Session;
use models::template::{ChatTemplate, Message};

use super::answer::{self, Answer, Settings};
use crate::chat::lines::{Input, Lines};
use crate::chat::slash::{HELP, Slash};
use crate::cli::args::FormatArg;
use crate::failure::{Outcome, Result};
use crate::model::Loaded;
use crate::output;
use crate::streams;
use crate::term::log;

/// A conversation and everything that it needs to go on.
pub struct Chat {
    loaded: Loaded,
    template: ChatTemplate,
    session: Session,
    settings: Settings,
    /// What has been said, without the system prompt.
    said: Vec<Message>,
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
    pub fn new(loaded: Loaded, settings: Settings) -> Result<Self> {
        Ok(Chat {
            template: loaded.template()?,
            session: loaded.session(&settings.engine, settings.engine.context)?,
            loaded,
            settings,
            said: Vec::new(),
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
            log::note(&format!("this is {}; /help lists commands, Ctrl-D ends", self.loaded.name));
        }
        let mut waiting = first;
        loop {
            let text = match waiting.take() {
                Some(text) => text,
                None => match lines.next()? {
                    Input::Text(text) => text,
                    Input::Dropped => continue,
                    Input::End => {
                        if self.terminal {
                            // What the shell says next begins its own line.
                            streams::print("\n")?;
                        }
                        return Ok(Outcome::Done);
                    }
                },
            };
            let outcome = match Slash::parse(&text) {
                Ok(Some(Slash::Bye)) => return Ok(Outcome::Done),
                Ok(Some(slash)) => self.obey(slash).map(|()| None),
                Ok(None) if text.trim().is_empty() => continue,
                Ok(None) => self.turn(text).map(Some),
                Err(mistake) => Err(mistake),
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

    /// The conversation as the template wants it.
    fn messages(&self) -> Vec<Message> {
        let system = self.settings.generation.system.iter().filter(|s| !s.is_empty());
        system.map(|s| Message::new("system", s)).chain(self.said.iter().cloned()).collect()
    }

    /// The user says something, the model answers. What fails or is stopped before the first token
    /// counts as not said.
    fn turn(&mut self, text: String) -> Result<Outcome> {
        self.said.push(Message::new("user", text));
        let answer = match self.answer() {
            Ok(answer) if !answer.summary.tokens.is_empty() => answer,
            other => {
                self.said.pop();
                return other.map(|_| Outcome::Interrupted);
            }
        };
        if self.terminal {
            streams::print("\n")?;
        }
        answer.note_end(&self.settings, self.session.n_ctx());
        self.statistics = Some(answer.statistics(&self.loaded, &self.settings));
        self.said.push(Message::new("assistant", without_reasoning(&answer.text)));
        Ok(answer.outcome())
    }

    fn answer(&mut self) -> Result<Answer> {
        let think = self.settings.display.think;
        let prompt = answer::prepare(&self.loaded, &self.template, &self.messages(), think)?;
        let mut output = output::stdout(FormatArg::Text, think, self.settings.colors);
        let answer = answer::answer(&self.loaded, &mut self.session, &prompt, &self.settings, &mut *output);
        let too_long = prompt.tokens.len() >= self.session.n_ctx();
        answer.map_err(|e| if too_long { e.and_hint("/clear begins anew") } else { e })
    }

    fn obey(&mut self, slash: Slash) -> Result<()> {
        let generation = &mut self.settings.generation;
        match slash {
            Slash::Help => log::plain(HELP),
            Slash::Clear => {
                self.said.clear();
                self.session.truncate(0);
                self.statistics = None;
            }
            Slash::Show => self.show(),
            Slash::Stats => self.stats(),
            Slash::System(text) => generation.system = Some(text),
            Slash::Think(think) => self.settings.display.think = Some(think),
            Slash::Limit(limit) => generation.limit = limit,
            Slash::Parameter(name, value) => generation.sampling.set(&name, value)?,
            Slash::Bye => {}
        }
        Ok(())
    }

    fn show(&self) {
        let generation = &self.settings.generation;
        let s = self.loaded.sampling(&generation.sampling);
        let mut text = format!(
            "model     {} ({})\ncontext   {} tokens\nsampling  temp {}, top-k {}, top-p {}, min-p {}, \
             repeat-penalty {}, presence-penalty {}, frequency-penalty {}\n",
            self.loaded.name,
            self.loaded.model.arch(),
            self.session.n_ctx(),
            s.temperature,
            s.top_k,
            s.top_p,
            s.min_p,
            s.repeat_penalty,
            s.presence_penalty,
            s.frequency_penalty,
        );
        if let Some(seed) = generation.sampling.seed {
            text += &format!("seed      {seed}\n");
        }
        if let Some(limit) = generation.limit {
            text += &format!("n-predict {limit}\n");
        }
        if let Some(system) = &generation.system {
            text += &format!("system    {}\n", streams::harmless(system));
        }
        log::plain(&text);
    }

    fn stats(&self) {
        let used = self.session.tokens().len();
        let context = format!("context: {used} of {} tokens\n", self.session.n_ctx());
        log::plain(&(self.statistics.clone().unwrap_or_default() + &context));
    }
}

/// The answer in what `--think raw` leaves together: what follows the reasoning.
fn without_reasoning(text: &str) -> &str {
    match text.rsplit_once("</think>") {
        Some((_, answer)) => answer.trim_start_matches('\n'),
        None => text,
    }
}
