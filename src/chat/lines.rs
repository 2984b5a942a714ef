//! What the user says, from an editor on a terminal or line by line from elsewhere.

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use rustyline::Editor;
use rustyline::config::Config;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;

use crate::failure::{Failure, Result};
use crate::input::unreadable;

const PROMPT: &str = ">>> ";
/// Where a block goes on.
const MORE: &str = "... ";
/// Begins and ends a block of several lines.
const QUOTES: &str = "\"\"\"";
/// Lines that the history keeps.
const HISTORY: usize = 1000;

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    Text(String),
    /// Ctrl-C: whatever was typed is dropped.
    Dropped,
    End,
}

/// A source of input.
pub enum Lines {
    Editor {
        editor: Box<Editor<(), FileHistory>>,
        /// Where the history is kept, if it is.
        history: Option<PathBuf>,
    },
    /// Standard input as it comes. The prompt is shown if somebody types there.
    Plain { prompt: bool },
}

impl Lines {
    /// An editor if both ends are a terminal.
    ///
    /// # Errors
    /// If the terminal cannot be used.
    pub fn new(keep_history: bool) -> Result<Self> {
        let stdin_is_terminal = std::io::stdin().is_terminal();
        if !(stdin_is_terminal && std::io::stdout().is_terminal()) {
            let prompt = stdin_is_terminal && std::io::stderr().is_terminal();
            return Ok(Lines::Plain { prompt });
        }
        let config = Config::builder().max_history_size(HISTORY)?.build();
        let mut editor = Box::new(Editor::with_config(config)?);
        let history = keep_history.then(history_file).flatten();
        if let Some(path) = &history {
            // The first time there is none.
            let _ = editor.load_history(path);
        }
        Ok(Lines::Editor { editor, history })
    }

    /// The next input: a line, or a block between triple quotes.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn next(&mut self) -> Result<Input> {
        let mut text = match self.read(PROMPT)? {
            Input::Text(line) => line,
            other => return Ok(other),
        };
        if let Some(first) = text.trim_start().strip_prefix(QUOTES) {
            let mut block = first.to_owned();
            while !block.trim_end().ends_with(QUOTES) {
                match self.read(MORE)? {
                    Input::Text(line) => block = block + "\n" + &line,
                    // The block ends with the input; the next reading will say so again.
                    Input::End => break,
                    Input::Dropped => return Ok(Input::Dropped),
                }
            }
            text = block.trim_end().trim_end_matches(QUOTES).trim_matches('\n').to_owned();
        }
        self.remember(&text);
        Ok(Input::Text(text))
    }

    fn read(&mut self, prompt: &str) -> Result<Input> {
        match self {
            Lines::Editor { editor, .. } => match editor.readline(prompt) {
                Ok(line) => Ok(Input::Text(line)),
                Err(ReadlineError::Interrupted) => Ok(Input::Dropped),
                Err(ReadlineError::Eof) => Ok(Input::End),
                Err(e) => Err(Failure::from(e)),
            },
            Lines::Plain { prompt: shown } => {
                if *shown {
                    let _ = std::io::stderr().write_all(prompt.as_bytes());
                }
                let mut line = String::new();
                let n = std::io::stdin().lock().read_line(&mut line);
                let n = n.map_err(|e| unreadable(&e))?;
                let line = line.strip_suffix('\n').unwrap_or(&line);
                let line = line.strip_suffix('\r').unwrap_or(line);
                Ok(if n == 0 { Input::End } else { Input::Text(line.into()) })
            }
        }
    }

    /// Adds to the history. That it cannot be kept is no reason to stop talking.
    fn remember(&mut self, text: &str) {
        let Lines::Editor { editor, history } = self else { return };
        let added = editor.add_history_entry(text).unwrap_or(false);
        if let Some(path) = history.as_deref().filter(|_| added) {
            if let Err(e) = create_private(path) {
                log::debug!("cannot keep the history: {e}");
            } else if let Err(e) = editor.append_history(path) {
                log::debug!("cannot keep the history: {e}");
            }
        }
    }
}

/// Creates the file, if there is none, so that only its owner can read it.
fn create_private(path: &Path) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

/// Where programs keep what they remember, by the customs of the system.
fn history_file() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let folder = if cfg!(windows) {
        var("LOCALAPPDATA")?
    } else if cfg!(target_os = "macos") {
        var("HOME")?.join("Library/Application Support")
    } else {
        var("XDG_STATE_HOME").or_else(|| Some(var("HOME")?.join(".local/state")))?
    };
    Some(folder.join("fathom").join("history"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn the_history_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/history");
        create_private(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "kept").unwrap();
        create_private(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "kept");
    }
}
