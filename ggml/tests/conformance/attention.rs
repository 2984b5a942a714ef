//! Attention over the cache, in all its forms.

use std::num::NonZeroUsize;
use std::sync::Arc;

use ggml_sys::GgmlType;
use ggml_sys::backend::Backend;
use ggml_sys::cache::{LayerCache, ValueRows};
use ggml_sys::cpu::Cpu;
use ggml_sys::format::random::Random;
use ggml_sys::graph::{Graph, Row, Rows, Stack, View, Weights};
use ggml_sys::ops::*;
use ggml_sys::reference::Reference;

use super::case::{Case, backends, gaussian, rows, same_bits, tensor};

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

/// Heads in groups.
fn grouped(ty: GgmlType) -> (LayerCache, usize) {
    (LayerCache { n_head_kv: 2, k_dim: 64, k_ty: ty, v: ValueRows::Own { dim: 32, ty } }, 6)
}

/// Heads over latents.
fn latent(ty: GgmlType) -> (LayerCache, usize) {
    (LayerCache { n_head_kv: 1, k_dim: 96, k_ty: ty, v: ValueRows::KeyPrefix { dim: 64 } }, 5)
}

/// Heads over latents that are too long for small tiles, whose values are widened in strips with a shorter one at the end, and
/// enough heads to be shared out although each of the blocks reads the rows.
fn long_latent(ty: GgmlType) -> (LayerCache, usize) {
    (LayerCache { n_head_kv: 1, k_dim: 320, k_ty: ty, v: ValueRows::KeyPrefix { dim: 288 } }, 36)
}

/// Attention of `batch` rows over a cache of `n` positions and themselves.
fn attention(name: &str, (layer, n_head): (LayerCache, usize), n: usize, batch: usize) -> Case {
    let mut c = Case::new(format!("{name}: over {n} and {batch} of {layer:?}"), Weights::default());
    over_cache(&mut c, layer, n, batch);
    let q = c.input(batch, n_head * layer.k_dim, 1.0, 9).heads(n_head);
    let y = c.graph.buffer(n_head * layer.v_dim(), Rows::Tokens);
    let scale = 1.0 / (layer.k_dim as f32).sqrt();
    let n_head_kv = layer.n_head_kv;
    c.graph.push(Attention { layer: 0, n_head_kv, q, scale, y: y.heads(n_head) }).unwrap();
    c.out = c.graph.output(y);
    c
}

#[test]
fn attention_over_grouped_heads_and_over_latents() {
    let backends = backends();
    // Inside a chunk, across chunks, across spans of several chunks; rows that see a span more than the first, and rows whose
    // spans are longer than the first one's.
    let lengths =
        [(0, 1), (0, 40), (3, 8), (127, 3), (250, 3), (250, 20), (600, 2), (600, 9), (2046, 4), (17_000, 2)];
    for (ty, bound) in CACHES {
        for (n, batch) in lengths {
            for layer in [grouped(ty), latent(ty)] {
                let mut c = attention("attention", layer, n, batch);
                c.bound = Box::new(move |_, _| bound);
                c.check(&backends);
            }
        }
    }
}

#[test]
fn attention_over_the_rows_of_usual_models() {
    let backends = backends();
    for (ty, bound) in CACHES {
        let own = |k_dim, dim, v_ty| LayerCache {
            n_head_kv: 2,
            k_dim,
            k_ty: ty,
            v: ValueRows::Own { dim, ty: v_ty },
        };
        let latent = LayerCache { n_head_kv: 1, k_dim: 576, k_ty: ty, v: ValueRows::KeyPrefix { dim: 512 } };
        let shapes = [
            (own(64, 64, ty), 4),
            (own(128, 128, ty), 4),
            (own(128, 128, GgmlType::F16), 2),
            (own(192, 128, ty), 2),
            (latent, 17),
        ];
        for shape in shapes {
            // Few rows, and prompts of more than a tile of rows and after many others.
            let long = if shape.0 == latent { (0, 9) } else { (0, 66) };
            for (n, batch) in [(130, 2), long, (520, 9)] {
                let mut c = attention("usual rows", shape, n, batch);
                c.bound = Box::new(move |_, _| bound);
                c.check(&backends);
            }
        }
    }
}

/// `n` random numbers, no more than 2 in magnitude, that blocks of 8-bit integers hold as they are.
fn eight_bit(n: usize, seed: u64) -> Vec<f32> {
    let mut random = Random(seed);
    let mut number = |i: usize| match i % 32 {
        // The largest of a block makes its scale 1/64.
        0 => 127.0,
        _ => (random.next() % 255) as f32 - 127.0,
    };
    (0..n).map(|i| number(i) / 64.0).collect()
}

#[test]
fn attention_of_queries_that_eight_bits_hold_is_exact_over_all_caches() {
    let backends = backends();
    for (ty, _) in CACHES {
        for (n, batch) in [(127, 3), (250, 20), (2046, 4)] {
            for layer in [grouped(ty), latent(ty), long_latent(ty)] {
                let mut c = attention("8-bit queries", layer, n, batch);
                if let Some((_, q)) = c.inputs.last_mut() {
                    *q = eight_bit(q.len(), 11);
                }
                c.bound = Box::new(|_, _| 4e-6);
                c.check(&backends);
            }
        }
    }
}

#[test]
fn a_query_has_the_same_bits_alone_or_among_eight() {
    // Those from position 128 on have a span more.
    const FIRST: usize = 124;
    let backend = Cpu::new(NonZeroUsize::new(2).unwrap()).unwrap();
    for ty in [GgmlType::F16, GgmlType::Q8_0] {
        for layer in [grouped(ty), latent(ty), long_latent(ty)] {
            let c = attention("alone or among eight", layer, FIRST, 8);
            let run = |at_once: usize| {
                let mut cache = c.cache_of(&backend);
                let mut out = vec![];
                for first in (0..8).step_by(at_once) {
                    let batch = rows(FIRST + first, at_once.min(8 - first));
                    let part = |v: &Vec<f32>| {
                        let width = v.len() / 8;
                        v[first * width..][..batch.len() * width].to_vec()
                    };
                    let inputs: Vec<_> = c.inputs.iter().map(|(b, v)| (*b, part(v))).collect();
                    let inputs: Vec<_> = inputs.iter().map(|(b, v)| (*b, &v[..])).collect();
                    cache.prepare(&batch).unwrap();
                    let mut p = backend.compile(&c.graph, &c.layers, batch.len()).unwrap();
                    p.run(&batch, &mut cache, &inputs).unwrap();
                    out.extend(p.read(c.out).unwrap());
                }
                out
            };
            let together = run(8);
            for n in [1, 3] {
                assert!(same_bits(&run(n), &together), "{}: {n} at a time", c.name);
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
            let mut cache = b.cache(&c.layers, 100).unwrap();
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
fn mla_in_its_naive_form_from_keys_stored_either_way() {
    let backends = backends();
    let (heads, rank, nope, rope, n_v) = (3, 64, 32, 32, 48);
    for (ty, bound) in [(GgmlType::F32, 4e-6), (GgmlType::F16, 4e-6), (GgmlType::Q8_0, 4e-6)] {
        for w_ty in [GgmlType::F32, GgmlType::F16, GgmlType::Q8_0] {
            for (n, batch) in [(0, 1), (0, 140), (250, 20), (600, 3)] {
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
