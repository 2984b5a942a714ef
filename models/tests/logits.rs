//! Logits against Hugging Face transformers, for every architecture.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use fathom_testing::compare::{kl, max_error};
use fathom_testing::fixtures::{self, MODELS};
use ggml_sys::GgmlType;
use ggml_sys::backend::Backend;
use ggml_sys::cpu::Cpu;
use ggml_sys::gguf::Gguf;
use ggml_sys::reference::Reference;
use models::{Engine, EngineOptions, MlaForm, Model, Session, Want};

/// Largest difference of a logit in F32. Their standard deviation is about 2.4.
const MAX_ERROR: f32 = 3e-4;

fn cpu() -> Arc<dyn Backend> {
    Arc::new(Cpu::new(NonZeroUsize::new(2).unwrap()).unwrap())
}

fn session(
    file: &Path,
    backend: Arc<dyn Backend>,
    cache: GgmlType,
    mla: Option<MlaForm>,
    n_batch: usize,
) -> Session {
    let model = Arc::new(Model::load(Gguf::open(file).unwrap()).unwrap());
    let options = EngineOptions { n_ctx: 512, k_ty: Some(cache), v_ty: Some(cache), n_batch, mla };
    Session::new(Engine::new(model, backend, options).unwrap())
}

/// The GGUF reference models and the forms of attention that each has.
fn cases() -> impl Iterator<Item = (&'static str, &'static [Option<MlaForm>])> {
    MODELS.into_iter().filter(|m| *m != "deepseek_v3-fp8").map(|m| {
        let forms: &[_] = if m.starts_with("deepseek") {
            &[Some(MlaForm::Absorbed), Some(MlaForm::Naive), None]
        } else {
            &[None]
        };
        (m, forms)
    })
}

/// Rows of logits that the reference has, and ours for the same positions.
fn compare(name: &str, mut make: impl FnMut() -> Session, mut check: impl FnMut(&str, &[f32], &[f32])) {
    let model = fixtures::model(name);
    let tensors = model.reference_tensors();
    for prompt in model.reference().prompts {
        let (shape, want) = tensors.f32(&prompt.output.logits);
        let mut s = make();
        let got = s.eval(&prompt.ids, Want::All).unwrap();
        let (n_vocab, first) = (shape[1], prompt.output.logits_first_position);
        for (i, want) in want.chunks_exact(n_vocab).enumerate() {
            let got = &got[(first + i) * n_vocab..][..n_vocab];
            check(&format!("{name}, {}, position {}", prompt.name, first + i), got, want);
        }
    }
}

#[test]
fn f32_logits_equal_transformers() {
    for (name, forms) in cases() {
        let file = fixtures::model(name).f32;
        for &mla in forms {
            for n_batch in [512, 7] {
                let make = || session(&file, cpu(), GgmlType::F32, mla, n_batch);
                compare(name, make, |at, got, want| {
                    let e = max_error(got, want);
                    assert!(e <= MAX_ERROR, "{at}, {mla:?}, batches of {n_batch}: off by {e}");
                });
            }
        }
    }
}

#[test]
fn f16_files_with_an_f32_cache_give_the_same_logits() {
    for (name, _) in cases() {
        let file = fixtures::model(name).f16;
        compare(
            name,
            || session(&file, cpu(), GgmlType::F32, None, 512),
            |at, got, want| {
                let e = max_error(got, want);
                assert!(e <= MAX_ERROR, "{at}: off by {e}");
            },
        );
    }
}

#[test]
fn an_f16_cache_costs_little() {
    for (name, forms) in cases() {
        let file = fixtures::model(name).f16;
        for &mla in forms {
            compare(
                name,
                || session(&file, cpu(), GgmlType::F16, mla, 512),
                |at, got, want| {
                    let d = kl(want, got);
                    assert!(d <= 1e-3, "{at}, {mla:?}: KL {d}");
                },
            );
        }
    }
}

#[test]
fn a_q8_0_cache_costs_a_little_more() {
    // The small DeepSeek models rotate 16 elements: their rows [256 | 16] are no whole blocks.
    for (name, forms) in cases().filter(|c| !c.0.starts_with("deepseek")) {
        let file = fixtures::model(name).f16;
        for &mla in forms {
            compare(
                name,
                || session(&file, cpu(), GgmlType::Q8_0, mla, 512),
                |at, got, want| {
                    let d = kl(want, got);
                    assert!(d <= 2e-2, "{at}, {mla:?}: KL {d}");
                },
            );
        }
    }
}

#[test]
fn the_scalar_reference_equals_transformers() {
    for (name, forms) in cases() {
        let file = fixtures::model(name).f32;
        for mla in forms.iter().filter(|m| m.is_some() || forms.len() == 1) {
            let model = fixtures::model(name);
            let tensors = model.reference_tensors();
            for prompt in model.reference().prompts.iter().filter(|p| p.name != "long") {
                let mut s = session(&file, Arc::new(Reference::default()), GgmlType::F32, *mla, 512);
                let got = s.eval(&prompt.ids, Want::All).unwrap();
                let (shape, want) = tensors.f32(&prompt.output.logits);
                let e = max_error(&got[prompt.output.logits_first_position * shape[1]..], &want);
                assert!(e <= MAX_ERROR / 2.0, "{name}, {}, {mla:?}: off by {e}", prompt.name);
            }
        }
    }
}

#[test]
fn greedy_continuations_equal_transformers() {
    for (name, forms) in cases() {
        let file = fixtures::model(name).f32;
        for &mla in forms {
            for prompt in fixtures::model(name).reference().prompts {
                let mut s = session(&file, cpu(), GgmlType::F32, mla, 512);
                let mut logits = s.eval(&prompt.ids, Want::Last).unwrap();
                let mut got = vec![];
                for _ in &prompt.output.greedy {
                    let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
                    got.push(best as u32);
                    logits = s.eval(&[best as u32], Want::Last).unwrap();
                }
                assert_eq!(got, prompt.output.greedy, "{name}, {}, {mla:?}", prompt.name);
            }
        }
    }
}
