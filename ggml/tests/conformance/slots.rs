//! Mixtures whose experts lie on the host and come and go in slots of a device.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ggml_sys::GgmlType;
use ggml_sys::backend::{Backend, Program, Share};
use ggml_sys::cache::Cache;
use ggml_sys::cpu::Cpu;
use ggml_sys::graph::{BufId, Graph, Rows, SKIPPED, SelId, Stack, View, Weights};
use ggml_sys::hybrid::{Hybrid, Placement, Slotting};
use ggml_sys::ops::*;
use ggml_sys::reference::Reference;

use super::case::{backends, cuda, gaussian, rows, same_bits, tensor};

const N_EXPERT: usize = 8;
const N_USED: usize = 3;
const N_EMBD: usize = 256;
const N_FF: usize = 256;

/// Two mixtures, one after the other, whose logits are given: with a norm before each, and a shared expert beside.
struct Model {
    graph: Graph,
    /// The backend of each weight: 0 for experts, 1 for all others.
    weights: Vec<usize>,
    x: BufId,
    logits: [BufId; 2],
    out: BufId,
}

/// Formats of gate, up and down of a layer. Gate and up are one tensor if up has none.
type Formats = (GgmlType, Option<GgmlType>, GgmlType);

fn model(layers: [Formats; 2]) -> Model {
    let (mut weights, mut places) = (Weights::default(), vec![]);
    let mut add = |ty, dims: &[usize], place, seed| {
        places.push(place);
        weights.add(tensor(ty, dims, 0.1, seed))
    };
    let mut seed = 0;
    let per_layer = layers.map(|(gate, up, down)| {
        seed += 10;
        let stack = |w, row0, stride, rows| Stack { w, row0, stride, rows, n: N_EXPERT };
        let (gate, up) = match up {
            None => {
                let w = add(gate, &[N_EMBD, 2 * N_FF, N_EXPERT], 0, seed);
                (stack(w, 0, 2 * N_FF, N_FF), stack(w, N_FF, 2 * N_FF, N_FF))
            }
            Some(up) => {
                let gate = add(gate, &[N_EMBD, N_FF, N_EXPERT], 0, seed);
                let up = add(up, &[N_EMBD, N_FF, N_EXPERT], 0, seed + 1);
                (stack(gate, 0, N_FF, N_FF), stack(up, 0, N_FF, N_FF))
            }
        };
        let down = stack(add(down, &[N_FF, N_EMBD, N_EXPERT], 0, seed + 2), 0, N_EMBD, N_EMBD);
        let norm = add(GgmlType::F32, &[N_EMBD], 1, seed + 3);
        let [s_gate, s_up, s_down] = [4, 5, 6].map(|i| add(GgmlType::Q8_0, &[N_EMBD, N_EMBD], 1, seed + i));
        (gate, up, down, norm, [s_gate, s_up, s_down])
    });
    let mut g = Graph::new(Arc::new(weights));
    let (from, x) = (g.input(N_EMBD, Rows::Tokens), g.buffer(N_EMBD, Rows::Tokens));
    let (h, hidden) = (g.buffer(N_EMBD, Rows::Tokens), g.buffer(N_EMBD, Rows::Tokens));
    let linear = |x, w, y, add| Linear { x, parts: vec![Projection { w, bias: None, y }], add };
    let norm = |x, weight, y| RmsNorm { x, weight, eps: 1e-6, y };
    g.push(norm(from, per_layer[0].3, x)).unwrap();
    let mut logits = vec![];
    for (gate, up, down, weight, shared) in per_layer {
        let l = g.input(N_EXPERT, Rows::Tokens);
        logits.push(l.buf);
        g.push(norm(x, weight, h)).unwrap();
        let (gating, sel) = (Gating::Softmax, g.selection(N_USED));
        let router = Router { logits: l, bias: None, gating, groups: None, normalize: true, scale: 1.0, sel };
        g.push(router).unwrap();
        g.push(Experts { x: h, sel, gate, up, down, y: x, hidden: None }).unwrap();
        g.push(GateUp { x: h, gate: shared[0], up: shared[1], y: hidden }).unwrap();
        g.push(linear(hidden, shared[2], x, true)).unwrap();
    }
    let y = g.buffer(N_EMBD, Rows::Tokens);
    g.push(norm(x, per_layer[0].3, y)).unwrap();
    let out = g.output(y);
    Model { graph: g, weights: places, x: from.buf, logits: [logits[0], logits[1]], out }
}

impl Model {
    /// Runs a batch whose row `i` chooses the experts from `first + i` on in the one layer, and others in the other.
    fn run(&self, p: &mut dyn Program, n: usize, first: usize, seed: u64) -> Vec<f32> {
        let mut cache = Cache::new(&[], 16).unwrap();
        let x = gaussian(n * N_EMBD, seed);
        let logits = |by: usize| -> Vec<f32> {
            let row =
                |i: usize| (0..N_EXPERT).map(move |e| -(((e + by * (first + i)) % N_EXPERT) as f32) / 4.0);
            (0..n).flat_map(row).collect()
        };
        let inputs = [(self.x, x), (self.logits[0], logits(1)), (self.logits[1], logits(3))];
        let inputs: Vec<_> = inputs.iter().map(|(b, v)| (*b, &v[..])).collect();
        p.run(&rows(0, n), &mut cache, &inputs).unwrap();
        p.read(self.out).unwrap()
    }
}

fn check(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        // As for experts anywhere: an 8-bit rounding that a last bit tips, and sums; here through two layers and three norms.
        let bound = 2e-2 + w.abs() * 1e-5;
        assert!((g - w).abs() <= bound, "{what}, output {i}: {g} is {} from {w}", (g - w).abs());
    }
}

fn hybrid(model: &Model, slots: Slotting) -> Option<Hybrid> {
    let cpu: Arc<dyn Backend> = Arc::new(Cpu::new(NonZeroUsize::new(1).unwrap()).unwrap());
    let placement = Placement {
        weights: model.weights.clone(),
        layers: vec![],
        streaming: None,
        slots: vec![Slotting::default(), slots],
    };
    Some(Hybrid::new(vec![cpu, Arc::new(cuda()?)], placement).unwrap())
}

/// Runs the same step until so many experts have been brought in all: copies take their time.
fn until(brought: u64, hybrid: &Hybrid, mut step: impl FnMut()) {
    let start = Instant::now();
    while hybrid.slot_use().unwrap().brought < brought {
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", hybrid.slot_use());
        step();
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn experts_come_and_go_in_slots_and_nothing_changes() {
    use GgmlType::{F16, Q4_K, Q5_0, Q6_K, Q8_0};
    let cases: [[Formats; 2]; 3] = [
        // All in one pool; a pool each; gate and up in formats of their own.
        [(Q4_K, None, Q4_K), (Q4_K, None, Q4_K)],
        [(Q4_K, Some(Q4_K), Q6_K), (Q8_0, Some(Q8_0), Q5_0)],
        [(Q6_K, Some(Q5_0), F16), (F16, Some(F16), F16)],
    ];
    for layers in cases {
        let model = model(layers);
        let Some(hybrid) = hybrid(&model, Slotting { bytes: 1 << 30, most: 8 }) else { return };
        let mut want = Reference::default().compile(&model.graph, &[], 20).unwrap();
        let mut p = hybrid.compile(&model.graph, &[], 20).unwrap();
        let what = format!("{layers:?}");
        let mut step = |n: usize, first: usize, seed: u64| {
            let want = model.run(&mut *want, n, first, seed);
            let got = model.run(&mut *p, n, first, seed);
            check(&got, &want, &what);
            got
        };
        let used = || hybrid.slot_use().unwrap();
        // All missed, some, none: a token always chooses the same.
        step(1, 0, 1);
        assert_eq!((used().slots, used().hits, used().misses), (8, 0, 6));
        until(2, &hybrid, || drop(step(1, 0, 2)));
        let before = used();
        step(1, 0, 3);
        assert!(used().hits > before.hits && used().misses > before.misses, "{:?}", used());
        until(6, &hybrid, || drop(step(1, 0, 4)));
        let before = used();
        let first = step(1, 0, 5);
        assert_eq!((used().hits, used().misses), (before.hits + 6, before.misses));
        // Several rows, and among them what is there.
        step(3, 0, 6);
        step(8, 0, 7);
        assert!(used().misses > before.misses);
        // Others take the slots, and the first come back.
        until(12, &hybrid, || drop(step(2, 3, 8)));
        // Long batches do not ask for slots, and the row is the same among them but for its order of sums.
        let before = used();
        step(20, 0, 9);
        assert_eq!((used().hits, used().misses), (before.hits, before.misses));
        check(&step(1, 0, 5), &first, &what);
    }
}

/// Room for one size of expert only: the others stay where they are.
#[test]
fn a_layer_without_slots_is_the_hosts() {
    let formats = |ty| (ty, Some(ty), ty);
    let model = model([formats(GgmlType::Q4_K), formats(GgmlType::F32)]);
    let bytes = 4 * 3 * N_EMBD * N_FF / 256 * 144;
    let Some(hybrid) = hybrid(&model, Slotting { bytes, most: 100 }) else { return };
    let mut p = hybrid.compile(&model.graph, &[], 8).unwrap();
    let mut want = Reference::default().compile(&model.graph, &[], 8).unwrap();
    let want = model.run(&mut *want, 1, 0, 1);
    check(&model.run(&mut *p, 1, 0, 1), &want, "first");
    let slots = hybrid.slot_use().unwrap();
    assert!(slots.slots > 0 && slots.bytes <= bytes as u64, "{slots:?}");
    assert_eq!(slots.misses, N_USED as u64);
    until(3, &hybrid, || check(&model.run(&mut *p, 1, 0, 1), &want, "later"));
}

/// A mixture that is run in two parts, and whose choices are replaced between them.
fn skipping(backend: &dyn Backend, ty: GgmlType, n: usize, skipped: impl Fn(usize) -> bool) -> Vec<f32> {
    let mut weights = Weights::default();
    let stack = |w, rows| Stack { w, row0: 0, stride: rows, rows, n: N_EXPERT };
    let [gate, up, down] =
        [1, 2, 3].map(|seed| stack(weights.add(tensor(ty, &[N_FF, N_EMBD, N_EXPERT], 0.1, seed)), N_EMBD));
    let mut g = Graph::new(Arc::new(weights));
    let inputs: [View; 2] = [(); 2].map(|()| g.input(N_EMBD, Rows::Tokens));
    let (logits, sel): (View, SelId) = (g.input(N_EXPERT, Rows::Tokens), g.selection(N_USED));
    let gating = Gating::Sigmoid;
    g.push(Router { logits, bias: None, gating, groups: None, normalize: true, scale: 1.0, sel }).unwrap();
    g.push(Experts { x: inputs[0], sel, gate, up, down, y: inputs[1], hidden: None }).unwrap();
    let out = g.output(inputs[1]);
    let share = Share { parts: vec![vec![0], vec![1]], choices: vec![(1, sel)], ..Share::default() };
    let mut p = backend.compile_share(&g, &[], n, &share).unwrap();
    let mut cache = Cache::new(&[], 16).unwrap();
    p.begin(&rows(0, n), &cache).unwrap();
    for (i, v) in inputs.iter().enumerate() {
        p.write(v.buf, &gaussian(n * N_EMBD, 7 + i as u64)).unwrap();
    }
    p.write(logits.buf, &gaussian(n * N_EXPERT, 9)).unwrap();
    p.run_part(0, &mut cache).unwrap();
    // A device does not hand its choices out: they are those of the reference, in order.
    let chosen = (0..n * N_USED).map(|i| {
        let expert = if skipped(i) { SKIPPED } else { ((i * 5 + i / 7) % N_EXPERT) as u32 };
        // About one for a row, as a router gives them. What weight a skipped one has is nothing to anybody.
        (expert, if skipped(i) { f32::NAN } else { 0.25 + (i % 8) as f32 / 64.0 })
    });
    p.choose(sel, &chosen.collect::<Vec<_>>()).unwrap();
    p.run_part(1, &mut cache).unwrap();
    p.read(out).unwrap()
}

#[test]
fn skipped_choices_are_left_out() {
    type Skips = fn(usize) -> bool;
    let cases: [(&str, Skips); 3] =
        [("some", |i| i % 3 == 1 || i % 7 == 2), ("all", |_| true), ("all of a row", |i| i / N_USED == 0)];
    // A hidden number, 20 at most, whose rounding to 8 bits a last bit tips moves all outputs: by a weight (3/8) times a 127th of 20
    // times an element of `down` (0.4). Plain numbers are not rounded. An expert too many or too few moves outputs by ones.
    for (ty, tipped) in [(GgmlType::Q4_K, 2.5e-2), (GgmlType::F32, 1e-4)] {
        for ((how, skipped), n) in cases.into_iter().flat_map(|case| [1, 5, 20].map(|n| (case, n))) {
            let want = skipping(&Reference::default(), ty, n, skipped);
            for same in backends() {
                let got = skipping(&*same[0], ty, n, skipped);
                for (g, w) in got.iter().zip(&want) {
                    let what = format!("{ty}, {how}, {n} rows, {}", same[0].name());
                    assert!((g - w).abs() <= tipped + w.abs() * 4e-6, "{what}: {g} is not {w}");
                }
                for other in &same[1..] {
                    assert!(same_bits(&got, &skipping(&**other, ty, n, skipped)), "{ty}, {how}: other bits");
                }
            }
        }
    }
}
