//! Standard output is the answer and one line end; everything else goes elsewhere.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;

use serde_json::Value;

use super::{Ran, SUM, fathom, model, run, run_with, write};

fn answer(extra: &[&str]) -> Ran {
    run(&[&["run"], extra, &SUM].concat())
}

#[test]
#[cfg(feature = "bundled")]
fn the_readme_command_answers_and_names_the_model() {
    let ran = run(&["run", "--seed", "1", "What is 47 + 85?"]).done();
    assert!(ran.stdout.contains("132"), "{}", ran.stdout);
    assert!(ran.stderr.contains("small model for demonstration"), "{}", ran.stderr);
}

#[test]
fn stdout_is_the_answer_and_one_line_end() {
    let json: Value = serde_json::from_str(&answer(&["--format", "json"]).done().stdout).unwrap();
    let ran = answer(&[]).done();
    assert_eq!(ran.stdout, format!("{}\n", json["content"].as_str().unwrap()));
    assert!(!ran.stdout.contains("sum"), "reasoning leaked: {}", ran.stdout);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
}

#[test]
fn quiet_leaves_nothing_on_stderr() {
    assert_eq!(answer(&["-q"]).done().stderr, "");
}

#[test]
fn reasoning_goes_to_stderr_when_asked_for_and_nobody_watches() {
    let ran = answer(&["-q", "--think", "show"]).done();
    assert!(ran.stderr.contains("sum 00132"), "{}", ran.stderr);
    assert!(ran.stderr.ends_with('\n') && !ran.stderr.contains('\x1b'), "{:?}", ran.stderr);
    assert!(!ran.stdout.contains("sum"));
    assert_eq!(answer(&["-q", "--think", "hide"]).done().stderr, "");
}

#[test]
fn raw_reasoning_is_what_the_model_wrote() {
    let raw = answer(&["-q", "--think", "raw"]).done().stdout;
    let (reasoning, content) = raw.split_once("</think>").unwrap();
    assert!(reasoning.contains("sum 00132"), "{raw}");
    assert_eq!(content.trim_start(), answer(&["-q"]).done().stdout);
}

#[test]
fn colors_are_decided_for_each_stream() {
    let shown = |command: &mut std::process::Command| {
        let args = ["-q", "--think", "show", "--temp", "0", "What is 1 + 1?"];
        Ran::new(command.args(args).output().unwrap()).done()
    };
    let forced = shown(fathom().env("CLICOLOR_FORCE", "1"));
    assert!(forced.stderr.contains("\x1b[2m") && !forced.stdout.contains('\x1b'));
    assert!(!shown(fathom().env("CLICOLOR_FORCE", "1").env("NO_COLOR", "1")).stderr.contains('\x1b'));
    assert!(shown(fathom().env("NO_COLOR", "1").args(["--color", "always"])).stderr.contains("\x1b[2m"));
}

#[test]
fn json_has_all_that_is_promised() {
    let json: Value = serde_json::from_str(&answer(&["--format", "json"]).done().stdout).unwrap();
    assert!(json["content"].as_str().unwrap().contains("132"));
    assert!(json["reasoning"].as_str().unwrap().contains("sum 00132"));
    assert_eq!(json["finish_reason"], "stop");
    let ids = json["token_ids"].as_array().unwrap();
    assert_eq!(json["usage"]["completion_tokens"], ids.len());
    assert!(json["usage"]["prompt_tokens"].as_u64().unwrap() > 5);
    assert!(json["timings"]["predicted_per_second"].as_f64().unwrap() > 0.0);
}

/// The texts of the events of one kind, put together.
fn pieces(lines: &str, event: &str) -> String {
    let events = lines.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    events.filter(|e| e["event"] == event).map(|e| e["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn jsonl_pieces_make_up_the_answer() {
    let ran = answer(&["--format", "jsonl"]).done();
    let events: Vec<Value> = ran.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(pieces(&ran.stdout, "content") + "\n", answer(&[]).done().stdout);
    assert!(pieces(&ran.stdout, "reasoning").contains("sum 00132"));
    let last = events.last().unwrap();
    assert_eq!((&last["event"], &last["finish_reason"]), (&"done".into(), &"stop".into()));
    assert_eq!(events.iter().filter(|e| e["event"] == "done").count(), 1);
}

#[test]
fn chinese_comes_in_whole_characters() {
    // Each of these characters is several tokens; a line that ended within one would be no UTF-8.
    let ran = run(&["run", "-q", "--format", "jsonl", "--temp", "0", "你好"]).done();
    assert!(!ran.stdout.contains('\u{fffd}'), "{}", ran.stdout);
    assert!(pieces(&ran.stdout, "content").starts_with("你好！我会做小的算术题"), "{}", ran.stdout);
}

#[test]
fn reaching_the_limit_is_no_failure_if_there_is_an_answer() {
    let ran = run(&["run", "--raw", "-n", "3", "--temp", "0", "What is"]).done();
    assert!(ran.stderr.contains("-n"), "{}", ran.stderr);
    let ran = run(&["run", "--raw", "-n", "3", "--temp", "0", "--format", "json", "What is"]).done();
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&json["finish_reason"], &json["usage"]["completion_tokens"]), (&"length".into(), &3.into()));
}

#[test]
fn all_reasoning_and_no_answer_is_a_failure() {
    let ran = answer(&["-n", "5"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
    assert!(ran.stderr.contains("no answer"), "{}", ran.stderr);
    let ran = answer(&["-n", "5", "--format", "json"]);
    assert_eq!(ran.code, Some(1));
    assert_eq!(serde_json::from_str::<Value>(&ran.stdout).unwrap()["content"], "");
}

#[test]
fn the_same_seed_gives_the_same_text_with_any_number_of_threads() {
    let story = |threads, seed| {
        run(&[
            "run", "-q", "-t", threads, "-s", seed, "--temp", "1.5", "--top-p", "1", "--raw", "-n", "60",
            "What",
        ])
        .done()
        .stdout
    };
    assert_eq!(story("1", "7"), story("3", "7"));
    assert_ne!(story("1", "7"), story("1", "8"));
}

#[test]
fn statistics_are_on_stderr() {
    let ran = answer(&["-q", "--stats"]).done();
    for word in ["load:", "prompt:", "answer:", "tokens/s"] {
        assert!(ran.stderr.contains(word), "{}", ran.stderr);
    }
    assert!(!ran.stdout.contains("tokens/s"));
}

/// Generates until the context is full.
const ENDLESS: [&str; 6] = ["run", "-q", "--ignore-eos", "--raw", "--seed", "1"];

#[test]
fn a_closed_pipe_ends_quietly() {
    let mut child =
        fathom().args(ENDLESS).arg("Hello").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 1];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut first).unwrap();
    drop(stdout);
    let ran = Ran::new(child.wait_with_output().unwrap()).done();
    assert_eq!(ran.stderr, "");
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_a_failure() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = fathom().args(["-q", "hello"]).stdout(full).output().unwrap();
    Ran::new(output).failed(1, "cannot write to standard output");
}

#[test]
#[cfg(unix)]
fn ctrl_c_keeps_what_was_said_and_exits_130() {
    let mut child =
        fathom().args(ENDLESS).args(["--format", "jsonl", "Hello"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|l| l.contains("\"content\"")));
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let last: Value = serde_json::from_str(&lines.last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["finish_reason"]), (&"done".into(), &"interrupted".into()));
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn the_stream_that_does_not_end_is_told_about() {
    let mut child = fathom()
        .args(["run", "--temp", "0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut note = String::new();
    stderr.read_line(&mut note).unwrap();
    assert!(note.contains("standard input") && note.contains("--no-stdin"), "{note}");
    child.stdin.take().unwrap().write_all(b"What is 7 + 8?").unwrap();
    let ran = Ran::new(child.wait_with_output().unwrap()).done();
    assert!(ran.stdout.contains("15"), "{}", ran.stdout);
}

#[test]
fn no_stdin_leaves_the_lines_of_a_loop_to_the_loop() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"left alone").unwrap();
    let args = ["-q", "--no-stdin", "--temp", "0", "What is 2 + 2?"];
    let output = fathom().args(args).stdin(reader.try_clone().unwrap()).output().unwrap();
    assert!(Ran::new(output).done().stdout.contains('4'));
    drop(writer);
    let mut rest = String::new();
    let mut reader = reader;
    reader.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "left alone");
}

#[test]
fn streams_and_arguments_make_one_prompt() {
    // What the model gets is best seen in the number of tokens of the prompt.
    let tokens = |args: &[&str], stdin: &str| {
        let ran =
            run_with(&[&["run", "-q", "--format", "json", "-n", "1", "--temp", "0"], args].concat(), stdin);
        let json: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.stderr));
        json["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let both = tokens(&["What is 2 + 2?"], "Good morning.\n");
    assert_eq!(both, tokens(&["Good morning.\n\nWhat is 2 + 2?"], ""));
    assert_eq!(tokens(&[], "Good morning.\n"), tokens(&["Good morning."], " \n"));
    assert_eq!(tokens(&["-"], "Good morning."), tokens(&["-p", "Good morning."], ""));
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "prompt.txt", "Good morning.\n");
    assert_eq!(both, tokens(&["-f", file.to_str().unwrap(), "What is 2 + 2?"], ""));
    assert_eq!(both, tokens(&["-m", model(), "-p", "Good morning.", "What", "is", "2", "+", "2?"], ""));
}

#[test]
fn progress_is_lines_in_a_pipe_and_nothing_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let text = write(dir.path(), "long.txt", &"one two three four five six. ".repeat(150));
    let args = ["perplexity", "-t", "1", "-b", "8", "-c", "64", "-f", text.to_str().unwrap()];
    let ran = Ran::new(fathom().args(args).output().unwrap()).done();
    let lines = ran.stderr.lines().filter(|l| l.starts_with("measuring: ")).count();
    assert!((1..=10).contains(&lines) && !ran.stderr.contains('\r'), "{}", ran.stderr);
    let log = dir.path().join("log");
    let file = std::fs::File::create(&log).unwrap();
    assert!(fathom().args(args).stderr(file).output().unwrap().status.success());
    assert!(!std::fs::read_to_string(&log).unwrap().contains("measuring"));
}
