//! Models whose parts lie on different backends, against Hugging Face transformers.

use std::num::NonZeroUsize;
use std::sync::Arc;

use fathom_testing::compare::max_error;
use fathom_testing::fixtures::{self, MODELS};
use ggml_sys::GgmlType;
use ggml_sys::backend::Backend;
use ggml_sys::cpu::Cpu;
use ggml_sys::gguf::Gguf;
use ggml_sys::hybrid::Hybrid;
use models::placement::{Assignment, HOST};
use models::{Engine, EngineOptions, MlaForm, Model, Session, Want};

/// As on one backend.
const MAX_ERROR: f32 = 3e-4;

fn cpu() -> Arc<dyn Backend> {
    Arc::new(Cpu::new(NonZeroUsize::new(1).unwrap()).unwrap())
}

/// Ways to part a model of so many layers between the host and two devices.
fn assignments(n: usize) -> Vec<(&'static str, Assignment)> {
    let all = |device| Assignment {
        embedding: device,
        head: device,
        layers: vec![device; n],
        experts: vec![device; n],
        used: vec![],
    };
    let alternating: Vec<usize> = (0..n).map(|il| il % 3).collect();
    vec![
        ("experts on the host", Assignment { embedding: HOST, experts: vec![HOST; n], ..all(1) }),
        (
            "the last layers on a device",
            Assignment { layers: (0..n).map(|il| usize::from(il > 0)).collect(), ..all(0) },
        ),
        ("layers here and there", Assignment { layers: alternating, experts: vec![2; n], ..all(1) }),
    ]
}

#[test]
fn parts_on_different_backends_give_the_same_logits() {
    for name in MODELS.into_iter().filter(|m| *m != "deepseek_v3-fp8") {
        let fixture = fixtures::model(name);
        let model = Arc::new(Model::load(Gguf::open(&fixture.f32).unwrap()).unwrap());
        let tensors = fixture.reference_tensors();
        for (how, assignment) in assignments(model.base().n_layer) {
            for (form, n_batch) in [(MlaForm::Absorbed, 512), (MlaForm::Naive, 5)] {
                let backends = vec![cpu(), cpu(), cpu()];
                let hybrid = Hybrid::new(backends, assignment.placement(&model)).unwrap();
                let ty = Some(GgmlType::F32);
                let options = EngineOptions { n_ctx: 512, k_ty: ty, v_ty: ty, n_batch, mla: Some(form) };
                let mut session =
                    Session::new(Engine::new(model.clone(), Arc::new(hybrid), options).unwrap());
                for prompt in fixture.reference().prompts {
                    let (shape, want) = tensors.f32(&prompt.output.logits);
                    session.truncate(0);
                    let got = session.eval(&prompt.ids, Want::All).unwrap();
                    let got = &got[prompt.output.logits_first_position * shape[1]..];
                    let e = max_error(&got[..want.len()], &want);
                    assert!(e <= MAX_ERROR, "{name}, {how}, {form:?}, {}: off by {e}", prompt.name);
                }
            }
        }
    }
}
