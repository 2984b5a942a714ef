//! Models on a CUDA device, the one of a driver that is named or a simulated one, against Hugging Face transformers and against the processor.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use fathom_testing::compare::max_error;
use fathom_testing::fixtures::{self, MODELS};
use ggml_sys::GgmlType;
use ggml_sys::backend::Backend;
use ggml_sys::cpu::Cpu;
use ggml_sys::cuda::Cuda;
use ggml_sys::cuda::driver::{Driver, LIBRARY};
use ggml_sys::gguf::Gguf;
use ggml_sys::graph::Row;
use ggml_sys::hybrid::Hybrid;
use models::placement::{Assignment, HOST, StreamingSizes};
use models::{Engine, EngineOptions, MlaForm, Model, Session, Want};

/// As on the processor.
const MAX_ERROR: f32 = 3e-4;

/// The first device of the driver that is named, or of the simulated one; nothing where there is no C++ compiler to make it.
fn cuda() -> Option<Arc<Cuda>> {
    static DRIVER: OnceLock<Option<Arc<Driver>>> = OnceLock::new();
    let load = || {
        let library = std::env::var_os(LIBRARY).map(PathBuf::from).or_else(fathom_testing::cuda_driver)?;
        Some(Arc::new(Driver::from(&[library]).unwrap()))
    };
    let driver = DRIVER.get_or_init(load).clone()?;
    Some(Arc::new(Cuda::open(driver, 0).unwrap()))
}

fn cpu() -> Arc<dyn Backend> {
    Arc::new(Cpu::new(NonZeroUsize::new(1).unwrap()).unwrap())
}

fn open(file: &Path) -> Arc<Model> {
    Arc::new(Model::load(Gguf::open(file).unwrap()).unwrap())
}

fn session(
    model: &Arc<Model>,
    backend: Arc<dyn Backend>,
    cache: GgmlType,
    form: MlaForm,
    n_batch: usize,
) -> Session {
    let options =
        EngineOptions { n_ctx: 512, k_ty: Some(cache), v_ty: Some(cache), n_batch, mla: Some(form) };
    let mut engine = Engine::new(model.clone(), backend, options).unwrap();
    engine.prepare().unwrap();
    Session::new(engine)
}

#[test]
fn logits_of_every_architecture_equal_transformers() {
    for name in MODELS.into_iter().filter(|m| *m != "deepseek_v3-fp8") {
        let Some(cuda) = cuda() else { return };
        let fixture = fixtures::model(name);
        let model = open(&fixture.f32);
        let experts = Assignment {
            embedding: HOST,
            head: 1,
            layers: vec![1; model.base().n_layer],
            experts: vec![HOST; model.base().n_layer],
            streaming: None,
            used: vec![],
            slots: vec![],
            most_slots: 0,
        };
        // One expert at a time, and for the rest of the prompt after a batch the processor.
        let streaming = Some(StreamingSizes { min_rows: 4, buffer: 0, activations: 0 });
        let streamed = Assignment { streaming, ..experts.clone() };
        let hybrid = |parts: Assignment| -> Arc<dyn Backend> {
            Arc::new(Hybrid::new(vec![cpu(), cuda.clone()], parts.placement(&model)).unwrap())
        };
        let mut backends: Vec<(&str, Arc<dyn Backend>)> = vec![("all on the device", cuda.clone())];
        if model.network().experts().is_some() {
            backends.push(("experts on the host", hybrid(experts)));
            backends.push(("experts sent to the device", hybrid(streamed)));
        }
        // A simulated device takes its time: one prompt, long enough for the kernels of many rows.
        let prompts = fixture.reference().prompts;
        let prompt = prompts.iter().filter(|p| p.ids.len() > 8).min_by_key(|p| p.ids.len()).unwrap();
        for (how, backend) in backends {
            for (form, n_batch) in [(MlaForm::Absorbed, 512), (MlaForm::Naive, 5)] {
                if form == MlaForm::Naive && model.network().mla().is_none() {
                    continue;
                }
                let mut session = session(&model, backend.clone(), GgmlType::F32, form, n_batch);
                let (shape, want) = fixture.reference_tensors().f32(&prompt.output.logits);
                let got = session.eval(&prompt.ids, Want::All).unwrap();
                let got = &got[prompt.output.logits_first_position * shape[1]..];
                let e = max_error(&got[..want.len()], &want);
                assert!(e <= MAX_ERROR, "{name}, {how}, {form:?}, {}: off by {e}", prompt.name);
            }
        }
    }
}

/// A model whose experts are on the host, or in one of so many slots of the device of their layer.
fn with_slots(model: &Model, devices: &[Arc<Cuda>], most_slots: usize) -> Arc<dyn Backend> {
    let n = model.base().n_layer;
    let parts = Assignment {
        embedding: HOST,
        head: devices.len(),
        layers: (0..n).map(|il| 1 + il % devices.len()).collect(),
        experts: vec![HOST; n],
        streaming: None,
        used: vec![],
        slots: vec![1 << 30; devices.len()],
        most_slots,
    };
    let backends = [cpu()].into_iter().chain(devices.iter().map(|d| d.clone() as Arc<dyn Backend>));
    Arc::new(Hybrid::new(backends.collect(), parts.placement(model)).unwrap())
}

/// Token by token, with slots for some experts, on one device and on two.
#[test]
fn logits_with_experts_in_slots_equal_transformers() {
    for name in MODELS.into_iter().filter(|m| *m != "deepseek_v3-fp8") {
        let (Some(first), Some(second)) = (cuda(), cuda()) else { return };
        let fixture = fixtures::model(name);
        let model = open(&fixture.f32);
        if model.network().experts().is_none() {
            continue;
        }
        let prompts = fixture.reference().prompts;
        let prompt = prompts.iter().min_by_key(|p| p.ids.len()).unwrap();
        let (shape, want) = fixture.reference_tensors().f32(&prompt.output.logits);
        for devices in [vec![first.clone()], vec![first.clone(), second.clone()]] {
            let backend = with_slots(&model, &devices, 4);
            let mut session = session(&model, backend.clone(), GgmlType::F32, MlaForm::Absorbed, 512);
            // The first time all experts are brought, in time; later some are there and others come.
            for round in 0..3 {
                session.truncate(0);
                let logits = prompt.ids.iter().flat_map(|id| session.eval(&[*id], Want::All).unwrap());
                let got: Vec<f32> = logits.collect();
                let got = &got[prompt.output.logits_first_position * shape[1]..];
                let e = max_error(&got[..want.len()], &want);
                assert!(e <= MAX_ERROR, "{name}, round {round}, {}: off by {e}", devices.len());
            }
            let slots = backend.slot_use().unwrap();
            // A device whose layers are dense has none.
            assert!([4, 4 * devices.len()].contains(&slots.slots), "{name}: {slots:?}");
            assert!(slots.hits > 0 && slots.misses > 0 && slots.brought > 0, "{name}: {slots:?}");
        }
    }
}

#[test]
fn layers_on_two_devices_and_the_host_give_the_same_logits() {
    let (Some(first), Some(second)) = (cuda(), cuda()) else { return };
    let fixture = fixtures::model("qwen2");
    let model = open(&fixture.f32);
    let n = model.base().n_layer;
    let layers: Vec<usize> = (0..n).map(|il| [1, 2, HOST][il % 3]).collect();
    let parts = Assignment {
        embedding: HOST,
        head: 2,
        experts: layers.clone(),
        layers,
        streaming: None,
        used: vec![],
        slots: vec![],
        most_slots: 0,
    };
    let backends: Vec<Arc<dyn Backend>> = vec![cpu(), first, second];
    let hybrid = Arc::new(Hybrid::new(backends, parts.placement(&model)).unwrap());
    let mut session = session(&model, hybrid, GgmlType::F32, MlaForm::Absorbed, 512);
    let prompts = fixture.reference().prompts;
    let prompt = prompts.iter().min_by_key(|p| p.ids.len()).unwrap();
    let (shape, want) = fixture.reference_tensors().f32(&prompt.output.logits);
    let got = session.eval(&prompt.ids, Want::All).unwrap();
    let got = &got[prompt.output.logits_first_position * shape[1]..];
    let e = max_error(&got[..want.len()], &want);
    assert!(e <= MAX_ERROR, "off by {e}");
}

#[test]
fn greedy_text_of_tiny_r1_is_the_processors() {
    let Some(cuda) = cuda() else { return };
    let model = open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tiny-r1/tiny-r1-q8_0.gguf"));
    for cache in [GgmlType::F16, GgmlType::F32] {
        let text = |backend: Arc<dyn Backend>| {
            let mut session = session(&model, backend, cache, MlaForm::Absorbed, 512);
            let ids: Vec<u32> = fixtures::tiny_r1()
                .reference_tensors()
                .i64("prompt0.input_ids")
                .1
                .iter()
                .map(|&i| i as u32)
                .collect();
            let mut logits = session.eval(&ids, Want::Last).unwrap();
            let mut text = vec![];
            for _ in 0..24 {
                let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
                text.push(best);
                logits = session.eval(&[best as u32], Want::Last).unwrap();
            }
            text
        };
        let processor = text(cpu());
        assert_eq!(text(cuda.clone()), processor, "{cache}");
        let slots = with_slots(&model, std::slice::from_ref(&cuda), 8);
        assert_eq!(text(slots.clone()), processor, "{cache}, experts in slots");
        assert!(slots.slot_use().unwrap().hits > 0, "{cache}: {:?}", slots.slot_use());
    }
}

#[test]
fn rows_of_the_cache_are_saved_and_shared() {
    let Some(cuda) = cuda() else { return };
    let fixture = fixtures::model("qwen2");
    let model = open(&fixture.f32);
    let ids = fixture.reference().prompts[0].ids.clone();
    let (start, end) = ids.split_at(ids.len() / 2);
    let open = || session(&model, cuda.clone(), GgmlType::F16, MlaForm::Absorbed, 512);
    let mut first = open();
    let whole = first.eval(&ids, Want::Last).unwrap();
    first.truncate(start.len());
    let mut saved = vec![];
    first.save(&mut saved).unwrap();
    let mut second = open();
    second.load(&mut &saved[..]).unwrap();
    let e = max_error(&second.eval(end, Want::Last).unwrap(), &whole);
    assert!(e <= MAX_ERROR, "off by {e}");
    // Another sequence goes on from rows that both have: in chunks of its own, without changing the first one's.
    let engine = first.engine_mut();
    engine.cache_mut().fork(0, 7, start.len());
    let row = |seq: u32, i: usize, token: u32| Row {
        token,
        pos: (start.len() + i) as u32,
        seq,
        output: i + 1 == end.len(),
    };
    let rows = |seq: u32, other: u32| -> Vec<Row> {
        end.iter().enumerate().map(|(i, &t)| row(seq, i, if i == 0 { t ^ other } else { t })).collect()
    };
    let different = engine.step(&rows(7, 1)).unwrap().logits;
    assert!(max_error(&different, &whole) > MAX_ERROR, "another token changed nothing");
    let e = max_error(&engine.step(&rows(0, 0)).unwrap().logits, &whole);
    assert!(e <= MAX_ERROR, "off by {e}");
}
