//! Hugging Face folders become what llama.cpp's converter makes of them: every tensor to the bit, every key.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use fathom_testing::fixtures;
use fathom_testing::tensors::Tensors;
use ggml_sys::GgmlType;
use ggml_sys::gguf::{Gguf, Value};
use quantize::{Options, Plan, Source, Target, run};

/// What of `folder` is written in a type of plain numbers.
fn written(folder: &Path, ty: GgmlType, out: &Path) -> Gguf {
    let source = Source::open(folder).unwrap();
    let plan = Plan::new(&source, &Target::new(ty).unwrap()).unwrap();
    run(&plan, out, &Options::default(), &mut |_| (), &AtomicBool::new(false)).unwrap();
    Gguf::open(out).unwrap()
}

/// Every key of one must be in the other, with the same value.
fn compare_keys(ours: &Gguf, reference: &Gguf, but_for: &[&str]) {
    let keys = |gguf: &Gguf| -> BTreeMap<String, Value> {
        let keys = gguf.metadata().iter().filter(|(key, _)| !but_for.contains(key));
        keys.map(|(key, value)| (key.into(), value.clone())).collect()
    };
    let (ours, reference) = (keys(ours), keys(reference));
    for (key, value) in &reference {
        assert_eq!(ours.get(key), Some(value), "{key}");
    }
    let more: Vec<_> = ours.keys().filter(|key| !reference.contains_key(*key)).collect();
    assert!(more.is_empty(), "{more:?}");
}

#[test]
fn folders_become_what_the_converter_makes_of_them() {
    let dir = tempfile::tempdir().unwrap();
    for name in fixtures::MODELS.into_iter().filter(|name| *name != "deepseek_v3-fp8") {
        let model = fixtures::model(name);
        for (ty, reference) in [(GgmlType::F32, &model.f32), (GgmlType::F16, &model.f16)] {
            let reference = Gguf::open(reference).unwrap();
            let ours = written(&model.hf, ty, &dir.path().join(format!("{name}-{ty}.gguf")));
            // The fixtures were converted with `--model-name`; here the folder's name counts.
            compare_keys(&ours, &reference, &["general.name"]);
            assert_eq!(ours.tensors().len(), reference.tensors().len(), "{name} {ty}");
            for tensor in ours.tensors() {
                let want =
                    reference.tensor(tensor.name()).unwrap_or_else(|| panic!("{name}: {}", tensor.name()));
                assert_eq!((tensor.ty(), tensor.shape()), (want.ty(), want.shape()), "{name} {ty}: {want:?}");
                assert!(tensor.bytes() == want.bytes(), "{name} {ty}: {want:?}");
            }
        }
    }
}

#[test]
fn fp8_is_what_its_scales_make_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let model = fixtures::model("deepseek_v3-fp8");
    let ours = written(&model.hf, GgmlType::F32, &dir.path().join("fp8.gguf"));
    let truth = Tensors::open(&model.dequantized);
    let mut seen = 0;
    let f32s = |name: &str| truth.f32(name).1;
    let check = |to: &str, want: &[f32]| {
        let tensor = ours.tensor(to).unwrap_or_else(|| panic!("{to}"));
        assert!(tensor.to_f32().iter().map(|x| x.to_bits()).eq(want.iter().map(|x| x.to_bits())), "{to}");
    };
    for il in 0..3 {
        let layer = format!("model.layers.{il}");
        for (from, to) in [
            ("self_attn.q_a_proj", "attn_q_a"),
            ("self_attn.q_b_proj", "attn_q_b"),
            ("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"),
            ("self_attn.o_proj", "attn_output"),
        ] {
            check(&format!("blk.{il}.{to}.weight"), &f32s(&format!("{layer}.{from}.weight")));
            seen += 1;
        }
        // Four heads of 32 rows for keys and 64 for values, of 128.
        let up = f32s(&format!("{layer}.self_attn.kv_b_proj.weight"));
        let (mut keys, mut values) = (vec![], vec![]);
        for head in up.chunks_exact((32 + 64) * 128) {
            for r in 0..128 {
                keys.extend((0..32).map(|j| head[j * 128 + r]));
            }
            values.extend(&head[32 * 128..]);
        }
        check(&format!("blk.{il}.attn_k_b.weight"), &keys);
        check(&format!("blk.{il}.attn_v_b.weight"), &values);
        seen += 1;
        for part in ["gate", "up", "down"] {
            if il == 0 {
                let from = format!("{layer}.mlp.{part}_proj.weight");
                check(&format!("blk.{il}.ffn_{part}.weight"), &f32s(&from));
                seen += 1;
                continue;
            }
            let experts = (0..4).flat_map(|i| f32s(&format!("{layer}.mlp.experts.{i}.{part}_proj.weight")));
            check(&format!("blk.{il}.ffn_{part}_exps.weight"), &experts.collect::<Vec<_>>());
            let from = format!("{layer}.mlp.shared_experts.{part}_proj.weight");
            check(&format!("blk.{il}.ffn_{part}_shexp.weight"), &f32s(&from));
            seen += 5;
        }
    }
    assert_eq!(seen, truth.names().len());
    // The layer that predicts the token after the next.
    let number = |key: &str| ours.metadata().u32(key).unwrap();
    assert_eq!(number("deepseek2.block_count"), Some(3));
    assert_eq!(number("deepseek2.nextn_predict_layers"), Some(1));
    let shape =
        |part: &str| ours.tensor(&format!("blk.2.nextn.{part}.weight")).unwrap().shape().used().to_vec();
    assert_eq!(shape("eh_proj"), [512, 256]);
    assert_eq!((shape("embed_tokens"), shape("shared_head_head")), (vec![256, 512], vec![256, 512]));
    assert_eq!(
        (shape("enorm"), shape("hnorm"), shape("shared_head_norm")),
        (vec![256], vec![256], vec![256])
    );
}

/// A trained model, and one with a layer that the converter drops.
#[test]
fn tiny_r1_is_what_the_converter_makes_of_it_but_for_its_last_layer() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = fixtures::tiny_r1();
    let reference = Gguf::open(&tiny.f16).unwrap();
    let ours = written(&tiny.hf, GgmlType::F16, &dir.path().join("f16.gguf"));
    let of_the_card = ["general.name", "general.description", "general.license"];
    let of_the_layer = ["general.size_label", "deepseek2.block_count", "deepseek2.nextn_predict_layers"];
    compare_keys(&ours, &reference, &[&of_the_card[..], &of_the_layer].concat());
    let number = |gguf: &Gguf, key: &str| gguf.metadata().u32(key).unwrap();
    assert_eq!(number(&reference, "deepseek2.block_count"), Some(3));
    assert_eq!(number(&ours, "deepseek2.block_count"), Some(4));
    assert_eq!(number(&ours, "deepseek2.nextn_predict_layers"), Some(1));
    let (last, main): (Vec<_>, Vec<_>) = ours.tensors().iter().partition(|t| t.name().starts_with("blk.3."));
    assert_eq!(main.len(), reference.tensors().len());
    for tensor in main {
        let want = reference.tensor(tensor.name()).unwrap();
        assert_eq!((tensor.ty(), tensor.shape()), (want.ty(), want.shape()), "{want:?}");
        assert!(tensor.bytes() == want.bytes(), "{want:?}");
    }
    let nextn = last.iter().filter(|t| t.name().contains(".nextn.")).count();
    assert_eq!(
        (nextn, last.len() - nextn),
        (6, reference.tensors().iter().filter(|t| t.name().starts_with("blk.2.")).count())
    );
}
