//! Conversations in files, by chats that read a script.

use std::path::Path;

use super::{Ran, fathom, run_with, write};

/// A chat that says these lines, with a home of its own.
fn chat(home: &Path, args: &[&str], lines: &[&str]) -> Ran {
    let file = std::fs::File::open(write(home, "script", &lines.join("\n"))).unwrap();
    let mut command = fathom();
    command.current_dir(home).env("HOME", home).stdin(file).args(["chat", "--temp", "0"]).args(args);
    Ran::new(command.output().unwrap())
}

/// The tokens that the last answer's statistics say were processed.
fn processed(ran: &Ran) -> usize {
    let line = ran.stderr.lines().rfind(|l| l.starts_with("prompt: "));
    line.unwrap_or_else(|| panic!("{}", ran.stderr)).split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_conversation_goes_on_without_being_read_again() {
    let home = tempfile::tempdir().unwrap();
    let long = format!("\"\"\"{}What is 20 + 22?\"\"\"", "This is a long question. ".repeat(60));
    let saved = chat(home.path(), &["-n", "20", "--stats"], &[&long, "/save talk"]).done();
    assert!(saved.stderr.contains("saved 1 turn in talk") && processed(&saved) > 300, "{}", saved.stderr);
    let go_on = ["/load talk", "Thanks!"];
    let loaded = chat(home.path(), &["-n", "5", "--stats"], &go_on).done();
    assert!(loaded.stderr.contains("tokens in the cache"), "{}", loaded.stderr);
    assert!(processed(&loaded) < 50, "{}", loaded.stderr);
    // Types of the cache that differ: the text is read again.
    let other = chat(home.path(), &["-n", "5", "--stats", "-ctk", "q8_0"], &go_on).done();
    assert!(
        other.stderr.contains("cannot be used, its keys and values have other types"),
        "{}",
        other.stderr
    );
    assert!(processed(&other) > 300, "{}", other.stderr);
    // And a context that is too short for the cache is too short for the text.
    let short = chat(home.path(), &["-c", "100"], &go_on).done();
    assert!(short.stderr.contains("and the context 100"), "{}", short.stderr);
}

#[test]
fn an_answer_that_was_cut_goes_on_in_another_chat() {
    let home = tempfile::tempdir().unwrap();
    chat(home.path(), &["-n", "12"], &["What is 47 + 85?", "/save talk"]).done();
    let ran = chat(home.path(), &[], &["/load talk", "/continue", "Now add 15 to that."]).done();
    let answers: Vec<&str> = ran.stdout.lines().collect();
    assert!(answers.len() == 2 && answers[0].contains("132") && answers[1].contains("147"), "{}", ran.stdout);
}

#[test]
fn json_is_what_messages_takes_and_conversations_come_from_it() {
    let home = tempfile::tempdir().unwrap();
    chat(home.path(), &["-sys", "You are a helpful assistant."], &["What is 20 + 22?", "/save talk.json"])
        .done();
    let text = std::fs::read_to_string(home.path().join("talk.json")).unwrap();
    let messages: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(messages[0]["role"], "system");
    assert!(messages[2]["content"].as_str().unwrap().contains("42"), "{text}");
    let ran = chat(home.path(), &[], &["/load talk.json", "Now add 15 to that.", "/save talk.json"]).done();
    assert!(ran.stdout.contains("57"), "{}", ran.stdout);
    let asked = r#"[{"role":"user","content":"What is 2 + 2?"}]"#;
    write(home.path(), "asked.json", asked);
    let ran = chat(home.path(), &[], &["/load asked.json", "/continue"]).done();
    assert_eq!(ran.stdout, "2 + 2 = 4\n");
}

#[test]
fn what_is_no_conversation_is_refused_in_one_line() {
    let home = tempfile::tempdir().unwrap();
    chat(home.path(), &[], &["What is 2 + 2?", "/save talk"]).done();
    let whole = std::fs::read(home.path().join("talk")).unwrap();
    let header = whole.iter().position(|b| *b == b'\n').unwrap();
    let text = String::from_utf8(whole[..header].to_vec()).unwrap();
    let files: [(&str, Vec<u8>, &str); 9] = [
        ("empty", vec![], "is no conversation"),
        ("cut-header", whole[..header / 2].to_vec(), "is damaged"),
        ("cut-cache", whole[..whole.len() - 1].to_vec(), "the cache cannot be used"),
        ("no-cache", whole[..header + 1].to_vec(), "the cache cannot be used"),
        ("version", text.replace("\"version\":1", "\"version\":7").into(), "has the version 7"),
        (
            "token",
            text.replace("\"answer\"", "\"cut\":{\"tokens\":[999999],\"thinking\":true},\"answer\"").into(),
            "no token 999999",
        ),
        ("noise", vec![0x80; 5000], "is no conversation"),
        ("array", b"[1, 2]".to_vec(), "error: array"),
        ("order", br#"[{"role":"assistant","content":"hi"}]"#.to_vec(), "message 1 is the assistant's"),
    ];
    for (name, bytes, what) in files {
        std::fs::write(home.path().join(name), bytes).unwrap();
        let ran = chat(home.path(), &[], &[&format!("/load {name}")]).done();
        assert_eq!(ran.stderr.lines().filter(|l| l.contains(what)).count(), 1, "{name}: {}", ran.stderr);
    }
    let ran =
        chat(home.path(), &[], &["/load .", "/load nothing", "/read nothing", "/save no/such/folder"]).done();
    assert_eq!(ran.stderr.matches("error: ").count(), 4, "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("hint: ").count(), 4, "{}", ran.stderr);
}

#[cfg(unix)]
#[test]
fn a_saved_conversation_is_for_its_owner_alone_and_replaces_nothing_else() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    write(home.path(), "precious", "text");
    let ran = chat(home.path(), &[], &["/save precious", "/save talk", "/save talk"]).done();
    assert!(ran.stderr.contains("precious exists and is no conversation"), "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("saved 0 turns").count(), 2, "{}", ran.stderr);
    assert_eq!(std::fs::read_to_string(home.path().join("precious")).unwrap(), "text");
    let mode = std::fs::metadata(home.path().join("talk")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!home.path().join("talk.partial").exists());
}

#[test]
fn a_full_context_can_be_made_room_in() {
    let question =
        "\"\"\"Add these: 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25.\"\"\"\n".repeat(3);
    let script = format!("/set n-predict 4\n{question}/forget\nWhat is 2 + 2?\n/context\n");
    let ran = run_with(&["chat", "--temp", "0", "-c", "200"], &script).done();
    assert!(ran.stderr.contains("/forget drops the oldest turns"), "{}", ran.stderr);
    assert!(ran.stderr.contains("forgot the"), "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("error: ").count(), 1, "{}", ran.stderr);
    let left: usize = ran
        .stderr
        .split("forgot the")
        .nth(1)
        .unwrap()
        .split(": ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(left <= 100, "{}", ran.stderr);
    assert!(ran.stderr.contains("What is 2 + 2?"), "{}", ran.stderr);
}
