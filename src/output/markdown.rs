//! Markdown made visible while it streams: headings, bold text, code and lists, for terminals only.
//!
//! Text goes through at once but for what may be a mark: the beginning of a line until it is clear what the line is, and a
//! span between marks until the closing one comes. A mark that turns out to be none comes out as it was, so nothing of the
//! text is lost: what is left out is the marks of headings, bold text and code spans, and what is changed is the bullet of lists.

use anstyle::Style;

use crate::term::color::{CODE, DIMMED, STRONG};

/// Bytes that a span between marks may have. Behind an opening mark that is none, text waits no longer than this.
const SPAN: usize = 400;
/// Bytes of the line that opens a block of code.
const FENCE: usize = 80;
const PLAIN: Style = Style::new();

/// Styles text that comes in pieces.
#[derive(Debug, Default)]
pub struct Styler {
    /// What is not decided yet.
    held: String,
    place: Place,
    /// The character and the length of the marks around the block of code that this is in.
    fence: Option<(char, usize)>,
    /// The last character that was let through.
    last: Option<char>,
}

/// Where what comes next stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    LineStart,
    Text,
    Heading,
    Code,
}

/// What the beginning of the text that is held means.
enum Found {
    /// More of it is needed.
    Unclear,
    /// So many bytes are understood; what to show, in which style, and what follows.
    Piece(usize, String, Style, Place),
}

use Found::{Piece, Unclear};

impl Styler {
    /// What can be shown when `text` has come.
    pub fn push(&mut self, text: &str) -> String {
        self.held.push_str(text);
        self.flow(false)
    }

    /// Takes in what was shown before, of an answer that goes on.
    pub fn resume(&mut self, text: &str) {
        self.held.push_str(text);
        self.flow(true);
    }

    /// The rest, at the end.
    pub fn finish(&mut self) -> String {
        let rest = self.flow(true);
        *self = Styler::default();
        rest
    }

    fn flow(&mut self, end: bool) -> String {
        let mut out = String::new();
        while !self.held.is_empty() {
            let found = match self.place {
                Place::LineStart => self.line_start(end),
                Place::Text => self.inline(PLAIN, end),
                Place::Heading => self.inline(STRONG, end),
                Place::Code => to_line_end(&self.held, CODE, Place::Code),
            };
            let Piece(n, text, style, place) = found else { break };
            self.last = self.held[..n].chars().last().or(self.last);
            self.held.drain(..n);
            self.place = place;
            if !text.is_empty() {
                out += &format!("{style}{text}{style:#}");
            }
        }
        out
    }

    /// What kind of line begins.
    fn line_start(&mut self, end: bool) -> Found {
        let line = self.held.split('\n').next().unwrap_or_default();
        let complete = end || line.len() < self.held.len();
        let rest = line.trim_start_matches(' ');
        let indent = line.len() - rest.len();
        if let Some((mark, n)) = self.fence {
            let closing = rest.trim_end();
            return match closing.chars().all(|c| c == mark) && line.len() <= FENCE {
                true if !complete => Unclear,
                true if closing.len() >= n => {
                    self.fence = None;
                    Piece(line.len(), line.into(), DIMMED, Place::Text)
                }
                _ => to_line_end(&self.held, CODE, Place::Code),
            };
        }
        let text = Piece(0, String::new(), PLAIN, Place::Text);
        let Some(mark) = rest.chars().next() else {
            return if complete || indent > FENCE { text } else { Unclear };
        };
        let run = rest.len() - rest.trim_start_matches(mark).len();
        let after = &rest[run..];
        let undecided = after.is_empty() && !complete;
        match mark {
            '`' | '~' if run >= 3 && !after.contains('`') => {
                if !complete && line.len() <= FENCE {
                    return Unclear;
                } else if complete {
                    self.fence = Some((mark, run));
                    return Piece(line.len(), line.into(), DIMMED, Place::Code);
                }
                text
            }
            '#' if run <= 6 && after.starts_with(' ') => {
                let title = after.trim_start();
                match title.is_empty() && !complete {
                    true => Unclear,
                    false => Piece(line.len() - title.len(), String::new(), PLAIN, Place::Heading),
                }
            }
            '-' | '*' | '+' if run == 1 && after.starts_with(' ') => {
                Piece(indent + 2, format!("{}• ", &line[..indent]), PLAIN, Place::Text)
            }
            '`' | '~' if undecided && run < FENCE => Unclear,
            '#' if undecided && run <= 6 => Unclear,
            '-' | '*' | '+' if undecided && run == 1 => Unclear,
            _ => text,
        }
    }

    /// Text within a line, of which `base` is the style, up to the next mark.
    fn inline(&self, base: Style, end: bool) -> Found {
        let held = self.held.as_str();
        let place = self.place;
        let mark = held.find(['\n', '`', '*']).unwrap_or(held.len());
        if mark > 0 {
            return Piece(mark, held[..mark].into(), base, place);
        }
        if held.starts_with('\n') {
            return Piece(1, "\n".into(), PLAIN, Place::LineStart);
        }
        let sign = if held.starts_with('`') { '`' } else { '*' };
        let run = held.len() - held.trim_start_matches(sign).len();
        let line = held.split('\n').next().unwrap_or_default();
        let complete = end || line.len() < held.len() || line.len() > SPAN;
        let literal = Piece(run, held[..run].into(), base, place);
        if run == line.len() && !complete {
            return Unclear;
        }
        let (marks, content) = line.split_at(run);
        let may_open = match sign {
            '`' => true,
            // Within a word or before white space it is arithmetic.
            _ => {
                (run == 2 || run == 3)
                    && !content.starts_with(char::is_whitespace)
                    && !self.last.is_some_and(|c| c.is_ascii_alphanumeric())
            }
        };
        match closing(content, marks, complete) {
            _ if !may_open => literal,
            Some(n) if sign == '`' => {
                Piece(2 * run + n, code(&content[..n]).into(), CODE.effects(base.get_effects()), place)
            }
            Some(n) => Piece(2 * run + n, bold(&content[..n]), PLAIN, place),
            None if complete => literal,
            None => Unclear,
        }
    }
}

/// All of the line in one style, or the end of it.
fn to_line_end(held: &str, style: Style, place: Place) -> Found {
    match held.find('\n') {
        Some(0) => Piece(1, "\n".into(), PLAIN, Place::LineStart),
        n => {
            let n = n.unwrap_or(held.len());
            Piece(n, held[..n].into(), style, place)
        }
    }
}

/// Where the marks come again that close a span: a run just as long, not behind white space. At the end of what has come, a run
/// may be longer yet.
fn closing(content: &str, marks: &str, complete: bool) -> Option<usize> {
    let sign = marks.chars().next()?;
    let mut at = 0;
    while let Some(found) = content[at..].find(sign) {
        let start = at + found;
        let run = content[start..].len() - content[start..].trim_start_matches(sign).len();
        let whole = complete || start + run < content.len() || sign == '*' && run == marks.len();
        let behind_space = sign == '*' && content[..start].ends_with(char::is_whitespace);
        if run == marks.len() && whole && start > 0 && !behind_space {
            return Some(start);
        }
        at = start + run;
    }
    None
}

/// What stands in a code span: without the single spaces that part it from backticks.
fn code(content: &str) -> &str {
    match content.strip_prefix(' ').and_then(|c| c.strip_suffix(' ')) {
        Some(inner) if inner.starts_with('`') || inner.ends_with('`') => inner,
        _ => content,
    }
}

/// Bold text, code spans in it too.
fn bold(content: &str) -> String {
    let parts: Vec<&str> = content.split('`').collect();
    if parts.len().is_multiple_of(2) {
        // One backtick has no other.
        return format!("{STRONG}{content}{STRONG:#}");
    }
    let styles = [STRONG, CODE.bold()].into_iter().cycle();
    let styled = parts.iter().zip(styles).filter(|(part, _)| !part.is_empty());
    styled.map(|(part, style)| format!("{style}{part}{style:#}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Styles written as tags: `{b:…}` bold, `{c:…}` code, `{d:…}` dimmed.
    fn tagged(text: &str) -> String {
        let mut out = text.to_owned();
        for (style, tag) in [(CODE.bold(), "bc"), (STRONG, "b"), (CODE, "c"), (DIMMED, "d")] {
            out = out.replace(&style.render().to_string(), &format!("{{{tag}:"));
        }
        out.replace("\x1b[0m", "}")
    }

    fn styled(pieces: &[&str]) -> String {
        let mut styler = Styler::default();
        let mut out: String = pieces.iter().map(|p| styler.push(p)).collect();
        out += &styler.finish();
        tagged(&out).replace("}{b:", "").replace("}{c:", "").replace("}{d:", "")
    }

    /// The same whole, in characters, and cut once anywhere.
    #[track_caller]
    fn check(text: &str, want: &str) {
        assert_eq!(styled(&[text]), want, "whole: {text:?}");
        let chars: Vec<String> = text.chars().map(String::from).collect();
        let chars: Vec<&str> = chars.iter().map(String::as_str).collect();
        assert_eq!(styled(&chars), want, "in characters: {text:?}");
        for (at, _) in text.char_indices() {
            assert_eq!(styled(&[&text[..at], &text[at..]]), want, "cut at {at}: {text:?}");
        }
    }

    #[test]
    fn headings_lists_and_bold_text() {
        check("# Title\ntext", "{b:Title}\ntext");
        check("###  The **end** of\n", "{b:The end of}\n");
        check("- one\n  * two\n+ **three**: 3\n", "• one\n  • two\n• {b:three}: 3\n");
        check("1. one\n10. **ten**\n", "1. one\n10. {b:ten}\n");
        check("这是**重点**。", "这是{b:重点}。");
        check("**a** and **b**, ***c***", "{b:a} and {b:b}, {b:c}");
        check("a\n\n\nb\n", "a\n\n\nb\n");
    }

    #[test]
    fn code_in_a_line_and_in_blocks() {
        check("call `f(x)` now", "call {c:f(x)} now");
        assert_eq!(tagged(&Styler::default().push("**use `x` now**")), "{b:use }{bc:x}{b: now}");
        check("`` a`b `` and `` `c` ``", "{c: a`b } and {c:`c`}");
        check(
            "```python\n# no title\n**no**\n\n  `x`\n```\n**yes**\n",
            "{d:```python}\n{c:# no title}\n{c:**no**}\n\n{c:  `x`}\n{d:```}\n{b:yes}\n",
        );
        check("~~~~\n```\n~~~\n~~~~\n- a", "{d:~~~~}\n{c:```}\n{c:~~~}\n{d:~~~~}\n• a");
        check("  ```\n  x\n  ```", "{d:  ```}\n{c:  x}\n{d:  ```}");
        check("```\nnot closed", "{d:```}\n{c:not closed}");
    }

    #[test]
    fn what_is_no_mark_is_left_as_it_is() {
        for text in [
            "2 * 3 ** 4 = 2**3",
            "f(**kwargs) and more",
            "** no **",
            "a * b * c\n*",
            "#hashtag\n####### seven\n#",
            "-1\n--\n---\n-",
            "it's `open\nand ``` here",
            "**open\nline",
            "* ",
            "snake_case __init__ _x_",
            "a|b\n|-|-|\n",
            "> quote",
            "",
        ] {
            let want = text.replace("* ", "• ").clone();
            let want = if text == "* " { want } else { text.to_owned() };
            check(text, &want);
        }
    }

    #[test]
    fn text_does_not_wait_without_need() {
        let mut styler = Styler::default();
        assert_eq!(styler.push("Hello, wor"), "Hello, wor");
        assert_eq!(styler.push("ld **b"), "ld ");
        assert_eq!(tagged(&styler.push("old** x")), "{b:bold} x");
        assert_eq!(styler.push(" `"), " ");
        let long = "y".repeat(SPAN + 1);
        assert_eq!(styler.push(&long), format!("`{long}"));
        assert_eq!(styler.push("\n"), "\n");
        assert_eq!(styler.push("4"), "4");
        assert_eq!(styler.push("\n-"), "\n");
        assert_eq!(styler.push(" "), "• ");
    }

    #[test]
    fn nothing_but_marks_is_ever_lost() {
        // Every text over a small alphabet of what can be confused.
        let alphabet = ["a", " ", "*", "`", "\n", "#", "-", "**", "```"];
        let letters =
            |text: &str| text.chars().filter(|c| c.is_alphanumeric() || *c == '\n').collect::<String>();
        for code in 0..alphabet.len().pow(5) {
            let pieces: Vec<&str> =
                (0..5).map(|i| alphabet[code / alphabet.len().pow(i) % alphabet.len()]).collect();
            let (text, shown) = (pieces.concat(), styled(&pieces));
            let shown = ["{bc:", "{b:", "{c:", "{d:"].iter().fold(shown, |s, tag| s.replace(tag, ""));
            assert_eq!(letters(&text), letters(&shown), "{text:?} is shown as {shown:?}");
        }
    }
}
