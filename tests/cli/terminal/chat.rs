//! Conversations on a terminal, and every command in them.

use super::{CTRL_D, ask, bye, chat, exits_with, expect, see, type_line};

#[test]
fn without_a_prompt_it_chats_and_remembers() {
    let home = tempfile::tempdir().unwrap();
    let mut session = chat(home.path(), &["--temp", "0"]);
    type_line(&mut session, "What is 20 + 22?");
    // Reasoning is dimmed and set apart from the answer.
    see(&mut session, "\x1b[2m");
    see(&mut session, "\x1b[0m\r\n\r\n20 + 22 = 42\r\n");
    super::prompt(&mut session);
    expect(&mut session, "Now add 15 to that.", "57\r\n");
    session.send_control(CTRL_D).unwrap();
    exits_with(session, 0);
}

#[test]
fn it_speaks_chinese_and_knows_the_calendar() {
    let home = tempfile::tempdir().unwrap();
    let mut session = chat(home.path(), &["--temp", "0"]);
    expect(&mut session, "574+441=？", "1015");
    expect(&mut session, "星期六前面是星期几？", "星期五");
    expect(&mut session, "What is 47 + 85?", "132");
    expect(&mut session, "/context", "turn 2");
    bye(session);
}

#[test]
fn every_command_says_what_it_does() {
    let home = tempfile::tempdir().unwrap();
    let mut session = chat(home.path(), &["--temp", "0"]);
    for empty in ["/undo", "/regen", "/continue"] {
        expect(&mut session, empty, "nothing has been said");
    }
    expect(&mut session, "/help", "/forget [N]");
    expect(&mut session, "/set system You are a helpful assistant.", "");
    expect(&mut session, "/set parameter top_k 40", "");
    expect(&mut session, "/set temp warm", "should be a number");
    let shown = expect(&mut session, "/show", "deepseek2");
    assert!(shown.contains("top-k 40") && shown.contains("You are a helpful assistant."), "{shown}");
    expect(&mut session, "What is 20 + 22?", "= 42\r\n");
    expect(&mut session, "/stats", "tokens/s");
    let shown = expect(&mut session, "/context", "turn 1");
    assert!(shown.contains("system") && shown.contains("What is 20 + 22?"), "{shown}");
    expect(&mut session, "/continue", "is complete");
    expect(&mut session, "/forget", "the last one stays");
    let shown = expect(&mut session, "/regen", "= 42\r\n");
    assert!(shown.contains("the same answer"), "{shown}");
    expect(&mut session, "Now add 15 to that.", "57\r\n");
    expect(&mut session, "/undo", "taken back: Now add 15 to that.");
    expect(&mut session, "Now add 8 to that.", "50\r\n");
    expect(&mut session, "/forget 1", "forgot the oldest turn");
    let shown = expect(&mut session, "/context", "Now add 8");
    assert!(!shown.contains("turn 2"), "{shown}");
    expect(&mut session, "/clear", "");
    expect(&mut session, "/undo", "nothing has been said");
    expect(&mut session, "/set think hide", "");
    let shown = expect(&mut session, "What is 2 + 2?", "2 + 2 = 4\r\n");
    assert!(!shown.contains("sum"), "{shown}");
    expect(&mut session, "/set think raw", "");
    expect(&mut session, "What is 2 + 2?", "</think>");
    expect(&mut session, "/claer", "nearest is /clear");
    type_line(&mut session, "/exit");
    exits_with(session, 0);
}

#[test]
fn an_answer_that_was_cut_goes_on_as_if_it_had_not_been() {
    let home = tempfile::tempdir().unwrap();
    let mut session = chat(home.path(), &["--temp", "0"]);
    expect(&mut session, "/set n-predict 12", "");
    // Within the reasoning.
    expect(&mut session, "What is 47 + 85?", "/continue goes on");
    expect(&mut session, "/set n-predict -1", "");
    let shown = expect(&mut session, "/continue", "47 + 85 = 132\r\n");
    assert!(shown.contains("\x1b[2m"), "{shown}");
    expect(&mut session, "/continue", "is complete");
    expect(&mut session, "Now add 15 to that.", "147\r\n");
    bye(session);
}

#[test]
fn answers_are_styled_and_stay_so_where_they_go_on() {
    let home = tempfile::tempdir().unwrap();
    // What the model says, word for word.
    let answer = "# The sum\n\n- it is **132**\n\n```py\n47 + 85\nabc def ghi jkl\n```\n";
    let grammar = format!("start: {}", serde_json::to_string(answer).unwrap());
    let args = ["--temp", "0", "--think-budget", "0", "--grammar", &grammar];
    let styled = "\x1b[1mThe sum\x1b[0m\r\n\r\n• it is \x1b[1m132\x1b[0m\r\n\r\n";
    let mut session = chat(home.path(), &args);
    // Pieces as they come, each with its style.
    let joined = |text: &str| text.replace("\x1b[0m\x1b[1m", "").replace("\x1b[0m\x1b[36m", "");
    let whole = joined(&ask(&mut session, "What is 47 + 85?"));
    assert!(whole.contains(styled), "{whole:?}");
    let code = |text: &str| text.contains("\x1b[36m47 + 85") && text.contains("\x1b[2m```");
    assert!(code(&whole), "{whole:?}");
    // Cut in the code, wherever that is, it goes on as code.
    expect(&mut session, "/clear", "");
    expect(&mut session, "/set n-predict 30", "");
    let mut shown = expect(&mut session, "What is 47 + 85?", "/continue goes on");
    expect(&mut session, "/set n-predict 1", "");
    while shown.contains("/continue goes on") {
        shown = ask(&mut session, "/continue");
        let letters =
            shown.split_once("\r\n").map_or("", |(_, rest)| rest).split('\r').next().unwrap_or_default();
        assert!(!letters.contains("jkl") || letters.contains("\x1b[36m"), "{shown:?}");
    }
    expect(&mut session, "/set style off", "");
    expect(&mut session, "/set n-predict -1", "");
    let plain = expect(&mut session, "/regen", "# The sum\r\n\r\n- it is **132**\r\n");
    assert!(plain.contains("```py\r\n47 + 85\r\n"), "{plain:?}");
    bye(session);
    let pipe = super::super::run(&[&args[..], &["-q", "What is 47 + 85?"]].concat()).done();
    assert_eq!(pipe.stdout, format!("{answer}\n"));
}

#[test]
fn reasoning_has_a_budget() {
    let home = tempfile::tempdir().unwrap();
    let mut session = chat(home.path(), &["--temp", "0", "--think-budget", "3"]);
    let shown = ask(&mut session, "What is 47 + 85?");
    assert!(shown.contains("Add") && !shown.contains("sum"), "{shown}");
    expect(&mut session, "/show", "at most 3 tokens");
    expect(&mut session, "/set think-budget -1", "");
    expect(&mut session, "What is 47 + 85?", "sum");
    bye(session);
}

#[test]
fn files_are_read_and_conversations_kept() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name).display().to_string();
    std::fs::write(at("sum.txt"), "What is 2 + 2?\n").unwrap();
    let mut session = chat(home.path(), &["--temp", "0"]);
    expect(&mut session, "/read ~/no such file", "cannot read");
    expect(&mut session, "/read ~/sum.txt", "goes before what you say next");
    expect(&mut session, "/context", "to come");
    expect(&mut session, "/clear", "");
    expect(&mut session, "What is 20 + 22?", "= 42\r\n");
    expect(&mut session, "/save ~/sum.txt", "exists and is no conversation");
    expect(&mut session, "/save ~/talk", "saved 1 turn");
    expect(&mut session, "/save ~/talk", "saved 1 turn");
    bye(session);
    let mut session = chat(home.path(), &["--temp", "0"]);
    expect(&mut session, "/load ~/talk", "tokens in the cache");
    expect(&mut session, "Now add 15 to that.", "57\r\n");
    expect(&mut session, "/stats", "reused: ");
    bye(session);
}
