//! The fixtures by name.

use std::path::{Path, PathBuf};

use crate::exam::Question;
use crate::reference::{Reference, TinyReference, TokenizerCase};
use crate::tensors::Tensors;
use crate::unpack;

/// All reference models. The last one is a native checkpoint without GGUF files.
pub const MODELS: [&str; 10] = [
    "llama3",
    "llama-tied",
    "qwen2",
    "qwen2-tied",
    "qwen3",
    "qwen3_moe",
    "deepseek_v2-lite",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v3-fp8",
];

/// The vocabularies of published models.
pub const VOCABS: [&str; 4] = ["deepseek-coder", "deepseek-llm", "llama-bpe", "qwen2"];

/// A reference model: a tiny random model of a real architecture, and what transformers make of it.
pub struct Model {
    /// One of [`MODELS`].
    pub name: String,
    /// The Hugging Face folder: config.json, tokenizer.json, safetensors in BF16 (or FP8).
    pub hf: PathBuf,
    /// The folder's weights as GGUF in F16 (exact), by llama.cpp's converter. Not of deepseek_v3-fp8.
    pub f16: PathBuf,
    /// The same in F32.
    pub f32: PathBuf,
    /// The true values of the FP8 tensors. Only of deepseek_v3-fp8.
    pub dequantized: PathBuf,
}

impl Model {
    /// Prompts, greedy continuations, token ids and rendered templates.
    pub fn reference(&self) -> Reference {
        read_json(&fixture(&format!("models/{}/reference.json", self.name)))
    }

    /// The logits that [`Reference`] names.
    pub fn reference_tensors(&self) -> Tensors {
        Tensors::open(&fixture(&format!("models/{}/reference.safetensors", self.name)))
    }
}

/// The reference model `name`, unpacked.
pub fn model(name: &str) -> Model {
    let dir = unpack::model(&fixtures_dir(), name);
    Model {
        name: name.into(),
        hf: dir.join("hf"),
        f16: dir.join(format!("{name}-f16.gguf")),
        f32: dir.join(format!("{name}-f32.gguf")),
        dequantized: dir.join("dequantized.safetensors"),
    }
}

/// A published vocabulary and token ids by llama.cpp.
pub struct Vocab {
    /// A GGUF file without tensors.
    pub gguf: PathBuf,
    /// llama.cpp's own test texts, by [`Vocab::inp_out`].
    inp: PathBuf,
    out: PathBuf,
    cases: PathBuf,
}

impl Vocab {
    /// Texts of many kinds with their ids, no BOS added.
    pub fn cases(&self) -> Vec<TokenizerCase> {
        let lines = read_text(&self.cases);
        lines.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    /// llama.cpp's own test texts and their ids (no BOS, special tokens not parsed).
    pub fn inp_out(&self) -> Vec<(String, Vec<u32>)> {
        let (inp, out) = (read_text(&self.inp), read_text(&self.out));
        let texts = inp.strip_suffix("\n__ggml_vocab_test__\n").expect("a separator at the end");
        let texts: Vec<_> = texts.split("\n__ggml_vocab_test__\n").collect();
        let ids: Vec<Vec<u32>> = out
            .lines()
            .map(|l| l.split_whitespace().map(|id| id.parse().expect("a token id")).collect())
            .collect();
        assert_eq!(texts.len(), ids.len(), "{}", self.inp.display());
        texts.into_iter().map(String::from).zip(ids).collect()
    }
}

/// The vocabulary `name` of [`VOCABS`].
pub fn vocab(name: &str) -> Vocab {
    Vocab {
        gguf: fixture(&format!("vocab/{name}.gguf")),
        inp: fixture(&format!("vocab/{name}.inp")),
        out: fixture(&format!("vocab/{name}.out")),
        cases: fixture(&format!("tokenizers/{name}.jsonl")),
    }
}

/// Blocks of every format with their values, and what ggml's encoders make of a matrix.
pub struct Quants {
    /// A tensor of 4 rows of 512 per format, named by the format in lower case.
    pub formats_gguf: PathBuf,
    /// Their values in F32.
    pub formats: PathBuf,
    /// The matrix that was encoded: `[256, 1024]`.
    pub source: PathBuf,
    /// A positive weight per column of it.
    pub importance: PathBuf,
    /// Per format: errors, and the SHA-256 of the blocks.
    pub encoder_rmse: PathBuf,
}

/// The fixtures of block formats.
pub fn quants() -> Quants {
    Quants {
        formats_gguf: fixture("quants/formats.gguf"),
        formats: fixture("quants/formats.safetensors"),
        source: fixture("quants/source.safetensors"),
        importance: fixture("quants/importance.safetensors"),
        encoder_rmse: fixture("quants/encoder-rmse.json"),
    }
}

/// The small trained model with R1's architecture.
pub struct TinyR1 {
    /// The Hugging Face folder: BF16, with the MTP layer.
    pub hf: PathBuf,
    /// In F16, by llama.cpp's converter; without the MTP layer.
    pub f16: PathBuf,
    /// 500 held-out prompts: a JSON object a line.
    pub eval: PathBuf,
    /// Held-out conversations, each from its BOS on.
    pub eval_text: PathBuf,
}

impl TinyR1 {
    /// Prompts and greedy continuations.
    pub fn reference(&self) -> TinyReference {
        read_json(&fixture("tiny-r1/reference.json"))
    }

    /// The questions of the held-out set, in order.
    pub fn questions(&self) -> Vec<Question> {
        let lines = read_text(&self.eval);
        lines.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    /// `promptN.input_ids`, `promptN.logits`, and for prompt 0 hidden states, routing, MTP logits.
    pub fn reference_tensors(&self) -> Tensors {
        Tensors::open(&fixture("tiny-r1/reference.safetensors"))
    }
}

/// tiny-r1 with its expected outputs.
pub fn tiny_r1() -> TinyR1 {
    TinyR1 {
        hf: unpack::folder(&fixtures_dir().join("tiny-r1/hf.tar.xz"), "tiny-r1"),
        f16: fixture("tiny-r1/tiny-r1-f16.gguf"),
        eval: fixture("tiny-r1/eval.jsonl"),
        eval_text: fixture("tiny-r1/eval-text.txt"),
    }
}

/// The path of a fixture by its path under tests/fixtures without `.xz`, unpacked if need be.
pub fn fixture(path: &str) -> PathBuf {
    unpack::file(&fixtures_dir(), path)
}

/// The text of a file.
pub fn read_text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A file of JSON.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    serde_json::from_str(&read_text(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn fixtures_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/").join("fixtures")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_fixtures_unpack() {
        for name in MODELS {
            let m = model(name);
            assert!(m.hf.join("config.json").exists());
            assert_eq!(m.f32.exists(), name != "deepseek_v3-fp8");
            assert_eq!(m.dequantized.exists(), name == "deepseek_v3-fp8");
            let (reference, tensors) = (m.reference(), m.reference_tensors());
            for p in &reference.prompts {
                let (shape, values) = tensors.f32(&p.output.logits);
                assert_eq!(shape.iter().product::<usize>(), values.len());
                assert_eq!(p.output.logits_first_position + shape[0], p.ids.len());
                assert_eq!(p.top2_sum.is_some(), name == "deepseek_v2");
                assert_eq!(p.mtp_logits.is_some(), name == "deepseek_v3-fp8");
            }
            assert!(!reference.tokenize.is_empty() && !reference.chat.is_empty());
        }
        for name in VOCABS {
            let v = vocab(name);
            assert!(v.gguf.exists());
            assert_eq!(v.cases().len(), 211);
            assert!(v.inp_out().len() > 40);
        }
        let q = quants();
        for path in [q.formats_gguf, q.formats, q.source, q.importance, q.encoder_rmse] {
            assert!(path.exists(), "{}", path.display());
        }
        let t = tiny_r1();
        assert_eq!(read_text(&t.eval).lines().count(), 500);
        assert!(t.f16.exists() && t.eval_text.exists() && t.hf.join("model.safetensors").exists());
        let (prompts, tensors) = (t.reference().prompts, t.reference_tensors());
        assert_eq!(tensors.f32("prompt0.logits").0[0], tensors.i64("prompt0.input_ids").1.len());
        assert_eq!(prompts.len(), 8);
        assert_eq!(t.reference().greedy.len(), 20);
    }
}
