//! Files that are well-formed and yet no model: each ends in one line that names what is wrong.

use std::sync::Arc;

use fathom_testing::fixtures;
use ggml_sys::gguf::{Gguf, Value, Writer};
use ggml_sys::{Shape, Tensor};
use models::{Model, Tokenizer};

/// A change to a good file: keys to set, keys and tensors to drop, tensors to reshape.
#[derive(Default)]
struct Change {
    set: Vec<(&'static str, Value)>,
    remove: Vec<&'static str>,
    drop: Option<&'static str>,
    reshape: Option<(&'static str, Vec<usize>)>,
}

fn set(key: &'static str, value: impl Into<Value>) -> Change {
    Change { set: vec![(key, value.into())], ..Change::default() }
}

fn remove(key: &'static str) -> Change {
    Change { remove: vec![key], ..Change::default() }
}

fn drop_tensor(name: &'static str) -> Change {
    Change { drop: Some(name), ..Change::default() }
}

fn reshape(name: &'static str, dims: &[usize]) -> Change {
    Change { reshape: Some((name, dims.to_vec())), ..Change::default() }
}

fn changed(good: &Gguf, change: Change) -> Gguf {
    let mut w = Writer::new("bad.gguf");
    w.copy_metadata(good.metadata());
    change.remove.iter().for_each(|k| w.remove(k));
    change.set.into_iter().for_each(|(k, v)| w.set(k, v));
    let keep: Vec<&Tensor> = good.tensors().iter().filter(|t| Some(t.name()) != change.drop).collect();
    for t in &keep {
        let shape = match &change.reshape {
            Some((name, dims)) if *name == t.name() => Shape::new(dims).unwrap(),
            _ => t.shape(),
        };
        w.tensor(t.name(), t.ty(), shape).unwrap();
    }
    let mut data = w.begin(vec![]).unwrap();
    for t in keep {
        data.write(t.bytes()).unwrap();
    }
    Gguf::from_bytes(Arc::new(data.finish().unwrap()), "bad.gguf").unwrap()
}

/// Loads model and tokenizer of every changed file; one of them must fail in one line that mentions all of the words.
fn refuse(model: &str, cases: Vec<(Change, &[&str])>) {
    let good = Gguf::open(&fixtures::model(model).f16).unwrap();
    Model::load(good.clone()).unwrap();
    for (i, (change, mentions)) in cases.into_iter().enumerate() {
        let gguf = changed(&good, change);
        let tokenizer = Tokenizer::from_gguf(gguf.metadata()).err().map(|e| e.to_string());
        let error = Model::load(gguf).err().map(|e| e.to_string()).or(tokenizer);
        let error = error.unwrap_or_else(|| panic!("{model}, case {i} {mentions:?}: was loaded"));
        assert!(!error.contains('\n') && error.len() < 400, "{error}");
        assert!(error.contains("bad.gguf"), "case {i}: the file is not named in {error:?}");
        for m in mentions {
            assert!(error.contains(m), "{model}, case {i}: {m:?} is not in {error:?}");
        }
    }
}

fn strings(texts: &[&str]) -> Value {
    Value::from(ggml_sys::gguf::StringArray::from_strings(texts.iter().copied()).unwrap())
}

#[test]
fn transformers() {
    refuse(
        "llama3",
        vec![
            (set("general.architecture", "mamba"), &["mamba", "llama", "deepseek2"]),
            (remove("general.architecture"), &["general.architecture"]),
            (remove("llama.block_count"), &["llama.block_count"]),
            (set("llama.block_count", 0u32), &["llama.block_count", "0"]),
            (set("llama.block_count", u32::MAX), &["llama.block_count", "4294967295"]),
            (set("llama.block_count", 3u32), &["blk.2.attn_norm.weight", "missing"]),
            (set("llama.block_count", "two"), &["llama.block_count", "integer"]),
            (set("llama.embedding_length", 0u32), &["embedding_length"]),
            (set("llama.embedding_length", 255u32), &["token_embd.weight", "[255, 512]", "[256, 512]"]),
            (set("llama.embedding_length", u64::MAX), &["embedding_length"]),
            (set("llama.attention.head_count", 0u32), &["head_count"]),
            (set("llama.attention.head_count", 7u32), &["7 heads", "2"]),
            (set("llama.attention.head_count_kv", 0u32), &["8 heads", "0 key/value heads"]),
            (set("llama.attention.head_count_kv", 3u32), &["8 heads", "3"]),
            (
                set("llama.attention.head_count", Value::from(&[8u32, 4][..])),
                &["head_count", "layer to layer"],
            ),
            (set("llama.attention.key_length", 0u32), &["heads of 0"]),
            (set("llama.attention.key_length", u32::MAX), &["attn_q.weight"]),
            (set("llama.rope.dimension_count", 33u32), &["33"]),
            (set("llama.rope.dimension_count", 31u32), &["31", "pairs"]),
            (set("llama.rope.freq_base", -1f32), &["rope.freq_base"]),
            (set("llama.rope.freq_base", f32::INFINITY), &["rope.freq_base"]),
            (set("llama.rope.scaling.type", "su"), &["rope scaling", "su"]),
            (set("llama.attention.layer_norm_rms_epsilon", f32::NAN), &["layer_norm_rms_epsilon"]),
            (set("llama.feed_forward_length", 513u32), &["ffn_gate.weight", "[256, 513]"]),
            (set("llama.context_length", 0u32), &["context_length"]),
            (set("llama.expert_count", 8u32), &["experts"]),
            (drop_tensor("token_embd.weight"), &["token_embd.weight", "missing"]),
            (drop_tensor("output_norm.weight"), &["output_norm.weight", "[256]"]),
            (drop_tensor("blk.1.ffn_down.weight"), &["blk.1.ffn_down.weight", "[512, 256]"]),
            (reshape("blk.0.attn_k.weight", &[64, 256]), &["blk.0.attn_k.weight", "[64, 256]", "[256, 64]"]),
            (reshape("blk.0.attn_norm.weight", &[16, 16]), &["blk.0.attn_norm.weight", "[16, 16]", "[256]"]),
            (reshape("rope_freqs.weight", &[4, 4]), &["rope_freqs.weight", "[4, 4]"]),
        ],
    );
}

#[test]
fn latent_attention_and_mixtures() {
    refuse(
        "deepseek_v3",
        vec![
            (set("deepseek2.attention.kv_lora_rank", 0u32), &["kv_lora_rank"]),
            (set("deepseek2.attention.kv_lora_rank", 128u32), &["128"]),
            (set("deepseek2.attention.q_lora_rank", 100u32), &["attn_q_a.weight", "[256, 100]"]),
            (remove("deepseek2.attention.q_lora_rank"), &["q_lora_rank"]),
            (set("deepseek2.attention.key_length_mla", 16u32), &["heads of 16"]),
            (set("deepseek2.attention.value_length_mla", 63u32), &["attn_v_b.weight", "[256, 63, 4]"]),
            (set("deepseek2.rope.dimension_count", 15u32), &["15", "pairs"]),
            (set("deepseek2.expert_used_count", 0u32), &["expert_used_count"]),
            (set("deepseek2.expert_used_count", 1000u32), &["1000"]),
            (set("deepseek2.expert_count", 0u32), &["expert_count"]),
            (set("deepseek2.expert_count", 9u32), &["9 "]),
            (set("deepseek2.expert_gating_func", 9u32), &["expert_gating_func", "9"]),
            (set("deepseek2.expert_group_count", 3u32), &["3 groups"]),
            (set("deepseek2.expert_group_used_count", 99u32), &["99"]),
            (set("deepseek2.expert_weights_scale", f32::NAN), &["expert_weights_scale"]),
            (set("deepseek2.expert_shared_count", 3u32), &["shexp"]),
            (set("deepseek2.expert_feed_forward_length", 1u32), &["exps.weight"]),
            (set("deepseek2.nextn_predict_layers", 99u32), &["99"]),
            (set("deepseek2.rope.scaling.factor", 0f32), &["rope.scaling.factor"]),
            (set("deepseek2.rope.scaling.yarn_log_multiplier", f32::INFINITY), &["yarn_log_multiplier"]),
            (drop_tensor("blk.1.attn_v_b.weight"), &["blk.1.attn_v_b.weight"]),
            (drop_tensor("blk.1.ffn_gate_inp.weight"), &["blk.1.ffn_gate_inp.weight"]),
        ],
    );
}

#[test]
fn vocabularies() {
    let pieces: Vec<String> = (0..600).map(|i| format!("t{i}")).collect();
    let too_many: Vec<&str> = pieces.iter().map(String::as_str).collect();
    refuse(
        "llama3",
        vec![
            (set("tokenizer.ggml.tokens", strings(&too_many)), &["600", "512"]),
            (set("tokenizer.ggml.tokens", 7u32), &["tokenizer.ggml.tokens"]),
            (remove("tokenizer.ggml.tokens"), &["tokenizer.ggml.tokens"]),
            (set("tokenizer.ggml.merges", strings(&["no such"])), &["tokenizer.ggml.merges"]),
            (set("tokenizer.ggml.merges", strings(&["nothing"])), &["tokenizer.ggml.merges"]),
            (set("tokenizer.ggml.token_type", Value::from(&[1i32][..])), &["tokenizer.ggml.token_type"]),
            (set("tokenizer.ggml.pre", "martian"), &["martian", "qwen2"]),
            (set("tokenizer.ggml.model", "llama"), &["llama"]),
            (set("tokenizer.ggml.bos_token_id", 512u32), &["tokenizer.ggml.bos_token_id", "512"]),
            (set("tokenizer.ggml.eos_token_id", -1i32), &["tokenizer.ggml.eos_token_id"]),
        ],
    );
}
