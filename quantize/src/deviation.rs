//! What encoding costs.

use std::ops::AddAssign;

use ggml_sys::format::squares;

/// How far encoded values are from the values they stand for, over any number of tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Deviation {
    /// Σ (decoded − value)².
    pub error: f64,
    /// Σ value².
    pub power: f64,
    /// Σ importance · (decoded − value)², over what has an importance.
    pub weighted_error: f64,
    /// Σ importance · value², over what has an importance.
    pub weighted_power: f64,
}

impl Deviation {
    /// Root of mean square of the differences, relative to that of the values: √(Σ(y−x)² / Σx²). Zero of nothing.
    pub fn relative(&self) -> f64 {
        ratio(self.error, self.power)
    }

    /// The same with each square weighted by its importance, if any has one.
    pub fn weighted(&self) -> Option<f64> {
        (self.weighted_power > 0.0).then(|| ratio(self.weighted_error, self.weighted_power))
    }

    pub(crate) fn between(values: &[f32], decoded: &[f32], importance: Option<&[f32]>) -> Self {
        let (error, power) = squares(values, decoded, None);
        let (weighted_error, weighted_power) =
            importance.map_or((0.0, 0.0), |w| squares(values, decoded, Some(w)));
        Deviation { error, power, weighted_error, weighted_power }
    }
}

fn ratio(error: f64, power: f64) -> f64 {
    if error == 0.0 { 0.0 } else { (error / power).sqrt() }
}

impl AddAssign for Deviation {
    fn add_assign(&mut self, other: Self) {
        self.error += other.error;
        self.power += other.power;
        self.weighted_error += other.weighted_error;
        self.weighted_power += other.weighted_power;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_are_weighted_by_importance() {
        let (x, y): (Vec<f32>, Vec<f32>) = (0..19).map(|i| (i as f32, i as f32 + 0.5)).unzip();
        let w: Vec<f32> = (0..19).map(|i| if i == 18 { 2.0 } else { 0.0 }).collect();
        let d = Deviation::between(&x, &y, Some(&w));
        assert_eq!((d.error, d.power), (19.0 * 0.25, (0..19).map(|i| f64::from(i * i)).sum()));
        assert_eq!((d.weighted_error, d.weighted_power), (0.5, 2.0 * 18.0 * 18.0));
        assert_eq!(d.weighted(), Some((0.5f64 / 648.0).sqrt()));
        assert_eq!(Deviation::between(&x, &x, None).weighted(), None);
    }
}
