//! How fast each kernel is on each instruction set of this machine, in cache and on one thread.
//!
//!     cargo bench -p ggml-sys --bench kernels -- q4_k             # one format
//!     cargo bench -p ggml-sys --bench kernels -- 'gemm.*avx512'   # one kernel, some instruction sets
//!
//!     cargo bench -p ggml-sys --bench kernels -- encode           # the encoders, in values a second
//!
//! `matvec` and `widen` are in bytes a second of weights or rows, the others in multiplications a second (criterion
//! calls them elements).

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ggml_sys::GgmlType;
use ggml_sys::cpu::kernels::bench::{Attention, Product};
use ggml_sys::cpu::kernels::{Kernels, available};
use ggml_sys::format::FORMATS;
use ggml_sys::format::random::Random;

/// Elements of a row of weights.
const K: usize = 2048;
/// Rows of weights: with rows of [`K`], a second-level cache holds them in any quantized format.
const N_W: usize = 64;
/// Rows of a prompt.
const MANY: usize = 256;
/// Rows of weights that a prompt's kernels get at once.
const TILE: usize = 256;

/// Times `f` for every instruction set.
fn each(
    c: &mut Criterion,
    name: &str,
    throughput: Throughput,
    mut f: impl FnMut(&'static Kernels) -> Option<f32>,
) {
    let mut group = c.benchmark_group(name);
    group.throughput(throughput);
    for kernels in available() {
        group.bench_function(kernels.isa().name(), |b| b.iter(|| f(kernels)));
    }
    group.finish();
}

fn products(c: &mut Criterion) {
    for format in FORMATS {
        let name = format.name.to_lowercase();
        for rows in [1, 4] {
            let mut p = Product::new(format.ty, K, N_W, rows);
            let bytes = Throughput::Bytes(p.bytes());
            each(c, &format!("{name} matvec x{rows}"), bytes, |k| p.run(k, false).first().copied());
        }
        let mut p = Product::new(format.ty, K, TILE, MANY);
        let macs = Throughput::Elements(p.macs());
        each(c, &format!("{name} gemm x{MANY}"), macs, |k| p.run(k, true).first().copied());
    }
}

/// A chunk of the cache and the eight queries that share a head of it.
fn attention(c: &mut Criterion) {
    for ty in [GgmlType::F16, GgmlType::Q8_0] {
        let name = ty.name().to_lowercase();
        let mut a = Attention::new(ty, 128, 256, 8);
        let (bytes, macs) = (Throughput::Bytes(a.bytes()), Throughput::Elements(a.macs()));
        each(c, &format!("{name} attention widen"), bytes, |k| a.widen(k).first().copied());
        if ty == GgmlType::Q8_0 {
            each(c, &format!("{name} attention scores"), macs, |k| a.scores_q8(k).first().copied());
        }
    }
    let mut a = Attention::new(GgmlType::F32, 256, 256, 8);
    let macs = || Throughput::Elements(a.macs());
    let (scores, values) = (macs(), macs());
    each(c, "f32 attention scores", scores, |k| a.scores(k).first().copied());
    each(c, "f32 attention values", values, |k| a.values(k).first().copied());
}

fn conversions(c: &mut Criterion) {
    let x: Vec<f32> = (0..K).map(|i| (i as f32 * 0.7).sin()).collect();
    let (mut qs, mut d, mut sums) = (vec![0; K], vec![0.0; K / 32], vec![0; K / 16]);
    for block in [32, 256] {
        each(c, &format!("quantize_row {block}"), Throughput::Elements(K as u64), |k| {
            k.quantize_row(&x, block, &mut qs, &mut d[..K / block], &mut sums);
            d.first().copied()
        });
    }
    for format in FORMATS {
        let blocks = ggml_sys::format::random::random_blocks(format.ty, K / format.block, 1.0, 1);
        let mut out = vec![0.0; K];
        let mut group = c.benchmark_group(format!("{} decode", format.name.to_lowercase()));
        group.throughput(Throughput::Bytes(blocks.len() as u64));
        group.bench_function("any", |b| {
            b.iter(|| {
                format.decode(&blocks, &mut out);
                out.first().copied()
            });
        });
        group.finish();
    }
}

/// Encoders, with the importance of every value given or not; elements are values.
fn encoders(c: &mut Criterion) {
    let mut random = Random(1);
    let values: Vec<f32> = (0..8 * K).map(|_| 0.05 * random.gaussian()).collect();
    let importance: Vec<f32> = values.iter().map(|_| random.uniform() + 0.1).collect();
    for format in FORMATS {
        let mut bytes = vec![0; values.len() / format.block * format.bytes];
        let mut group = c.benchmark_group(format!("{} encode", format.name.to_lowercase()));
        group.throughput(Throughput::Elements(values.len() as u64));
        for (name, importance) in [("plain", None), ("importance", Some(&importance[..]))] {
            group.bench_function(name, |b| b.iter(|| format.encode(&values, importance, &mut bytes)));
        }
        group.finish();
    }
}

criterion_group! {
    name = kernels;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .sample_size(20)
        .without_plots();
    targets = products, attention, conversions, encoders
}
criterion_main!(kernels);
