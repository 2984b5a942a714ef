//! The line editor of a terminal: keys, history, and the user's own editor for longer texts.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustyline::config::{CompletionType, Config};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{
    Cmd, ConditionalEventHandler, Editor, Event, EventContext, EventHandler, KeyCode, KeyEvent, Modifiers,
    RepeatCount,
};

use super::complete::Completion;
use super::lines::Input;
use crate::failure::{Failure, Result};
use crate::term::{interrupt, log, outside};

/// Lines that the history keeps.
const HISTORY: usize = 1000;

/// An editor of lines with a history.
pub struct LineEditor {
    editor: Editor<Completion, FileHistory>,
    /// Where the history is kept, if it is.
    history: Option<PathBuf>,
    /// Set by the key that opens the user's editor.
    elsewhere: Arc<AtomicBool>,
}

impl LineEditor {
    /// An editor on the terminal.
    ///
    /// # Errors
    /// If the terminal cannot be used.
    pub fn new(keep_history: bool) -> Result<Self> {
        let config =
            Config::builder().max_history_size(HISTORY)?.completion_type(CompletionType::List).build();
        let mut editor = Editor::with_config(config)?;
        editor.set_helper(Some(Completion));
        let elsewhere = Arc::new(AtomicBool::new(false));
        for key in [KeyEvent::ctrl('J'), KeyEvent(KeyCode::Enter, Modifiers::ALT)] {
            editor.bind_sequence(key, Cmd::Newline);
        }
        let handler = EventHandler::Conditional(Box::new(Elsewhere(elsewhere.clone())));
        editor.bind_sequence(KeyEvent::ctrl('G'), handler);
        let history = keep_history.then(history_file).flatten();
        if let Some(path) = &history {
            // The first time there is none.
            let _ = editor.load_history(path);
        }
        Ok(LineEditor { editor, history, elsewhere })
    }

    /// What is typed or pasted until Enter.
    ///
    /// # Errors
    /// If the terminal cannot be read.
    pub fn read(&mut self, prompt: &str) -> Result<Input> {
        let mut text = String::new();
        loop {
            match self.editor.readline_with_initial(prompt, (&text, "")) {
                Ok(line) => text = line,
                Err(ReadlineError::Interrupted) => return Ok(Input::Dropped),
                Err(ReadlineError::Eof) => return Ok(Input::End),
                // A terminal with another encoding is no reason to end a conversation.
                Err(ReadlineError::Io(e)) if e.kind() == ErrorKind::InvalidData => {
                    let what = Failure::new("what was typed is no UTF-8, and is dropped");
                    log::failure(&what.or_hint("set the terminal to UTF-8"));
                    return Ok(Input::Dropped);
                }
                Err(e) => return Err(Failure::from(e).or_hint("pipe the text in, or check the terminal")),
            }
            if !self.elsewhere.swap(false, Ordering::Relaxed) {
                return Ok(Input::Text(text));
            }
            // Back at the prompt with what was written, to be sent with Enter.
            match write_elsewhere(&text) {
                Ok(written) => text = written,
                Err(failure) => log::failure(&failure),
            }
        }
    }

    /// Adds to the history. That it cannot be kept is no reason to stop talking.
    pub fn remember(&mut self, text: &str) {
        let added = self.editor.add_history_entry(text).unwrap_or(false);
        if let Some(path) = self.history.as_deref().filter(|_| added) {
            if let Err(e) = create_private(path) {
                ::log::debug!("cannot keep the history: {e}");
            } else if let Err(e) = self.editor.append_history(path) {
                ::log::debug!("cannot keep the history: {e}");
            }
        }
    }
}

/// Ends the line and says that it goes on in another editor.
struct Elsewhere(Arc<AtomicBool>);

impl ConditionalEventHandler for Elsewhere {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, _: &EventContext<'_>) -> Option<Cmd> {
        self.0.store(true, Ordering::Relaxed);
        Some(Cmd::AcceptLine)
    }
}

/// Has the user change a text in the editor of their choice.
fn write_elsewhere(text: &str) -> Result<String> {
    let file = Draft::new(text)
        .map_err(|e| Failure::new(format!("cannot make a file to write in: {e}")).or_hint("check $TMPDIR"))?;
    outside::edit(&file.0)?;
    let text = crate::input::file(&file.0)?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// A file that only its owner can read, and that goes with this value. A process that is killed leaves it behind, for the next
/// one to remove.
struct Draft(PathBuf);

/// After how long nobody is taken to write in a draft any more.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

impl Draft {
    fn new(text: &str) -> std::io::Result<Self> {
        let folder = std::env::temp_dir();
        remove_abandoned(&folder, ABANDONED);
        let name = |i| folder.join(format!("fathom-{}-{i}.md", std::process::id()));
        let mut made = Err(ErrorKind::AlreadyExists.into());
        for path in (0..100).map(name) {
            made = private(std::fs::OpenOptions::new().write(true).create_new(true))
                .open(&path)
                .map(|f| (path, f));
            if !matches!(&made, Err(e) if e.kind() == ErrorKind::AlreadyExists) {
                break;
            }
        }
        let (path, mut file) = made?;
        interrupt::scratch(Some(path.clone()));
        let draft = Draft(path);
        file.write_all(text.as_bytes())?;
        Ok(draft)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = std::fs::remove_file(&self.0);
        interrupt::scratch(None);
    }
}

/// Removes the drafts of processes that were killed, as far as they are ours to remove.
fn remove_abandoned(folder: &Path, age: Duration) {
    let is_draft = |name: &str| {
        let numbers = name.strip_prefix("fathom-").and_then(|n| n.strip_suffix(".md")?.split_once('-'));
        numbers.is_some_and(|(pid, i)| pid.parse::<u32>().is_ok() && i.parse::<u8>().is_ok())
    };
    for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let old = || file.metadata().ok()?.modified().ok()?.elapsed().ok().filter(|past| *past >= age);
        if file.file_name().to_str().is_some_and(is_draft) && old().is_some() {
            let _ = std::fs::remove_file(file.path());
        }
    }
}

/// Options to create a file that only its owner can read.
fn private(options: &mut std::fs::OpenOptions) -> &mut std::fs::OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

/// Creates the file, if there is none, so that only its owner can read it.
fn create_private(path: &Path) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    private(std::fs::OpenOptions::new().append(true).create(true)).open(path).map(drop)
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
    fn drafts_that_were_left_behind_are_removed_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let others = ["fathom-1-2.txt", "fathom-notes-1.md", "fathom-1.md", "fathom-1-x.md"];
        for name in others.iter().chain(&["fathom-123-0.md"]) {
            std::fs::write(dir.path().join(name), "text").unwrap();
        }
        remove_abandoned(dir.path(), ABANDONED);
        assert!(dir.path().join("fathom-123-0.md").exists());
        remove_abandoned(dir.path(), Duration::ZERO);
        assert!(!dir.path().join("fathom-123-0.md").exists());
        assert!(others.iter().all(|name| dir.path().join(name).exists()));
    }

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
