//! What is read before anything is computed: standard input, files of text, tokens and messages.

use std::io::{IsTerminal, Read};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use models::template::Message;
use serde::Deserialize;

use crate::failure::{Failure, Result};
use crate::term::log;

/// After how long without an end standard input is worth a note.
const PATIENCE: Duration = Duration::from_secs(1);

/// Reads standard input to its end. After a second without it a note says what it is waiting for.
///
/// # Errors
/// If it cannot be read or is no UTF-8.
pub fn stdin() -> Result<String> {
    let (done, waiting) = mpsc::channel::<()>();
    let patience = thread::spawn(move || {
        if waiting.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            log::note(if std::io::stdin().is_terminal() {
                "reading the prompt from the terminal: end it with Ctrl-D"
            } else {
                "reading standard input to its end; --no-stdin leaves it alone"
            });
        }
    });
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().read_to_end(&mut bytes);
    drop(done);
    // It ends at once now that its channel is closed, and cannot panic.
    let _ = patience.join();
    read.map_err(|e| unreadable(&e))?;
    text(bytes, "standard input")
}

/// Standard input cannot be read.
pub fn unreadable(error: &std::io::Error) -> Failure {
    let hint = if error.kind() == std::io::ErrorKind::InvalidData {
        "convert it to UTF-8, for example with iconv"
    } else {
        "check where it comes from"
    };
    Failure::new(format!("cannot read standard input: {error}")).or_hint(hint)
}

/// Reads a file of text; `-` is standard input.
///
/// # Errors
/// If it cannot be read or is no UTF-8.
pub fn file(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        return stdin();
    }
    let bytes = std::fs::read(path).map_err(|e| {
        Failure::new(format!("cannot read {}: {e}", path.display()))
            .or_hint("check the path and its permissions")
    })?;
    text(bytes, &path.display().to_string())
}

fn text(bytes: Vec<u8>, name: &str) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Failure::new(format!("{name} is no UTF-8 at byte {at}")).or_hint("convert it, for example with iconv")
    })
}

/// Reads token ids: a JSON array of numbers.
///
/// # Errors
/// If it is none.
pub fn tokens(path: &Path) -> Result<Vec<u32>> {
    json(path, "an array of token ids, such as [0, 17, 42]")
}

/// Reads a conversation: a JSON array of `{"role", "content"}`.
///
/// # Errors
/// If it is none, is empty, or has a role that no template knows.
pub fn messages(path: &Path) -> Result<Vec<Message>> {
    let messages: Vec<Message> = json(path, r#"an array such as [{"role": "user", "content": "Hello"}]"#)?;
    if messages.is_empty() {
        return Err(Failure::new(format!("{} holds no messages", path.display()))
            .or_hint("the last one should be the user's"));
    }
    for (i, message) in messages.iter().enumerate() {
        if !["system", "user", "assistant", "tool"].contains(&message.role.as_str()) {
            let what = format!("{}: message {} has the role '{}'", path.display(), i + 1, message.role);
            return Err(Failure::new(what).or_hint("a role is system, user, assistant or tool"));
        }
    }
    Ok(messages)
}

fn json<T: for<'a> Deserialize<'a>>(path: &Path, expected: &str) -> Result<T> {
    serde_json::from_str(&file(path)?).map_err(|e| {
        Failure::new(format!("{}: {e}", path.display())).or_hint(format!("it should be {expected}"))
    })
}

/// The prompt from its parts, in order, with a blank line between them. Of text from files and
/// streams the last line's end is dropped, unless `raw` and nothing follows.
pub fn join(streams: &[String], words: &[String], raw: bool) -> String {
    let trimmed = |s: &str| s.strip_suffix('\n').map_or(s, |s| s.strip_suffix('\r').unwrap_or(s)).to_owned();
    match (streams, words) {
        ([only], []) if raw => only.clone(),
        _ => {
            let streams = streams.iter().map(|s| trimmed(s));
            streams.chain(words.iter().cloned()).collect::<Vec<_>>().join("\n\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(s: &[&str]) -> Vec<String> {
        s.iter().map(|&s| s.into()).collect()
    }

    #[test]
    fn streams_go_before_the_argument_with_a_blank_line_between() {
        assert_eq!(join(&strings(&["a\n"]), &strings(&["b"]), false), "a\n\nb");
        assert_eq!(join(&strings(&["a\r\n"]), &[], false), "a");
        assert_eq!(join(&strings(&["a\n\n"]), &[], false), "a\n");
        assert_eq!(join(&[], &strings(&["b\n"]), false), "b\n");
        assert_eq!(join(&strings(&["a\n"]), &[], true), "a\n");
    }

    fn written(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("input.json");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn tokens_are_an_array_of_ids() {
        let (_dir, path) = written("[0, 5, 1279]");
        assert_eq!(tokens(&path).unwrap(), [0, 5, 1279]);
        for wrong in ["", "{}", "[-1]", "[1.5]", "[4294967296]", "[\"a\"]", "[1] 2"] {
            let (_dir, path) = written(wrong);
            assert!(tokens(&path).unwrap_err().hint().is_some(), "{wrong}");
        }
    }

    #[test]
    fn messages_have_a_known_role_and_content() {
        let (_dir, path) = written(r#"[{"role":"user","content":"hi","name":"x"}]"#);
        assert_eq!(messages(&path).unwrap()[0].content.as_deref(), Some("hi"));
        for wrong in
            [r#"[]"#, r#"[{"content":"hi"}]"#, r#"[{"role":"robot","content":""}]"#, r#"{"role":"user"}"#]
        {
            let (_dir, path) = written(wrong);
            assert!(messages(&path).is_err(), "{wrong}");
        }
    }

    #[test]
    fn text_that_is_no_utf8_is_refused_with_the_place() {
        let failure = text(b"ab\xff".to_vec(), "notes").unwrap_err();
        assert_eq!(failure.message(), Some("notes is no UTF-8 at byte 2"));
    }
}
