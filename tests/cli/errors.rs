//! Whatever is wrong ends in one line for it, one for what to do, and the right exit code.

use super::{Ran, fathom, model, run, run_with, write};

#[test]
fn an_instruction_set_that_there_is_not_is_named() {
    let mut command = fathom();
    command.env("FATHOM_CPU", "z80").args(["-m", model(), "hi"]).stdin(std::process::Stdio::null());
    Ran::new(command.output().unwrap()).failed(1, "z80");
}

#[test]
fn mistakes_on_the_command_line() {
    for (args, what) in [
        (&["run", "--tempp", "1", "hi"][..], "--tempp"),
        (&["-fa", "on"], "-fa"),
        (&["--temp", "warm", "hi"], "warm"),
        (&["--temp", "-1", "hi"], "-1"),
        (&["--top-p", "1.5", "hi"], "top-p"),
        (&["-n", "-3", "hi"], "-n"),
        (&["-t", "9999", "hi"], "--threads"),
        (&["-ub", "0", "hi"], "--ubatch-size"),
        (&["-ctk", "q4_0", "hi"], "--cache-type-k"),
        (&["--think", "loud", "hi"], "loud"),
        (&["--format", "xml", "hi"], "xml"),
        (&["--messages", "a", "--tokens", "b"], "two prompts"),
        (&["--messages", "a", "hi"], "whole prompt"),
        (&["--raw", "--messages", "a"], "template"),
        (&["--raw", "-sys", "a", "hi"], "template"),
        (&["--no-stdin", "-"], "--no-stdin"),
        (&["chat", "--format", "json"], "JSON"),
        (&["chat", "--raw"], "template"),
        (&["show", "-m", "a", "b"], "one model"),
        (&["logits", "hi"], "--output"),
        (&["logits", "-o", "x", "--last", "0", "hi"], "--last"),
        (&["tokenize", "-f", "a", "b"], "several texts"),
        (&["quantize", "Q8_0"], "IN [OUT] TYPE"),
        (&["quantize", "a.gguf", "Q9_9"], "Q9_9"),
        (&["quantize", "--tensor-type", "attn", "a.gguf", "Q8_0"], "attn"),
        (&["bench", "--shape", "gpt-5"], "gpt-5"),
        (&["bench", "--shape", "llama-8b", "--mix", "q1"], "q1"),
        (&["bench", "-p", "0", "-n", "0"], "nothing to measure"),
        (&["bench", "-p", "1,x"], "'x'"),
        (&["bench", "-d", "5000000000"], "5000000512"),
        (&["completions", "cobol"], "cobol"),
        (&["man", "nothing"], "nothing"),
    ] {
        run(args).failed(2, what);
    }
}

#[test]
fn files_that_cannot_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| write(dir.path(), name, text).to_str().unwrap().to_owned();
    let (json, cut) = (file("a.gguf", "{\"a\": 1}"), file("b.gguf", "GGUF\x03\0\0\0"));
    let (ids, none) = (file("ids", "[0, 1280]"), file("none", "[]"));
    let latin = dir.path().join("latin");
    std::fs::write(&latin, b"caf\xe9").unwrap();
    for (args, what) in [
        (&["-m", &json, "hi"][..], "a.gguf"),
        (&["-m", &cut, "hi"], "b.gguf"),
        (&["show", &cut], "b.gguf"),
        (&["-m", "missing.gguf", "hi"], "missing.gguf"),
        (&["-f", "missing.txt"], "missing.txt"),
        (&["-f", latin.to_str().unwrap()], "UTF-8"),
        (&["--messages", &ids], "ids"),
        (&["--messages", &none], "no messages"),
        (&["--tokens", &ids], "1280"),
        (&["bench", "-m", &cut], "b.gguf"),
        (&["bench", "missing.gguf"], "missing.gguf"),
        (&["logits", "-o", "/nonexistent/x", "hi"], "/nonexistent/x"),
        (&["logits", "-o", dir.path().to_str().unwrap(), "hi"], "no regular file"),
        (&["logits", "-o", "never.safetensors", "--tokens", &ids], "1280"),
    ] {
        run(args).failed(1, what);
    }
}

#[test]
fn a_prompt_longer_than_the_context_names_both_and_what_fits() {
    let prompt = "one two three ".repeat(60);
    let ran = run(&["-c", "64", &prompt]).failed(1, "the context 64");
    assert!(ran.stderr.contains("-c "), "{}", ran.stderr);
    let ran = run_with(&["run"], &"one two three ".repeat(3000)).failed(1, "the context 4096");
    assert!(ran.stderr.contains("the model allows 4096"), "{}", ran.stderr);
}

#[test]
fn a_full_context_ends_the_answer_with_a_note() {
    let ran = run(&["--raw", "--ignore-eos", "-c", "32", "--temp", "0", "one two three"]).done();
    assert!(ran.stderr.contains("context of 32 tokens is full"), "{}", ran.stderr);
}

#[test]
fn a_context_beyond_memory_is_refused_with_the_numbers() {
    let ran = run(&["-c", "1000000000000", "hi"]);
    if cfg!(target_os = "linux") {
        ran.failed(1, "1000000000000 tokens takes");
    }
}

#[test]
fn a_system_prompt_twice_is_refused() {
    let messages = r#"[{"role":"system","content":"a"},{"role":"user","content":"b"}]"#;
    run_with(&["-sys", "c", "--messages", "-"], messages).failed(2, "-sys");
}

#[test]
fn damaged_text_on_standard_input_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("latin");
    std::fs::write(&path, b"caf\xe9").unwrap();
    for command in ["run", "tokenize"] {
        let file = std::fs::File::open(&path).unwrap();
        let output = fathom().args([command, "-m", model()]).stdin(file).output().unwrap();
        Ran::new(output).failed(1, "standard input is no UTF-8 at byte 3");
    }
}
