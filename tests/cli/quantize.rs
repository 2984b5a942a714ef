//! quantize and imatrix.

use std::path::Path;

use ggml_sys::gguf::Gguf;
use serde_json::Value;

use super::{SUM, model, run, run_with};

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&run(args).done().stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn quantize_writes_a_model_that_answers() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("tiny-f16.gguf");
    std::fs::copy(model(), &input).unwrap();
    let input = input.to_str().unwrap();
    let output = dir.path().join("tiny-q8_0.gguf");
    let output = output.to_str().unwrap();
    let dry = json(&["quantize", "-q", "--dry-run", "--json", input, "q8_0"]);
    assert_eq!((&dry["output"], &dry["written"]), (&output.into(), &false.into()));
    assert!(!std::fs::exists(output).unwrap());
    let ran = run(&["quantize", input, "Q8_0"]).done();
    assert!(ran.stdout.contains("tiny-q8_0.gguf written"), "{}", ran.stdout);
    assert_eq!(dry["bytes"], std::fs::metadata(output).unwrap().len());
    let answer = run(&["-m", output, "--temp", "0", "What is 47 + 85?"]).done();
    assert!(answer.stdout.contains("132"), "{}", answer.stdout);
    run(&["quantize", "-q", input, "Q8_0"]).failed(1, "exists already");
    let mixed = ["quantize", "-q", "--force", "--json", "--tensor-type", "ffn_.*_exps=Q5_0", input, "Q8_0"];
    let mixed = json(&mixed);
    let tensors = mixed["tensors"].as_array().unwrap();
    assert_eq!(tensors.iter().filter(|t| t["to"] == "Q5_0").count(), 6);
    assert!(mixed["types"].as_array().unwrap().iter().any(|t| t["error"].as_f64().unwrap() > 0.01));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    let again = run(&["quantize", "--dry-run", output, "Q5_0"]).done();
    assert!(again.stderr.contains("quantized already"), "{}", again.stderr);
}

#[test]
fn quantize_makes_the_bundled_model_of_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let folder = fathom_testing::fixtures::tiny_r1().hf.canonicalize().unwrap();
    let folder = folder.to_str().unwrap();
    let output = dir.path().join("tiny-r1.gguf");
    let dry = json(&["quantize", "-q", "--dry-run", "--json", folder, "Q8_0"]);
    assert_eq!(dry["output"], format!("{folder}-Q8_0.gguf"));
    run(&["quantize", "-q", folder, output.to_str().unwrap(), "Q8_0"]).done();
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-r1/tiny-r1-q8_0.gguf");
    assert!(std::fs::read(&output).unwrap() == std::fs::read(bundled).unwrap());
    // What it is not for.
    let ran = run(&["-m", folder, "hi"]).failed(1, "is a Hugging Face folder, not a GGUF file");
    assert!(ran.stderr.contains("fathom quantize"), "{}", ran.stderr);
    std::fs::write(dir.path().join("config.json"), r#"{"architectures": ["T5Model"]}"#).unwrap();
    run(&["quantize", dir.path().to_str().unwrap(), "Q8_0"])
        .failed(1, "'T5Model', which has no conversion; known are Llama");
}

/// Several chunks of what the model can read.
fn material() -> String {
    (0..60)
        .map(|i| format!("What is {i} + {}? The sum of {i} and {} is {}.\n", i * 7, i * 7, i * 8))
        .collect()
}

#[test]
fn an_importance_matrix_is_learned_merged_and_used() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two, both] = ["one.gguf", "two.gguf", "both.gguf"].map(|name| dir.path().join(name));
    let learn = |out: &Path, more: &[&str]| {
        let args = ["imatrix", "-q", "--json", "-m", model(), "-c", "128", "-o", text(out)];
        let ran = run_with(&[&args, more].concat(), &material()).done();
        serde_json::from_str::<Value>(&ran.stdout).unwrap()
    };
    let said = learn(&one, &["--chunks", "3"]);
    assert_eq!((&said["chunks"], &said["chunk_size"]), (&Value::from(3), &Value::from(128)));
    let all = learn(&two, &["--process-output"]);
    assert_eq!(all["tensors"].as_u64(), said["tensors"].as_u64().map(|n| n + 1));
    assert!(all["chunks"].as_u64() > Some(5) && all["experts"].as_u64() > Some(0), "{all}");

    let merge = ["imatrix", "--in-file", text(&one), "--in-file", text(&two), "-o", text(&both)];
    let ran = run(&merge).done();
    assert!(ran.stdout.contains("both.gguf written: "), "{}", ran.stdout);
    run(&merge).failed(1, "exists already");
    let count =
        |path: &Path| Gguf::open(path).unwrap().tensor("blk.0.attn_q_a.weight.counts").unwrap().to_f32()[0];
    assert_eq!(count(&both), count(&one) + count(&two));
    assert_eq!(count(&one), 3.0 * 128.0);

    let quantize = |out: &Path, ty: &str, more: &[&str]| {
        json(&[&["quantize", "-q", "--json", model(), text(out), ty], more].concat())
    };
    let out = dir.path().join("out.gguf");
    let plain = quantize(&out, "Q4_K_S", &["--force"]);
    assert!(plain["types"].as_array().unwrap().iter().all(|t| t["weighted_error"].is_null()));
    let weighted = quantize(&out, "Q4_K_S", &["--force", "--imatrix", text(&both)]);
    let tensor = |v: &Value, name: &str| {
        let all = v["tensors"].as_array().unwrap();
        all.iter().find(|t| t["name"] == name).unwrap().clone()
    };
    assert!(tensor(&weighted, "blk.1.ffn_up_exps.weight")["weighted_error"].as_f64() > Some(0.0));
    assert!(tensor(&weighted, "blk.1.attn_norm.weight")["weighted_error"].is_null());
    let new = Gguf::open(&out).unwrap();
    let md = new.metadata();
    assert_eq!(md.str("quantize.imatrix.file").unwrap(), Some(text(&both)));
    assert_eq!(md.str("quantize.imatrix.dataset").unwrap(), Some("-"));
    assert_eq!(md.u32("quantize.imatrix.entries_count").unwrap(), all["tensors"].as_u64().map(|n| n as u32));
    assert!(md.u32("quantize.imatrix.chunks_count").unwrap() > Some(5));
}

#[test]
fn matrices_of_other_models_and_no_matrices_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let other = fathom_testing::fixtures::model("qwen2").f32;
    let matrix = dir.path().join("other.gguf");
    let args = ["imatrix", "-q", "-m", text(&other), "-c", "32", "-o", text(&matrix)];
    run_with(&args, &material()).done();
    // Some names are the same, and the sizes are not.
    let out = dir.path().join("out.gguf");
    let args = ["quantize", model(), text(&out), "Q4_K", "--imatrix"];
    run(&[&args[..], &[text(&matrix)]].concat()).failed(1, "columns, the model's");
    run(&[&args[..], &[model()]].concat()).failed(1, "holds no importance matrix");
    let nothing = dir.path().join("nothing");
    run(&[&args[..], &[text(&nothing)]].concat()).failed(1, "nothing");
    run(&["imatrix", "--in-file", model(), "-o", text(&out)]).failed(1, "holds no importance matrix");
    run_with(&["imatrix", "-m", model(), "-o", text(&out)], "too short").failed(2, "less than a window");
    assert!(!out.exists());
    // Two bits without knowing what matters.
    run(&["quantize", model(), text(&out), "Q2_K_S"]).failed(1, "of no use without an importance matrix");
    let dry = run(&["quantize", "--dry-run", model(), text(&out), "Q2_K_S"]).done();
    assert!(dry.stderr.contains("needs an importance matrix"), "{}", dry.stderr);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_dry_run_says_what_would_become_of_each_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    let ran = run(&["quantize", "--dry-run", model(), text(&out), "q4_k_m", "--pure"]).done();
    let line = ran.stdout.lines().find(|l| l.starts_with("blk.1.ffn_down_exps.weight")).unwrap();
    assert!(line.contains("F16 → Q4_K") && line.ends_with("KiB"), "{line}");
    assert!(ran.stdout.contains("would be written"), "{}", ran.stdout);
    let mixed = json(&[
        "quantize",
        "-q",
        "--dry-run",
        "--json",
        model(),
        "MOE_Q4_K",
        "--output-tensor-type",
        "Q8_0",
        "--token-embedding-type",
        "Q5_K",
    ]);
    let to = |name: &str| {
        let all = mixed["tensors"].as_array().unwrap();
        all.iter().find(|t| t["name"] == name).unwrap()["to"].clone()
    };
    assert_eq!([to("output.weight"), to("token_embd.weight")], ["Q8_0", "Q5_K"]);
    assert_eq!([to("blk.2.ffn_up_exps.weight"), to("blk.2.attn_q_b.weight")], ["Q4_K", "Q6_K"]);
    assert!(
        mixed["output"].as_str().unwrap().ends_with("-MOE_Q4_K.gguf")
            || mixed["output"].as_str().unwrap().ends_with("-moe_q4_k.gguf")
    );
    let left = ["quantize", "-q", "--dry-run", "--json", "--leave-output-tensor", model(), "Q4_K_M"];
    let tensors = json(&left)["tensors"].as_array().unwrap().clone();
    let to = |name: &str| tensors.iter().find(|t| t["name"] == name).unwrap()["to"].clone();
    assert_eq!([to("output.weight"), to("token_embd.weight")], ["F16", "Q4_K"]);
    run(&[&left[..], &["--output-tensor-type", "Q8_0"]].concat()).failed(2, "--leave-output-tensor");
    run(&["quantize", "--output-tensor-type", "Q9", model(), "Q8_0"]).failed(2, "Q9");
    run(&["quantize", "--split-max-size", "4", model(), "Q8_0"]).failed(2, "no size");
    run(&["quantize", "--split-max-size", "4G", "--keep-split", model(), "Q8_0"]).failed(2, "two ways");
}

#[test]
fn shards_run_as_one_model() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m.gguf");
    let said = json(&["quantize", "-q", "--json", "--split-max-size", "3M", model(), text(&out), "Q8_0"]);
    let files = said["files"].as_array().unwrap();
    assert!(files.len() > 2, "{said}");
    assert!(files[0].as_str().unwrap().ends_with(&format!("m-00001-of-{:05}.gguf", files.len())));
    assert_eq!(said["output"], files[0]);
    let ran = run(&[&["-q", "-m", files[1].as_str().unwrap()], &SUM[..]].concat()).done();
    assert!(ran.stdout.contains("132"), "{}", ran.stdout);
    // In another type, shard by shard.
    let (input, out) = (files[0].as_str().unwrap(), dir.path().join("small.gguf"));
    let again = json(&["quantize", "-q", "--json", "--keep-split", input, text(&out), "Q4_0"]);
    let shards = again["files"].as_array().unwrap();
    let tensors = |file: &Value| -> Vec<usize> {
        let file = Gguf::open(file.as_str().unwrap().as_ref()).unwrap();
        file.shards().iter().map(|shard| shard.n_tensors()).collect()
    };
    assert_eq!(tensors(&shards[0]), tensors(&files[0]));
    let ran = run(&[&["-q", "-m", shards[0].as_str().unwrap()], &SUM[..]].concat()).done();
    assert!(ran.stdout.contains("132"), "{}", ran.stdout);
}
