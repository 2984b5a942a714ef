//! bench: what is measured and how it is printed, not how fast it is.

use serde_json::Value;

use super::{model, run};

fn json(args: &[&str]) -> Vec<Value> {
    let ran = run(&[&["bench", "-q", "--json"], args].concat()).done();
    assert_eq!(ran.stderr, "");
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn json_has_the_fields_of_llama_bench_and_the_shares() {
    let all = json(&["-p", "16", "-n", "4", "-r", "2", "-t", "1"]);
    assert_eq!(all.len(), 2);
    for test in &all {
        for (key, value) in [
            ("model_type", Value::from("deepseek2 13.62 M Q8_0")),
            ("model_n_params", 13_616_176.into()),
            ("n_batch", 2048.into()),
            ("n_ubatch", 512.into()),
            ("n_threads", 1.into()),
            ("n_depth", 0.into()),
            ("type_k", "f16".into()),
            ("backends", "CPU".into()),
        ] {
            assert_eq!(test[key], value, "{key}: {test}");
        }
        let samples = |key: &str| -> Vec<f64> { serde_json::from_value(test[key].clone()).unwrap() };
        let (ns, ts) = (samples("samples_ns"), samples("samples_ts"));
        let tokens = test["n_prompt"].as_f64().unwrap() + test["n_gen"].as_f64().unwrap();
        assert_eq!((ns.len(), ts.len()), (2, 2));
        for (ns, ts) in ns.iter().zip(&ts) {
            assert!((ns * ts / 1e9 / tokens - 1.0).abs() < 1e-6, "{ns} ns are not {ts} tokens/s");
        }
        let number = |key: &str| test[key].as_f64().unwrap_or_else(|| panic!("{key}: {test}"));
        assert!((number("avg_ts") - (ts[0] + ts[1]) / 2.0).abs() < 1e-6 * ts[0]);
        assert!((number("avg_ns") - (ns[0] + ns[1]) / 2.0).abs() <= 1.0);
        for key in ["stddev_ns", "stddev_ts"] {
            assert!(number(key) >= 0.0);
        }
        for key in
            ["median_ts", "bytes", "macs", "gb_per_s", "read_gb_per_s", "gmac_per_s", "peak_gmac_per_s"]
        {
            assert!(number(key) > 0.0, "{key}: {test}");
        }
        let share = number("gb_per_s") / number("read_gb_per_s");
        assert!((number("read_share") - share).abs() < 1e-9);
        let share = number("gmac_per_s") / number("peak_gmac_per_s");
        assert!((number("peak_share") - share).abs() < 1e-9);
        assert_eq!(test["test_time"].as_str().unwrap().len(), "2026-01-31T12:00:00Z".len());
        for key in ["build_commit", "cpu_info", "model_filename", "isa"] {
            assert!(test[key].is_string(), "{key}: {test}");
        }
    }
    let sizes: Vec<_> = all.iter().map(|t| (t["n_prompt"].as_u64(), t["n_gen"].as_u64())).collect();
    assert_eq!(sizes, [(Some(16), Some(0)), (Some(0), Some(4))]);
}

#[test]
fn lists_make_a_test_of_every_combination() {
    let args = ["-p", "4,300", "-n", "3", "--batch", "1,2", "-d", "0,20,5", "-r", "1", "-t", "1,2"];
    let all = json(&[&args[..], &["-ub", "128", "-ctk", "f32,q8_0", "-ctv", "q8_0"]].concat());
    assert_eq!(all.len(), (2 + 2) * 3 * 2 * 2);
    let count = |key: &str, value: Value| all.iter().filter(|t| t[key] == value).count();
    assert_eq!(count("n_depth", 20.into()), 16);
    assert_eq!(count("n_threads", 2.into()), 24);
    assert_eq!(count("type_k", "q8_0".into()), 24);
    assert_eq!(count("type_v", "q8_0".into()), 48);
    assert_eq!(count("n_parallel", 2.into()), 12);
    // What lies in the cache is read too.
    let bytes = |i: usize| all[i]["bytes"].as_f64().unwrap();
    assert!(bytes(6) > bytes(10) && bytes(10) > bytes(2), "{all:?}");
    // A step of two tokens and one of one need fewer reads than three of one, and as many products.
    let [one, two] = [&all[2], &all[3]];
    assert!(one["bytes"].as_f64() > two["bytes"].as_f64() && one["macs"] == two["macs"], "{one} {two}");
}

#[test]
fn the_table_names_the_model_the_machine_and_each_test() {
    let ran = run(&[
        "bench",
        "-q",
        "-m",
        model(),
        "-p",
        "8",
        "-n",
        "2",
        "--batch",
        "2",
        "-d",
        "9",
        "-r",
        "1",
        "-t",
        "2",
    ]);
    let text = ran.done().stdout;
    for part in ["deepseek2 9.05 M F16", "2 threads: ", "GB/s", "pp8 @ d9 ", "tg2 x2 @ d9 "] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains('\x1b'));
    // The heads stand over their columns.
    let widths: Vec<usize> = text.lines().skip(4).map(|l| l.chars().count()).collect();
    assert!(widths.len() == 3 && widths.iter().all(|w| *w == widths[0]), "{text}");
}

#[test]
fn a_shape_is_measured_without_a_file() {
    let all =
        json(&["--shape", "qwen2-0.5b", "--mix", "q4_0", "--layers", "1", "-p", "8", "-n", "2", "-r", "1"]);
    assert_eq!(all[0]["model_filename"], "qwen2-0.5b q4_0 with 1 layer");
    let layer = 2 * 896 * 896 + 2 * 128 * 896 + 3 * 896 * 4864;
    let vectors = 896 + 2 * 896 + 896 + 2 * 128;
    assert_eq!(all[0]["model_n_params"], 2 * 151_936 * 896 + layer + vectors);
    // One row of logits, and 8 tokens through the layer.
    assert_eq!(all[0]["macs"].as_f64(), Some(f64::from(151_936 * 896 + 8 * layer)));
}

#[test]
#[cfg(unix)]
fn ctrl_c_prints_what_was_measured_and_exits_130() {
    use std::io::{BufRead, BufReader, Read};
    use std::process::Stdio;

    let mut command = super::fathom();
    command.args(["bench", "-q", "-p", "8", "-n", "4000", "-r", "1000"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    while !text.contains("pp8") {
        assert_ne!(out.read_line(&mut text).unwrap(), 0, "{text}");
    }
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    out.read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{text}");
}
