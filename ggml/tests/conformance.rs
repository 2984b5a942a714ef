//! Every operation, every format, every backend against the scalar reference.
//!
//! A backend is held to a stated distance from the reference and to the same bits for any number of threads; rows
//! give the same bits alone or among up to eight.

use std::num::NonZeroUsize;
use std::sync::Arc;

use ggml_sys::backend::Backend;
use ggml_sys::cache::{Cache, LayerCache, ValueRows};
use ggml_sys::cpu::{Cpu, kernels};
use ggml_sys::format::random::{Random, random_blocks};
use ggml_sys::format::{FORMATS, Format, Kind};
use ggml_sys::graph::{BufId, Graph, Row, Rows, Stack, View, WeightId, Weights};
use ggml_sys::ops::*;
use ggml_sys::reference::Reference;
use ggml_sys::{Bytes, GgmlType, Shape, Tensor};

/// Backends that must give the same bits: every instruction set of this machine, with one thread and with several.
fn backends() -> Vec<Vec<Box<dyn Backend>>> {
    let threads = |n| NonZeroUsize::new(n).unwrap();
    kernels::available()
        .map(|k| {
            [1, 2, 5].map(|n| Box::new(Cpu::with_kernels(threads(n), k).unwrap()) as Box<dyn Backend>).into()
        })
        .collect()
}

fn tensor(ty: GgmlType, dims: &[usize], scale: f32, seed: u64) -> Tensor {
    let shape = Shape::new(dims).unwrap();
    let blocks = shape.n_elements() / ty.format().block;
    let bytes = Bytes::from_vec(random_blocks(ty, blocks, scale, seed));
    Tensor::new(format!("{ty} {shape}"), ty, shape, bytes).unwrap()
}

fn gaussian(n: usize, seed: u64) -> Vec<f32> {
    let mut r = Random(seed);
    (0..n).map(|_| r.gaussian()).collect()
}

/// Rows of one sequence from a position on, all wanted.
fn rows(first: usize, n: usize) -> Vec<Row> {
    (first..first + n).map(|p| Row { token: (p % 7) as u32, pos: p as u32, seq: 0, output: true }).collect()
}

/// Buffers and their values.
type Inputs = Vec<(BufId, Vec<f32>)>;

/// A graph, the cache it runs over, and its inputs for one batch.
struct Case {
    name: String,
    graph: Graph,
    layers: Vec<LayerCache>,
    /// Positions that the cache has before, and the graph that stores them.
    before: Option<(Graph, usize, Inputs)>,
    batch: Vec<Row>,
    inputs: Inputs,
    out: BufId,
    /// Distance allowed for each output.
    bound: Box<dyn Fn(usize, f32) -> f32>,
}

impl Case {
    fn new(name: impl Into<String>, weights: Weights) -> Case {
        let mut graph = Graph::new(Arc::new(weights));
        let out = graph.buffer(1, Rows::Tokens).buf;
        Case {
            name: name.into(),
            graph,
            layers: vec![],
            before: None,
            batch: vec![],
            inputs: vec![],
            out,
            bound: Box::new(|_, _| 0.0),
        }
    }

    fn input(&mut self, n_rows: usize, width: usize, scale: f32, seed: u64) -> View {
        let v = self.graph.input(width, Rows::Tokens);
        let values = gaussian(n_rows * width, seed).iter().map(|x| x * scale).collect();
        self.inputs.push((v.buf, values));
        v
    }

    fn run(&self, backend: &dyn Backend) -> Vec<f32> {
        let mut cache = Cache::new(&self.layers, 1 << 20).unwrap();
        if let Some((graph, n, inputs)) = &self.before {
            let batch = rows(0, *n);
            cache.prepare(&batch).unwrap();
            let inputs: Vec<_> = inputs.iter().map(|(b, v)| (*b, &v[..])).collect();
            // What the cache holds is the reference's work: only the case itself is compared.
            let mut p = Reference::default().compile(graph, &self.layers, *n).unwrap();
            p.run(&batch, &mut cache, &inputs).unwrap();
        }
        cache.prepare(&self.batch).unwrap();
        let mut p = backend.compile(&self.graph, &self.layers, self.batch.len()).unwrap();
        let inputs: Vec<_> = self.inputs.iter().map(|(b, v)| (*b, &v[..])).collect();
        p.run(&self.batch, &mut cache, &inputs).unwrap();
        // A second run over the same buffers must not depend on what the first one left there.
        let first = p.read(self.out).unwrap();
        cache.truncate(0, self.batch[0].pos as usize);
        cache.prepare(&self.batch).unwrap();
        p.run(&self.batch, &mut cache, &inputs).unwrap();
        let second = p.read(self.out).unwrap();
        assert!(same_bits(&first, &second), "{}: a second run differs", self.name);
        first
    }

    fn check(self, backends: &[Vec<Box<dyn Backend>>]) {
        let want = self.run(&Reference::default());
        assert!(want.iter().any(|v| *v != 0.0), "{}: nothing but zeros to compare", self.name);
        for same in backends {
            let got = self.run(&*same[0]);
            for (i, (g, w)) in got.iter().zip(&want).enumerate() {
                let (e, bound) = ((g - w).abs(), (self.bound)(i, *w));
                let at = format!("{}, {}, output {i}", self.name, same[0].name());
                assert!(e <= bound, "{at}: {g} is {e} from {w}, more than {bound}");
            }
            assert_eq!(got.len(), want.len());
            for other in &same[1..] {
                assert!(same_bits(&got, &self.run(&**other)), "{}, {}: other bits", self.name, other.name());
            }
        }
    }
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// Units in the last place of Σ|w·x| that a dot product may be off by. Products of integers are exact, so what rounds is one
/// sum a block; plain numbers round in every product, over as many partial sums as a kernel has lanes.
fn dot_ulps(f: &Format) -> f32 {
    match f.kind {
        Kind::Blocks(_) => 2.0,
        Kind::Float { .. } => 3.0,
    }
}

/// Bounds for the products of `w` with `x`: [`dot_ulps`] of Σ|w·x| each, plus half a unit of the result.
fn product_bound(w: &Tensor, x: &[f32], ulps: f32) -> Box<dyn Fn(usize, f32) -> f32> {
    let (k, n_out) = (w.shape().row_len(), w.shape().n_rows());
    let values = w.to_f32();
    let sums: Vec<f32> = x
        .chunks_exact(k)
        .flat_map(|x| {
            let values = &values;
            (0..n_out)
                .map(move |r| values[r * k..][..k].iter().zip(x).map(|(a, b)| (a * b).abs()).sum::<f32>())
        })
        .collect();
    Box::new(move |i, _| sums[i] * ulps * f32::EPSILON)
}

/// Row counts on both sides of the change of regime.
const ROW_COUNTS: [usize; 5] = [1, 2, 8, 9, 21];

#[test]
fn linear_in_every_format() {
    let backends = backends();
    for f in FORMATS {
        for (i, n) in ROW_COUNTS.into_iter().enumerate() {
            // Ragged ends: rows of few blocks, odd numbers of them.
            let k = [1, 3, 2, 5, 1][i] * f.block.max(if f.block == 1 { 37 } else { 32 });
            let n_out = [1, 67, 130, 33, 259][i];
            let mut weights = Weights::default();
            let t = tensor(f.ty, &[k, n_out], 1.0, 7 * i as u64 + 1);
            let w = weights.add(t.clone());
            let mut c = Case::new(format!("linear {} {n} rows of {k} to {n_out}", f.name), weights);
            let x = c.input(n, k, 1.0, 99);
            let y = c.graph.buffer(n_out, Rows::Tokens);
            c.graph.push(Linear { x, parts: vec![Projection { w, bias: None, y }], add: false }).unwrap();
            c.out = c.graph.output(y);
            c.batch = rows(0, n);
            c.bound = product_bound(&t, &c.inputs[0].1, dot_ulps(f));
            c.check(&backends);
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_or_among_eight() {
    for f in FORMATS {
        let (k, n_out) = (3 * f.block.max(32), 19);
        let mut weights = Weights::default();
        let w = weights.add(tensor(f.ty, &[k, n_out], 1.0, 3));
        let weights = Arc::new(weights);
        let run = |x: &[f32]| {
            let mut g = Graph::new(weights.clone());
            let v = g.input(k, Rows::Tokens);
            let y = g.buffer(n_out, Rows::Tokens);
            g.push(Linear { x: v, parts: vec![Projection { w, bias: None, y }], add: false }).unwrap();
            let out = g.output(y);
            let batch = rows(0, x.len() / k);
            let mut cache = Cache::new(&[], 100).unwrap();
            let backend = Cpu::new(NonZeroUsize::new(2).unwrap()).unwrap();
            let mut p = backend.compile(&g, &[], batch.len()).unwrap();
            p.run(&batch, &mut cache, &[(v.buf, x)]).unwrap();
            p.read(out).unwrap()
        };
        let x = gaussian(8 * k, 5);
        let together = run(&x);
        for n in [1, 3, 8] {
            let apart: Vec<f32> = x.chunks(n * k).flat_map(run).collect();
            assert!(same_bits(&apart, &together), "{}: {n} at a time", f.name);
        }
    }
}

#[test]
fn linear_with_bias_residual_and_mixed_formats() {
    let backends = backends();
    for n in ROW_COUNTS {
        let mut weights = Weights::default();
        let types = [GgmlType::Q4_K, GgmlType::Q6_K, GgmlType::F16, GgmlType::Q8_0];
        let parts: Vec<(WeightId, WeightId, usize)> = types
            .iter()
            .enumerate()
            .map(|(i, &ty)| {
                let n_out = 40 + 9 * i;
                let b =
                    Tensor::from_f32("bias", Shape::new(&[n_out]).unwrap(), &gaussian(n_out, 50)).unwrap();
                (weights.add(tensor(ty, &[256, n_out], 1.0, i as u64)), weights.add(b), n_out)
            })
            .collect();
        for add in [false, true] {
            let mut c = Case::new(format!("linear of four formats, {n} rows, add {add}"), Weights::default());
            c.graph = Graph::new(Arc::new(clone(&weights)));
            let x = c.input(n, 256, 1.0, 1);
            let y = c.input(n, parts.iter().map(|p| p.2).sum(), 1.0, 2);
            let mut col = 0;
            let projections = parts
                .iter()
                .map(|&(w, b, n_out)| {
                    col += n_out;
                    Projection { w, bias: Some(b), y: y.cols(col - n_out, n_out) }
                })
                .collect();
            c.graph.push(Linear { x, parts: projections, add }).unwrap();
            c.out = c.graph.output(y);
            c.batch = rows(0, n);
            c.bound = Box::new(|_, w| 3e-5 + w.abs() * 1e-6);
            c.check(&backends);
        }
    }
}

fn clone(w: &Weights) -> Weights {
    let mut out = Weights::default();
    for (_, t) in w.iter() {
        out.add(t.clone());
    }
    out
}

#[test]
fn gate_up_in_every_format() {
    let backends = backends();
    for f in FORMATS {
        for n in [1, 5, 12] {
            let (k, n_ff) = (2 * f.block.max(32), 75);
            let mut weights = Weights::default();
            let gate = weights.add(tensor(f.ty, &[k, n_ff], 0.1, 1));
            let up = weights.add(tensor(f.ty, &[k, n_ff], 0.1, 2));
            let mut c = Case::new(format!("gate_up {} {n} rows", f.name), weights);
            let x = c.input(n, k, 1.0, 3);
            let y = c.graph.buffer(n_ff, Rows::Tokens);
            c.graph.push(GateUp { x, gate, up, y }).unwrap();
            c.out = c.graph.output(y);
            c.batch = rows(0, n);
            // Σ|w·x| is about 30 for either product: two units of it, times the other product of about 2.
            c.bound = Box::new(|_, w| 1.5e-5 + w.abs() * 4e-6);
            c.check(&backends);
        }
    }
}

#[test]
fn norms_of_rows_and_heads() {
    let backends = backends();
    for (width, n_weight) in [(77, 77), (256, 64), (2048, 2048)] {
        for in_place in [false, true] {
            let mut weights = Weights::default();
            let w = Tensor::from_f32("w", Shape::new(&[n_weight]).unwrap(), &gaussian(n_weight, 4)).unwrap();
            let weight = weights.add(w);
            let mut c = Case::new(format!("norm {width} by {n_weight}, in place {in_place}"), weights);
            let x = c.input(5, width, 3.0, 5);
            let y = if in_place { x } else { c.graph.buffer(width, Rows::Tokens) };
            c.graph.push(RmsNorm { x, weight, eps: 1e-6, y }).unwrap();
            c.out = c.graph.output(y);
            c.batch = rows(0, 5);
            c.bound = Box::new(|_, w| w.abs() * 1e-6);
            c.check(&backends);
        }
    }
}

#[test]
fn embeddings_of_every_format_and_chosen_outputs() {
    let backends = backends();
    for f in FORMATS {
        let n_embd = 2 * f.block.max(16);
        let mut weights = Weights::default();
        let table = weights.add(tensor(f.ty, &[n_embd, 7], 1.0, 8));
        let mut c = Case::new(format!("embed {}", f.name), weights);
        let x = c.graph.buffer(n_embd, Rows::Tokens);
        c.graph.push(Embed { table, y: x }).unwrap();
        let y = c.graph.buffer(n_embd, Rows::Outputs);
        c.graph.push(SelectOutputs { x, y }).unwrap();
        c.out = c.graph.output(y);
        c.batch = rows(0, 12);
        (0..12).for_each(|i| c.batch[i].output = i % 3 == 1);
        c.check(&backends);
    }
}

#[test]
fn rotations() {
    let backends = backends();
    for pairing in [Pairing::Adjacent, Pairing::Halves] {
        let mut c = Case::new(format!("rope {pairing:?}"), Weights::default());
        let freqs: Arc<[f32]> = (0..16).map(|i| 10f32.powf(-i as f32 / 4.0)).collect();
        let table = c.graph.buffer(32, Rows::Tokens);
        c.graph.push(RopeTable { freqs, scale: 1.3, y: table }).unwrap();
        let x = c.input(11, 4 * 48, 1.0, 6);
        let y = c.graph.buffer(4 * 64, Rows::Tokens);
        // From the middle of heads to the end of wider ones, and in place.
        let (from, to) = (x.heads(4).cols(8, 40), y.heads(4).cols(24, 40));
        c.graph.push(Rope { x: from, table, pairing, y: to }).unwrap();
        c.graph.push(Rope { x: to, table, pairing, y: to }).unwrap();
        c.out = c.graph.output(y);
        c.batch = rows(1000, 11);
        c.layers = vec![];
        c.before = Some((Graph::new(Arc::default()), 1000, vec![]));
        c.bound = Box::new(|_, _| 1e-6);
        c.check(&backends);
    }
}

/// A layer of a cache, its keys and values stored from inputs.
fn store(g: &mut Graph, layer: &LayerCache) -> Vec<View> {
    let k = g.input(layer.n_head_kv * layer.k_dim, Rows::Tokens);
    let v = match layer.v {
        ValueRows::Own { dim, .. } => Some(g.input(layer.n_head_kv * dim, Rows::Tokens)),
        ValueRows::KeyPrefix { .. } => None,
    };
    let heads = |v: View| v.heads(layer.n_head_kv);
    g.push(StoreKv { layer: 0, k: heads(k), v: v.map(heads) }).unwrap();
    [Some(k), v].into_iter().flatten().collect()
}

/// Fills `n` positions of the cache before, and stores the batch's own in the case's graph.
fn over_cache(c: &mut Case, layer: LayerCache, n: usize, batch: usize) {
    c.layers = vec![layer];
    if n > 0 {
        let mut g = Graph::new(Arc::default());
        let views = store(&mut g, &layer);
        let inputs =
            views.iter().enumerate().map(|(i, v)| (v.buf, gaussian(n * v.width, 70 + i as u64))).collect();
        c.before = Some((g, n, inputs));
    }
    for (i, v) in store(&mut c.graph, &layer).into_iter().enumerate() {
        c.inputs.push((v.buf, gaussian(batch * v.width, 80 + i as u64)));
    }
    c.batch = rows(n, batch);
}

/// Cache types with the distance allowed to outputs of about 1. With Q8_0 the queries are rounded to 8 bits, which the
/// reference does not do: 1/254 of the largest of 32, and the scores' errors average out over the elements.
const CACHES: [(GgmlType, f32); 3] = [(GgmlType::F32, 4e-6), (GgmlType::F16, 4e-6), (GgmlType::Q8_0, 1.5e-2)];

#[test]
fn attention_over_grouped_heads_and_over_latents() {
    let backends = backends();
    // Inside a chunk, across chunks, across spans of several chunks.
    let lengths = [(0, 1), (0, 40), (3, 8), (250, 3), (250, 20), (600, 2), (600, 9), (17_000, 2)];
    for (ty, bound) in CACHES {
        for (n, batch) in lengths {
            let own = ValueRows::Own { dim: 32, ty };
            let grouped = LayerCache { n_head_kv: 2, k_dim: 64, k_ty: ty, v: own };
            let latent =
                LayerCache { n_head_kv: 1, k_dim: 96, k_ty: ty, v: ValueRows::KeyPrefix { dim: 64 } };
            for (layer, n_head) in [(grouped, 6), (latent, 5)] {
                let name = format!("attention over {n} and {batch} of {layer:?}");
                let mut c = Case::new(name, Weights::default());
                over_cache(&mut c, layer, n, batch);
                let q = c.input(batch, n_head * layer.k_dim, 1.0, 9).heads(n_head);
                let y = c.graph.buffer(n_head * layer.v_dim(), Rows::Tokens);
                let scale = 1.0 / (layer.k_dim as f32).sqrt();
                let n_head_kv = layer.n_head_kv;
                c.graph.push(Attention { layer: 0, n_head_kv, q, scale, y: y.heads(n_head) }).unwrap();
                c.out = c.graph.output(y);
                c.bound = Box::new(move |_, _| bound);
                c.check(&backends);
            }
        }
    }
}

#[test]
fn rows_of_several_sequences_attend_to_their_own() {
    let backends = backends();
    let v = ValueRows::Own { dim: 32, ty: GgmlType::F16 };
    let layer = LayerCache { n_head_kv: 1, k_dim: 32, k_ty: GgmlType::F16, v };
    for per_seq in [2, 9] {
        let mut c = Case::new(format!("three sequences of {per_seq}"), Weights::default());
        over_cache(&mut c, layer, 0, 3 * per_seq);
        let row =
            |i: usize| Row { token: 0, pos: (i % per_seq) as u32, seq: (i / per_seq) as u32, output: true };
        c.batch = (0..3 * per_seq).map(row).collect();
        let q = c.input(3 * per_seq, 4 * 32, 1.0, 9).heads(4);
        let y = c.graph.buffer(4 * 32, Rows::Tokens);
        c.graph.push(Attention { layer: 0, n_head_kv: 1, q, scale: 0.2, y: y.heads(4) }).unwrap();
        c.out = c.graph.output(y);
        c.bound = Box::new(|_, _| 4e-6);
        // One run only: the helper rolls back sequence 0 alone.
        let run = |b: &dyn Backend| {
            let mut cache = Cache::new(&c.layers, 100).unwrap();
            cache.prepare(&c.batch).unwrap();
            let mut p = b.compile(&c.graph, &c.layers, c.batch.len()).unwrap();
            let inputs: Vec<_> = c.inputs.iter().map(|(b, v)| (*b, &v[..])).collect();
            p.run(&c.batch, &mut cache, &inputs).unwrap();
            p.read(c.out).unwrap()
        };
        let want = run(&Reference::default());
        for b in backends.iter().flatten() {
            let far = run(&**b).iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far <= 4e-6, "{}: {far}", b.name());
        }
    }
}

#[test]
fn head_linear_in_every_format() {
    let backends = backends();
    for f in FORMATS {
        for n in [1, 4, 10] {
            let (heads, k, n_out) = (3, f.block.max(32), 21);
            let mut weights = Weights::default();
            // Matrices apart by rows that belong to nobody, as the values of attn_kv_b lie.
            let (row0, stride) = (5, n_out + 5);
            let w = weights.add(tensor(f.ty, &[k, heads * stride], 1.0, 1));
            let mut c = Case::new(format!("head_linear {} {n} rows", f.name), weights);
            let x = c.input(n, heads * (k + 8), 1.0, 2).heads(heads).cols(8, k);
            let y = c.graph.buffer(heads * (n_out + 3), Rows::Tokens);
            let stack = Stack { w, row0, stride, rows: n_out, n: heads };
            c.graph.push(HeadLinear { x, w: stack, y: y.heads(heads).cols(3, n_out) }).unwrap();
            c.out = c.graph.output(y);
            c.batch = rows(0, n);
            c.bound = Box::new(move |_, w| 2e-5 + w.abs() * 1e-6);
            c.check(&backends);
        }
    }
}

#[test]
fn mla_in_its_naive_form_from_keys_stored_either_way() {
    let backends = backends();
    let (heads, rank, nope, rope, n_v) = (3, 64, 32, 32, 48);
    for (ty, bound) in [(GgmlType::F32, 4e-6), (GgmlType::F16, 4e-6), (GgmlType::Q8_0, 4e-6)] {
        for w_ty in [GgmlType::F32, GgmlType::F16, GgmlType::Q8_0] {
            for (n, batch) in [(0, 1), (0, 70), (250, 20), (600, 3)] {
                for transposed in [false, true] {
                    let mut weights = Weights::default();
                    let k_up = if transposed {
                        let w = weights.add(tensor(w_ty, &[nope, rank, heads], 0.15, 1));
                        KeyUp::Transposed(Stack { w, row0: 0, stride: rank, rows: rank, n: heads })
                    } else {
                        let w = weights.add(tensor(w_ty, &[rank, heads * (nope + 3)], 0.15, 1));
                        KeyUp::Rows(Stack { w, row0: 0, stride: nope + 3, rows: nope, n: heads })
                    };
                    let w = weights.add(tensor(w_ty, &[rank, n_v, heads], 0.15, 2));
                    let v_up = Stack { w, row0: 0, stride: n_v, rows: n_v, n: heads };
                    let name =
                        format!("naive MLA, {w_ty} over {ty}, {n} and {batch}, transposed {transposed}");
                    let mut c = Case::new(name, weights);
                    let v = ValueRows::KeyPrefix { dim: rank };
                    let layer = LayerCache { n_head_kv: 1, k_dim: rank + rope, k_ty: ty, v };
                    over_cache(&mut c, layer, n, batch);
                    let q = c.input(batch, heads * (nope + rope), 1.0, 3).heads(heads);
                    let y = c.graph.buffer(heads * n_v, Rows::Tokens);
                    let op = MlaNaive {
                        layer: 0,
                        q,
                        kv_lora_rank: rank,
                        n_nope: nope,
                        k_up,
                        v_up,
                        scale: 0.125,
                        y: y.heads(heads),
                    };
                    c.graph.push(op).unwrap();
                    c.out = c.graph.output(y);
                    c.bound = Box::new(move |_, _| bound);
                    c.check(&backends);
                }
            }
        }
    }
}

#[test]
fn experts_in_every_format_with_every_router() {
    let backends = backends();
    let groups = |score| Some(Groups { n: 4, used: 2, score });
    let routers = [
        (Gating::Softmax, None, false, false),
        (Gating::Softmax, groups(GroupScore::Max), true, false),
        (Gating::Sigmoid, groups(GroupScore::Top2Sum), true, true),
    ];
    for (i, f) in FORMATS.iter().enumerate() {
        let (gating, groups, normalize, bias) = routers[i % routers.len()];
        for n in [1, 6, 40] {
            let (n_expert, n_embd, n_ff) = (8, f.block.max(64), f.block.max(128));
            let mut weights = Weights::default();
            // Gate and up in one tensor for some, apart for others.
            let (gate, up) = if i % 2 == 0 {
                let w = weights.add(tensor(f.ty, &[n_embd, 2 * n_ff, n_expert], 0.1, 1));
                let half = |row0| Stack { w, row0, stride: 2 * n_ff, rows: n_ff, n: n_expert };
                (half(0), half(n_ff))
            } else {
                let stack = |w| Stack { w, row0: 0, stride: n_ff, rows: n_ff, n: n_expert };
                let gate = weights.add(tensor(f.ty, &[n_embd, n_ff, n_expert], 0.1, 1));
                (stack(gate), stack(weights.add(tensor(f.ty, &[n_embd, n_ff, n_expert], 0.1, 2))))
            };
            let down = weights.add(tensor(f.ty, &[n_ff, n_embd, n_expert], 0.1, 3));
            let down = Stack { w: down, row0: 0, stride: n_embd, rows: n_embd, n: n_expert };
            let b = Tensor::from_f32("b", Shape::new(&[n_expert]).unwrap(), &gaussian(n_expert, 9)).unwrap();
            let bias = bias.then(|| weights.add(b));
            let mut c = Case::new(format!("experts {} {n} rows {gating:?} {groups:?}", f.name), weights);
            let logits = c.input(n, n_expert, 1.0, 4);
            let x = c.input(n, n_embd, 1.0, 5);
            let y = c.input(n, n_embd, 1.0, 6);
            let sel = c.graph.selection(3);
            c.graph.push(Router { logits, bias, gating, groups, normalize, scale: 2.5, sel }).unwrap();
            c.graph.push(Experts { x, sel, gate, up, down, y }).unwrap();
            c.out = c.graph.output(y);
            c.batch = rows(0, n);
            // The hidden rows are rounded to 8 bits again: where a last bit tips a rounding, an output moves by a
            // 254th of one of its terms.
            let tipped = if matches!(f.kind, Kind::Blocks(_)) { 6e-3 } else { 4e-6 };
            c.bound = Box::new(move |_, w| tipped + w.abs() * 4e-6);
            c.check(&backends);
        }
    }
}
