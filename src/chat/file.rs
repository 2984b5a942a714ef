//! Conversations in files: a line of JSON with what has been said, and behind it the cache ([`models::saved`]), so that a long
//! conversation goes on without being read again. A name that ends in `.json` means what `--messages` takes: the text alone.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;

use models::{Session, saved};
use quantize::Output;
use serde::{Deserialize, Serialize};

use super::conversation::Conversation;
use crate::failure::{Failure, Result};
use crate::input;

/// What stands first in a file of ours.
const KIND: &str = "conversation";
const VERSION: u32 = 1;
/// Bytes of text that a conversation may have. No context holds as much.
const MOST_TEXT: u64 = 64 << 20;
/// Bytes written or read at once.
const BUFFER: usize = 1 << 20;

/// The line at the beginning.
#[derive(Serialize, Deserialize)]
struct Header {
    fathom: String,
    version: u32,
    /// Name of the model, for whoever looks at it.
    model: String,
    /// Its identity in hexadecimal digits, as JSON's numbers do not hold it.
    identity: String,
    #[serde(flatten)]
    conversation: Conversation,
}

/// What became of the cache in a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Cache {
    /// It is in place, with so many tokens.
    Loaded(usize),
    /// There is none.
    Missing,
    /// It is not for this session.
    Unfit(String),
}

fn identity(session: &Session) -> String {
    format!("{:016x}", saved::identity(session.engine().model()))
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"))
}

/// Writes a conversation; gives the bytes of the file. It is complete or not there, and for its owner alone.
///
/// # Errors
/// If there is a file of that name that holds something else, or it cannot be written.
pub fn save(path: &Path, conversation: &Conversation, model: &str, session: &Session) -> Result<u64> {
    if path.exists() && path.is_file() && !is_conversation(path) {
        return Err(Failure::usage(
            format!("{} exists and is no conversation", path.display()),
            "name another file",
        ));
    }
    let output = Output::create(path, [], true)?;
    let written = write(&output, is_json(path), conversation, model, session);
    written.map_err(|e| {
        Failure::new(format!("cannot write {}: {e}", path.display()))
            .or_hint("make room, or name another file")
    })?;
    let bytes = output.file().metadata().map_or(0, |m| m.len());
    output.commit()?;
    Ok(bytes)
}

fn write(
    output: &Output,
    json: bool,
    conversation: &Conversation,
    model: &str,
    session: &Session,
) -> io::Result<()> {
    #[cfg(unix)]
    output.file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let mut out = BufWriter::with_capacity(BUFFER, output.file());
    if json {
        serde_json::to_writer_pretty(&mut out, &conversation.messages())?;
        out.write_all(b"\n")?;
        return out.flush();
    }
    let header = Header {
        fathom: KIND.into(),
        version: VERSION,
        model: model.into(),
        identity: identity(session),
        conversation: conversation.clone(),
    };
    serde_json::to_writer(&mut out, &header)?;
    out.write_all(b"\n")?;
    session.save(&mut out)?;
    out.flush()
}

/// Whether a file may be replaced by a conversation: it holds one.
fn is_conversation(path: &Path) -> bool {
    if is_json(path) {
        return input::messages(path).is_ok();
    }
    let mut start = Vec::new();
    let read = File::open(path).and_then(|f| f.take(64).read_to_end(&mut start));
    read.is_ok() && start.starts_with(format!("{{\"fathom\":\"{KIND}\"").as_bytes())
}

/// Opens a file to be read to its end: one that has an end, and not too far away.
fn regular(path: &Path) -> Result<File> {
    let failed = |e: io::Error| {
        Failure::new(format!("cannot read {}: {e}", path.display()))
            .or_hint("check the path and its permissions")
    };
    // Before opening it: opening a pipe waits for somebody to write.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(Failure::new(format!("{} is no file", path.display())).or_hint("name a file"));
    }
    File::open(path).map_err(failed)
}

/// Reads a text that goes into a conversation.
///
/// # Errors
/// If it cannot be read, is too large or is no UTF-8.
pub fn text(path: &Path) -> Result<String> {
    let size = regular(path)?.metadata().map_or(0, |m| m.len());
    if size > MOST_TEXT {
        let what = format!("{} has {}", path.display(), crate::size::Bytes(size));
        return Err(Failure::new(what).or_hint("that fits no context: read a part of it"));
    }
    input::file(path)
}

/// Reads a conversation and, if the file has one that fits, its cache into the session, which is empty otherwise.
///
/// # Errors
/// If it is no conversation. The session is as it was then.
pub fn load(path: &Path, session: &mut Session) -> Result<(Conversation, Cache)> {
    let mut file = BufReader::with_capacity(BUFFER, regular(path)?);
    let failed = |why: String| {
        Failure::new(format!("{}: {why}", path.display()))
            .or_hint("/load takes what /save wrote, or a JSON array of {\"role\", \"content\"}")
    };
    let start = file.fill_buf().map_err(|e| failed(e.to_string()))?;
    if start.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[') {
        text(path)?;
        let conversation = Conversation::from_messages(input::messages(path)?)?;
        session.truncate(0);
        return Ok((conversation, Cache::Missing));
    }
    let mut line = Vec::new();
    file.by_ref().take(MOST_TEXT).read_until(b'\n', &mut line).map_err(|e| failed(e.to_string()))?;
    if !line.starts_with(b"{\"fathom\"") {
        return Err(failed("it is no conversation".into()));
    }
    let header: Header = serde_json::from_slice(&line).map_err(|e| failed(format!("it is damaged: {e}")))?;
    if header.fathom != KIND {
        return Err(failed("it is no conversation".into()));
    }
    if header.version != VERSION {
        let what = format!("{} has the version {}", path.display(), header.version);
        return Err(
            Failure::new(what).or_hint(format!("this fathom reads {VERSION}: use the one that wrote it"))
        );
    }
    let mut conversation = header.conversation;
    if header.identity != identity(session) {
        // Tokens of another vocabulary mean something else.
        for turn in &mut conversation.turns {
            turn.cut = turn.cut.take().map(|_| Default::default());
        }
    }
    check_tokens(&conversation, session).map_err(failed)?;
    let cache = match session.load(&mut file) {
        Ok(()) => Cache::Loaded(session.tokens().len()),
        Err(e) => Cache::Unfit(e.to_string()),
    };
    Ok((conversation, cache))
}

/// Refuses tokens that the model does not have.
fn check_tokens(conversation: &Conversation, session: &Session) -> Result<(), String> {
    let n_vocab = session.engine().model().base().n_vocab;
    let mut tokens = conversation.turns.iter().filter_map(|t| t.cut.as_ref()).flat_map(|c| &c.tokens);
    match tokens.find(|t| **t as usize >= n_vocab) {
        Some(token) => Err(format!("it is damaged: the model has no token {token}")),
        None => Ok(()),
    }
}
