//! All help and error texts as they are, in `snapshots/`. After a change on purpose: `INSTA_UPDATE=always cargo test -p fathom --test cli
//! snapshots`, and read the difference.

use std::fmt::Write;
use std::path::Path;

use insta::assert_snapshot;

use super::{Ran, fathom, model, run, write};

const COMMANDS: [&str; 13] = [
    "run",
    "chat",
    "quantize",
    "show",
    "list",
    "tokenize",
    "logits",
    "perplexity",
    "imatrix",
    "bench",
    "config",
    "completions",
    "man",
];

/// Everything that came of a command.
fn told(args: &[&str], ran: &Ran) -> String {
    let word = |arg: &&str| match arg.is_empty() || arg.contains(char::is_whitespace) {
        true => format!("'{arg}'"),
        false => (*arg).to_owned(),
    };
    let line: Vec<String> = args.iter().map(word).collect();
    format!("$ fathom {}\n{}{}[{}]\n\n", line.join(" "), ran.stdout, ran.stderr, ran.code.unwrap_or(-1))
}

#[test]
fn every_help_is_as_it_was() {
    assert_snapshot!("help", told(&["-h"], &run(&["-h"])) + &told(&["--help"], &run(&["--help"])));
    // None is missing.
    let listed = run(&["-h"]).done().stdout;
    let listed = listed.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| !l.is_empty());
    let listed: Vec<&str> =
        listed.filter_map(|l| l.split_whitespace().next()).filter(|c| *c != "help").collect();
    assert_eq!(listed, COMMANDS);
    for command in COMMANDS {
        let (short, long) = (run(&[command, "-h"]).done(), run(&[command, "--help"]).done());
        assert!(long.stdout.contains("\nExamples:\n  fathom "), "{command}");
        let widest = long.stdout.lines().chain(short.stdout.lines()).map(|l| l.chars().count()).max();
        assert!(widest <= Some(100), "{command}: {widest:?}");
        assert_eq!(run(&["help", command]).done().stdout, long.stdout);
        assert_snapshot!(
            format!("help-{command}"),
            told(&[command, "-h"], &short) + &told(&[command, "--help"], &long)
        );
    }
}

/// Runs a command and writes down what it said; it must be one error with advice.
fn refused(all: &mut String, dir: &Path, args: &[&str]) {
    let ran = Ran::new(fathom().env("FATHOM_QUIET", "1").current_dir(dir).args(args).output().unwrap());
    let text = told(args, &ran);
    assert!(matches!(ran.code, Some(1 | 2)), "{text}");
    assert_eq!(ran.stderr.lines().filter(|l| l.starts_with("error: ")).count(), 1, "{text}");
    assert_eq!(ran.stderr.lines().filter(|l| l.starts_with("hint: ")).count(), 1, "{text}");
    assert!(!(ran.stderr.contains("Usage") || ran.stderr.contains("panicked")), "{text}");
    let _ = write!(all, "{text}");
}

#[test]
fn every_wrong_usage_is_told_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "broken.toml", "temp = 0.6\n[profile.coder]\ntopp = 1\n");
    let mut all = String::new();
    for args in [
        &["run", "--tempp", "1", "hi"][..],
        &["run", "--jsn-schema", "{}", "hi"],
        &["-fa", "on"],
        &["--jinja", "hi"],
        &["--keep=1", "hi"],
        &["-xyz", "hi"],
        &["quantise", "model.gguf", "Q4_K_M"],
        &["lsit"],
        &["pull", "deepseek-r1:7b"],
        &["-hf", "repo"],
        &["--temp", "warm", "hi"],
        &["--temp", "-1", "hi"],
        &["--temp"],
        &["--top-p", "1.5", "hi"],
        &["--top-k", "-2", "hi"],
        &["--min-p", "2", "hi"],
        &["--repeat-penalty", "0", "hi"],
        &["-s", "-2", "hi"],
        &["-n", "-3", "hi"],
        &["-n"],
        &["--think-budget", "-2", "hi"],
        &["--stop", "", "hi"],
        &["-t", "9999", "hi"],
        &["-ub", "0", "hi"],
        &["-b", "0", "hi"],
        &["-c", "many", "hi"],
        &["-ctk", "q4_0", "hi"],
        &["--mla", "fast", "hi"],
        &["--think", "loud", "hi"],
        &["--format", "xml", "hi"],
        &["--color", "red", "hi"],
        &["--messages", "a", "--tokens", "b"],
        &["--messages", "a", "hi"],
        &["--raw", "--messages", "a"],
        &["--raw", "-sys", "a", "hi"],
        &["--no-stdin", "-"],
        &["--no-stdin"],
        &[],
        &["-p", ""],
        &["--raw", ""],
        &["chat", "--format", "json"],
        &["chat", "--raw"],
        &["chat", "--messages", "a"],
        &["--json-schema", "{\"type\": \"strong\"}", "hi"],
        &["--json-schema", "{", "hi"],
        &["--json-schema", "nowhere.json", "hi"],
        &["--grammar", "start: nothing", "hi"],
        &["--grammar", "root ::= (\"a\"", "hi"],
        &["--grammar", "start: \"a\"", "-j", "{}", "hi"],
        &["--ignore-eos", "-j", "{}", "hi"],
        &["show", "-m", "a", "b"],
        &["show", "--loud"],
        &["tokenize", "-f", "a", "b"],
        &["logits", "hi"],
        &["logits", "-o", "x", "--last", "0", "hi"],
        &["perplexity", "--score", "some", "hi"],
        &["quantize"],
        &["quantize", "Q8_0"],
        &["quantize", "a.gguf", "Q9_9"],
        &["quantize", "--tensor-type", "attn", "a.gguf", "Q8_0"],
        &["quantize", "--split-max-size", "big", "a.gguf", "Q8_0"],
        &["bench", "--shape", "gpt-5"],
        &["bench", "--shape", "llama-8b", "--mix", "q1"],
        &["bench", "-p", "0", "-n", "0"],
        &["bench", "-p", "1,x"],
        &["list", "--json", "--names"],
        &["config", "set", "tmep", "1", "--config", "new.toml"],
        &["config", "set", "temp", "200", "--config", "new.toml"],
        &["config", "get", "nothing"],
        &["config", "sett", "temp", "1"],
        &["config", "path"],
        &["--profile", "coder", "hi"],
        &["--config", "nowhere.toml", "hi"],
        &["--config", "broken.toml", "hi"],
        &["completions"],
        &["completions", "cobol"],
        &["man", "nothing"],
        &["help", "nonsense"],
    ] {
        refused(&mut all, dir.path(), args);
    }
    assert_snapshot!("usage", all);
}

#[test]
fn every_failure_is_told_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("a.gguf", "{\"a\": 1}"),
        ("b.gguf", "GGUF\x03\0\0\0"),
        ("c.gguf", "GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        ("ids", "[0, 1280]"),
        ("none", "[]"),
        ("words", "{}"),
        ("roles", "[{\"role\":\"robot\",\"content\":\"a\"}]"),
        ("text", "one two three"),
    ] {
        write(dir.path(), name, text);
    }
    std::fs::write(dir.path().join("latin"), b"caf\xe9").unwrap();
    std::fs::hard_link(model(), dir.path().join("model.gguf"))
        .or_else(|_| std::fs::copy(model(), dir.path().join("model.gguf")).map(drop))
        .unwrap();
    let long = "one two three ".repeat(60);
    let mut all = String::new();
    for args in [
        &["-m", "a.gguf", "hi"][..],
        &["-m", "b.gguf", "hi"],
        &["-m", "c.gguf", "hi"],
        &["-m", "missing.gguf", "hi"],
        &["missing/model", "hi"],
        &["model:latest", "hi"],
        &["-m", ".", "hi"],
        &["-f", "missing.txt"],
        &["-f", "latin"],
        &["--messages", "ids"],
        &["--messages", "none"],
        &["--messages", "roles"],
        &["--tokens", "ids"],
        &["--tokens", "words"],
        &["-c", "64", "-f", "long"],
        &["show", "missing.gguf"],
        &["show", "b.gguf"],
        &["tokenize", "-m", "b.gguf", "hi"],
        &["tokenize", "-f", "latin"],
        &["logits", "-o", "/nonexistent/x", "hi"],
        &["logits", "-o", ".", "hi"],
        &["logits", "-o", "x", "-c", "4", "one two three four five six"],
        &["perplexity", "-f", "missing.txt"],
        &["imatrix", "-f", "missing.txt"],
        &["bench", "-m", "b.gguf"],
        &["bench", "missing.gguf"],
        &["quantize", "missing.gguf", "Q8_0"],
        &["quantize", "b.gguf", "Q8_0"],
        &["quantize", "model.gguf", "model.gguf", "Q8_0"],
        &["quantize", "model.gguf", "text", "Q8_0"],
        &["quantize", "model.gguf", "IQ2_XS"],
    ] {
        write(dir.path(), "long", &long);
        refused(&mut all, dir.path(), args);
    }
    assert_snapshot!("failures", all);
}

/// The examples of the long help, in its order. Comments behind them say what they do.
fn examples(command: &str) -> Vec<String> {
    let help = run(&["help", command]).done().stdout;
    let lines = help.lines().skip_while(|l| *l != "Examples:").skip(1);
    lines.take_while(|l| !l.is_empty()).map(|l| l.trim().to_owned()).collect()
}

#[test]
#[cfg(unix)]
fn every_example_of_the_help_works() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(model(), dir.path().join("model.gguf")).unwrap();
    write(dir.path(), "report.txt", "What is 2 + 2?\n");
    write(dir.path(), "text.txt", &"What is 47 + 85? It is 132. ".repeat(40));
    let person = r#"{"type": "object", "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer",
        "minimum": 0, "maximum": 150}}, "required": ["name", "age"], "additionalProperties": false}"#;
    write(dir.path(), "person.json", person);
    let folder = Path::new(env!("CARGO_BIN_EXE_fathom")).parent().unwrap();
    let path = std::env::join_paths(
        std::iter::once(folder.to_owned()).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    );
    let mut n = 0;
    for command in COMMANDS {
        for example in examples(command) {
            let mut shell = std::process::Command::new("sh");
            for (name, value) in fathom().get_envs() {
                match value {
                    Some(value) => shell.env(name, value),
                    None => shell.env_remove(name),
                };
            }
            shell.env_remove("FATHOM_NO_CONFIG").env("XDG_CONFIG_HOME", dir.path());
            shell.env("PATH", path.as_ref().unwrap()).env("FATHOM_SEED", "1").current_dir(dir.path());
            let output = shell.arg("-c").arg(&example).stdin(std::process::Stdio::null()).output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{example}: {error}");
            n += 1;
        }
    }
    assert!(n > 25);
    assert!(std::fs::exists(dir.path().join("model-Q8_0.gguf")).unwrap());
}
