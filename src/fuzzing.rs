//! What is done with any bytes that people may type, for the fuzzer: nothing panics, and every complaint is a line with a line of advice.
//! The bench of rendering takes [`rendered`] of it.

use std::ffi::OsString;
use std::io::{Cursor, Write};

use models::generate::{Event, Finish};

use crate::chat::complete;
use crate::chat::lines::{Input, Lines};
use crate::chat::slash::{Set, Slash};
use crate::cli::args::{Command, RunArgs};
use crate::cli::parse::{self, Parsed};
use crate::cli::settings::{EngineSettings, GenerationSettings, Sampling};
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::output::text::{Place, TextOutput, View};

/// Lines are arguments; those with a `=` behind a name in capitals are variables of the environment.
pub fn command_line(data: &[u8]) {
    let (mut args, mut variables) = (Vec::new(), Vec::new());
    for line in data.split(|b| *b == b'\n').take(64) {
        let name = line.iter().position(|b| !(b.is_ascii_uppercase() || *b == b'_')).unwrap_or(0);
        match name > 0 && line[name] == b'=' {
            true => variables.push((line[..name].to_vec(), os_string(&line[name + 1..]))),
            false => args.push(os_string(line)),
        }
    }
    let env = |wanted: &str| {
        let found = variables.iter().find(|(name, _)| name == wanted.as_bytes());
        found.map(|(_, value)| value.clone())
    };
    match parse::parse(args, env) {
        Ok(Parsed::Run(asked)) => {
            if let Command::Run(args) | Command::Chat(args) = asked.cli.command {
                told(settings(*args));
            }
        }
        Ok(Parsed::Print(text)) => assert!(!text.is_empty()),
        Err(failure) => sound(&failure),
    }
}

/// The settings of an answer, without what would read files.
fn settings(mut args: RunArgs) -> Result<()> {
    let generation = &mut args.generation;
    generation.json_schema = generation.json_schema.take().filter(|text| text.starts_with('{'));
    generation.grammar = generation.grammar.take().filter(|text| text.contains('\n'));
    EngineSettings::new(&args.engine)?;
    GenerationSettings::new(&args.generation).map(drop)
}

/// Lines of a chat: blocks, commands, completion at every place, and the text as an answer that is styled piece by piece.
pub fn typed(data: &[u8]) {
    let mut lines = Lines::Plain { prompt: false, from: Box::new(Cursor::new(data.to_vec())) };
    let mut sampling = Sampling::default();
    // Each reads a line at least.
    for _ in 0..=data.len() {
        match lines.next() {
            Ok(Input::End) => break,
            Ok(Input::Text(text)) => {
                for at in (0..=text.len().min(200)).filter(|at| text.is_char_boundary(*at)) {
                    let (from, _) = complete::complete(&text[..at]);
                    assert!(from <= at);
                }
                match Slash::parse(&text) {
                    Ok(Some(Slash::Set(Set::Parameter(name, value)))) => told(sampling.set(&name, value)),
                    Ok(_) => {}
                    Err(failure) => sound(&failure),
                }
            }
            Ok(_) => {}
            Err(failure) => sound(&failure),
        }
    }
    styled(&String::from_utf8_lossy(data));
}

/// On a terminal, styled.
const STYLED: View =
    View { reasoning: Place::Stdout, terminal: true, dimmed: true, styled: true, counted: false };

/// An answer in two halves that are shown in pieces of seven characters, with the second half going on where the first ended.
fn styled(text: &str) {
    let chars: Vec<char> = text.chars().collect();
    let (first, second) = chars.split_at(chars.len() / 2);
    for (before, now) in [("".to_owned(), &chars[..]), (first.iter().collect(), second)] {
        let mut output = TextOutput::new(Vec::new(), Vec::new(), STYLED);
        output.resume(&before);
        for piece in now.chunks(7) {
            let piece: String = piece.iter().collect();
            told(output.event(Event::Text(&piece)));
            told(output.event(Event::Think(&piece)));
        }
        told(output.end(Finish::Stop));
    }
}

/// Shows an answer piece by piece.
pub fn rendered(pieces: &[String], to: impl Write) {
    let mut output = TextOutput::new(to, std::io::sink(), STYLED);
    pieces.iter().for_each(|piece| told(output.event(Event::Text(piece))));
    told(output.end(Finish::Stop));
}

fn told(result: Result<()>) {
    if let Err(failure) = result {
        sound(&failure);
    }
}

/// Holds a complaint to its form.
fn sound(failure: &Failure) {
    let message = failure.message().unwrap_or_default();
    // Words of those who typed may be quoted within a line, so only a line that begins like a usage page is one.
    let is_usage_page = message.lines().any(|line| line.trim_start().starts_with("Usage:"));
    assert!(!message.is_empty() && !is_usage_page, "{failure:?}");
    assert!(failure.hint().is_some_and(|hint| !hint.is_empty()), "{failure:?}");
}

#[cfg(unix)]
fn os_string(bytes: &[u8]) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes.to_vec())
}

#[cfg(not(unix))]
fn os_string(bytes: &[u8]) -> OsString {
    String::from_utf8_lossy(bytes).into_owned().into()
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_the_fuzzer_begins_with_is_sound() {
        for seed in [
            "",
            "run\n--temp\n0.5\nhi",
            "FATHOM_TEMP=warm\nhi",
            "-n\n-1\n--stop\nEND",
            "help\nrun",
            "quantize\na",
        ] {
            super::command_line(seed.as_bytes());
        }
        for seed in
            ["", "/set temp 0.5\n/set stop \"\\n\"\n", "\"\"\"a\n# b\n**c**\"\"\"\n/undo", "/x\n模型\n```\na"]
        {
            super::typed(seed.as_bytes());
        }
        super::command_line(b"\xff\n--\xfe");
        super::typed(b"/read \xff\n");
    }
}
