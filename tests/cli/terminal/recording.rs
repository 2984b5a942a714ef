//! The session that README.md shows is one of this program: `cargo test -p fathom --test cli recording` compares them, and prints what
//! should stand there.

use super::{exits_with, see, terminal, type_line};

const MARK: &str = "```console\n";

/// What a terminal without colors shows of a chat with the model in the binary.
fn record() -> String {
    let home = tempfile::tempdir().unwrap();
    let mut session = terminal(home.path(), "dumb", &["chat", "--temp", "0"]);
    let mut shown = String::from("$ fathom chat --temp 0\r\n") + &see(&mut session, ">>> ");
    for line in [
        "What is 47 + 85?",
        "Now add 15 to that.",
        "星期六前面是星期几？",
        "/set think hide",
        "/set stop \"=\"",
        "What is 20 + 22?",
        "/context",
        "/claer",
    ] {
        type_line(&mut session, line);
        // Such a terminal gets no echo.
        shown += &format!(">>> {line}\n");
        shown += &see(&mut session, ">>> ");
    }
    type_line(&mut session, "/bye");
    shown += ">>> /bye\n";
    shown += &exits_with(session, 0);
    shown.replace("\r\n", "\n")
}

#[test]
#[cfg(feature = "bundled")]
fn the_session_in_the_readme_is_real() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let (_, rest) = readme.split_once(MARK).unwrap();
    let recorded = record();
    assert!(rest.starts_with(&format!("{recorded}```\n")), "README.md should show\n{MARK}{recorded}```");
}
