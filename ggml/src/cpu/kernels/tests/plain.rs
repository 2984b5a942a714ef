//! Products of plain numbers and attention, over all row types.

use proptest::prelude::*;

use super::super::*;
use super::{Activations, Weights, bits, floats};
use crate::format::random::Random;

const EPS: f64 = f32::EPSILON as f64;
const PLAIN: [GgmlType; 3] = [GgmlType::F32, GgmlType::F16, GgmlType::BF16];

fn decoded(w: &Weights, ty: GgmlType, r: usize, k: usize) -> Vec<f32> {
    let mut values = vec![0.0; k];
    ty.format().decode(&w.row(r)[..ty.row_bytes(k).unwrap()], &mut values);
    values
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn products(
        seed: u64, k in 1usize..300, n_w in 1usize..10, rows in 1usize..10, offset in 0usize..4, gap in 0usize..3,
    ) {
        for ty in PLAIN {
            let mut rng = Random(seed);
            let w = Weights::random(&mut rng, ty.format(), k, n_w, offset, gap);
            let stride = k + gap;
            let x = floats(&mut rng, stride * rows);
            let run = |kernels: &Kernels, x: &[f32], rows: usize| {
                let mut y = vec![f32::NAN; rows * (n_w + 1)];
                // SAFETY: y has room for the rows.
                unsafe {
                    let y = y.as_mut_ptr();
                    kernels.matvec_f32(ty, k, w.bytes(), w.row_bytes, n_w, x, rows, stride, y, n_w + 1);
                }
                y
            };
            let truth = run(available().next().unwrap(), &x, rows);
            for t in 0..rows {
                for r in 0..n_w {
                    let w = decoded(&w, ty, r, k);
                    let terms = || w.iter().zip(&x[t * stride..]).map(|(&w, &x)| f64::from(w) * f64::from(x));
                    let error = (f64::from(truth[t * (n_w + 1) + r]) - terms().sum::<f64>()).abs();
                    let bound = (k as f64 / 16.0 + 5.0) * EPS * terms().map(f64::abs).sum::<f64>();
                    prop_assert!(error <= bound, "{ty}: {error} > {bound}");
                }
                prop_assert!(truth[t * (n_w + 1) + n_w].is_nan(), "nothing is written between");
            }
            for kernels in available() {
                let all = run(kernels, &x, rows);
                prop_assert_eq!(bits(&all), bits(&truth), "{} on {:?}", ty, kernels);
                let last = run(kernels, &x[(rows - 1) * stride..], 1);
                prop_assert_eq!(bits(&last), bits(&truth[(rows - 1) * (n_w + 1)..]));
            }
        }
    }

    #[test]
    fn scores(
        seed: u64, blocks in 1usize..9, heads in 1usize..10, n in 1usize..70, gap in 0usize..3, scale in 0.01f32..2.0,
    ) {
        let width = 32 * blocks;
        for ty in [GgmlType::F32, GgmlType::F16, GgmlType::BF16, GgmlType::Q8_0] {
            let mut rng = Random(seed);
            let cache = Weights::random(&mut rng, ty.format(), width, n, 1, gap);
            let q = floats(&mut rng, heads * width);
            let q8 = Activations::random(&mut rng, width, heads, 32);
            let run = |kernels: &Kernels| {
                let mut y = vec![f32::NAN; heads * (n + 1)];
                let (rows, out) = (cache.bytes().as_ptr(), y.as_mut_ptr());
                // SAFETY: the cache holds n rows, y room for all heads.
                unsafe {
                    if ty == GgmlType::Q8_0 {
                        kernels.attn_scores_q8(q8.view(), rows, cache.row_bytes, n, scale, out, n + 1);
                    } else {
                        kernels.attn_scores(ty, &q, width, rows, cache.row_bytes, n, scale, out, n + 1);
                    }
                }
                y
            };
            let truth = run(available().next().unwrap());
            for h in 0..heads {
                let q = if ty == GgmlType::Q8_0 { q8.values(h) } else { q[h * width..][..width].to_vec() };
                for i in 0..n {
                    let row = decoded(&cache, ty, i, width);
                    let terms = || row.iter().zip(&q).map(|(&a, &b)| f64::from(scale) * f64::from(a) * f64::from(b));
                    let error = (f64::from(truth[h * (n + 1) + i]) - terms().sum::<f64>()).abs();
                    let bound = (width as f64 / 16.0 + 14.0) * EPS * terms().map(f64::abs).sum::<f64>();
                    prop_assert!(error <= bound, "{ty}: {error} > {bound}");
                }
            }
            for kernels in available() {
                prop_assert_eq!(bits(&run(kernels)), bits(&truth), "{} on {:?}", ty, kernels);
            }
        }
    }

    #[test]
    fn values(
        seed: u64, blocks in 1usize..9, odd in 0usize..32, heads in 1usize..10, n in 0usize..140, gap in 0usize..3,
    ) {
        for ty in [GgmlType::F32, GgmlType::F16, GgmlType::BF16, GgmlType::Q8_0] {
            let width = if ty == GgmlType::Q8_0 { 32 * blocks } else { 32 * blocks - odd };
            let mut rng = Random(seed);
            let cache = Weights::random(&mut rng, ty.format(), width, n, 1, gap);
            let p = floats(&mut rng, heads * (n + 2));
            let before = floats(&mut rng, heads * (width + 1));
            let run = |kernels: &Kernels| {
                let mut acc = before.clone();
                let (rows, out) = (cache.bytes().as_ptr(), acc.as_mut_ptr());
                // SAFETY: the cache holds n rows, acc all heads.
                unsafe {
                    kernels.attn_values(ty, &p, n + 2, heads, rows, cache.row_bytes, n, width, out, width + 1);
                }
                acc
            };
            let truth = run(available().next().unwrap());
            let rows: Vec<_> = (0..n).map(|i| decoded(&cache, ty, i, width)).collect();
            for h in 0..heads {
                for d in 0..width {
                    let at = h * (width + 1) + d;
                    let terms = || {
                        let values = (0..n).map(|i| f64::from(p[h * (n + 2) + i]) * f64::from(rows[i][d]));
                        values.chain([f64::from(before[at])])
                    };
                    let error = (f64::from(truth[at]) - terms().sum::<f64>()).abs();
                    let bound = (n as f64 + 1.0) * EPS * terms().map(f64::abs).sum::<f64>();
                    prop_assert!(error <= bound, "{ty}: {error} > {bound}");
                }
                let between = h * (width + 1) + width;
                prop_assert_eq!(truth[between], before[between], "nothing is written between");
            }
            for kernels in available() {
                prop_assert_eq!(bits(&run(kernels)), bits(&truth), "{} on {:?}", ty, kernels);
            }
        }
    }
}
