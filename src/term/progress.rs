//! How far something is, on standard error: a bar on a terminal, a line every tenth elsewhere,
//! nothing in a file. What is done within [`DELAY`] is not worth a word.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::size::Bytes;

const DELAY: Duration = Duration::from_millis(300);

/// The bar on the terminal, if there is one now.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Takes the bar off the terminal while `write` writes there.
pub fn suspend(write: impl FnOnce()) {
    let bar = BAR.lock().ok().and_then(|bar| bar.clone());
    match bar {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// Where and how to show progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Display {
    /// A bar that is drawn over.
    Bar,
    /// A line every 10 %.
    Lines,
    /// Nothing.
    Nothing,
}

impl Display {
    /// As befits standard error.
    pub fn of_stderr(quiet: bool) -> Self {
        if quiet || stderr_is_file() {
            Display::Nothing
        } else if std::io::stderr().is_terminal() {
            Display::Bar
        } else {
            Display::Lines
        }
    }
}

#[cfg(unix)]
fn stderr_is_file() -> bool {
    use std::os::fd::AsFd;
    let fd = std::io::stderr().as_fd().try_clone_to_owned();
    let metadata = fd.and_then(|fd| std::fs::File::from(fd).metadata());
    metadata.is_ok_and(|m| m.is_file())
}

#[cfg(windows)]
fn stderr_is_file() -> bool {
    use std::os::windows::io::AsHandle;
    let handle = std::io::stderr().as_handle().try_clone_to_owned();
    let metadata = handle.and_then(|h| std::fs::File::from(h).metadata());
    metadata.is_ok_and(|m| m.is_file())
}

#[cfg(not(any(unix, windows)))]
fn stderr_is_file() -> bool {
    false
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Tokens,
    Bytes,
}

impl Unit {
    fn amount(self, done: u64, total: u64) -> String {
        match self {
            Unit::Tokens => format!("{done} of {total} tokens"),
            Unit::Bytes => format!("{} of {}", Bytes(done), Bytes(total)),
        }
    }

    fn template(self) -> &'static str {
        match self {
            Unit::Tokens => "{pos}/{len} tokens",
            Unit::Bytes => "{binary_bytes}/{binary_total_bytes}",
        }
    }
}

/// A task of known size.
pub struct Progress {
    what: &'static str,
    unit: Unit,
    display: Display,
    start: Instant,
    /// Tenths that have been told.
    tenths: usize,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Progress of `what`, counted in `unit`.
    pub fn new(display: Display, what: &'static str, unit: Unit) -> Self {
        Progress { what, unit, display, start: Instant::now(), tenths: 0, bar: None }
    }

    /// So much is done.
    pub fn update(&mut self, done: u64, total: u64) {
        if self.start.elapsed() < DELAY || total == 0 {
            return;
        }
        match self.display {
            Display::Nothing => {}
            Display::Bar => self.draw(done, total),
            Display::Lines => {
                if let Some(line) = self.line(done, total) {
                    let _ = std::io::stderr().write_all(line.as_bytes());
                }
            }
        }
    }

    fn draw(&mut self, done: u64, total: u64) {
        let bar = self.bar.get_or_insert_with(|| {
            begin(&format!("{} {{bar:30}} {}, {{eta}} left", self.what, self.unit.template()))
        });
        bar.set_length(total);
        bar.set_position(done);
    }

    /// The line to print now, if a tenth has been completed since the last.
    fn line(&mut self, done: u64, total: u64) -> Option<String> {
        let tenths = (u128::from(done) * 10 / u128::from(total)) as usize;
        if tenths <= self.tenths {
            return None;
        }
        self.tenths = tenths;
        let left = time_left(self.start.elapsed(), done, total);
        Some(format!("{}: {}% ({}){left}\n", self.what, tenths * 10, self.unit.amount(done, total)))
    }
}

/// How long it will take if it goes on like this, where that is worth a word.
fn time_left(elapsed: Duration, done: u64, total: u64) -> String {
    let seconds = elapsed.as_secs_f64() * total.saturating_sub(done) as f64 / done.max(1) as f64;
    match seconds.round() as u64 {
        0..2 => String::new(),
        s @ 2..120 => format!(", {s} s left"),
        s @ 120..7200 => format!(", {} min left", s / 60),
        s => format!(", {} h {:02} min left", s / 3600, s / 60 % 60),
    }
}

/// The bar goes when the task ends.
impl Drop for Progress {
    fn drop(&mut self) {
        end(self.bar.take());
    }
}

/// Puts a bar on the terminal.
fn begin(template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    if let Ok(mut global) = BAR.lock() {
        *global = Some(bar.clone());
    }
    bar
}

/// Takes it away.
fn end(bar: Option<ProgressBar>) {
    if let Some(bar) = bar {
        bar.finish_and_clear();
        if let Ok(mut global) = BAR.lock() {
            *global = None;
        }
    }
}

/// How long the model has been thinking where nobody sees what: a line on the terminal that changes, and goes.
pub struct Thinking {
    start: Instant,
    tokens: usize,
    bar: Option<ProgressBar>,
}

impl Thinking {
    /// It begins now.
    pub fn new() -> Self {
        Thinking { start: Instant::now(), tokens: 0, bar: None }
    }

    /// One token more.
    pub fn token(&mut self) {
        self.tokens += 1;
        let time = self.start.elapsed();
        if time >= DELAY {
            let bar = self.bar.get_or_insert_with(|| begin("{msg:.dim}"));
            bar.set_message(format!("thinking… {} s, {} tokens", time.as_secs(), self.tokens));
        }
    }
}

impl Drop for Thinking {
    fn drop(&mut self) {
        end(self.bar.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elsewhere_there_is_a_line_every_tenth() {
        let mut progress = Progress::new(Display::Lines, "reading", Unit::Tokens);
        let lines: Vec<String> = (1..=1000).filter_map(|i| progress.line(i, 1000)).collect();
        assert_eq!(lines.len(), 10);
        assert_eq!(lines[0], "reading: 10% (100 of 1000 tokens)\n");
        assert_eq!(lines[9], "reading: 100% (1000 of 1000 tokens)\n");
    }

    #[test]
    fn long_tasks_say_how_long() {
        let left = |seconds, done| time_left(Duration::from_secs(seconds), done, 100);
        assert_eq!(
            [left(10, 50), left(300, 10), left(10_000, 20)],
            [", 10 s left", ", 45 min left", ", 11 h 06 min left"]
        );
        assert_eq!([left(1, 90), left(9, 100)], ["", ""]);
    }

    #[test]
    fn what_takes_no_time_says_nothing() {
        let mut progress = Progress::new(Display::Bar, "reading", Unit::Tokens);
        progress.update(1, 2);
        assert!(progress.bar.is_none());
    }
}
