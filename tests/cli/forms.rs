//! Where an answer ends and what form it has: --stop, --json-schema, --grammar.

use serde_json::Value;

use super::{Ran, SUM, fathom, run, run_with, write};

fn answer(extra: &[&str]) -> Ran {
    run(&[&["run", "-q"], extra, &SUM].concat())
}

const SCHEMA: &str = r#"{"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"],
    "additionalProperties": false}"#;

#[test]
fn an_answer_ends_before_a_stop_text_and_nothing_of_it_is_shown() {
    let whole = answer(&[]).done().stdout;
    assert_eq!(whole, "47 + 85 = 132\n");
    assert_eq!(answer(&["--stop", "= 13"]).done().stdout, "47 + 85 \n");
    assert_eq!(answer(&["--stop", "nowhere", "-r", "85"]).done().stdout, "47 + \n");
    // One that does not come, but begins to.
    assert_eq!(answer(&["--stop", "132!"]).done().stdout, whole);
    let ran = answer(&["--stop", " + 8", "--format", "jsonl"]).done();
    let events: Vec<Value> = ran.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let text: String =
        events.iter().filter(|e| e["event"] == "content").map(|e| e["text"].as_str().unwrap()).collect();
    assert_eq!(text, "47");
    let last = events.last().unwrap();
    assert_eq!((&last["finish_reason"], &last["stop_text"]), (&"stop".into(), &" + 8".into()));
    // What the reasoning says ends nothing, unless it is left in the answer.
    let reasoned = answer(&["--stop", "sum 0", "--think", "show"]).done();
    assert!(reasoned.stderr.contains("sum 0") && reasoned.stdout == whole, "{}", reasoned.stderr);
    assert!(!answer(&["--stop", "sum 0", "--think", "raw"]).done().stdout.contains("sum"));
}

#[test]
fn stop_texts_come_from_the_environment_and_a_chat_too() {
    let ran = fathom().env("FATHOM_STOP", "132").args(["-q"]).args(SUM).output().unwrap();
    assert_eq!(Ran::new(ran).done().stdout, "47 + 85 = \n");
    let script = "/set stop \"= 1\"\nWhat is 47 + 85?\n/set stop\n/regen\n";
    let ran = run_with(&["chat", "-q", "--temp", "0"], script).done();
    assert_eq!(ran.stdout, "47 + 85 \n47 + 85 = 132\n");
    run(&["--stop", "", "hi"]).failed(2, "--stop");
}

#[test]
fn a_schema_or_grammar_shapes_the_answer_and_not_the_reasoning() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "sum.json", SCHEMA);
    for schema in [SCHEMA, file.to_str().unwrap()] {
        let ran = answer(&["--json-schema", schema, "--format", "json"]).done();
        let json: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert!(json["reasoning"].as_str().unwrap().contains("sum 00132"));
        let content: Value = serde_json::from_str(json["content"].as_str().unwrap()).unwrap();
        assert!(content["sum"].is_i64(), "{content}");
        assert_eq!(json["finish_reason"], "stop");
    }
    let gbnf = write(dir.path(), "answer.gbnf", "root ::= \"It is \" [0-9]{3} \".\"\n");
    for grammar in ["start: \"It is \" /[0-9]{3}/ \".\"", gbnf.to_str().unwrap()] {
        assert_eq!(answer(&["--grammar", grammar]).done().stdout, "It is 132.\n");
    }
    let hot = ["run", "-q", "--temp", "5", "--top-p", "1", "--think-budget", "0", "-j", SCHEMA, "hello"];
    let ran = run(&hot).done();
    assert!(serde_json::from_str::<Value>(&ran.stdout).unwrap()["sum"].is_number(), "{}", ran.stdout);
    let raw = ["run", "-q", "--raw", "--temp", "0", "--grammar", "start: \"a\" | \"b\"", "Choose: "];
    assert!(["a\n", "b\n"].contains(&run(&raw).done().stdout.as_str()));
}

#[test]
fn an_answer_that_is_cut_short_is_said_to_be_incomplete() {
    let args = ["--raw", "--temp", "0", "-n", "3", "-j", SCHEMA, "The sum is "];
    let ran = run(&args).done();
    assert!(ran.stderr.contains("-n") && ran.stderr.contains("incomplete"), "{}", ran.stderr);
    assert!(serde_json::from_str::<Value>(&ran.stdout).is_err(), "{}", ran.stdout);
}

#[test]
fn rules_that_are_not_sound_are_refused_before_anything_is_loaded() {
    for (args, what) in [
        (&["--json-schema", "{\"type\": \"strong\"}"][..], "--json-schema"),
        (&["--json-schema", "{"], "no JSON"),
        (&["--json-schema", "nowhere.json"], "nowhere.json"),
        (&["--grammar", "start: nothing"], "nothing"),
        (&["--grammar", "root ::= (\"a\""], "line 1"),
        (&["--grammar", ""], "--grammar"),
        (&["--grammar", "start: \"a\"", "-j", "{}"], "cannot be used with"),
        (&["--ignore-eos", "-j", "{}"], "--ignore-eos"),
    ] {
        run(&[&["-m", "never-opened/x.gguf"], args, &["hi"]].concat()).failed(2, what);
    }
}
