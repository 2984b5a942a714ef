//! Whether a stream gets colors, decided for each by itself.

use std::ffi::OsString;
use std::io::{IsTerminal, Stderr, Stdout};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

use crate::cli::args::ColorArg;

/// Reasoning and other asides.
pub const DIMMED: Style = Style::new().dimmed();
/// The word that begins an error.
pub const ERROR: Style = AnsiColor::Red.on_default().bold();
/// The word that begins a warning.
pub const WARNING: Style = AnsiColor::Yellow.on_default().bold();
/// Code in an answer.
pub const CODE: Style = AnsiColor::Cyan.on_default();
/// Headings and names.
pub const STRONG: Style = Style::new().bold();

/// What the environment says about colors: <https://no-color.org>, <https://bixense.com/clicolors>.
#[derive(Clone, Copy, Debug, Default)]
struct Wishes {
    no_color: bool,
    force: bool,
    dumb: bool,
}

impl Wishes {
    fn of(env: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name| env(name).is_some_and(|v| !v.is_empty());
        Wishes {
            no_color: set("NO_COLOR"),
            force: env("CLICOLOR_FORCE").is_some_and(|v| !v.is_empty() && v != "0"),
            dumb: env("TERM").is_some_and(|v| v == "dumb"),
        }
    }

    fn colors(self, wanted: ColorArg, is_terminal: bool) -> bool {
        match wanted {
            ColorArg::Always => true,
            ColorArg::Never => false,
            ColorArg::Auto => !self.no_color && (self.force || (is_terminal && !self.dumb)),
        }
    }
}

/// Whether standard output and standard error get colors.
#[derive(Clone, Copy, Debug)]
pub struct Colors {
    pub stdout: bool,
    pub stderr: bool,
}

impl Colors {
    /// As asked for by the option, else by the environment, else where there is a terminal.
    pub fn new(wanted: ColorArg) -> Self {
        let wishes = Wishes::of(|name| std::env::var_os(name));
        Colors {
            stdout: wishes.colors(wanted, std::io::stdout().is_terminal()),
            stderr: wishes.colors(wanted, std::io::stderr().is_terminal()),
        }
    }

    /// Standard output that drops styles where there are no colors, and understands them on Windows.
    pub fn styled_stdout(self) -> AutoStream<Stdout> {
        AutoStream::new(std::io::stdout(), choice(self.stdout))
    }

    /// Standard output that passes on everything, styles too, and has Windows' console
    /// understand them.
    pub fn raw_stdout() -> AutoStream<Stdout> {
        AutoStream::always(std::io::stdout())
    }

    /// Standard error, likewise.
    pub fn styled_stderr(self) -> AutoStream<Stderr> {
        AutoStream::new(std::io::stderr(), choice(self.stderr))
    }
}

fn choice(colors: bool) -> ColorChoice {
    if colors { ColorChoice::Always } else { ColorChoice::Never }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn colors(env: &[(&str, &str)], wanted: ColorArg, is_terminal: bool) -> bool {
        let find = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into());
        Wishes::of(find).colors(wanted, is_terminal)
    }

    #[test]
    fn the_option_wins_then_the_environment_then_the_terminal() {
        use ColorArg::{Always, Auto, Never};
        assert!(colors(&[], Auto, true));
        assert!(!colors(&[], Auto, false));
        assert!(!colors(&[("NO_COLOR", "1")], Auto, true));
        assert!(colors(&[("NO_COLOR", "")], Auto, true));
        assert!(!colors(&[("TERM", "dumb")], Auto, true));
        assert!(colors(&[("CLICOLOR_FORCE", "1")], Auto, false));
        assert!(!colors(&[("CLICOLOR_FORCE", "0")], Auto, false));
        assert!(!colors(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], Auto, true));
        assert!(colors(&[("NO_COLOR", "1")], Always, false));
        assert!(!colors(&[("CLICOLOR_FORCE", "1")], Never, true));
    }
}
