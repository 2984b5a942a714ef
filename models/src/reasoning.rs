//! Telling a model's reasoning from its answer.
//!
//! Reasoning models write `<think>`, a newline, their thoughts, a newline, `</think>`, two newlines
//! and the answer. Often the prompt has opened the reasoning already
//! ([`prompt_opens_think`](crate::template::prompt_opens_think)), and the stream begins inside.
//!
//! The tags and the newlines beside them are punctuation of the format and not part of either text.
//! What is left out is exactly: the tags; white space before a `<think>` that begins the answer; all
//! newlines directly after `<think>` and directly before `</think>`; up to two newlines directly
//! after `</think>`. Everything else comes out, in order, whatever the model does: a tag where none
//! can be, such as a second `</think>`, is text.
//!
//! In the vocabularies of R1 and its kin the tags are tokens, and then only those tokens count: a
//! model that spells out `</think>` in letters is talking about it. In other vocabularies the tags
//! are found in the text, cut into pieces as it may be. There `<think>` counts only where the answer
//! begins, and `</think>` only after it.

use crate::tokenizer::{TokenId, Tokenizer};

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// A piece of a model's output, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// Of its reasoning.
    Think(&'a str),
    /// Of its answer.
    Text(&'a str),
}

/// Splits a stream of decoded tokens into reasoning and answer.
#[derive(Clone, Debug)]
pub struct Splitter {
    /// The tags' tokens; `None` where the tags are found in the text.
    tokens: Option<(TokenId, TokenId)>,
    /// In text: what may be the beginning of a tag.
    partial: String,
    trim: Trim,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Nothing but white space has come.
    Start,
    Think,
    Text,
}

impl Splitter {
    /// A splitter for one answer. `inside`: the prompt has opened the reasoning.
    pub fn new(tokenizer: &Tokenizer, inside: bool) -> Self {
        Self::with_tokens(tokenizer.token_id(OPEN).zip(tokenizer.token_id(CLOSE)), inside)
    }

    fn with_tokens(tokens: Option<(TokenId, TokenId)>, inside: bool) -> Self {
        let mut trim = Trim { mode: Mode::Start, skip: 0, held: String::new() };
        if inside {
            trim.enter_think();
        }
        Splitter { tokens, partial: String::new(), trim }
    }

    /// Whether the reasoning goes on.
    pub fn is_thinking(&self) -> bool {
        self.trim.mode == Mode::Think
    }

    /// Takes the next token with the text that the decoder gave for it, and emits what is certain.
    pub fn push(&mut self, id: TokenId, text: &str, mut emit: impl FnMut(Part<'_>)) {
        let emit = &mut emit;
        match self.tokens {
            // The decoder may have put the rest of an earlier token before the tag, and leaves the
            // tag out where it counts as a control token.
            Some((open, _)) if id == open => {
                self.trim.text(text.strip_suffix(OPEN).unwrap_or(text), emit);
                self.trim.open(emit);
            }
            Some((_, close)) if id == close => {
                self.trim.text(text.strip_suffix(CLOSE).unwrap_or(text), emit);
                self.trim.close(emit);
            }
            Some(_) => self.trim.text(text, emit),
            None => self.find_tags(text, emit),
        }
    }

    /// Ends the answer: `rest` is what the decoder had left, and whatever was held back comes out.
    pub fn finish(&mut self, rest: &str, mut emit: impl FnMut(Part<'_>)) {
        let emit = &mut emit;
        match self.tokens {
            Some(_) => self.trim.text(rest, emit),
            None => self.find_tags(rest, emit),
        }
        let partial = std::mem::take(&mut self.partial);
        self.trim.text(&partial, emit);
        self.trim.flush(emit);
    }

    /// For vocabularies without the tags: looks for them in what has come so far.
    fn find_tags(&mut self, text: &str, emit: &mut impl FnMut(Part<'_>)) {
        let waiting = std::mem::take(&mut self.partial) + text;
        let mut rest = waiting.as_str();
        while self.trim.may_open() {
            let tag = rest.trim_start();
            self.trim.text(&rest[..rest.len() - tag.len()], emit);
            rest = tag;
            if let Some(after) = rest.strip_prefix(OPEN) {
                self.trim.open(emit);
                rest = after;
            } else if OPEN.starts_with(rest) {
                // The tag, if the rest of it follows.
                self.partial = rest.into();
                return;
            } else {
                break;
            }
        }
        if self.trim.mode == Mode::Think {
            if let Some((thought, after)) = rest.split_once(CLOSE) {
                self.trim.text(thought, emit);
                self.trim.close(emit);
                rest = after;
            } else {
                let tag = (0..CLOSE.len()).rev().find(|&n| rest.ends_with(&CLOSE[..n]));
                let done = rest.len() - tag.unwrap_or(0);
                self.trim.text(&rest[..done], emit);
                self.partial = rest[done..].into();
                return;
            }
        }
        self.trim.text(rest, emit);
    }
}

/// Leaves out the newlines beside the tags.
#[derive(Clone, Debug)]
struct Trim {
    mode: Mode,
    /// How many newlines to leave out yet.
    skip: usize,
    /// What is left out if a tag follows: white space at the start, newlines while thinking.
    held: String,
}

impl Trim {
    fn enter_think(&mut self) {
        self.mode = Mode::Think;
        self.skip = usize::MAX;
        self.held.clear();
    }

    /// Whether the reasoning has just begun.
    fn nothing_thought(&self) -> bool {
        self.mode == Mode::Think && self.skip > 0
    }

    /// Whether `<think>` can stand here: where the answer begins, or, as models slip, once more where
    /// the prompt had it already.
    fn may_open(&self) -> bool {
        self.mode == Mode::Start || self.nothing_thought()
    }

    fn open(&mut self, emit: &mut impl FnMut(Part<'_>)) {
        if self.mode != Mode::Think {
            self.enter_think();
        } else if !self.nothing_thought() {
            self.text(OPEN, emit);
        }
    }

    fn close(&mut self, emit: &mut impl FnMut(Part<'_>)) {
        if self.mode == Mode::Think {
            self.mode = Mode::Text;
            self.skip = 2;
            self.held.clear();
        } else {
            self.text(CLOSE, emit);
        }
    }

    fn text(&mut self, text: &str, emit: &mut impl FnMut(Part<'_>)) {
        let newlines = text.len() - text.trim_start_matches('\n').len();
        let text = &text[newlines.min(self.skip)..];
        self.skip -= newlines.min(self.skip);
        if text.is_empty() {
            return;
        }
        self.skip = 0;
        let end = match self.mode {
            Mode::Start => text.trim_end().len(),
            Mode::Think => text.trim_end_matches('\n').len(),
            Mode::Text => text.len(),
        };
        if self.mode == Mode::Start && end > 0 {
            self.mode = Mode::Text;
            self.flush(emit);
            return emit(Part::Text(text));
        }
        if end > 0 {
            self.flush(emit);
            emit(self.part(&text[..end]));
        }
        self.held.push_str(&text[end..]);
    }

    /// Emits what was held: no tag followed.
    fn flush(&mut self, emit: &mut impl FnMut(Part<'_>)) {
        if !self.held.is_empty() {
            emit(self.part(&self.held));
            self.held.clear();
        }
    }

    fn part<'a>(&self, text: &'a str) -> Part<'a> {
        match self.mode {
            Mode::Think => Part::Think(text),
            Mode::Start | Mode::Text => Part::Text(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TAGS: Option<(TokenId, TokenId)> = Some((1, 2));

    /// Reasoning and answer of a stream of tokens; with `TAGS`, 1 and 2 are the tags.
    fn split(tokens: Option<(TokenId, TokenId)>, inside: bool, stream: &[&str]) -> (String, String) {
        let (mut think, mut text) = (String::new(), String::new());
        let mut take = |part: Part<'_>| match part {
            Part::Think(t) | Part::Text(t) if t.is_empty() => panic!("an empty part"),
            Part::Think(t) => think.push_str(t),
            Part::Text(t) => text.push_str(t),
        };
        let mut splitter = Splitter::with_tokens(tokens, inside);
        for piece in stream {
            let id = match *piece {
                OPEN if tokens.is_some() => 1,
                CLOSE if tokens.is_some() => 2,
                _ => 0,
            };
            splitter.push(id, piece, &mut take);
        }
        splitter.finish("", &mut take);
        (think, text)
    }

    fn check(inside: bool, stream: &[&str], think: &str, text: &str) {
        let expected = (think.to_string(), text.to_string());
        assert_eq!(split(TAGS, inside, stream), expected, "tags as tokens: {stream:?}");
        assert_eq!(split(None, inside, stream), expected, "tags in the text: {stream:?}");
        let whole = stream.concat();
        assert_eq!(split(None, inside, &[&whole]), expected, "in one piece: {whole:?}");
        let chars: Vec<String> = whole.chars().map(String::from).collect();
        let chars: Vec<&str> = chars.iter().map(String::as_str).collect();
        assert_eq!(split(None, inside, &chars), expected, "by character: {whole:?}");
    }

    #[test]
    fn r1_answers() {
        check(true, &["Okay", ", so", "\n", CLOSE, "\n\n", "42", "."], "Okay, so", "42.");
        check(true, &["\n", "a\n\n", "b", "\n\n", CLOSE, "\n\nc"], "a\n\nb", "c");
        check(false, &[OPEN, "\n", "a", "\n", CLOSE, "\n\n", "b"], "a", "b");
        check(false, &["\n ", OPEN, "\na\n", CLOSE, "b"], "a", "b");
        check(true, &["\n", "\n", CLOSE, "\n\n", "b"], "", "b");
    }

    #[test]
    fn no_reasoning() {
        check(false, &["Hello", "\n\n", "world\n"], "", "Hello\n\nworld\n");
        check(false, &["\n", " a"], "", "\n a");
        check(false, &[" \n"], "", " \n");
        check(false, &[], "", "");
        check(false, &["<thin air"], "", "<thin air");
    }

    #[test]
    fn only_two_newlines_go_with_the_closing_tag() {
        check(true, &["a", CLOSE, "\n\n\n\nb\n"], "a", "\n\nb\n");
        check(true, &["a", CLOSE, "\n", " \nb"], "a", " \nb");
    }

    #[test]
    fn reasoning_that_never_ends_is_kept_whole() {
        check(true, &["a", "\n\n"], "a\n\n", "");
        check(true, &["a </thin"], "a </thin", "");
        check(true, &["a </", "think"], "a </think", "");
    }

    #[test]
    fn tags_out_of_place_are_text() {
        check(true, &["a", CLOSE, "b", CLOSE, "\nc"], "a", "b</think>\nc");
        check(true, &["a", OPEN, "b", CLOSE, "c"], "a<think>b", "c");
        check(false, &["a", CLOSE, "b"], "", "a</think>b");
    }

    #[test]
    fn an_opening_tag_after_that_of_the_prompt_is_a_slip() {
        check(true, &[OPEN, "\n", "a", CLOSE, "b"], "a", "b");
        check(true, &["\n", OPEN, "a", CLOSE, "b"], "a", "b");
    }

    #[test]
    fn spelled_tags_are_text_where_tags_are_tokens() {
        let (think, text) = split(TAGS, true, &["the tag </", "think", "> ends", CLOSE, "b <think> c"]);
        assert_eq!(think, "the tag </think> ends");
        assert_eq!(text, "b <think> c");
    }

    #[test]
    fn the_rest_of_a_broken_character_comes_before_the_tag() {
        let mut parts = Vec::new();
        let mut splitter = Splitter::with_tokens(TAGS, true);
        splitter.push(0, "a", |p| parts.push(format!("{p:?}")));
        splitter.push(2, "\u{fffd}</think>", |p| parts.push(format!("{p:?}")));
        assert!(!splitter.is_thinking());
        splitter.push(0, "b", |p| parts.push(format!("{p:?}")));
        splitter.finish("\u{fffd}", |p| parts.push(format!("{p:?}")));
        let expected = ["Think(\"a\")", "Think(\"\u{fffd}\")", "Text(\"b\")", "Text(\"\u{fffd}\")"];
        assert_eq!(parts, expected);
    }

    proptest! {
        /// However the text is cut, the parts are the same, and nothing but tags and newlines is lost.
        #[test]
        fn cuts_do_not_matter(pieces in prop::collection::vec("(<think>|</think>|\n|[a<>/ ]|think){0,4}", 0..12), inside: bool) {
            let whole = pieces.concat();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (think, text) = split(None, inside, &pieces);
            prop_assert_eq!(&(think.clone(), text.clone()), &split(None, inside, &[&whole]));
            let letters = |s: &str| s.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            let (all, left) = (letters(&whole), letters(&(think + &text)));
            let tags = all.len() - left.len();
            let possible = [0, OPEN.len(), CLOSE.len(), OPEN.len() + CLOSE.len()];
            prop_assert!(possible.contains(&tags) || all.starts_with("<think><think>"), "{all:?} {left:?}");
        }
    }
}
