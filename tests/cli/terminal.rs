//! What happens on a terminal: chat, Ctrl-C, history, colors. Each test has a terminal of its own.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use rexpect::process::WaitStatus;
use rexpect::session::{PtySession, spawn_command};

use super::fathom;

/// Long enough for the slowest machine; nothing here waits for it unless something is wrong.
const TIMEOUT: Option<u64> = Some(60_000);
const CTRL_C: char = 'c';
const CTRL_D: char = 'd';

/// The binary on a terminal, with a home of its own.
fn terminal(home: &Path, term: &str, args: &[&str]) -> PtySession {
    let mut command = fathom();
    command
        .stdin(Stdio::inherit())
        .env("HOME", home)
        .env("XDG_STATE_HOME", home)
        .env("TERM", term)
        .args(args);
    spawn_command(command, TIMEOUT).unwrap()
}

fn chat(home: &Path, args: &[&str]) -> PtySession {
    let mut session = terminal(home, "xterm", args);
    session.exp_string("Ctrl-D ends").unwrap();
    session.exp_string(">>> ").unwrap();
    session
}

fn type_line(session: &mut PtySession, line: &str) {
    session.send(&format!("{line}\r")).unwrap();
    session.flush().unwrap();
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
fn without_a_prompt_it_chats_and_remembers() {
    let home = tempfile::tempdir().unwrap();
    let mut session = chat(home.path(), &["--temp", "0"]);
    type_line(&mut session, "What is 20 + 22?");
    // Reasoning is dimmed and set apart from the answer.
    session.exp_string("\x1b[2m").unwrap();
    session.exp_string("\x1b[0m\r\n\r\n20 + 22 = 42\r\n").unwrap();
    session.exp_string(">>> ").unwrap();
    type_line(&mut session, "Now add 15 to that.");
    session.exp_string("57\r\n").unwrap();
    session.exp_string(">>> ").unwrap();
    session.send_control(CTRL_D).unwrap();
    exits_with(session, 0);
}

#[test]
fn ctrl_c_stops_the_answer_and_the_chat_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let mut session = chat(home.path(), &["--ignore-eos", "--seed", "1"]);
    type_line(&mut session, "What is 2 + 2?");
    session.exp_string("sum").unwrap();
    session.send_control(CTRL_C).unwrap();
    session.exp_string(">>> ").unwrap();
    type_line(&mut session, "/stats");
    session.exp_regex("context: [0-9]+ of 4096 tokens").unwrap();
    session.exp_string(">>> ").unwrap();
    type_line(&mut session, "/bye");
    exits_with(session, 0);
}

#[test]
fn ctrl_c_at_the_prompt_drops_the_line() {
    let home = tempfile::tempdir().unwrap();
    let mut session = chat(home.path(), &[]);
    session.send("no such question").unwrap();
    session.flush().unwrap();
    session.exp_string("question").unwrap();
    session.send_control(CTRL_C).unwrap();
    session.exp_string(">>> ").unwrap();
    type_line(&mut session, "/bye");
    exits_with(session, 0);
}

#[test]
fn blocks_go_over_several_lines_and_mistakes_are_told() {
    let home = tempfile::tempdir().unwrap();
    let mut session = chat(home.path(), &["--temp", "0"]);
    type_line(&mut session, "/hlep");
    session.exp_string("nearest is /help").unwrap();
    session.exp_string(">>> ").unwrap();
    type_line(&mut session, "\"\"\"What is");
    session.exp_string("... ").unwrap();
    type_line(&mut session, "2 + 2?\"\"\"");
    session.exp_string("= 4\r\n").unwrap();
    session.exp_string(">>> ").unwrap();
    type_line(&mut session, "/exit");
    exits_with(session, 0);
}

#[test]
fn the_history_is_private_and_can_be_left_out() {
    let home = tempfile::tempdir().unwrap();
    let history = home.path().join("fathom/history");
    let mut session = chat(home.path(), &["--no-history"]);
    type_line(&mut session, "/help");
    session.exp_string(">>> ").unwrap();
    type_line(&mut session, "/bye");
    exits_with(session, 0);
    assert!(!history.exists());
    let mut session = chat(home.path(), &[]);
    type_line(&mut session, "/show");
    session.exp_string("deepseek2").unwrap();
    session.exp_string(">>> ").unwrap();
    type_line(&mut session, "/bye");
    exits_with(session, 0);
    assert!(std::fs::read_to_string(&history).unwrap().contains("/show"));
    assert_eq!(std::fs::metadata(&history).unwrap().permissions().mode() & 0o777, 0o600);
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
    session.exp_string("sum").unwrap();
    session.send_control(CTRL_C).unwrap();
    exits_with(session, 130);
}
