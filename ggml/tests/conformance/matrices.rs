//! Products with matrices, and what is fused with them.

use std::num::NonZeroUsize;
use std::sync::Arc;

use ggml_sys::backend::Backend;
use ggml_sys::cache::Cache;
use ggml_sys::cpu::Cpu;
use ggml_sys::format::{FORMATS, Format, Kind};
use ggml_sys::graph::{Graph, Rows, Stack, WeightId, Weights};
use ggml_sys::ops::*;
use ggml_sys::{GgmlType, Shape, Tensor};

use super::case::{Case, backends, gaussian, rows, same_bits, tensor};

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
