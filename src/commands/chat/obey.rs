//! What the commands of a chat do.

use std::path::Path;

use models::template::RenderOptions;
use models::tokenizer::Encode;
use unicode_width::UnicodeWidthChar;

use super::Chat;
use crate::chat::conversation::{Cut, Turn};
use crate::chat::file::{self, Cache};
use crate::chat::slash::{self, Set, Slash};
use crate::cli::args::ThinkArg;
use crate::failure::{Failure, Outcome, Result};
use crate::size::Bytes;
use crate::streams::harmless;
use crate::term::interrupt::Guard;
use crate::term::log;

/// Columns that the beginning of a question gets in a list.
const COLUMNS: usize = 50;

impl Chat {
    /// Does what a command asks for. `None` if there was nothing to answer.
    pub(super) fn obey(&mut self, slash: Slash) -> Result<Option<Outcome>> {
        match slash {
            Slash::Regen => return self.regenerate().map(Some),
            Slash::Continue => return self.go_on().map(Some),
            Slash::Set(set) => self.set(set)?,
            Slash::Show => log::plain(&self.parameters()),
            Slash::Context => log::plain(&self.contents()?),
            Slash::Stats => self.stats(),
            Slash::Undo => {
                let turn = self.conversation.turns.pop().ok_or_else(nothing_said)?;
                log::note(&format!("taken back: {}", beginning(&turn.user)));
            }
            Slash::Clear => {
                self.conversation.turns.clear();
                self.attached.clear();
                self.session.truncate(0);
                self.statistics = None;
            }
            Slash::Forget(turns) => self.forget(turns)?,
            Slash::Read(path) => self.read(&path)?,
            Slash::Save(path) => {
                // What Ctrl-C would leave behind is half a file.
                let _guard = Guard::new();
                let bytes = file::save(&path, &self.conversation, &self.loaded.name, &self.session)?;
                let turns = number(self.conversation.turns.len(), "turn");
                log::note(&format!("saved {turns} in {} ({})", path.display(), Bytes(bytes)));
            }
            Slash::Load(path) => self.load(&path)?,
            Slash::Help => log::plain(&slash::help()),
            Slash::Bye => {}
        }
        Ok(None)
    }

    fn set(&mut self, set: Set) -> Result<()> {
        let generation = &mut self.settings.generation;
        match set {
            Set::System(text) => self.conversation.system = Some(text).filter(|t| !t.is_empty()),
            Set::Think(think) => self.settings.display.think = Some(think),
            Set::ThinkBudget(budget) => generation.think_budget = budget,
            Set::Limit(limit) => generation.limit = limit,
            Set::Stop(texts) => generation.stop = texts,
            Set::Style(on) => self.settings.display.no_style = !on,
            Set::Parameter(name, value) => generation.sampling.set(&name, value)?,
        }
        Ok(())
    }

    /// Answers the last question once more. If nothing comes of it, the old answer stays.
    fn regenerate(&mut self) -> Result<Outcome> {
        let sampling = self.loaded.sampling(&self.settings.generation.sampling);
        let turn = self.conversation.turns.last_mut().ok_or_else(nothing_said)?;
        if sampling.temperature <= 0.0 || self.settings.generation.sampling.seed.is_some() {
            log::note(
                "with temp 0 or a seed the same question has the same answer: /set seed -1, /set temp 0.6",
            );
        }
        let fresh = Turn { user: turn.user.clone(), ..Turn::default() };
        let before = std::mem::replace(turn, fresh);
        let outcome = self.answer(Cut::default());
        if let Some(turn) = self.conversation.turns.last_mut() {
            let nothing = turn.cut.as_ref().is_some_and(|cut| cut.tokens.is_empty());
            if outcome.is_err() || nothing {
                *turn = before;
            }
        }
        outcome
    }

    /// Goes on with an answer that was stopped.
    fn go_on(&mut self) -> Result<Outcome> {
        let turn = self.conversation.turns.last().ok_or_else(nothing_said)?;
        match turn.cut.clone() {
            Some(cut) => self.answer(cut),
            None => Err(Failure::usage("the last answer is complete", "/regen answers anew")),
        }
    }

    /// Drops the oldest turns: so many, or as many as free half of the context, but not the last one.
    fn forget(&mut self, wanted: Option<usize>) -> Result<()> {
        let all = self.conversation.turns.len();
        if all < 2 || wanted.is_some_and(|n| n >= all) {
            return Err(Failure::usage(
                format!("the conversation has {}, and the last one stays", number(all, "turn")),
                "/clear forgets all",
            ));
        }
        let half = self.session.n_ctx() / 2;
        let mut dropped = wanted.unwrap_or(1);
        self.conversation.turns.drain(..dropped);
        while wanted.is_none() && self.conversation.turns.len() > 1 && self.length()? > half {
            self.conversation.turns.remove(0);
            dropped += 1;
        }
        let (left, n_ctx) = (self.length()?, self.session.n_ctx());
        let what =
            if dropped == 1 { "the oldest turn".into() } else { format!("the {dropped} oldest turns") };
        log::note(&format!("forgot {what}: {left} of {n_ctx} tokens are used"));
        Ok(())
    }

    fn read(&mut self, path: &Path) -> Result<()> {
        let text = file::text(path)?;
        let tokens = self.tokens(&text);
        self.attached.push(text);
        log::note(&format!("{} ({tokens} tokens) goes before what you say next", path.display()));
        Ok(())
    }

    fn load(&mut self, path: &Path) -> Result<()> {
        let (conversation, cache) = file::load(path, &mut self.session)?;
        self.conversation = conversation;
        self.attached.clear();
        self.statistics = None;
        let again = match cache {
            Cache::Loaded(tokens) => format!("{tokens} tokens in the cache"),
            Cache::Missing => "without a cache: it will be read with the next question".into(),
            Cache::Unfit(why) => {
                format!("the cache cannot be used, {why}: it will be read with the next question")
            }
        };
        log::note(&format!("{}, {again}", number(self.conversation.turns.len(), "turn")));
        if let Some(turn) = self.conversation.turns.last() {
            log::note(&format!("the last question was: {}", beginning(&turn.user)));
        }
        Ok(())
    }

    /// Tokens of the conversation as it is.
    fn length(&self) -> Result<usize> {
        if self.conversation.turns.is_empty() {
            return Ok(self.conversation.system.as_deref().map_or(0, |s| self.tokens(s)));
        }
        let options = RenderOptions { add_generation_prompt: false, ..RenderOptions::default() };
        let text = self.template.render(&self.conversation.messages(), &options)?;
        Ok(self.loaded.tokenizer.encode_prompt(&text).len())
    }

    fn tokens(&self, text: &str) -> usize {
        self.loaded.tokenizer.encode(text, Encode { add_special: false, parse_special: false }).len()
    }

    /// What `/context` prints.
    fn contents(&self) -> Result<String> {
        let (used, n_ctx) = (self.length()?, self.session.n_ctx());
        let mut text = format!(
            "context   {used} of {n_ctx} tokens ({} %)\ncache     {} tokens\n",
            100 * used / n_ctx.max(1),
            self.session.tokens().len(),
        );
        let mut line = |what: String, tokens: usize, said: &str| {
            text += &format!("{what:<9} {tokens} tokens: {}\n", beginning(said));
        };
        if let Some(system) = &self.conversation.system {
            line("system".into(), self.tokens(system), system);
        }
        for (i, turn) in self.conversation.turns.iter().enumerate() {
            let tokens = self.tokens(&turn.user) + self.tokens(&turn.answer);
            line(format!("turn {}", i + 1), tokens, &turn.user);
        }
        for file in &self.attached {
            line("to come".into(), self.tokens(file), file);
        }
        Ok(text)
    }

    /// What `/show` prints.
    fn parameters(&self) -> String {
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
        if !generation.stop.is_empty() {
            let texts: Vec<String> = generation.stop.iter().map(|t| format!("{t:?}")).collect();
            text += &format!("stop      {}\n", texts.join(" "));
        }
        let think = match self.settings.display.think {
            None | Some(ThinkArg::Show) => "show",
            Some(ThinkArg::Hide) => "hide",
            Some(ThinkArg::Raw) => "raw",
        };
        let budget = generation.think_budget.map(|n| format!(", at most {n} tokens"));
        text += &format!("think     {think}{}\n", budget.unwrap_or_default());
        if let Some(system) = &self.conversation.system {
            text += &format!("system    {}\n", harmless(system));
        }
        text
    }

    fn stats(&self) {
        let used = self.session.tokens().len();
        let context = format!("context: {used} of {} tokens\n", self.session.n_ctx());
        log::plain(&(self.statistics.clone().unwrap_or_default() + &context));
    }
}

fn nothing_said() -> Failure {
    Failure::usage("nothing has been said yet", "ask something first")
}

fn number(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// The beginning of a text on one line of a terminal.
fn beginning(text: &str) -> String {
    let line = harmless(text.trim()).replace(['\n', '\t'], " ");
    let mut width = 0;
    let end = line.char_indices().find(|(_, c)| {
        width += c.width().unwrap_or(0);
        width > COLUMNS
    });
    match end {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_shown_in_as_many_columns_as_it_gets() {
        assert_eq!(beginning("\n What is\n2 + 2?\x1b[2J "), "What is 2 + 2?\u{fffd}[2J");
        assert_eq!(beginning(&"模".repeat(30)), format!("{}…", "模".repeat(COLUMNS / 2)));
        assert_eq!(beginning(&"a".repeat(COLUMNS)), "a".repeat(COLUMNS));
    }
}
