//! show, tokenize, logits, perplexity, completions, man, help.

use serde_json::Value;

use super::{model, run, run_with, write};

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&run(args).done().stdout).unwrap()
}

#[test]
fn show_says_what_a_file_is() {
    let text = run(&["show", model()]).done().stdout;
    for word in ["deepseek2", "F16", "deepseek-v3", "4096 tokens", "16 experts of which 4", "on the CPU"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(!text.contains('\x1b'));
    let shown = json(&["show", "--json", "--tensors", "-ctk", "q8_0", "-ctv", "q8_0", "-c", "1000", model()]);
    assert_eq!(shown["parameters"], 9_047_328);
    assert_eq!(shown["model"]["context_length"], 4096);
    let memory = &shown["model"]["memory"];
    // A latent of 256 and a key part of 32, as 8-bit blocks of 34 bytes for 32, in 3 layers.
    assert_eq!(memory["cache_per_token"], 3 * (256 + 32) / 32 * 34);
    assert_eq!(memory["cache"].as_u64(), memory["cache_per_token"].as_u64().map(|n| n * 1000));
    let tensors = shown["tensors"].as_array().unwrap();
    let bytes: u64 = tensors.iter().map(|t| t["bytes"].as_u64().unwrap()).sum();
    assert_eq!(memory["weights"], bytes);
    assert_eq!(shown["problem"], Value::Null);
}

#[test]
fn show_tells_what_it_can_of_a_file_that_cannot_run() {
    let vocabulary = fathom_testing::fixtures::vocab("qwen2").gguf;
    let text = run(&["show", vocabulary.to_str().unwrap()]).done().stdout;
    assert!(text.contains("151936 tokens") && text.contains("cannot run"), "{text}");
    let dir = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(model()).unwrap();
    let at = bytes.windows(17).position(|w| w == b"token_embd.weight").unwrap();
    let mut renamed = bytes.clone();
    renamed[at] = b'T';
    let path = dir.path().join("renamed.gguf");
    std::fs::write(&path, renamed).unwrap();
    let ran = run(&["show", path.to_str().unwrap()]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("token_embd.weight") && ran.stderr.contains("hint: "), "{}", ran.stderr);
    assert!(ran.stdout.contains("deepseek2"), "{}", ran.stdout);
}

#[test]
fn tokenize_takes_the_text_as_it_is() {
    let ids = |args: &[&str], stdin: &str| {
        let ran = run_with(&[&["tokenize", "-q", "--json"], args].concat(), stdin).done();
        serde_json::from_str::<Value>(&ran.stdout).unwrap()
    };
    let with_newline = ids(&[], "hello\n");
    assert_ne!(with_newline["ids"], ids(&["hello"], "")["ids"]);
    assert_eq!(with_newline["ids"], ids(&["hello\n"], "")["ids"]);
    assert_eq!(ids(&[], "").to_string(), r#"{"ids":[],"pieces":[]}"#);
    assert_eq!(ids(&[""], "not read")["ids"], Value::Array(vec![]));
    let whole = ids(&["模型 <think>"], "");
    let bytes: Vec<u8> = whole["pieces"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|p| match p {
            Value::String(s) => s.clone().into_bytes(),
            bytes => serde_json::from_value(bytes.clone()).unwrap(),
        })
        .collect();
    assert_eq!(String::from_utf8(bytes).unwrap(), "模型 <think>");
    let special = ids(&["--parse-special", "<｜User｜>"], "");
    assert_eq!(special["ids"].as_array().unwrap().len(), 1);
    assert!(ids(&["<｜User｜>"], "")["ids"].as_array().unwrap().len() > 1);
    let lines = run(&["tokenize", "-q", "hi"]).done().stdout;
    assert!(
        lines.lines().all(|l| l.split_once('\t').is_some_and(|(id, _)| id.parse::<u32>().is_ok())),
        "{lines}"
    );
}

#[test]
fn logits_are_the_same_for_text_and_ids_and_for_the_last_rows() {
    let dir = tempfile::tempdir().unwrap();
    let out = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let ids = json(&["tokenize", "-q", "--json", "What is 2 + 2?"])["ids"].clone();
    let ids_file = write(dir.path(), "ids.json", &ids.to_string());
    let (text, tokens, last) = (out("text"), out("tokens"), out("last"));
    run(&["logits", "-q", "-o", &text, "What is 2 + 2?"]).done();
    run(&["logits", "-q", "-o", &tokens, "--tokens", ids_file.to_str().unwrap()]).done();
    run(&["logits", "-q", "-o", &last, "--last", "2", "What is 2 + 2?"]).done();
    // The last two rows lie in a piece of three, and the same pieces give the same logits.
    let (pieces, piece) = (out("pieces"), out("piece"));
    run(&["logits", "-q", "-b", "3", "-o", &pieces, "What is 2 + 2?"]).done();
    run(&["logits", "-q", "-b", "3", "-o", &piece, "--last", "2", "What is 2 + 2?"]).done();
    let bytes = |path: &str| std::fs::read(path).unwrap();
    assert_eq!(bytes(&text), bytes(&tokens));
    let (text, last) = (bytes(&text), bytes(&last));
    let (all, two) = (read(&text), read(&last));
    let n = ids.as_array().unwrap().len();
    assert_eq!((all.0, two.0), ([n, 1280], [2, 1280]));
    assert_eq!(all.1[(n - 2) * 1280..], two.1);
    let (pieces, piece) = (bytes(&pieces), bytes(&piece));
    assert_eq!(read(&pieces).1[(n - 2) * 1280..], read(&piece).1);
    let long = out("long");
    run(&["logits", "-q", "-c", "4", "-o", &long, "What is 2 + 2?"]).failed(1, &format!("{n} tokens"));
    assert!(!std::fs::exists(&long).unwrap());
    assert!(
        std::fs::read_dir(dir.path()).unwrap().all(|e| !e
            .unwrap()
            .file_name()
            .to_string_lossy()
            .ends_with("partial"))
    );
}

fn read(bytes: &[u8]) -> ([usize; 2], Vec<f32>) {
    let tensors = safetensors::SafeTensors::deserialize(bytes).unwrap();
    let logits = tensors.tensor("logits").unwrap();
    let values = logits.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    (logits.shape().try_into().unwrap(), values)
}

#[test]
fn perplexity_and_divergence_are_measured() {
    let dir = tempfile::tempdir().unwrap();
    let text =
        "<｜begin▁of▁sentence｜><｜User｜>What is 47 + 85?<｜Assistant｜>47 + 85 = 132<｜end▁of▁sentence｜>";
    let file = write(dir.path(), "text", &text.repeat(3));
    let file = file.to_str().unwrap();
    let measured = json(&[
        "perplexity",
        "-q",
        "--json",
        "--score",
        "documents",
        "-f",
        file,
        "-m",
        model(),
        "--kl-base",
        model(),
    ]);
    let nll: Vec<f64> = serde_json::from_value(measured["per_token"]["nll"].clone()).unwrap();
    assert_eq!(measured["scored_tokens"], nll.len());
    assert_eq!(measured["windows"], 3);
    let mean = nll.iter().sum::<f64>() / nll.len() as f64;
    assert!((measured["perplexity"].as_f64().unwrap() - mean.exp()).abs() < 1e-9);
    // Each document by itself: the same tokens are as likely each time.
    let third = nll.len() / 3;
    assert_eq!(nll[..third], nll[third..2 * third]);
    assert_eq!(measured["kl"]["max"], 0.0);
    assert_eq!(measured["kl"]["same_top"], 1.0);
    assert_eq!(measured["kl"]["base_perplexity"], measured["perplexity"]);
    let small = dir.path().join("tiny-q4_0.gguf");
    let small = small.to_str().unwrap();
    run(&["quantize", "-q", model(), small, "Q4_0"]).done();
    let documents = ["perplexity", "-q", "--json", "--score", "documents", "-f", file];
    let other = json(&[&documents[..], &["-m", small, "--kl-base", model()]].concat());
    assert_eq!(other["kl"]["base_perplexity"], measured["perplexity"]);
    assert_ne!(other["perplexity"], measured["perplexity"]);
    let each: Vec<f64> = serde_json::from_value(other["per_token"]["kl"].clone()).unwrap();
    let kl = |key: &str| other["kl"][key].as_f64().unwrap();
    assert!((kl("mean") - each.iter().sum::<f64>() / each.len() as f64).abs() < 1e-9);
    assert!(each.iter().all(|kl| *kl >= -1e-6) && kl("mean") > 1e-6, "{other}");
    assert!(kl("median") <= kl("p99") && kl("p99") <= kl("max"), "{other}");
    run(&["perplexity", "-f", file]).failed(2, "less than a window of 512");
    let half = json(&["perplexity", "-q", "--json", "-c", "16", "--parse-special", "-f", file]);
    assert_eq!(half["scored_tokens"].as_u64(), half["windows"].as_u64().map(|n| n * 7));
}

#[test]
fn completions_and_the_manual_come_from_the_definitions() {
    for shell in ["elvish", "powershell"] {
        assert!(run(&["completions", shell]).done().stdout.contains("repeat-penalty"), "{shell}");
    }
    assert!(run(&["man"]).done().stdout.contains(".TH"));
    assert!(run(&["man", "run"]).done().stdout.contains("repeat\\-penalty"));
}

#[test]
fn help_is_on_stdout_and_fits() {
    for args in
        [&["--help"][..], &["-h"], &["help"], &["help", "run"], &["run", "--help"], &["help", "logits"]]
    {
        let ran = run(args).done();
        assert_eq!(ran.stderr, "");
        let widest = ran.stdout.lines().map(|l| l.chars().count()).max().unwrap();
        assert!((40..=100).contains(&widest), "{args:?}: {widest}");
    }
    assert_eq!(run(&["--version"]).done().stdout, format!("fathom {}\n", env!("CARGO_PKG_VERSION")));
}
