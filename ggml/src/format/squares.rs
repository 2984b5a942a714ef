//! Sums of squares, as vectors of whatever the machine has, with the same bits everywhere.

use super::search::lanes::{self, Instructions};

/// Partial sums that are independent of each other: two vectors at the most.
const SUMS: usize = 16;

/// Σ w (y − x)² and Σ w x², in f64; w is one without weights.
///
/// # Panics
/// If there are not as many `y`, and weights, as `x`.
pub fn squares(x: &[f32], y: &[f32], weights: Option<&[f32]>) -> (f64, f64) {
    assert!(x.len() == y.len() && weights.is_none_or(|w| w.len() == x.len()), "lengths differ");
    let mut sums = Sums::default();
    match weights {
        Some(w) => lanes::run(Instructions::best(), Weighted { x, y, w, sums: &mut sums }),
        None => lanes::run(Instructions::best(), Plain { x, y, sums: &mut sums }),
    }
    (sums.error.iter().sum(), sums.power.iter().sum())
}

#[derive(Default)]
struct Sums {
    error: [f64; SUMS],
    power: [f64; SUMS],
}

impl Sums {
    #[inline(always)]
    fn add(&mut self, i: usize, x: f32, y: f32, w: f32) {
        let (x, y, w) = (f64::from(x), f64::from(y), f64::from(w));
        self.error[i] += w * ((y - x) * (y - x));
        self.power[i] += w * (x * x);
    }
}

struct Plain<'a> {
    x: &'a [f32],
    y: &'a [f32],
    sums: &'a mut Sums,
}

struct Weighted<'a> {
    x: &'a [f32],
    y: &'a [f32],
    w: &'a [f32],
    sums: &'a mut Sums,
}

impl lanes::Task for Plain<'_> {
    #[inline(always)]
    fn run(self) {
        let ((x, x_rest), (y, y_rest)) = (self.x.as_chunks::<SUMS>(), self.y.as_chunks::<SUMS>());
        let mut sums = Sums::default();
        for (x, y) in x.iter().zip(y) {
            for i in 0..SUMS {
                sums.add(i, x[i], y[i], 1.0);
            }
        }
        for (i, (x, y)) in x_rest.iter().zip(y_rest).enumerate() {
            sums.add(i, *x, *y, 1.0);
        }
        *self.sums = sums;
    }
}

impl lanes::Task for Weighted<'_> {
    #[inline(always)]
    fn run(self) {
        let ((x, x_rest), (y, y_rest)) = (self.x.as_chunks::<SUMS>(), self.y.as_chunks::<SUMS>());
        let (w, w_rest) = self.w.as_chunks::<SUMS>();
        let mut sums = Sums::default();
        for ((x, y), w) in x.iter().zip(y).zip(w) {
            for i in 0..SUMS {
                sums.add(i, x[i], y[i], w[i]);
            }
        }
        for (i, ((x, y), w)) in x_rest.iter().zip(y_rest).zip(w_rest).enumerate() {
            sums.add(i, *x, *y, *w);
        }
        *self.sums = sums;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_a_plain_loop_whatever_the_length() {
        let values =
            |n: usize, k: usize| -> Vec<f32> { (0..n).map(|i| (i * k % 31) as f32 - 15.0).collect() };
        for n in [0, 1, 15, 16, 17, 100] {
            let (x, y, w) = (values(n, 7), values(n, 11), values(n, 13));
            for weights in [None, Some(&w[..])] {
                let weight = |i: usize| weights.map_or(1.0, |w| f64::from(w[i]));
                let of = |f: &dyn Fn(usize) -> f64| (0..n).map(|i| weight(i) * f(i).powi(2)).sum::<f64>();
                let want = (of(&|i| f64::from(y[i] - x[i])), of(&|i| f64::from(x[i])));
                // Integers: exact in any order.
                assert_eq!(squares(&x, &y, weights), want, "{n}");
            }
        }
        // Beyond what f32 has.
        assert_eq!(squares(&[1e30], &[0.0], None).0, f64::from(1e30f32).powi(2));
    }
}
