//! What encoding costs.

use std::ops::AddAssign;

/// How far encoded values are from the values they stand for, over any number of tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Deviation {
    /// Σ (decoded − value)².
    pub error: f64,
    /// Σ value².
    pub power: f64,
}

impl Deviation {
    /// Root of mean square of the differences, relative to that of the values: √(Σ(y−x)² / Σx²). Zero of nothing.
    pub fn relative(&self) -> f64 {
        if self.error == 0.0 { 0.0 } else { (self.error / self.power).sqrt() }
    }

    pub(crate) fn between(values: &[f32], decoded: &[f32]) -> Self {
        let mut sum = Deviation::default();
        for (&x, &y) in values.iter().zip(decoded) {
            let (x, y) = (f64::from(x), f64::from(y));
            sum.error += (y - x) * (y - x);
            sum.power += x * x;
        }
        sum
    }
}

impl AddAssign for Deviation {
    fn add_assign(&mut self, other: Self) {
        self.error += other.error;
        self.power += other.power;
    }
}
