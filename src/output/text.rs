//! The answer as text: reasoning set apart, or left out.

use std::io::Write;

use models::generate::{Event, Finish};

use super::markdown::Styler;
use super::{Output, Report};
use crate::cli::args::ThinkArg;
use crate::failure::Result;
use crate::streams::{harmless, written};
use crate::term::color::DIMMED;
use crate::term::progress::Thinking;

/// Where reasoning is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before the answer, on the terminal that the answer goes to.
    Stdout,
    /// On standard error, so that standard output has nothing but the answer.
    Stderr,
    Nowhere,
}

impl Place {
    /// With the answer on a terminal. Elsewhere only if somebody watches, or asked for it.
    pub fn new(think: Option<ThinkArg>, stdout_is_terminal: bool, stderr_is_terminal: bool) -> Self {
        match think {
            Some(ThinkArg::Hide) => Place::Nowhere,
            _ if stdout_is_terminal => Place::Stdout,
            Some(ThinkArg::Show) => Place::Stderr,
            _ if stderr_is_terminal => Place::Stderr,
            _ => Place::Nowhere,
        }
    }
}

/// How text is shown.
#[derive(Clone, Copy, Debug)]
pub struct View {
    pub reasoning: Place,
    /// Whether standard output is a terminal.
    pub terminal: bool,
    /// Whether reasoning is dimmed where it is shown.
    pub dimmed: bool,
    /// Whether the answer's Markdown is styled.
    pub styled: bool,
    /// Whether a line on the terminal tells that the model thinks where its reasoning is hidden.
    pub counted: bool,
}

/// Writes the answer to `out` and reasoning where it belongs, piece by piece as they come.
pub struct TextOutput<O, E> {
    out: O,
    err: E,
    view: View,
    /// Line ends of reasoning that are written only if more follows.
    held: String,
    /// Whether reasoning was the last thing written.
    reasoning: bool,
    answered: bool,
    reasoned: bool,
    styler: Option<Styler>,
    /// From the first token to the first word of the answer, where that is told.
    thinking: Option<Thinking>,
}

impl<O: Write, E: Write> Output for TextOutput<O, E> {
    fn resume(&mut self, answer: &str) {
        if let Some(styler) = &mut self.styler {
            styler.resume(&harmless(answer));
        }
    }

    fn event(&mut self, event: Event<'_>) -> Result<()> {
        match event {
            Event::Think(text) => self.think(text),
            Event::Text(text) => self.answer(text),
            Event::Token(_) => {
                if self.view.counted && !self.answered {
                    self.thinking.get_or_insert_with(Thinking::new).token();
                }
                Ok(())
            }
            Event::Prompt { .. } => Ok(()),
        }
    }

    fn done(&mut self, report: &Report<'_>) -> Result<()> {
        self.end(report.finish_reason)
    }
}

impl<O: Write, E: Write> TextOutput<O, E> {
    /// Output to the given streams.
    pub fn new(out: O, err: E, view: View) -> Self {
        TextOutput {
            out,
            err,
            view,
            held: String::new(),
            reasoning: false,
            answered: false,
            reasoned: false,
            styler: view.styled.then(Styler::default),
            thinking: None,
        }
    }

    /// A piece of reasoning.
    fn think(&mut self, text: &str) -> Result<()> {
        self.reasoned = true;
        let text = std::mem::take(&mut self.held) + text;
        let shown = text.trim_end_matches('\n');
        self.held = text[shown.len()..].to_owned();
        let shown = if self.reasoning { shown } else { shown.trim_start_matches('\n') };
        if shown.is_empty() {
            return Ok(());
        }
        self.reasoning = true;
        let mut styled = harmless(shown);
        if self.view.dimmed {
            styled = format!("{DIMMED}{styled}{DIMMED:#}");
        }
        self.aside(&styled)
    }

    /// A piece of the answer.
    fn answer(&mut self, text: &str) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.end_reasoning(if self.view.reasoning == Place::Stdout { "\n\n" } else { "\n" })?;
        self.answered = true;
        self.thinking = None;
        self.write(text)
    }

    /// The end. An answer, even an empty one, ends with a line's end; where there is none because
    /// all was reasoning, nothing is written.
    pub fn end(&mut self, finish: Finish) -> Result<()> {
        self.end_reasoning("\n")?;
        self.held.clear();
        self.thinking = None;
        let (answered, reasoned) = (std::mem::take(&mut self.answered), std::mem::take(&mut self.reasoned));
        if answered || (finish == Finish::Stop && !reasoned) {
            self.write("\n")?;
        }
        if let Some(rest) = self.styler.as_mut().map(Styler::finish) {
            self.put(&rest)?;
        }
        Ok(())
    }

    fn end_reasoning(&mut self, separator: &str) -> Result<()> {
        if std::mem::take(&mut self.reasoning) {
            self.held.clear();
            self.aside(separator)?;
        }
        Ok(())
    }

    /// Writes what is not the answer.
    fn aside(&mut self, text: &str) -> Result<()> {
        match self.view.reasoning {
            Place::Stdout => written(self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush())),
            Place::Stderr => {
                // Whether anybody reads it makes no difference to the answer.
                let _ = self.err.write_all(text.as_bytes()).and_then(|()| self.err.flush());
                Ok(())
            }
            Place::Nowhere => Ok(()),
        }
    }

    fn write(&mut self, text: &str) -> Result<()> {
        if !self.view.terminal {
            return self.put(text);
        }
        let text = harmless(text);
        match &mut self.styler {
            Some(styler) => {
                let shown = styler.push(&text);
                self.put(&shown)
            }
            None => self.put(&text),
        }
    }

    fn put(&mut self, text: &str) -> Result<()> {
        written(self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What lands on both streams for reasoning and an answer that come in these pieces.
    fn shown(view: View, think: &[&str], answer: &[&str], finish: Finish) -> (String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut output = TextOutput::new(&mut out, &mut err, view);
        think.iter().for_each(|t| output.think(t).unwrap());
        answer.iter().for_each(|t| output.answer(t).unwrap());
        output.end(finish).unwrap();
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    fn view(reasoning: Place) -> View {
        View { reasoning, terminal: reasoning == Place::Stdout, dimmed: false, styled: false, counted: false }
    }

    #[test]
    fn elsewhere_standard_output_is_the_answer_and_one_line_end() {
        for place in [Place::Stderr, Place::Nowhere] {
            let (out, err) = shown(view(place), &["We ", "add.\n"], &["13", "2"], Finish::Stop);
            assert_eq!(out, "132\n");
            assert_eq!(err, if place == Place::Stderr { "We add.\n" } else { "" });
        }
        let (out, _) = shown(view(Place::Nowhere), &[], &["a\n"], Finish::Stop);
        assert_eq!(out, "a\n\n");
    }

    #[test]
    fn on_a_terminal_reasoning_is_set_apart_by_one_blank_line() {
        let (out, _) = shown(view(Place::Stdout), &["\n", "We add.", "\n", "\n\n"], &["132"], Finish::Stop);
        assert_eq!(out, "We add.\n\n132\n");
        let (out, _) = shown(view(Place::Stdout), &["a\n", "\nb"], &["c"], Finish::Stop);
        assert_eq!(out, "a\n\nb\n\nc\n");
        let dimmed = View { dimmed: true, ..view(Place::Stdout) };
        let (out, _) = shown(dimmed, &["a"], &["b"], Finish::Stop);
        assert_eq!(out, "\x1b[2ma\x1b[0m\n\nb\n");
    }

    #[test]
    fn an_answer_is_styled_only_where_that_is_wanted() {
        let answer = ["# Sum\n**13", "2** is", " it `"];
        let (out, _) = shown(view(Place::Stdout), &[], &answer, Finish::Stop);
        assert_eq!(out, "# Sum\n**132** is it `\n");
        let styled = View { styled: true, ..view(Place::Stdout) };
        let (out, _) = shown(styled, &["**a**"], &answer, Finish::Stop);
        assert_eq!(out, "**a**\n\n\x1b[1mSum\x1b[0m\n\x1b[1m132\x1b[0m is it `\n");
    }

    #[test]
    fn an_answer_that_goes_on_is_styled_as_if_it_had_not_stopped() {
        for (before, after, expected) in [
            ("```rust\nlet a", " = 1;\n```\nb", "\x1b[36m = 1;\x1b[0m\n\x1b[2m```\x1b[0m\nb\n"),
            ("# The", " sum\n1", "\x1b[1m sum\x1b[0m\n1\n"),
            ("Text\n", "- a", "• a\n"),
            ("Text ", "- a", "- a\n"),
        ] {
            let mut out = Vec::new();
            let styled = View { styled: true, ..view(Place::Stdout) };
            let mut output = TextOutput::new(&mut out, std::io::sink(), styled);
            output.resume(before);
            output.answer(after).unwrap();
            output.end(Finish::Stop).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{before:?}");
        }
    }

    #[test]
    fn an_empty_answer_is_a_line_and_none_is_nothing() {
        assert_eq!(shown(view(Place::Nowhere), &[], &[], Finish::Stop).0, "\n");
        assert_eq!(shown(view(Place::Nowhere), &["hm"], &[], Finish::Length).0, "");
        assert_eq!(shown(view(Place::Nowhere), &[], &[], Finish::Interrupted).0, "");
        assert_eq!(shown(view(Place::Stdout), &["hm"], &[], Finish::Interrupted).0, "hm\n");
    }

    #[test]
    fn reasoning_goes_where_somebody_reads_it() {
        use ThinkArg::{Hide, Show};
        for (think, stdout, stderr, place) in [
            (None, true, true, Place::Stdout),
            (None, true, false, Place::Stdout),
            (None, false, true, Place::Stderr),
            (None, false, false, Place::Nowhere),
            (Some(Show), true, true, Place::Stdout),
            (Some(Show), false, false, Place::Stderr),
            (Some(Hide), true, true, Place::Nowhere),
            (Some(Hide), false, true, Place::Nowhere),
        ] {
            assert_eq!(Place::new(think, stdout, stderr), place, "{think:?} {stdout} {stderr}");
        }
    }
}
