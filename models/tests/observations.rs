//! What meets the weights, watched while a model reads: the fast backend against the scalar reference, for every
//! architecture, and against sums taken from the definition.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use fathom_testing::fixtures;
use ggml_sys::GgmlType;
use ggml_sys::backend::Backend;
use ggml_sys::cpu::Cpu;
use ggml_sys::gguf::Gguf;
use ggml_sys::reference::Reference;
use models::{Engine, EngineOptions, Model, Observation, Session, Want, Watch};

/// Tokens that every reference model has.
fn tokens(n: u32) -> Vec<u32> {
    (0..n).map(|i| 5 + i * 7 % 90).collect()
}

fn observe(file: &Path, backend: Arc<dyn Backend>, n_batch: usize, watch: Watch) -> Vec<Observation> {
    let model = Arc::new(Model::load(Gguf::open(file).unwrap()).unwrap());
    let f32 = Some(GgmlType::F32);
    let options = EngineOptions { n_ctx: 64, k_ty: f32, v_ty: f32, n_batch, mla: None };
    let mut session = Session::new(Engine::new(model, backend, options).unwrap());
    session.engine_mut().watch(watch);
    // Twice: what was seen stays when the sequence goes.
    for _ in 0..2 {
        session.truncate(0);
        session.eval(&tokens(24), Want::All).unwrap();
    }
    session.engine().observations().unwrap()
}

fn cpu() -> Arc<dyn Backend> {
    Arc::new(Cpu::new(NonZeroUsize::new(2).unwrap()).unwrap())
}

/// Largest distance from the reference, relative to the mean of a tensor's sums.
fn distance(got: &Observation, want: &Observation) -> f64 {
    assert_eq!((&got.name, &got.counts), (&want.name, &want.counts));
    let mean = want.sums.iter().sum::<f64>() / want.sums.len() as f64;
    assert!(mean > 0.0 && got.sums.len() == want.sums.len(), "{}", want.name);
    got.sums.iter().zip(&want.sums).map(|(g, w)| (g - w).abs() / mean).fold(0.0, f64::max)
}

#[test]
fn observations_are_those_of_the_reference() {
    for name in ["llama3", "qwen2", "qwen3", "qwen3_moe", "deepseek_v2-lite", "deepseek_v3"] {
        let file = fixtures::model(name).f32;
        let want = observe(&file, Arc::new(Reference::default()), 24, Watch::Layers);
        for n_batch in [24, 5] {
            let got = observe(&file, cpu(), n_batch, Watch::Layers);
            assert_eq!(got.len(), want.len());
            for (g, w) in got.iter().zip(&want) {
                let d = distance(g, w);
                assert!(d < 2e-4, "{name}, batches of {n_batch}: {} is {d} off", w.name);
            }
        }
    }
}

/// Every matrix of the layers, and how many rows each met: all 48, or as many as chose it.
#[test]
fn every_matrix_of_a_layer_is_watched() {
    for name in ["qwen2", "qwen3_moe", "deepseek_v2-lite", "deepseek_v3"] {
        let file = fixtures::model(name).f32;
        let gguf = Gguf::open(&file).unwrap();
        let model = Model::load(gguf.clone()).unwrap();
        let (n_layer, experts) = (model.base().n_layer, model.network().experts());
        let seen: BTreeMap<String, Observation> =
            observe(&file, cpu(), 24, Watch::Layers).into_iter().map(|o| (o.name.clone(), o)).collect();
        let in_layer = |name: &str| {
            let number = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next());
            number.and_then(|n| n.parse::<usize>().ok()).is_some_and(|n| n < n_layer)
        };
        for t in gguf.tensors() {
            let matrix = in_layer(t.name()) && t.shape().used().len() > 1;
            assert_eq!(seen.contains_key(t.name()), matrix, "{name}: {}", t.name());
            let Some(o) = seen.get(t.name()) else { continue };
            let [n_in, _, n, _] = t.shape().0;
            assert_eq!(o.sums.len(), n_in * n, "{name}: {}", o.name);
            if o.name.contains("_exps.") {
                let (n_expert, n_used) = experts.unwrap();
                assert_eq!((o.counts.len(), o.counts.iter().sum()), (n_expert, 48 * n_used as u64));
                let unused = o.counts.iter().zip(o.sums.chunks(n_in)).filter(|(c, _)| **c == 0);
                assert!(unused.into_iter().all(|(_, sums)| sums.iter().all(|s| *s == 0.0)), "{}", o.name);
            } else {
                assert_eq!(o.counts, [48], "{name}: {}", o.name);
            }
        }
        let with_output = observe(&file, cpu(), 24, Watch::LayersAndOutput);
        assert_eq!(with_output.len(), seen.len() + 1);
        let output = &with_output[seen.len()];
        assert!(["output.weight", "token_embd.weight"].contains(&&*output.name) && output.counts == [48]);
    }
}

/// What meets the first layer's projections is the normalized embedding.
#[test]
fn sums_are_those_of_the_definition() {
    let file = fixtures::model("qwen2").f32;
    let gguf = Gguf::open(&file).unwrap();
    let [table, norm] =
        ["token_embd.weight", "blk.0.attn_norm.weight"].map(|t| gguf.tensor(t).unwrap().to_f32());
    let eps = gguf.metadata().f32("qwen2.attention.layer_norm_rms_epsilon").unwrap().unwrap();
    let mut want = vec![0.0; norm.len()];
    for token in tokens(24) {
        let row: Vec<f64> =
            table[token as usize * norm.len()..][..norm.len()].iter().map(|x| f64::from(*x)).collect();
        let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
        for ((want, x), w) in want.iter_mut().zip(&row).zip(&norm) {
            *want += 2.0 * (x * f64::from(*w)).powi(2) / (mean + f64::from(eps));
        }
    }
    let seen = observe(&file, cpu(), 24, Watch::Layers);
    for name in ["blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight"] {
        let seen = seen.iter().find(|o| o.name == name).unwrap();
        for (s, w) in seen.sums.iter().zip(&want) {
            assert!((s - w).abs() < 1e-5 * w + 1e-9, "{name}: {s} is not {w}");
        }
    }
}
