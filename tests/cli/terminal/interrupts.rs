//! Ctrl-C, wherever it comes.

use rexpect::session::PtySession;

use super::{CTRL_C, bye, chat, expect, keys, prompt, see, type_line};

/// Presses Ctrl-C, and sees to it that the chat goes on.
#[track_caller]
fn interrupt(session: &mut PtySession) -> String {
    session.send_control(CTRL_C).unwrap();
    prompt(session)
}

#[test]
fn at_the_prompt_it_drops_the_line() {
    let home = tempfile::tempdir().unwrap();
    let mut session = chat(home.path(), &[]);
    keys(&mut session, "no such question");
    see(&mut session, "question");
    interrupt(&mut session);
    expect(&mut session, "/context", "context   0 of");
    // Within a block, too.
    type_line(&mut session, "\"\"\"no such");
    see(&mut session, "... ");
    interrupt(&mut session);
    expect(&mut session, "/context", "context   0 of");
    bye(session);
}

#[test]
fn while_it_reads_the_prompt_it_stops_that_and_keeps_the_question() {
    let home = tempfile::tempdir().unwrap();
    // Long, and token by token, so that it takes longer than it takes to be shown.
    let text: String = (0..280).map(|i| format!("{} + {i}\n", 7 * i)).collect();
    std::fs::write(home.path().join("long.txt"), text).unwrap();
    let mut session = chat(home.path(), &["--temp", "0", "-b", "1", "-t", "1"]);
    expect(&mut session, "/read ~/long.txt", "goes before");
    type_line(&mut session, "What is this?");
    see(&mut session, "reading the prompt");
    let shown = interrupt(&mut session);
    assert!(shown.contains("stopped before the answer"), "{shown}");
    expect(&mut session, "/context", "turn 1");
    expect(&mut session, "/undo", "taken back");
    expect(&mut session, "What is 2 + 2?", "= 4\r\n");
    bye(session);
}

#[test]
fn hidden_reasoning_is_counted_on_a_line_that_goes() {
    let home = tempfile::tempdir().unwrap();
    // Kernels that are slow enough to think for longer than the line waits to be shown.
    let args = ["--temp", "0", "--think", "hide", "-t", "1"];
    let mut session = super::start(super::command(home.path(), "xterm", &args), |command| {
        command.env("FATHOM_CPU", "scalar");
    });
    prompt(&mut session);
    type_line(&mut session, "What is 97 * 86?");
    see(&mut session, "thinking… ");
    see(&mut session, " tokens");
    let shown = prompt(&mut session);
    // The line is wiped before the answer.
    let answer = shown.rsplit("\x1b[2K").next().unwrap();
    assert!(answer.contains("97 * 86 = 8342\r\n") && !answer.contains("think"), "{shown}");
    bye(session);
}

#[test]
fn within_the_reasoning_it_can_go_on() {
    let home = tempfile::tempdir().unwrap();
    let mut session = chat(home.path(), &["--ignore-eos", "--temp", "0"]);
    type_line(&mut session, "What is 47 + 85?");
    see(&mut session, "sum");
    interrupt(&mut session);
    type_line(&mut session, "/continue");
    see(&mut session, "= 132");
    interrupt(&mut session);
    bye(session);
}

#[test]
fn pressed_twice_it_does_not_end_the_chat() {
    let home = tempfile::tempdir().unwrap();
    let mut session = chat(home.path(), &["--ignore-eos", "--temp", "0"]);
    type_line(&mut session, "What is 20 + 22?");
    see(&mut session, "sum");
    session.send_control(CTRL_C).unwrap();
    interrupt(&mut session);
    // The second may have come at the prompt, and there is another one then.
    type_line(&mut session, "/context");
    see(&mut session, "turn 1");
    prompt(&mut session);
    bye(session);
}

#[test]
fn within_the_answer_it_keeps_what_was_said() {
    let home = tempfile::tempdir().unwrap();
    let mut session = chat(home.path(), &["--ignore-eos", "--temp", "0"]);
    type_line(&mut session, "What is 20 + 22?");
    see(&mut session, "= 42");
    interrupt(&mut session);
    let shown = expect(&mut session, "/stats", "of 4096 tokens");
    assert!(shown.contains("answer: "), "{shown}");
    expect(&mut session, "/context", "turn 1");
    bye(session);
}
