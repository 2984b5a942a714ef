//! Operations on vectors: exact to a few units in the last place, and the same bits on every
//! instruction set.

use proptest::prelude::*;

use super::super::*;
use super::{bits, floats};
use crate::act::{self, SUM};
use crate::format::random::Random;

const EPS: f64 = f32::EPSILON as f64;

/// `n` numbers, not aligned to anything more than themselves: a view from the second on.
struct Unaligned(Vec<f32>);

impl Unaligned {
    fn new(x: &[f32]) -> Unaligned {
        Unaligned([&[f32::NAN], x, &[f32::NAN]].concat())
    }

    fn view(&mut self) -> &mut [f32] {
        let n = self.0.len();
        &mut self.0[1..n - 1]
    }

    /// Nothing was written beyond the ends.
    fn check(&self) {
        assert!(self.0[0].is_nan() && self.0[self.0.len() - 1].is_nan());
    }
}

/// What `f` makes of `x` on every instruction set: the same bits, given once.
fn everywhere(x: &[f32], f: impl Fn(&Kernels, &mut [f32])) -> Vec<f32> {
    let mut first: Option<Vec<f32>> = None;
    for kernels in available() {
        let mut y = Unaligned::new(x);
        f(kernels, y.view());
        y.check();
        let y = y.view().to_vec();
        match &first {
            None => first = Some(y),
            Some(first) => assert_eq!(bits(&y), bits(first), "{kernels:?}"),
        }
    }
    first.unwrap()
}

fn close(y: &[f32], truth: impl Fn(usize) -> f64, tolerance: impl Fn(usize) -> f64) {
    for (i, &y) in y.iter().enumerate() {
        let error = (f64::from(y) - truth(i)).abs();
        assert!(error <= tolerance(i), "{i}: {y} for {}, off by {error:e}", truth(i));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn elementwise(seed: u64, n in 0usize..100, a in -3f32..3.0) {
        let mut rng = Random(seed);
        let (x, y) = (floats(&mut rng, n), floats(&mut rng, n));
        let wide = |i: usize| (f64::from(x[i]), f64::from(y[i]));

        let r = everywhere(&y, |k, y| k.add(&x, y));
        close(&r, |i| wide(i).0 + wide(i).1, |_| 2.0 * EPS);
        let r = everywhere(&y, |k, y| k.mul(&x, y));
        close(&r, |i| wide(i).0 * wide(i).1, |_| EPS);
        let r = everywhere(&y, |k, y| k.axpy(a, &x, y));
        close(&r, |i| f64::from(a) * wide(i).0 + wide(i).1, |_| 4.0 * EPS);
        let r = everywhere(&y, |k, y| k.scale(a, y));
        close(&r, |i| f64::from(a) * wide(i).1, |_| 3.0 * EPS);
    }

    #[test]
    fn swiglu(seed: u64, n in 0usize..100, scale in 0f32..60.0) {
        let mut rng = Random(seed);
        let gate: Vec<f32> = floats(&mut rng, n).iter().map(|x| x * scale).collect();
        let up = floats(&mut rng, n);
        let r = everywhere(&gate, |k, gate| k.swiglu(gate, &up));
        let truth = |i| {
            let g = f64::from(gate[i]);
            g / (1.0 + (-g).exp()) * f64::from(up[i])
        };
        close(&r, truth, |i| 6.0 * EPS * truth(i).abs() + 1e-37);
    }

    #[test]
    fn rms_norm(seed: u64, n in 1usize..400, scale in -30f32..30.0) {
        let mut rng = Random(seed);
        let x: Vec<f32> = floats(&mut rng, n).iter().map(|x| x * scale.exp2()).collect();
        let weight = floats(&mut rng, n);
        let eps = 1e-6;
        let r = everywhere(&x, |k, y| k.rms_norm_inplace(y, &weight, eps));
        let apart = everywhere(&vec![0.0; n], |k, y| k.rms_norm(&x, &weight, eps, y));
        assert_eq!(bits(&r), bits(&apart));
        let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n as f64;
        let truth = |i: usize| f64::from(x[i]) / (mean + f64::from(eps)).sqrt() * f64::from(weight[i]);
        // The sum is n / 64 + 6 deep, all of its terms positive; the root halves that.
        close(&r, truth, |i| (n as f64 / 128.0 + 8.0) * EPS * truth(i).abs());
    }

    #[test]
    fn softmax(seed: u64, n in 1usize..200, scale in 0f32..100.0) {
        let mut rng = Random(seed);
        let x: Vec<f32> = floats(&mut rng, n).iter().map(|x| x * scale).collect();
        let max = everywhere(&[0.0], |k, y| y[0] = k.max(&x))[0];
        assert_eq!(max, x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let e = everywhere(&x, |k, y| { k.softmax_exp(y, max); });
        let truth = |i: usize| f64::from(x[i] - max).exp();
        close(&e, truth, |i| 2.0 * EPS * truth(i) + 2e-38);
        let sum = everywhere(&[0.0], |k, y| y[0] = k.softmax_exp(&mut x.clone(), max));
        let exact: f64 = e.iter().map(|&e| f64::from(e)).sum();
        close(&sum, |_| exact, |_| (n as f64 / 16.0 + 5.0) * EPS * exact);
    }

    #[test]
    fn half_precision(seed: u64, n in 0usize..70, scale in -30f32..20.0) {
        let mut rng = Random(seed);
        let mut x: Vec<f32> = floats(&mut rng, n).iter().map(|x| x * scale.exp2()).collect();
        if n > 4 {
            x[..4].copy_from_slice(&[65520.0, -0.0, f32::INFINITY, 2f32.powi(-25)]);
        }
        for kernels in available() {
            let mut bytes = vec![0; 2 * n];
            kernels.to_f16(&x, &mut bytes);
            let expected: Vec<u8> = x.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect();
            prop_assert_eq!(&bytes, &expected);
            let mut back = vec![0.0; n];
            kernels.from_f16(&bytes, &mut back);
            let expected: Vec<f32> = x.iter().map(|&x| half::f16::from_f32(x).to_f32()).collect();
            prop_assert_eq!(bits(&back), bits(&expected));
        }
    }

    #[test]
    fn q8_0_has_the_bits_of_its_encoder(seed: u64, blocks in 1usize..6, scale in -140f32..120.0, odd in 0usize..9) {
        let mut rng = Random(seed);
        let mut x: Vec<f32> = floats(&mut rng, blocks * 32).iter().map(|v| v * scale.exp2()).collect();
        let special = [0.0, -0.0, f32::MIN_POSITIVE / 3.0, 1e-40, f32::INFINITY, f32::NAN, -f32::MAX, 0.5, 65504.0];
        x[(seed % 32) as usize] = special[odd];
        // Halves of a unit: 127 units are the largest.
        let halves = (0..32).map(|i| (i as f32 - 15.5) * if i % 2 == 0 { 1.0 } else { -1.0 });
        x.extend(halves.chain([127.0]).take(33).skip(1));
        let mut expected = vec![0; x.len() / 32 * 34];
        GgmlType::Q8_0.format().encode(&x, None, &mut expected).unwrap();
        for kernels in available() {
            let mut bytes = vec![0xee; expected.len()];
            kernels.to_q8_0(&x, &mut bytes);
            prop_assert_eq!(&bytes, &expected, "{:?}", kernels);
        }
    }

    #[test]
    fn quantize_row_has_the_same_bits(seed: u64, blocks in 1usize..6, scale in -44f32..40.0, odd in 0usize..8) {
        let mut rng = Random(seed);
        for block in [32, 256] {
            let mut x: Vec<f32> = floats(&mut rng, blocks * block).iter().map(|v| v * scale.exp2()).collect();
            // Ties, zeros, subnormals and what is no number.
            let special = [0.0, -0.0, f32::MIN_POSITIVE / 3.0, 0.5, f32::INFINITY, f32::NAN, f32::MAX, 126.5];
            x[(seed % 32) as usize] = special[odd];
            let empty = || (vec![9i8; x.len()], vec![9f32; x.len() / block], vec![9i16; x.len() / SUM]);
            let (mut qs, mut d, mut sums) = empty();
            act::quantize_row(&x, block, &mut qs, &mut d, &mut sums);
            for kernels in available() {
                let (mut qs2, mut d2, mut sums2) = empty();
                kernels.quantize_row(&x, block, &mut qs2, &mut d2, &mut sums2);
                prop_assert_eq!(&qs2, &qs);
                prop_assert_eq!(&sums2, &sums);
                prop_assert!(d.iter().zip(&d2).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()));
            }
        }
    }
}

#[test]
fn exp_over_its_whole_range() {
    let edges = [
        0.0,
        -0.0,
        88.72,
        88.73,
        100.0,
        f32::MAX,
        f32::INFINITY,
        -86.97,
        -86.99,
        -104.0,
        f32::MIN,
        f32::NEG_INFINITY,
    ];
    let x: Vec<f32> = (-8_700..8_872).map(|i| i as f32 / 100.0).chain(edges).collect();
    let e = everywhere(&x, |k, y| {
        k.softmax_exp(y, 0.0);
    });
    for (x, e) in x.iter().zip(e) {
        let truth = f64::from(*x).exp();
        if *x < -86.98 {
            assert_eq!(e, 0.0, "exp({x})");
        } else if truth > f64::from(f32::MAX) {
            assert_eq!(e, f32::INFINITY, "exp({x})");
        } else {
            assert!((f64::from(e) - truth).abs() <= 2.0 * EPS * truth, "exp({x}) = {e}");
        }
    }
    let nan = everywhere(&[0.0], |k, y| {
        y[0] = if k.softmax_exp(&mut [f32::NAN], 0.0).is_nan() { 1.0 } else { 0.0 }
    });
    assert_eq!(nan, [1.0]);
}
