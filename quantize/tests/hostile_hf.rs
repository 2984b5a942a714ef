//! Folders that lie: each ends in one line that says where, and none in a panic.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ggml_sys::GgmlType;
use ggml_sys::tensor::Owner;
use quantize::{Error, Plan, Source, Target, hf};
use serde_json::{Value, json};

/// A folder in memory that is sound, to be spoilt: a qwen2 of one layer.
struct Folder {
    files: BTreeMap<String, Vec<u8>>,
    config: Value,
    tokenizer: Value,
    /// Name to type, shape and bytes.
    tensors: BTreeMap<String, (&'static str, Vec<usize>, Vec<u8>)>,
}

const PATH: &str = "some/folder";

fn width(dtype: &str) -> usize {
    match dtype {
        "F8_E4M3" => 1,
        "F32" => 4,
        "F64" | "I64" => 8,
        _ => 2,
    }
}

impl Folder {
    fn new() -> Self {
        let config = json!({
            "architectures": ["Qwen2ForCausalLM"],
            "num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 12, "max_position_embeddings": 128, "rms_norm_eps": 1e-6,
            "rope_theta": 10000, "tie_word_embeddings": false, "bos_token_id": 8
        });
        let words: serde_json::Map<_, _> =
            ["a", "b", "ab", "Ġ", "c"].iter().enumerate().map(|(i, w)| (w.to_string(), i.into())).collect();
        let qwen2 = concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        );
        let tokenizer = json!({
            "model": {"type": "BPE", "vocab": words, "merges": ["a b"]},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": qwen2}, "behavior": "Isolated", "invert": false},
                {"type": "ByteLevel", "use_regex": false},
            ]},
            "added_tokens": [{"id": 8, "content": "<|end|>", "special": true}],
        });
        let mut folder = Folder { files: BTreeMap::new(), config, tokenizer, tensors: BTreeMap::new() };
        for (name, shape) in [
            ("model.embed_tokens.weight", vec![12, 64]),
            ("model.norm.weight", vec![64]),
            ("lm_head.weight", vec![12, 64]),
        ] {
            folder.tensor(name, "BF16", &shape);
        }
        for (name, shape) in [
            ("input_layernorm.weight", vec![64]),
            ("post_attention_layernorm.weight", vec![64]),
            ("self_attn.q_proj.weight", vec![64, 64]),
            ("self_attn.q_proj.bias", vec![64]),
            ("self_attn.k_proj.weight", vec![32, 64]),
            ("self_attn.v_proj.weight", vec![32, 64]),
            ("self_attn.o_proj.weight", vec![64, 64]),
            ("mlp.gate_proj.weight", vec![96, 64]),
            ("mlp.up_proj.weight", vec![96, 64]),
            ("mlp.down_proj.weight", vec![64, 96]),
        ] {
            folder.tensor(&format!("model.layers.0.{name}"), "BF16", &shape);
        }
        folder
    }

    fn tensor(&mut self, name: &str, dtype: &'static str, shape: &[usize]) {
        let bytes = vec![0; shape.iter().product::<usize>() * width(dtype)];
        self.tensors.insert(name.into(), (dtype, shape.to_vec(), bytes));
    }

    /// The safetensors file of all tensors.
    fn weights(&self) -> Vec<u8> {
        let (mut header, mut data) = (serde_json::Map::new(), vec![]);
        for (name, (dtype, shape, bytes)) in &self.tensors {
            let start = data.len();
            data.extend(bytes);
            let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
            header.insert(name.clone(), entry);
        }
        safetensors(&Value::Object(header).to_string(), &data)
    }

    fn open(&self) -> Result<Source, Error> {
        let mut files = BTreeMap::from([
            ("config.json".to_string(), self.config.to_string().into_bytes()),
            ("tokenizer.json".to_string(), self.tokenizer.to_string().into_bytes()),
            ("model.safetensors".to_string(), self.weights()),
        ]);
        for (name, bytes) in &self.files {
            files.insert(name.clone(), bytes.clone());
        }
        let asked = RefCell::new(vec![]);
        let open = |name: &str| {
            asked.borrow_mut().push(name.to_string());
            Ok(files.get(name).filter(|b| !b.is_empty()).map(|b| Arc::new(b.clone()) as Owner))
        };
        let result = hf::from_files(Path::new(PATH), &open);
        for name in asked.into_inner() {
            assert!(!name.contains(['/', '\\', ':']) && name != ".." && name != ".", "asked for {name:?}");
        }
        result
    }

    #[track_caller]
    fn refused(&self, what: &str) {
        let e = self.open().map(drop).unwrap_err().to_string();
        assert!(e.starts_with(PATH), "{e}");
        assert!(e.contains(what), "{e:?} does not say {what:?}");
        assert!(!e.contains(char::is_control) && e.chars().count() < 600, "{e:?}");
    }

    fn index(&mut self, map: Value) -> &mut Self {
        let index = json!({"metadata": {}, "weight_map": map}).to_string();
        self.files.insert("model.safetensors.index.json".into(), index.into_bytes());
        self
    }
}

fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[track_caller]
fn refused(spoil: impl FnOnce(&mut Folder), what: &str) {
    let mut folder = Folder::new();
    spoil(&mut folder);
    folder.refused(what);
}

#[test]
fn a_sound_folder_is_read() {
    let source = Folder::new().open().unwrap();
    assert_eq!(source.tensors().len(), 13);
    assert_eq!(source.metadata().str("general.name").unwrap(), Some("Folder"));
    assert_eq!(source.metadata().u32("tokenizer.ggml.bos_token_id").unwrap(), Some(8));
    let tokens = source.metadata().require_strings("tokenizer.ggml.tokens").unwrap();
    assert_eq!((tokens.get_str(8), tokens.get_str(11)), (Some("<|end|>"), Some("[PAD11]")));
}

/// The keys under `tokenizer.ggml.` that a folder gets, in few words.
fn roles(folder: &Folder) -> String {
    let source = folder.open().unwrap();
    let roles = source.metadata().iter().filter_map(|(key, value)| {
        let key = key.strip_prefix("tokenizer.ggml.")?;
        (key.ends_with("_id") || key.starts_with("add_")).then(|| format!("{key}={value}"))
    });
    roles.collect::<Vec<_>>().join(" ")
}

#[test]
fn several_files_speak_of_tokens_with_a_role() {
    let file =
        |f: &mut Folder, name: &str, value: Value| _ = f.files.insert(name.into(), value.to_string().into());
    let mut folder = Folder::new();
    folder.tokenizer["added_tokens"] = json!([
        {"id": 6, "content": "<|eom_id|>", "special": true}, {"id": 7, "content": "<s>", "special": true},
        {"id": 8, "content": "<|end|>", "special": true}, {"id": 9, "content": "<|endoftext|>", "special": true},
    ]);
    assert_eq!(roles(&folder), "bos_token_id=8");
    // What has a name goes before what has a number; the others' nonsense is left out.
    folder.config["eos_token_id"] = json!([8, 9]);
    folder.config["pad_token_id"] = json!(-1);
    folder.config["mask_token_id"] = json!(99);
    file(
        &mut folder,
        "tokenizer_config.json",
        json!({"bos_token": {"content": "<s>"}, "add_bos_token": true}),
    );
    assert_eq!(roles(&folder), "bos_token_id=7 add_bos_token=true");
    // Several ends: the first is the end of a text, and those that nobody knows by their text are named.
    file(&mut folder, "generation_config.json", json!({"eos_token_id": [8, 9, 6, 5]}));
    let ends = "bos_token_id=7 eos_token_id=8 eom_token_id=6 eot_token_id=5 add_bos_token=true";
    assert_eq!(roles(&folder), ends);
    folder.files.remove("generation_config.json");
    // The post-processor has the last word, but for one class.
    folder.tokenizer["post_processor"] = json!({"type": "ByteLevel"});
    assert_eq!(roles(&folder), "bos_token_id=7 add_bos_token=false add_eos_token=false");
    let config = json!({"bos_token": "<s>", "add_bos_token": true, "tokenizer_class": "LlamaTokenizerFast"});
    file(&mut folder, "tokenizer_config.json", config);
    assert_eq!(roles(&folder), "bos_token_id=7 add_bos_token=true add_eos_token=false");
    // A separator between two texts.
    let id = |id: &str| json!({"SpecialToken": {"id": id}});
    let text = |id: &str| json!({"Sequence": {"id": id}});
    folder.tokenizer["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [id("<s>"), text("A"), id("<|end|>")],
        "pair": [id("<s>"), text("A"), id("<|eom_id|>"), id("<|endoftext|>"), text("B"), id("<|end|>")],
    });
    file(
        &mut folder,
        "tokenizer_config.json",
        json!({"bos_token": "<s>", "eos_token": "<|end|>", "sep_token": "<|endoftext|>"}),
    );
    let template = "bos_token_id=7 eos_token_id=8 seperator_token_id=9 add_bos_token=true add_eos_token=true add_sep_token=true";
    assert_eq!(roles(&folder), template);
}

#[test]
fn files_that_are_missing_or_no_json() {
    let set = |name: &'static str, bytes: &'static [u8]| {
        move |f: &mut Folder| _ = f.files.insert(name.into(), bytes.into())
    };
    refused(set("config.json", b""), "has no config.json: it is no Hugging Face folder");
    refused(set("tokenizer.json", b""), "has no tokenizer.json");
    for name in ["tiktoken.model", "tokenizer.model", "vocab.json"] {
        let instead = move |f: &mut Folder| {
            f.files.insert("tokenizer.json".into(), vec![]);
            f.files.insert(name.into(), b"{}".to_vec());
        };
        refused(instead, &format!("has no tokenizer.json, and its {name} is not read"));
    }
    refused(
        set("model.safetensors", b""),
        "has no weights: neither model.safetensors nor model.safetensors.index.json",
    );
    refused(set("config.json", b"{"), "config.json: is no JSON: EOF while parsing an object");
    refused(set("config.json", b"\xff\xfe"), "config.json: is no UTF-8");
    refused(set("config.json", b"[]"), "config.json: holds an array of 0, not an object");
    refused(set("tokenizer.json", b"nul"), "tokenizer.json: is no JSON");
    refused(set("tokenizer_config.json", b"7"), "tokenizer_config.json: holds 7, not an object");
    refused(set("generation_config.json", b"\x00"), "generation_config.json: is no JSON");
    refused(set("chat_template.jinja", b"\xff"), "chat_template.jinja: is no UTF-8");
}

#[test]
fn what_config_says() {
    let set = |key: &'static str, value: Value| move |f: &mut Folder| f.config[key] = value;
    let known = "known are LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, Qwen3MoeForCausalLM, DeepseekV2ForCausalLM, DeepseekV3ForCausalLM";
    refused(set("architectures", json!(["GPT2\n"])), "is the string 'GPT2\\n', which has no conversion");
    refused(set("architectures", json!(["GPT2"])), known);
    refused(set("architectures", json!([])), "is empty");
    refused(set("architectures", json!(null)), "is missing; known are");
    refused(set("hidden_size", json!(null)), "key 'hidden_size' is missing");
    refused(set("hidden_size", json!("64")), "key 'hidden_size': is the string '64', not an integer");
    refused(set("hidden_size", json!(0)), "key 'hidden_size': is 0");
    refused(set("hidden_size", json!(65)), "4 heads do not divide it");
    refused(set("hidden_size", json!(-64)), "is -64, not an integer of 0 to 4294967295");
    refused(set("hidden_size", json!(1u64 << 40)), "is 1099511627776, not an integer");
    refused(
        set("num_hidden_layers", json!(4_294_967_295u32)),
        "tensor 'model.layers.1.input_layernorm.weight': is missing",
    );
    refused(set("num_attention_heads", json!(0)), "key 'num_attention_heads': is 0");
    refused(
        set("head_dim", json!(4_294_967_295u32)),
        "tensor 'model.layers.0.self_attn.q_proj.weight': is [64, 64], and [17179869180, 64] by config.json",
    );
    refused(
        set("vocab_size", json!(13)),
        "tensor 'model.embed_tokens.weight': is [12, 64], and [13, 64] by config.json",
    );
    refused(
        set("rms_norm_eps", json!(1e300)),
        "key 'rms_norm_eps': is 1e+300, not a number that 32 bits hold",
    );
    refused(set("rms_norm_eps", json!(null)), "key 'rms_norm_eps' is missing");
    refused(set("tie_word_embeddings", json!(1)), "key 'tie_word_embeddings': is 1, not true or false");
    refused(
        set("rope_scaling", json!({"type": "longrope"})),
        "key 'rope_scaling.type': is 'longrope'; known are default, linear, llama3 and yarn",
    );
    refused(set("rope_scaling", json!({"type": "yarn"})), "key 'rope_scaling.factor' is missing");
    refused(set("rope_scaling", json!([])), "key 'rope_scaling': is an array of 0, not an object");
    refused(
        set("quantization_config", json!({"quant_method": "gptq"})),
        "of quantized weights only fp8 is read",
    );
    refused(
        set("quantization_config", json!({"weight_block_size": [128, 0]})),
        "is not two positive integers",
    );
    refused(set("bos_token_id", json!(12)), "key 'bos_token_id': is 12, and there are 12 tokens");
    // One that says otherwise than the checkpoint.
    refused(
        set("tie_word_embeddings", json!(false)).and(|f| _ = f.tensors.remove("lm_head.weight")),
        "tensor 'lm_head.weight': is missing",
    );
}

/// One change after another.
trait And: FnOnce(&mut Folder) + Sized {
    fn and(self, next: impl FnOnce(&mut Folder)) -> impl FnOnce(&mut Folder) {
        move |f: &mut Folder| {
            self(f);
            next(f);
        }
    }
}

impl<F: FnOnce(&mut Folder)> And for F {}

#[test]
fn llamas_and_deepseeks_that_make_no_sense() {
    let llama = |f: &mut Folder| f.config["architectures"] = json!(["LlamaForCausalLM"]);
    let bad_ramp =
        json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0});
    refused(llama.and(|f| f.config["rope_scaling"] = bad_ramp), "make no ramp");
    refused(llama.and(|f| f.config["head_dim"] = json!(7)), "is 7; pairs are rotated");
    let deepseek = |f: &mut Folder| {
        f.config["architectures"] = json!(["DeepseekV3ForCausalLM"]);
        for key in [
            "kv_lora_rank",
            "qk_nope_head_dim",
            "qk_rope_head_dim",
            "v_head_dim",
            "n_routed_experts",
            "moe_intermediate_size",
        ] {
            f.config[key] = json!(4_294_967_295u32);
        }
    };
    refused(deepseek, "key 'kv_lora_rank': is too large");
    refused(
        deepseek
            .and(|f| f.config["scoring_func"] = json!("relu"))
            .and(|f| f.config["kv_lora_rank"] = json!(8))
            .and(|f| f.config["qk_nope_head_dim"] = json!(0)),
        "key 'qk_nope_head_dim': is 0",
    );
    refused(deepseek.and(|f| f.config["v_head_dim"] = json!(null)), "key 'v_head_dim' is missing");
}

#[test]
fn tensors_that_are_missing_left_over_or_of_another_kind() {
    const NORM: &str = "model.norm.weight";
    refused(|f| _ = f.tensors.remove(NORM), "tensor 'model.norm.weight': is missing");
    refused(|f| f.tensor(NORM, "BF16", &[1, 64]), "is [1, 64], and [64] by config.json");
    refused(|f| f.tensor(NORM, "BF16", &[]), "is [], and [64] by config.json");
    refused(|f| f.tensor(NORM, "BF16", &[0]), "is [0], and [64] by config.json");
    refused(|f| f.tensor(NORM, "I64", &[64]), "is of type I64; F32, F16, BF16 and F8_E4M3 are read");
    refused(
        |f| f.tensor("model.layers.0.mlp.extra", "F32", &[1]),
        "tensor 'model.layers.0.mlp.extra': is not known in this architecture",
    );
    refused(|f| f.tensor("x\n", "F32", &[1]), "tensor 'x\\n'");
    refused(
        |f| f.tensor("model.layers.1.input_layernorm.weight", "BF16", &[64]),
        "'model.layers.1.input_layernorm.weight': is not known",
    );
    let q = "model.layers.0.self_attn.q_proj.weight";
    refused(
        |f| f.tensor(q, "F8_E4M3", &[64, 64]),
        "config.json has no quantization_config.weight_block_size",
    );
    let fp8 = |f: &mut Folder| {
        f.config["quantization_config"] = json!({"quant_method": "fp8", "weight_block_size": [32, 48]});
        f.tensor(q, "F8_E4M3", &[64, 64]);
    };
    refused(fp8, "tensor 'model.layers.0.self_attn.q_proj.weight_scale_inv': is missing");
    let scales =
        |shape: &'static [usize], ty| move |f: &mut Folder| f.tensor(&format!("{q}_scale_inv"), ty, shape);
    refused(fp8.and(scales(&[2, 1], "F32")), "_scale_inv': is [2, 1], and [2, 2] by config.json");
    refused(fp8.and(scales(&[2, 2], "F8_E4M3")), "_scale_inv': is of type F8_E4M3 itself");
    let mut sound = Folder::new();
    fp8.and(scales(&[2, 2], "F32"))(&mut sound);
    sound.open().unwrap();
    // Scales of what is not FP8 belong to nothing.
    refused(scales(&[2, 2], "F32"), "_scale_inv': is not known");
}

#[test]
fn headers_of_safetensors() {
    let set = |bytes: Vec<u8>| move |f: &mut Folder| _ = f.files.insert("model.safetensors".into(), bytes);
    let file = |header: &str| set(safetensors(header, &[0; 8]));
    refused(set(vec![1, 2, 3]), "model.safetensors: no safetensors file: 3 bytes long");
    refused(set(vec![0xff; 64]), "a header of 18446744073709551615 bytes");
    refused(
        set(safetensors("{}", &[])[..9].to_vec()),
        "no safetensors file, or cut short: a header of 2 bytes",
    );
    refused(file("{"), "model.safetensors: header: 'EOF while parsing");
    refused(file("[]"), "header: '");
    refused(file("{}"), "cut short or damaged: 8 bytes of data, 0 by its header");
    let one = |dtype: &str, shape: &str, from: u64, to: u64| {
        format!(r#""a{from}": {{"dtype": "{dtype}", "shape": {shape}, "data_offsets": [{from}, {to}]}}"#)
    };
    let with = |tensors: &[String]| file(&format!("{{{}}}", tensors.join(",")));
    refused(with(&[one("F32", "[2]", 0, 8)]), "is missing");
    refused(with(&[one("F32", "[3]", 0, 12)]), "cut short or damaged: 8 bytes of data, 12 by its header");
    refused(with(&[one("F32", "[3]", 0, 8)]), "header: '");
    refused(with(&[one("F32", "[1]", 4, 8)]), "header: '");
    refused(with(&[one("F32", "[1]", 0, 4)]), "8 bytes of data, 4 by its header");
    refused(with(&[one("F32", "[2]", 8, 0)]), "header: '");
    refused(with(&[one("Q7", "[2]", 0, 8)]), "header: 'unknown variant");
    refused(with(&[one("F32", "[18446744073709551615, 18446744073709551615]", 0, 8)]), "header: '");
    // Overlapping.
    refused(with(&[one("F32", "[2]", 0, 8), one("F32", "[1]", 4, 8)]), "header: '");
    // Sizes whose sum is beyond what a counter holds, and comes back to what the file has.
    let n = (1u64 << 61) - 1;
    let wrap: Vec<String> = (0..8).map(|i| one("U8", &format!("[{n}]"), i * n, (i + 1) * n)).collect();
    refused(with(&wrap), "bytes of data, 18446744073709551608 by its header");
}

#[test]
fn indexes() {
    let all = |file: &str| {
        let names = Folder::new().tensors.into_keys();
        Value::Object(names.map(|name| (name, file.into())).collect())
    };
    let mut sound = Folder::new();
    sound.index(all("model.safetensors")).open().unwrap();
    for outside in ["../x", "/etc/passwd", "..", ".", "", "a/b", "C:x", "a\\b", "a\0b"] {
        refused(|f| _ = f.index(all(outside)), "not the name of a file in this folder");
    }
    refused(
        |f| _ = f.index(all("absent.safetensors")),
        "absent.safetensors: is missing: model.safetensors.index.json says that 13 tensors are in it",
    );
    refused(|f| _ = f.index(json!({"x": 7})), "key 'weight_map.x': is 7, not the name");
    refused(|f| _ = f.index(json!([])), "key 'weight_map': is an array of 0, not an object");
    let mut more = all("model.safetensors");
    more["model.extra"] = json!("model.safetensors");
    refused(
        |f| _ = f.index(more),
        "tensor 'model.extra': is not there, and model.safetensors.index.json says it is",
    );
    let mut fewer = all("model.safetensors");
    fewer.as_object_mut().unwrap().remove("lm_head.weight");
    refused(|f| _ = f.index(fewer), "tensor 'lm_head.weight': is not in model.safetensors.index.json");
    // The same tensors in two shards.
    let mut twice = all("model.safetensors");
    twice["lm_head.weight"] = json!("second.safetensors");
    refused(
        |f| {
            let weights = f.weights();
            f.files.insert("second.safetensors".into(), weights);
            f.index(twice);
        },
        "is in some/folder/model.safetensors too",
    );
}

#[test]
fn tokenizers() {
    let set = |key: &'static str, value: Value| move |f: &mut Folder| f.tokenizer[key] = value;
    let model = |key: &'static str, value: Value| move |f: &mut Folder| f.tokenizer["model"][key] = value;
    refused(set("model", json!(null)), "key 'model' is missing");
    refused(model("type", json!("Unigram")), "key 'model.type': is not BPE");
    refused(model("vocab", json!(["a"])), "key 'model.vocab': is an array of 1, not an object");
    refused(
        model("vocab", json!({"a": 12})),
        "key 'model.vocab.a': has the id 12, and the embedding has 12 rows",
    );
    refused(model("vocab", json!({"a": -1})), "has the id -1");
    refused(model("vocab", json!({"a": 1, "b": 1})), "key 'model.vocab.b': has the id 1, as \"a\" has");
    refused(model("merges", json!([7])), "key 'model.merges': entry 0 is 7, not two tokens");
    refused(model("merges", json!([["a", "b", "c"]])), "entry 0 is an array of 3, not two tokens");
    refused(set("normalizer", json!({"type": "Lowercase"})), "changes the text");
    refused(
        set("normalizer", json!({"type": "Sequence", "normalizers": [{"type": "Prepend"}]})),
        "changes the text",
    );
    refused(set("added_tokens", json!([{"id": 8}])), "entry 0 has no id or no content");
    refused(set("added_tokens", json!([{"id": 99, "content": "x\n"}])), "\"x\\n\" has the id 99");
    refused(
        set("added_tokens", json!([{"id": 8, "content": "x"}, {"id": 8, "content": "y"}])),
        "token 8 is both \"x\" and \"y\"",
    );
    refused(set("pre_tokenizer", json!({"type": "ByteLevel"})), "has a step that is not read");
    refused(set("post_processor", json!(7)), "key 'post_processor': is 7, not an object");
    let file = |name: &'static str, value: Value| {
        move |f: &mut Folder| _ = f.files.insert(name.into(), value.to_string().into())
    };
    refused(
        file("generation_config.json", json!({"eos_token_id": "x"})),
        "is neither an id nor an array of ids",
    );
    refused(
        file("generation_config.json", json!({"eos_token_id": [8, 12]})),
        "key 'eos_token_id': is 12, and there are 12 tokens",
    );
    refused(
        file("generation_config.json", json!({"temperature": "hot"})),
        "key 'temperature': is the string 'hot', not a number",
    );
    refused(
        file("tokenizer_config.json", json!({"chat_template": 7})),
        "key 'chat_template': is 7, not a string",
    );
    refused(
        file("tokenizer_config.json", json!({"chat_template": [{"name": "x"}]})),
        "entry 0 has no name or no template",
    );
    refused(
        file("tokenizer_config.json", json!({"added_tokens_decoder": {"x": {}}})),
        "entry \"x\" has no id or no content",
    );
    // Templates of nothing, and of strange parts.
    for single in [json!([]), json!([7]), json!([{"SpecialToken": 7}, {"SpecialToken": {"id": 7}}])] {
        let processor = json!({"type": "TemplateProcessing", "single": single, "pair": single});
        let mut folder = Folder::new();
        folder.tokenizer["post_processor"] = processor;
        folder.open().unwrap();
    }
}

#[test]
fn numbers_that_are_none_are_found_when_they_are_read() {
    for (dtype, nan) in [("F32", &[0, 0, 0xc0, 0x7f][..]), ("F16", &[0, 0x7c]), ("BF16", &[0xc0, 0x7f])] {
        let mut folder = Folder::new();
        let name = "model.layers.0.mlp.down_proj.weight";
        folder.tensor(name, dtype, &[64, 96]);
        let bytes = &mut folder.tensors.get_mut(name).unwrap().2;
        let at = (5 * 96 + 7) * nan.len();
        bytes[at..at + nan.len()].copy_from_slice(nan);
        let plan = Plan::new(folder.open().unwrap(), &Target::new(GgmlType::Q8_0).unwrap()).unwrap();
        let e = plan.write(std::io::sink(), "out", None, &mut |_| (), &AtomicBool::new(false)).unwrap_err();
        let e = e.to_string();
        assert!(e.contains("tensor 'blk.0.ffn_down.weight': row 5, column 7 is "), "{e}");
    }
}

#[test]
fn every_byte_of_every_file_may_be_any_other() {
    let sound = Folder::new();
    let files = [
        ("config.json", sound.config.to_string().into_bytes()),
        ("tokenizer.json", sound.tokenizer.to_string().into_bytes()),
        ("model.safetensors", {
            let weights = sound.weights();
            weights[..u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize + 8].to_vec()
        }),
    ];
    for (name, head) in files {
        for at in 0..head.len() {
            for new in [0, b'"', b'9', b'-', b'{', 0xff] {
                let mut folder = Folder::new();
                let mut bytes = if name == "model.safetensors" { folder.weights() } else { head.clone() };
                bytes[at] = new;
                folder.files.insert(name.into(), bytes);
                if let Err(e) = folder.open() {
                    let e = e.to_string();
                    assert!(!e.contains(char::is_control) && e.chars().count() < 600, "{e:?}");
                }
            }
        }
    }
}
