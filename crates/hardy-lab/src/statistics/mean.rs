//! The interval of a mean of real values, such as a likelihood: Student's over problems (Student 1908, Biometrika 6: 1–25)
//! and over columns, added as in [`super::doubt`].

use super::{
    CONFIDENCE, Claim, Interval, Scores, doubt::Doubt, scores::variance, student::two_sided_quantile,
    tail::p_of,
};

/// The mean of `values` and its interval at a two-sided `confidence`. Of one problem and one column there is no interval
/// but the point.
#[must_use]
pub fn mean_interval(values: &Scores, confidence: f64) -> Interval {
    missed_by(values, 1.0 - confidence)
}

/// The claim that the mean of `values` is not 0, by the test that agrees with [`mean_interval`]. Of one problem and one
/// column nothing is claimed.
#[must_use]
pub fn mean_claim(values: &Scores) -> Claim {
    if values.problems.len() < 2 && values.columns.len() < 2 {
        return Claim::alone(1.0, false);
    }
    let p = p_of(|tail| missed_by(values, tail), 0.0);
    Claim::alone(p, !mean_interval(values, CONFIDENCE).contains(0.0))
}

/// The interval whose ends are missed together with chance `tail`.
fn missed_by(values: &Scores, tail: f64) -> Interval {
    let n = values.problems.len() as f64;
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
    fn a_claim_agrees_with_the_interval_and_one_value_claims_nothing() {
        let claim = |values: &[f64]| mean_claim(&Scores::of(&[values.to_vec()]));
        let clear = claim(&[1.0, 1.1, 0.9, 1.0]);
        assert!(clear.resolved && clear.p < 0.001, "{clear:?}");
        // t = 2 with 2 degrees of freedom: p = 0.1835.
        let open = claim(&[0.0, 2.0, 4.0 * 0.5]);
        assert!(!open.resolved && (open.p - 0.1835).abs() < 1e-3, "{open:?}");
        assert!(!claim(&[5.0]).resolved);
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
