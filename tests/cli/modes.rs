//! One answer, a chat, or an error: never waiting for what will not come.

use super::{Ran, fathom, model, run, run_with};

#[test]
fn no_prompt_and_no_terminal_is_an_error() {
    run(&["run"]).failed(2, "no prompt");
    run(&[]).failed(2, "no prompt");
    run(&["-m", model()]).failed(2, "no prompt");
    run_with(&["run"], "\n").failed(2, "no prompt");
    run(&["run", "--no-stdin"]).failed(2, "no prompt");
    run(&["run", "-st"]).failed(2, "no prompt");
}

#[test]
fn an_empty_argument_is_an_error_and_no_chat() {
    run(&["run", ""]).failed(2, "empty");
    run(&["run", "-p", " "]).failed(2, "empty");
}

#[test]
fn the_default_command_is_run() {
    for args in [
        &["-q", "--temp", "0", "What is 2 + 2?"][..],
        &["-q", "--temp", "0", "-m", model(), "-p", "What is 2 + 2?"],
        &["-q", "run", "--temp", "0", model(), "What is 2 + 2?"],
        &["-q", "--temp", "0", model(), "What", "is", "2 + 2?"],
    ] {
        assert_eq!(run(args).done().stdout, "2 + 2 = 4\n", "{args:?}");
    }
}

#[test]
fn models_are_found_by_name() {
    let folder = std::path::Path::new(model()).parent().unwrap();
    let named = |command: &mut std::process::Command| {
        Ran::new(command.args(["--temp", "0", "What is 2 + 2?"]).output().unwrap())
    };
    let ran = named(fathom().env("FATHOM_MODELS", folder).args(["-m", "tiny-r1-f16"])).done();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("2 + 2 = 4\n", ""));
    let ran = named(fathom().env("FATHOM_MODELS", folder).env("FATHOM_MODEL", "tiny-r1-f16")).done();
    assert!(ran.stderr.contains("FATHOM_MODEL"), "{}", ran.stderr);
    let ran = named(fathom().env("FATHOM_MODELS", folder).args(["-m", "tiny-r1-f18"]));
    assert!(ran.stderr.contains("near are") && ran.stderr.contains("tiny-r1-f16"), "{}", ran.stderr);
    named(fathom().args(["nothing/here.gguf"])).failed(1, "there is no model 'nothing/here.gguf'");
}

#[test]
fn options_come_from_the_environment_too() {
    let ran =
        fathom().env("FATHOM_N_PREDICT", "3").env("FATHOM_TEMP", "0").args(["--raw", "What is"]).output();
    let ran = Ran::new(ran.unwrap()).done();
    assert!(ran.stderr.contains("3 tokens (-n)"), "{}", ran.stderr);
    let ran = fathom().env("FATHOM_TEMP", "warm").arg("hi").output();
    let ran = Ran::new(ran.unwrap()).failed(2, "warm");
    assert!(ran.stderr.contains("FATHOM_TEMP"), "{}", ran.stderr);
}

#[test]
fn chat_reads_a_script_line_by_line() {
    let script =
        "What is 20 + 22?\n/set temp 0\n\"\"\"Now add 15\nto that.\"\"\"\n/claer\n/stats\n/bye\nnot said\n";
    let ran = run_with(&["chat", "--temp", "0"], script).done();
    let answers: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(answers.len(), 2, "{}", ran.stdout);
    assert!(answers[0].contains("42"), "{}", ran.stdout);
    assert!(ran.stderr.contains("nearest is /clear"), "{}", ran.stderr);
    assert!(ran.stderr.contains("of 4096 tokens"), "{}", ran.stderr);
    assert!(!ran.stdout.contains(">>>"), "{}", ran.stdout);
}

#[test]
fn a_block_that_is_not_closed_is_said_at_the_end() {
    let ran = run_with(&["chat", "-q", "--temp", "0"], "\"\"\"What is\n2 + 2?").done();
    assert_eq!(ran.stdout, "2 + 2 = 4\n");
}

#[test]
fn a_turn_of_a_chat_processes_only_what_is_new() {
    let ran = run_with(&["chat", "--temp", "0", "--stats"], "What is 20 + 22?\nNow add 15 to that.\n").done();
    let second = ran.stdout.lines().nth(1).unwrap();
    assert!(second.contains("57"), "{}", ran.stdout);
    assert_eq!(ran.stderr.matches("reused: ").count(), 1, "{}", ran.stderr);
}

#[test]
fn a_single_turn_ends_the_chat() {
    let ran = run_with(&["chat", "-st", "--temp", "0"], "What is 2 + 2?\nWhat is 3 + 3?\n").done();
    assert_eq!(ran.stdout, "2 + 2 = 4\n");
}

#[test]
fn conversations_and_tokens_are_answered() {
    let messages = r#"[{"role":"user","content":"What is 5 + 6?"},{"role":"assistant","content":"5 + 6 = 11"},
                       {"role":"user","content":"Now add 15 to that."}]"#;
    assert!(run_with(&["-q", "--temp", "0", "--messages", "-"], messages).done().stdout.contains("26"));
    let ids = run(&[
        "tokenize",
        "-q",
        "--json",
        "--parse-special",
        "<｜User｜>What is 2 + 2?<｜Assistant｜><think>\n",
    ]);
    let ids: serde_json::Value = serde_json::from_str(&ids.done().stdout).unwrap();
    let ran = run_with(&["-q", "--temp", "0", "--tokens", "-"], &ids["ids"].to_string()).done();
    assert!(ran.stdout.contains("sum 00004") && ran.stdout.contains("2 + 2 = 4"), "{}", ran.stdout);
    let raw = run(&["-q", "--temp", "0", "--raw", "<｜User｜>What is 2 + 2?<｜Assistant｜><think>\n"]).done();
    assert_eq!(raw.stdout, ran.stdout);
}
