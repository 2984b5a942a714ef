//! What happens on a terminal: chat, keys, Ctrl-C, history, colors. Each test has a terminal of its own, and waits for what
//! it sees there, never for time to pass.

mod chat;
mod interrupts;
mod keys;
mod recording;

use std::path::Path;
use std::process::{Command, Stdio};

use rexpect::process::WaitStatus;
use rexpect::session::{PtySession, spawn_command};

use super::fathom;

/// Long enough for the slowest machine; nothing here waits for it unless something is wrong.
const TIMEOUT: Option<u64> = Some(60_000);
const CTRL_C: char = 'c';
const CTRL_D: char = 'd';

/// The binary with a home of its own.
fn command(home: &Path, term: &str, args: &[&str]) -> Command {
    let mut command = fathom();
    command
        .stdin(Stdio::inherit())
        .env("HOME", home)
        .env("XDG_STATE_HOME", home)
        .env("TERM", term)
        .args(args);
    command
}

/// Starts it on a terminal.
fn start(mut command: Command, change: impl FnOnce(&mut Command)) -> PtySession {
    change(&mut command);
    spawn_command(command, TIMEOUT).unwrap()
}

fn terminal(home: &Path, term: &str, args: &[&str]) -> PtySession {
    start(command(home, term, args), |_| {})
}

fn chat(home: &Path, args: &[&str]) -> PtySession {
    let mut session = terminal(home, "xterm", args);
    see(&mut session, "Ctrl-D ends");
    prompt(&mut session);
    session
}

/// Waits until a line can be typed; gives what was shown before. The terminal is told to mark pastes each time.
#[track_caller]
fn prompt(session: &mut PtySession) -> String {
    let before = see(session, "\x1b[?2004h");
    see(session, ">>> ");
    before
}

/// Waits for a text; gives what was shown before. The library takes bytes for characters.
#[track_caller]
fn see(session: &mut PtySession, text: &str) -> String {
    let before = session.exp_string(&text.bytes().map(char::from).collect::<String>()).unwrap();
    let bytes: Vec<u8> = before.chars().map(|c| c as u8).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn keys(session: &mut PtySession, keys: &str) {
    session.send(keys).unwrap();
    session.flush().unwrap();
}

fn type_line(session: &mut PtySession, line: &str) {
    keys(session, &format!("{line}\r"));
}

/// Types a line and gives what is shown until the next can be typed.
#[track_caller]
fn ask(session: &mut PtySession, line: &str) -> String {
    type_line(session, line);
    prompt(session)
}

/// Types a line and checks what is shown then.
#[track_caller]
fn expect(session: &mut PtySession, line: &str, what: &str) -> String {
    let shown = ask(session, line);
    assert!(shown.contains(what), "{line}: {shown}");
    shown
}

/// Ends a chat.
#[track_caller]
fn bye(mut session: PtySession) {
    type_line(&mut session, "/bye");
    exits_with(session, 0);
}

#[track_caller]
fn exits_with(mut session: PtySession, code: i32) -> String {
    let rest = session.exp_eof().unwrap();
    match session.process().wait().unwrap() {
        WaitStatus::Exited(_, status) => assert_eq!(status, code, "{rest}"),
        other => panic!("{other:?}: {rest}"),
    }
    rest
}

#[test]
fn a_prompt_is_answered_once_and_a_dumb_terminal_gets_no_colors() {
    let home = tempfile::tempdir().unwrap();
    let args = ["run", "-q", "--temp", "0", "What is 2 + 2?"];
    let shown = exits_with(terminal(home.path(), "dumb", &args), 0);
    assert!(shown.ends_with("sum 00004\r\n\r\n2 + 2 = 4\r\n"), "{shown:?}");
    assert!(!shown.contains('\x1b'), "{shown:?}");
    let shown = exits_with(terminal(home.path(), "xterm", &args), 0);
    assert!(shown.contains("\x1b[2m"), "{shown:?}");
    let hidden = exits_with(terminal(home.path(), "xterm", &[&args[..], &["--think", "hide"]].concat()), 0);
    assert_eq!(hidden, "2 + 2 = 4\r\n");
}

#[test]
fn single_turn_asks_once() {
    let home = tempfile::tempdir().unwrap();
    let mut session = chat(home.path(), &["-st", "--temp", "0"]);
    type_line(&mut session, "What is 2 + 2?");
    let rest = exits_with(session, 0);
    assert!(rest.contains("2 + 2 = 4") && !rest.contains(">>> "), "{rest:?}");
}

#[test]
fn ctrl_c_ends_one_answer_with_130() {
    let home = tempfile::tempdir().unwrap();
    let mut session =
        terminal(home.path(), "xterm", &["-q", "--ignore-eos", "--seed", "1", "What is 2 + 2?"]);
    see(&mut session, "sum");
    session.send_control(CTRL_C).unwrap();
    exits_with(session, 130);
}
