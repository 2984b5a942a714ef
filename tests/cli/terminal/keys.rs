//! The line editor: keys, pastes, completion, history.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use super::{ask, bye, chat, exits_with, expect, keys, prompt, see, terminal, type_line};

const UP: &str = "\x1b[A";

#[test]
fn two_hundred_pasted_lines_are_one_question() {
    let home = tempfile::tempdir().unwrap();
    let mut session = chat(home.path(), &["--temp", "0", "-n", "3"]);
    let lines: String = (0..200).map(|i| format!("{i} apples\r")).collect();
    // A slash that begins a line is no command there.
    keys(&mut session, &format!("\x1b[200~{lines}/bye is no command\x1b[201~"));
    see(&mut session, "no command");
    ask(&mut session, "");
    let shown = expect(&mut session, "/context", "turn 1");
    assert!(!shown.contains("turn 2") && shown.contains("0 apples 1 apples 2 apples"), "{shown}");
    let tokens = shown.split("turn 1").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    assert!(tokens.parse::<usize>().unwrap() > 600, "{shown}");
    bye(session);
}

#[test]
fn blocks_and_new_lines_go_over_several_lines() {
    let home = tempfile::tempdir().unwrap();
    let mut session = chat(home.path(), &["--temp", "0"]);
    type_line(&mut session, "\"\"\"What is");
    see(&mut session, "... ");
    expect(&mut session, "2 + 2?\"\"\"", "= 4\r\n");
    // Ctrl-J and Alt-Enter.
    for key in ["\n", "\x1b\r"] {
        expect(&mut session, &format!("What is{key}3 + 3?"), "= 6\r\n");
        expect(&mut session, "/undo", "taken back: What is 3 + 3?");
    }
    // A command in a block is text.
    type_line(&mut session, "\"\"\"/bye");
    see(&mut session, "... ");
    ask(&mut session, "\"\"\"");
    expect(&mut session, "/undo", "taken back: /bye");
    type_line(&mut session, "/set system \"\"\"You are");
    see(&mut session, "... ");
    ask(&mut session, "terse.\"\"\"");
    expect(&mut session, "/show", "You are\r\nterse.");
    bye(session);
}

#[test]
fn the_tab_key_completes_commands_settings_and_files() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("notes of today.txt"), "2 + 2").unwrap();
    let mut session = chat(home.path(), &[]);
    keys(&mut session, "/set te\t");
    see(&mut session, "temp ");
    ask(&mut session, "0.25");
    expect(&mut session, "/show", "temp 0.25");
    keys(&mut session, "/read ~/not\t");
    see(&mut session, "today.txt");
    let shown = ask(&mut session, "");
    assert!(shown.contains("notes of today.txt (4 tokens)"), "{shown}");
    // Several are listed.
    keys(&mut session, "/co\t\t");
    see(&mut session, "context");
    see(&mut session, "continue");
    keys(&mut session, "e\t");
    see(&mut session, "/context");
    let shown = ask(&mut session, "");
    assert!(shown.contains("to come"), "{shown}");
    bye(session);
}

#[test]
fn another_editor_writes_what_is_sent() {
    let home = tempfile::tempdir().unwrap();
    let editor = home.path().join("editor");
    std::fs::write(&editor, "#!/bin/sh\necho '2 + 2?' >> \"$2\"\n").unwrap();
    std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o700)).unwrap();
    let command = super::command(home.path(), "xterm", &["--temp", "0"]);
    let mut session = super::start(command, |c| {
        c.env_remove("VISUAL").env("EDITOR", format!("{} --wait", editor.display()));
    });
    prompt(&mut session);
    keys(&mut session, "What is ");
    see(&mut session, "What is ");
    keys(&mut session, "\x07");
    prompt(&mut session);
    see(&mut session, "2 + 2?");
    let shown = ask(&mut session, "");
    assert!(shown.contains("2 + 2 = 4\r\n"), "{shown}");
    bye(session);
    let command = super::command(home.path(), "xterm", &[]);
    let mut session = super::start(command, |c| {
        c.env("VISUAL", home.path().join("nothing"));
    });
    prompt(&mut session);
    keys(&mut session, "\x07");
    let shown = prompt(&mut session);
    assert!(shown.contains("the editor '") && shown.contains("$EDITOR"), "{shown}");
    bye(session);
}

#[test]
fn the_history_is_private_goes_on_in_the_next_chat_and_can_be_left_out() {
    let home = tempfile::tempdir().unwrap();
    let history = home.path().join("fathom/history");
    let mut session = chat(home.path(), &["--no-history"]);
    ask(&mut session, "/help");
    bye(session);
    assert!(!history.exists());
    let mut session = chat(home.path(), &["--temp", "0"]);
    ask(&mut session, "What is 2 +\n2?");
    bye(session);
    assert_eq!(std::fs::metadata(&history).unwrap().permissions().mode() & 0o777, 0o600);
    let mut session = chat(home.path(), &["--temp", "0"]);
    // The last one is /bye.
    keys(&mut session, UP);
    see(&mut session, "/bye");
    keys(&mut session, UP);
    see(&mut session, "2?");
    let shown = ask(&mut session, "");
    assert!(shown.contains("2 + 2 = 4\r\n"), "{shown}");
    bye(session);
}

#[test]
fn a_window_that_changes_its_size_disturbs_nothing() {
    let home = tempfile::tempdir().unwrap();
    let mut session = chat(home.path(), &["--temp", "0"]);
    let terminal = session.process().get_file_handle().unwrap();
    let resize = |columns: &str| {
        let mut stty = std::process::Command::new("stty");
        stty.args(["rows", "10", "cols", columns]).stdin(terminal.try_clone().unwrap());
        assert!(stty.status().unwrap().success());
    };
    resize("40");
    keys(&mut session, "这是一个很长很长的问题，比窗口还要宽，请问：");
    see(&mut session, "请问");
    resize("20");
    let shown = ask(&mut session, "2+2=？");
    assert!(shown.contains('4'), "{shown}");
    resize("120");
    expect(&mut session, "What is 47 + 85?", "= 132\r\n");
    bye(session);
}

#[test]
fn bytes_that_are_no_text_do_not_end_the_chat() {
    let home = tempfile::tempdir().unwrap();
    let mut session = chat(home.path(), &["--temp", "0"]);
    let mut terminal = session.process().get_file_handle().unwrap();
    terminal.write_all(b"abc\xff").unwrap();
    let shown = prompt(&mut session);
    assert!(shown.contains("is no UTF-8"), "{shown}");
    expect(&mut session, "What is 2 + 2?", "2 + 2 = 4\r\n");
    bye(session);
}

#[test]
fn keys_in_any_order_do_not_end_the_chat() {
    let home = tempfile::tempdir().unwrap();
    let editor = home.path().join("editor");
    std::fs::write(&editor, "#!/bin/sh\nexit 0\n").unwrap();
    std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o700)).unwrap();
    let command = super::command(home.path(), "xterm", &["-n", "2", "--think-budget", "0"]);
    let mut session = super::start(command, |c| {
        c.env("VISUAL", &editor).env("TMPDIR", home.path()).current_dir(home.path());
    });
    prompt(&mut session);
    // Keys, beginnings of sequences, pastes, commands; nothing that ends the chat or writes files.
    let pieces = [
        "\x01",
        "\x05",
        "\x0b",
        "\x15",
        "\x17",
        "\x19",
        "\x14",
        "\x1f",
        "\x07",
        "\t",
        "\n",
        "\x1b\r",
        "\x7f",
        "\x08",
        "\x1b[A",
        "\x1b[B",
        "\x1b[C",
        "\x1b[D",
        "\x1b[H",
        "\x1b[F",
        "\x1b[3~",
        "\x1b[5~",
        "\x1b[1;5C",
        "\x1bOP",
        "\x1b[",
        "\x1bb",
        "\x1bd",
        "\x1bu",
        "\x1by",
        "\x12",
        "\x12a\x07",
        "\x1b[200~a\rb\x1b[201~",
        "\x1b[200~",
        "\x1b[201~",
        "\r",
        "\r",
        "a",
        "模",
        "é",
        "🦀",
        " ",
        "\"\"\"",
        "/",
        "/set ",
        "/set temp ",
        "/show",
        "/undo",
        "/context",
        "/forget ",
        "/help",
        "9",
        "-1",
        "\x1b[I",
        "\x1b[<0;1;1M",
        "\x16\x01",
        "\x00",
    ];
    let mut random = 7u64;
    for _ in 0..600 {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        keys(&mut session, pieces[(random >> 33) as usize % pieces.len()]);
    }
    // Out of whatever it is in: a paste, a search, a block, an answer.
    keys(&mut session, "\x1b[201~");
    // Ctrl-C during an answer drops what is typed already: it is typed until it is read.
    for _ in 0..20 {
        session.send_control(super::CTRL_C).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
        keys(&mut session, "\x15/set top-k 4321\r\x15/show\r");
    }
    see(&mut session, "top-k 4321");
    for _ in 0..20 {
        // Until nobody is there.
        let _ = session.send("\x15/bye\r").and_then(|_| session.flush());
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let rest = exits_with(session, 0);
    assert!(!rest.contains("panicked"), "{rest}");
    let mut left = std::fs::read_dir(home.path()).unwrap().filter_map(Result::ok);
    assert!(!left.any(|f| f.path().extension().is_some_and(|e| e == "md")));
}

#[test]
fn a_dumb_terminal_chats_too() {
    let home = tempfile::tempdir().unwrap();
    let mut session = terminal(home.path(), "dumb", &["--temp", "0"]);
    see(&mut session, ">>> ");
    type_line(&mut session, "What is 2 + 2?");
    let shown = see(&mut session, ">>> ");
    assert!(shown.contains("2 + 2 = 4\r\n") && !shown.contains('\x1b'), "{shown}");
    type_line(&mut session, "/bye");
    exits_with(session, 0);
}
