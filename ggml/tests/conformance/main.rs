//! Every operation, every format, every backend against the scalar reference.
//!
//! A backend is held to a stated distance from the reference and to the same bits for any number of threads; rows
//! give the same bits alone or among up to eight.

mod attention;
mod case;
mod matrices;
mod slots;
mod tallies;

use std::sync::Arc;

use case::{Case, backends, gaussian, rows, streaming, tensor};
use ggml_sys::format::{FORMATS, Kind};
use ggml_sys::graph::{Graph, Rows, Stack, Weights};
use ggml_sys::ops::*;
use ggml_sys::{GgmlType, Shape, Tensor};

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
            c.graph.push(Experts { x, sel, gate, up, down, y, hidden: None }).unwrap();
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

/// Experts that pass through a device: gate and up in one tensor, in two, and in two formats.
#[test]
fn experts_that_are_sent_piece_by_piece() {
    let backends: Vec<_> = Some(streaming()).filter(|s| !s.is_empty()).into_iter().collect();
    let formats = [
        (GgmlType::Q4_K, None),
        (GgmlType::Q8_0, Some(GgmlType::Q8_0)),
        (GgmlType::F16, Some(GgmlType::F16)),
        (GgmlType::Q6_K, Some(GgmlType::Q5_0)),
    ];
    for (ty, other) in formats {
        for n in [1, 20] {
            let (n_expert, n_embd, n_ff) = (8, 256, 256);
            let mut weights = Weights::default();
            let stack = |w, row0, stride| Stack { w, row0, stride, rows: n_ff, n: n_expert };
            let (gate, up) = match other {
                None => {
                    let w = weights.add(tensor(ty, &[n_embd, 2 * n_ff, n_expert], 0.1, 1));
                    (stack(w, 0, 2 * n_ff), stack(w, n_ff, 2 * n_ff))
                }
                Some(other) => {
                    let gate = weights.add(tensor(ty, &[n_embd, n_ff, n_expert], 0.1, 1));
                    let up = weights.add(tensor(other, &[n_embd, n_ff, n_expert], 0.1, 2));
                    (stack(gate, 0, n_ff), stack(up, 0, n_ff))
                }
            };
            let down = weights.add(tensor(ty, &[n_ff, n_embd, n_expert], 0.1, 3));
            let down = Stack { w: down, row0: 0, stride: n_embd, rows: n_embd, n: n_expert };
            let mut c = Case::new(format!("experts {ty} sent, {n} rows"), weights);
            let (logits, x) = (c.input(n, n_expert, 1.0, 4), c.input(n, n_embd, 1.0, 5));
            let (y, sel) = (c.input(n, n_embd, 1.0, 6), c.graph.selection(3));
            let gating = Gating::Softmax;
            let router =
                Router { logits, bias: None, gating, groups: None, normalize: true, scale: 2.5, sel };
            c.graph.push(router).unwrap();
            c.graph.push(Experts { x, sel, gate, up, down, y, hidden: None }).unwrap();
            c.out = c.graph.output(y);
            c.batch = rows(0, n);
            // As for experts on the device.
            c.bound = Box::new(move |_, w| 6e-3 + w.abs() * 4e-6);
            c.check(&backends);
        }
    }
}
