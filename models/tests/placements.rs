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
use models::placement::{Assignment, HOST, StreamingSizes};
use models::{Engine, EngineOptions, MlaForm, Model, Session, Want, Watch};

/// As on one backend.
const MAX_ERROR: f32 = 3e-4;

fn cpu() -> Arc<dyn Backend> {
    Arc::new(Cpu::new(NonZeroUsize::new(1).unwrap()).unwrap())
}

/// Experts on the host, or on a device for batches of so many rows.
fn streaming(n: usize, min_rows: usize) -> Assignment {
    Assignment {
        embedding: HOST,
        head: 1,
        layers: vec![1; n],
        experts: vec![HOST; n],
        streaming: Some(StreamingSizes { min_rows, buffer: 0, activations: 0 }),
        used: vec![],
        slots: vec![],
        most_slots: 0,
    }
}

/// Ways to part a model of so many layers between the host and two devices.
fn assignments(n: usize) -> Vec<(&'static str, Assignment)> {
    let all = |device| Assignment {
        embedding: device,
        head: device,
        layers: vec![device; n],
        experts: vec![device; n],
        streaming: None,
        used: vec![],
        slots: vec![],
        most_slots: 0,
    };
    let alternating: Vec<usize> = (0..n).map(|il| il % 3).collect();
    vec![
        ("experts on the host", Assignment { embedding: HOST, experts: vec![HOST; n], ..all(1) }),
        ("experts elsewhere for long batches", streaming(n, 4)),
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

/// Batches of five rows and one of four: what the weights meet in one place and in the other is added up.
#[test]
fn what_is_watched_is_that_of_short_and_of_long_batches() {
    let fixture = fixtures::model("qwen3_moe");
    let model = Arc::new(Model::load(Gguf::open(&fixture.f32).unwrap()).unwrap());
    let parts = streaming(model.base().n_layer, 5);
    let hybrid = Hybrid::new(vec![cpu(), cpu()], parts.placement(&model)).unwrap();
    let observe = |backend: Arc<dyn Backend>| {
        let ty = Some(GgmlType::F32);
        let options = EngineOptions { n_ctx: 64, k_ty: ty, v_ty: ty, n_batch: 5, mla: None };
        let mut session = Session::new(Engine::new(model.clone(), backend, options).unwrap());
        session.engine_mut().watch(Watch::Layers);
        session.eval(&(0..24).map(|i| 5 + i * 7 % 90).collect::<Vec<u32>>(), Want::All).unwrap();
        session.engine().observations().unwrap()
    };
    let (want, got) = (observe(cpu()), observe(Arc::new(hybrid)));
    assert_eq!(want.len(), got.len());
    for (w, g) in want.iter().zip(&got) {
        assert_eq!((&w.name, &w.counts), (&g.name, &g.counts));
        let largest = w.sums.iter().fold(0f64, |a, b| a.max(*b));
        assert!(w.sums.iter().zip(&g.sums).all(|(a, b)| (a - b).abs() <= 1e-5 * largest), "{}", w.name);
    }
}
