//! Statistics of samples.

/// The mean; of nothing 0.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Standard deviation of the sample; of less than two values 0.
pub fn deviation(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let m = mean(values);
    (values.iter().map(|v| (v - m) * (v - m)).sum::<f64>() / (values.len() - 1) as f64).sqrt()
}

/// Standard error of the mean.
pub fn mean_error(values: &[f64]) -> f64 {
    deviation(values) / (values.len().max(1) as f64).sqrt()
}

/// The value that the share `q` of the others does not exceed; between two of them in proportion; of nothing 0.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = q.clamp(0.0, 1.0) * sorted.len().saturating_sub(1) as f64;
    match (sorted.get(at.floor() as usize), sorted.get(at.ceil() as usize)) {
        (Some(low), Some(high)) if at.fract() > 0.0 => low * (1.0 - at.fract()) + high * at.fract(),
        (Some(value), _) => *value,
        _ => 0.0,
    }
}

/// The value in the middle, of an even number the mean of both there.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_those_of_the_definitions() {
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0, 3.0, 2.0]), median(&[])), (2.0, 2.5, 0.0));
        assert_eq!((mean(&[1.0, 3.0]), deviation(&[1.0, 3.0]), deviation(&[7.0])), (2.0, 2f64.sqrt(), 0.0));
        assert!((mean_error(&[1.0, 3.0]) - 1.0).abs() < 1e-12);
        assert_eq!(mean_error(&[4.0]), 0.0);
        let values: Vec<f64> = (0..=200).rev().map(f64::from).collect();
        assert_eq!([0.0, 0.99, 1.0].map(|q| quantile(&values, q)), [0.0, 198.0, 200.0]);
        assert_eq!(quantile(&[1.0, f64::INFINITY, f64::INFINITY], 0.75), f64::INFINITY);
    }
}
