//! The interval of a mean of real values, such as a likelihood: Student's over problems (Student 1908, Biometrika 6: 1–25)
//! and over columns, added as in [`super::doubt`].

use super::{Interval, Scores, doubt::Doubt, scores::variance, student::two_sided_quantile};

/// The mean of `values` and its interval at a two-sided `confidence`. Of one problem and one column there is no interval
/// but the point.
#[must_use]
pub fn mean_interval(values: &Scores, confidence: f64) -> Interval {
    let n = values.problems.len() as f64;
    let tail = 1.0 - confidence;
    let over_problems = if n > 1.0 {
        two_sided_quantile(tail, n - 1.0) * (variance(&values.problems) / n).sqrt()
    } else {
        0.0
    };
    let half = over_problems.hypot(Doubt::of(&values.columns).half(tail));
    Interval { low: values.mean() - half, high: values.mean() + half }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_values_have_the_interval_of_the_tables() {
        let found = mean_interval(&Scores::of(&[vec![1.0, 2.0, 3.0]]), 0.95);
        // t(0.975, 2) = 4.302653, s = 1.
        let half = 4.302_653 / 3f64.sqrt();
        assert!((found.low - (2.0 - half)).abs() < 1e-5 && (found.high - (2.0 + half)).abs() < 1e-5);
    }

    #[test]
    fn columns_that_differ_widen_it() {
        let half = |columns: &[Vec<f64>]| {
            let found = mean_interval(&Scores::of(columns), 0.95);
            found.high - found.low
        };
        let one = vec![1.0, 2.0, 3.0, 2.0];
        let shifted: Vec<f64> = one.iter().map(|x| x + 1.0).collect();
        assert!(half(&[one.clone(), shifted]) > half(&[one.clone(), one]));
    }
}
