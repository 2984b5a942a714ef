//! Products of plain numbers and attention, over all row types.

use proptest::prelude::*;

use super::super::*;
use super::{Weights, activations, bits, floats, values};
use crate::format::random::Random;

const EPS: f64 = f32::EPSILON as f64;
const PLAIN: [GgmlType; 3] = [GgmlType::F32, GgmlType::F16, GgmlType::BF16];
const CACHED: [GgmlType; 4] = [GgmlType::F32, GgmlType::F16, GgmlType::BF16, GgmlType::Q8_0];

fn decoded(w: &Weights, ty: GgmlType, r: usize, k: usize) -> Vec<f32> {
    let mut values = vec![0.0; k];
    ty.format().decode(&w.row(r)[..ty.row_bytes(k).unwrap()], &mut values);
    values
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn products(
        seed: u64, k in 1usize..600, n_w in prop_oneof![9 => 1usize..90, 1 => 257usize..300], rows in 1usize..40, offset in 0usize..4, gap in 0usize..3,
    ) {
        for ty in PLAIN {
            let mut rng = Random(seed);
            let w = Weights::random(&mut rng, ty.format(), k, n_w, offset, gap);
            let stride = k + gap;
            let x = floats(&mut rng, stride * rows);
            let run = |kernels: &Kernels, x: &[f32], rows: usize, from: usize, n_w: usize| {
                let mut y = vec![f32::NAN; rows * (n_w + 1)];
                // SAFETY: y has room for the rows.
                unsafe {
                    let (w, row_bytes, y) = (&w.bytes()[from * w.row_bytes..], w.row_bytes, y.as_mut_ptr());
                    kernels.matvec_f32(ty, k, w, row_bytes, n_w, x, rows, stride, y, n_w + 1);
                }
                y
            };
            let truth = run(available().next().unwrap(), &x, rows, 0, n_w);
            let decoded: Vec<Vec<f32>> = (0..n_w).map(|r| decoded(&w, ty, r, k)).collect();
            let within = |y: &[f32], depth: f64| {
                for t in 0..rows {
                    for (r, w) in decoded.iter().enumerate() {
                        let terms = || w.iter().zip(&x[t * stride..]).map(|(&w, &x)| f64::from(w) * f64::from(x));
                        let error = (f64::from(y[t * (n_w + 1) + r]) - terms().sum::<f64>()).abs();
                        let bound = depth * EPS * terms().map(f64::abs).sum::<f64>();
                        prop_assert!(error <= bound, "{ty}: {error} > {bound}");
                    }
                    prop_assert!(y[t * (n_w + 1) + n_w].is_nan(), "nothing is written between");
                }
                Ok(())
            };
            let many = k.min(128) as f64 + k as f64 / 128.0 + 1.0;
            within(&truth, if rows > 8 { many } else { k as f64 / 16.0 + 5.0 })?;
            for kernels in available() {
                let all = run(kernels, &x, rows, 0, n_w);
                let truth = if kernels.isa == Isa::Amx && rows > 8 {
                    // Additions in an instruction and of 24 instructions, and pieces left out: see `amx::plain`.
                    within(&all, 25.0 + k as f64 / 256.0)?;
                    all.clone()
                } else {
                    prop_assert_eq!(bits(&all), bits(&truth), "{} on {:?}", ty, kernels);
                    truth.clone()
                };
                // The last row among fewer of its regime, and the last row of weights by itself.
                let few = if rows > 8 { 9 } else { 1 };
                let last = run(kernels, &x[(rows - few) * stride..], few, 0, n_w);
                prop_assert_eq!(bits(&last), bits(&truth[(rows - few) * (n_w + 1)..]));
                let alone = run(kernels, &x, rows, n_w - 1, 1);
                for t in 0..rows {
                    prop_assert_eq!(alone[2 * t].to_bits(), truth[t * (n_w + 1) + n_w - 1].to_bits());
                }
            }
        }
    }

    #[test]
    fn panel_products(
        seed: u64, k in 0usize..300, n in 1usize..140, rows in 1usize..20, gap in 0usize..3, scaled: bool,
    ) {
        for ty in CACHED {
            let n = if ty == GgmlType::Q8_0 { n.next_multiple_of(32) } else { n };
            let mut rng = Random(seed);
            let x = floats(&mut rng, (k + gap) * rows);
            let panel = Weights::random(&mut rng, ty.format(), n, k, 1, gap);
            let b: Vec<Vec<f32>> = (0..k).map(|i| decoded(&panel, ty, i, n)).collect();
            let (before, factors) = (floats(&mut rng, rows * (n + 1)), floats(&mut rng, rows));
            let run = |kernels: &Kernels, first: usize, rows: usize| {
                let mut y = before[first * (n + 1)..][..rows * (n + 1)].to_vec();
                let from = (x[first * (k + gap)..].as_ptr(), k + gap, rows);
                let at = panel.bytes().as_ptr();
                let factors = scaled.then_some(&factors[first..]);
                let to = (y.as_mut_ptr(), n + 1);
                // SAFETY: all three have these rows and columns.
                unsafe { kernels.gemm_rows(ty, from, k, (at, panel.row_bytes, n), to, factors, (at, 300 * 64)) };
                y
            };
            let truth = run(available().next().unwrap(), 0, rows);
            for t in 0..rows {
                for c in 0..n {
                    let kept = if scaled { f64::from(before[t * (n + 1) + c]) * f64::from(factors[t]) } else { 0.0 };
                    let products = (0..k).map(|i| f64::from(x[t * (k + gap) + i]) * f64::from(b[i][c]));
                    let terms: Vec<f64> = products.chain([kept]).collect();
                    let error = (f64::from(truth[t * (n + 1) + c]) - terms.iter().sum::<f64>()).abs();
                    let bound = (k.min(128) as f64 + k as f64 / 128.0 + 1.0) * EPS * terms.iter().map(|x| x.abs()).sum::<f64>();
                    prop_assert!(error <= bound, "{ty}: {error} > {bound}");
                }
                prop_assert_eq!(truth[t * (n + 1) + n], before[t * (n + 1) + n], "nothing is written between");
            }
            for kernels in available() {
                prop_assert_eq!(bits(&run(kernels, 0, rows)), bits(&truth), "{} on {:?}", ty, kernels);
                let last = run(kernels, rows - 1, 1);
                prop_assert_eq!(bits(&last), bits(&truth[(rows - 1) * (n + 1)..]));
            }
        }
    }

    #[test]
    fn widened_rows(seed: u64, blocks in 1usize..40, odd in 0usize..32, n in 1usize..40, gap in 0usize..3) {
        for ty in CACHED {
            let width = if ty == GgmlType::Q8_0 { 32 * blocks } else { 32 * blocks - odd };
            let mut rng = Random(seed);
            let rows = Weights::random(&mut rng, ty.format(), width, n, 1, gap);
            let across = width.next_multiple_of(16);
            for kernels in available() {
                let run = |transposed: bool, len: usize, stride: usize| {
                    let mut to = vec![f32::NAN; len * stride];
                    // SAFETY: those are the rows, and `to` has room for them.
                    unsafe {
                        let from = (rows.bytes().as_ptr(), rows.row_bytes);
                        kernels.widen(ty, from, n, width, (to.as_mut_ptr(), stride), transposed, from.0);
                    }
                    to
                };
                let (straight, transposed) = (run(false, n, across + 1), run(true, width, n + 1));
                for i in 0..n {
                    let row = decoded(&rows, ty, i, width);
                    prop_assert_eq!(bits(&straight[i * (across + 1)..][..width]), bits(&row), "{} on {:?}", ty, kernels);
                    prop_assert!(straight[i * (across + 1) + across].is_nan());
                    prop_assert!((0..width).all(|d| transposed[d * (n + 1) + i].to_bits() == row[d].to_bits()));
                }
                prop_assert!((0..width).all(|d| transposed[d * (n + 1) + n].is_nan()));
            }
        }
    }

    #[test]
    fn scores(seed: u64, blocks in 1usize..9, odd in 0usize..32, queries in 1usize..40, n in 1usize..70) {
        for ty in CACHED {
            let eight_bits = ty == GgmlType::Q8_0;
            let width = if eight_bits { 32 * blocks } else { 32 * blocks - odd };
            let mut rng = Random(seed);
            let keys = Weights::random(&mut rng, ty.format(), width, n, 0, 0);
            let q = floats(&mut rng, queries * width);
            let q8 = eight_bits.then(|| activations(&mut rng, width, queries, 32));
            let at = keys.bytes().as_ptr();
            let run = |kernels: &Kernels, first: usize, queries: usize| {
                let mut y = vec![f32::NAN; queries * (n + 1)];
                let out = (y.as_mut_ptr(), n + 1);
                // SAFETY: there are n keys, y has room for all queries.
                unsafe {
                    if let Some(q8) = &q8 {
                        let mut panels = vec![0f32; panel_bytes(queries, width).div_ceil(4)];
                        let panels: &mut [u8] = bytemuck::cast_slice_mut(&mut panels);
                        kernels.arrange_q8(q8.view().slice(first, queries), panels);
                        kernels.attn_scores_q8((&*panels, queries, width), (at, keys.row_bytes, at), n, out);
                    } else {
                        let q = &q[first * width..][..queries * width];
                        kernels.attn_scores(ty, (q, width), (at, keys.row_bytes, at), n, out);
                    }
                }
                y
            };
            let truth = run(available().next().unwrap(), 0, queries);
            for h in 0..queries {
                let q = q8.as_ref().map_or_else(|| q[h * width..][..width].to_vec(), |q8| values(q8.view(), h));
                for i in 0..n {
                    let row = decoded(&keys, ty, i, width);
                    let terms = || row.iter().zip(&q).map(|(&a, &b)| f64::from(a) * f64::from(b));
                    let error = (f64::from(truth[h * (n + 1) + i]) - terms().sum::<f64>()).abs();
                    // `values` of 8-bit queries and keys round once each.
                    let depth = if eight_bits { width as f64 / 32.0 + 4.0 } else { width as f64 / 16.0 + 5.0 };
                    let bound = depth * EPS * terms().map(f64::abs).sum::<f64>();
                    prop_assert!(error <= bound, "{ty}: {error} > {bound}");
                }
                prop_assert!(truth[h * (n + 1) + n].is_nan(), "nothing is written between");
            }
            for kernels in available() {
                prop_assert_eq!(bits(&run(kernels, 0, queries)), bits(&truth), "{} on {:?}", ty, kernels);
                let last = run(kernels, queries - 1, 1);
                prop_assert_eq!(bits(&last), bits(&truth[(queries - 1) * (n + 1)..]));
            }
        }
    }

    #[test]
    fn softmax_steps(
        seed: u64, rows in 1usize..5, heads in 1usize..5, n in 1usize..70, seen in -3isize..80, scale in 0.01f32..20.0,
    ) {
        let mut rng = Random(seed);
        let queries = rows * heads;
        let stride = n + 2;
        let scores = floats(&mut rng, queries * stride);
        let before: Vec<f32> = (0..queries).map(|j| if j % 3 == 0 { f32::NEG_INFINITY } else { rng.uniform() }).collect();
        let run = |kernels: &Kernels| {
            let (mut p, mut max, mut sum) = (scores.clone(), before.clone(), vec![0.5; queries]);
            let mut factors = vec![f32::NAN; queries];
            kernels.softmax_step((&mut p, stride, n), scale, (seen, heads), (&mut max, &mut sum, &mut factors));
            (p, max, sum, factors)
        };
        let truth = run(available().next().unwrap());
        for j in 0..queries {
            let seen = (seen + (j / heads) as isize).clamp(0, n as isize) as usize;
            let scaled: Vec<f32> = scores[j * stride..][..seen].iter().map(|s| s * scale).collect();
            let max = scaled.iter().copied().fold(before[j], f32::max);
            let weight = |s: f32| f64::from(s - max).exp();
            let total: f64 = scaled.iter().map(|s| weight(*s)).sum();
            let factor = if seen == 0 { 1.0 } else { weight(before[j]) };
            prop_assert_eq!(truth.1[j], if seen == 0 { before[j] } else { max });
            prop_assert!((f64::from(truth.3[j]) - factor).abs() <= 2.0 * EPS * factor);
            let sum = 0.5 * factor + total;
            prop_assert!((f64::from(truth.2[j]) - sum).abs() <= 16.0 * EPS * sum, "{} for {sum}", truth.2[j]);
            for i in 0..n {
                let (got, want) = (f64::from(truth.0[j * stride + i]), if i < seen { weight(scaled[i]) } else { 0.0 });
                prop_assert!((got - want).abs() <= 2.0 * EPS * want + 2e-38, "{got} for {want}");
            }
            prop_assert_eq!(&truth.0[j * stride + n..][..2], &scores[j * stride + n..][..2]);
        }
        for kernels in available() {
            let r = run(kernels);
            prop_assert_eq!(bits(&r.0), bits(&truth.0), "{:?}", kernels);
            prop_assert_eq!(bits(&[r.1, r.2, r.3].concat()), bits(&[&*truth.1, &*truth.2, &*truth.3].concat()));
        }
    }
}
