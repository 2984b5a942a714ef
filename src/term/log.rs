//! Lines on standard error: errors, warnings, notes, and what `-v` adds.
//!
//! A line that cannot be written is dropped: nothing is left to say it to.

use std::io::Write;
use std::sync::OnceLock;

use ::log::{Level, LevelFilter, Log, Metadata, Record};
use anstyle::Style;

use super::color::{Colors, DIMMED, ERROR, STRONG, WARNING};
use super::progress;
use crate::failure::Failure;

struct Sink {
    colors: Colors,
    quiet: bool,
}

/// The crates of this workspace.
const OURS: [&str; 4] = ["fathom", "ggml_sys", "models", "quantize"];

static SINK: OnceLock<Sink> = OnceLock::new();

/// Directs all lines to standard error: warnings always, more with `verbose`, with `quiet` errors only.
pub fn install(colors: Colors, verbose: u8, quiet: bool) {
    let level = match (quiet, verbose) {
        (true, _) => LevelFilter::Error,
        (_, 0) => LevelFilter::Warn,
        (_, 1) => LevelFilter::Info,
        (_, 2) => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    let sink = SINK.get_or_init(|| Sink { colors, quiet });
    if ::log::set_logger(sink).is_ok() {
        ::log::set_max_level(level);
    }
}

impl Log for Sink {
    /// Everything of ours; of others what went wrong.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let part = metadata.target().split("::").next().unwrap_or_default();
        OURS.contains(&part) || metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let (style, word) = match record.level() {
            Level::Error => (ERROR, "error"),
            Level::Warn => (WARNING, "warning"),
            Level::Info => (DIMMED, "info"),
            Level::Debug => (DIMMED, "debug"),
            Level::Trace => (DIMMED, "trace"),
        };
        self.line(style, word, &record.args().to_string());
    }

    fn flush(&self) {}
}

impl Sink {
    fn line(&self, style: Style, word: &str, text: &str) {
        progress::suspend(|| {
            // One write a line, so that lines of several processes do not mix.
            let line = format!("{style}{word}:{style:#} {}\n", printable(text));
            let _ = self.colors.styled_stderr().write_all(line.as_bytes());
        });
    }
}

/// Text that stays on its line and leaves the terminal as it is.
fn printable(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.trim_end().chars().map(escape).collect()
}

/// Says something the user should know, unless asked to be quiet.
pub fn note(text: &str) {
    if let Some(sink) = SINK.get().filter(|s| !s.quiet) {
        sink.line(STRONG, "note", text);
    }
}

/// Writes lines that were asked for, quiet or not.
pub fn plain(text: &str) {
    progress::suspend(|| {
        let _ = std::io::stderr().write_all(text.as_bytes());
    });
}

/// Says why a command ended, in one line, and in one more what to do.
pub fn failure(failure: &Failure) {
    let fallback = Sink { colors: Colors { stdout: false, stderr: false }, quiet: false };
    let sink = SINK.get().unwrap_or(&fallback);
    if let Some(message) = failure.message() {
        sink.line(ERROR, "error", message);
    }
    if let Some(hint) = failure.hint() {
        sink.line(STRONG, "hint", hint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stay_lines_whatever_is_in_them() {
        assert_eq!(printable("a\nb\x1b[2J\n"), "a\\nb\\u{1b}[2J");
        assert_eq!(printable("für 模型"), "für 模型");
    }
}
