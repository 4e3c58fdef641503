//! Student's t interval of a mean (Student 1908, Biometrika 6: 1–25): what a few seeds say of the next one.

use statrs::distribution::{ContinuousCDF, StudentsT};

use super::Interval;

/// The interval of the mean of `values` at a two-sided `confidence`, `mean ± t·s/√n` with n − 1 degrees of freedom;
/// `None` for fewer than two values.
#[must_use]
pub fn student(values: &[f64], confidence: f64) -> Option<Interval> {
    let n = values.len() as f64;
    let t = StudentsT::new(0.0, 1.0, n - 1.0).ok()?.inverse_cdf(0.5 + confidence / 2.0);
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let half = t * (variance / n).sqrt();
    Some(Interval { low: mean - half, high: mean + half })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_values_have_the_interval_of_the_tables() {
        let interval = student(&[1.0, 2.0, 3.0], 0.95).unwrap();
        // t(0.975, 2) = 4.302653, s = 1.
        let half = 4.302_653 / 3f64.sqrt();
        assert!((interval.low - (2.0 - half)).abs() < 1e-5 && (interval.high - (2.0 + half)).abs() < 1e-5);
    }

    #[test]
    fn one_value_says_nothing_of_the_next() {
        assert_eq!(student(&[1.0], 0.95), None);
        assert_eq!(student(&[], 0.95), None);
    }
}
