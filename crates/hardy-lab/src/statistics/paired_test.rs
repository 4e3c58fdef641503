//! Everything that is said about one difference on the same problems, computed together so that a difference is never
//! printed without its interval, its p-value and the sample size it would take.

use serde::{Deserialize, Serialize};

use super::{
    Claim, Interval, Scores, difference, mcnemar_exact, mcnemar_sample_size, p_against,
    paired_mean_sample_size, scores::is_right_or_wrong, sign_flip_test,
};

/// The confidence of every interval that Hardy prints.
pub const CONFIDENCE: f64 = 0.95;
/// The level below which a p-value counts as resolved.
pub const ALPHA: f64 = 0.05;
/// The power for which sample sizes are given.
pub const POWER: f64 = 0.8;

/// One difference in accuracy or mean score, first side minus second, judged on the same problems and, where there are several, in the
/// same columns: seeds, or draws of the error.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PairedTest {
    /// Problems that both sides answered.
    pub n: u64,
    /// Columns: 1 where nothing but the problems is doubted.
    pub columns: u64,
    /// Answers that only the first side gets right, or that score higher there, over all columns.
    pub b: u64,
    /// Answers that only the second side gets right, or that score higher there.
    pub c: u64,
    /// The first side's accuracy or mean score minus the second's, in points: hundredths.
    pub difference_points: f64,
    /// Its 95 % interval, in points.
    pub interval_points: Interval,
    /// That it is not 0: McNemar's exact test of one column, of scores the permutation test by sign flips; of several
    /// columns the test that agrees with the interval.
    #[serde(flatten)]
    pub claim: Claim,
    /// Problems needed to resolve a difference as large as the one seen, at 5 % and power 0.8; `None` when it is 0, or
    /// where columns are doubted too, since then problems alone do not help.
    pub needed: Option<u64>,
}

/// The answers of one side: of every seed, of every draw of the error, each problem's score, 1 and 0 for right and wrong.
pub type Answers = Vec<Vec<Vec<f64>>>;

impl PairedTest {
    /// Judges two sides. The columns are the seeds; of a single run its draws, all of which share the answers of a side
    /// without errors.
    ///
    /// # Panics
    ///
    /// When there is no answer, or sides of several columns differ in their number.
    #[must_use]
    pub fn of(first: &Answers, second: &Answers) -> Self {
        let [a, b] = [scores(first), scores(second)];
        let columns = a.columns.len().max(b.columns.len());
        let [a, b] = [a.spread_over(columns), b.spread_over(columns)];
        let n = a.problems.len() as u64;
        let [only_first, only_second] = discordant(first, second);
        let interval = difference(&a, &b, CONFIDENCE);
        let one = columns == 1;
        let differences = || a.problems.iter().zip(&b.problems).map(|(a, b)| a - b).collect::<Vec<f64>>();
        let (p, needed) = match (one, a.proportions && b.proportions) {
            (false, _) => (p_against(&a, &b, 0.0), None),
            (true, true) => (
                mcnemar_exact(only_first, only_second),
                mcnemar_sample_size(only_first, only_second, n, ALPHA, POWER),
            ),
            (true, false) => {
                (sign_flip_test(&differences()), paired_mean_sample_size(&differences(), ALPHA, POWER))
            }
        };
        Self {
            n,
            columns: columns as u64,
            b: only_first,
            c: only_second,
            difference_points: 100.0 * (a.mean() - b.mean()),
            interval_points: interval.scaled(100.0),
            claim: Claim::alone(p, !interval.contains(0.0)),
            needed,
        }
    }
}

/// Where there are several seeds, each is the mean over its draws.
#[must_use]
pub fn scores(answers: &Answers) -> Scores {
    let scores = match &answers[..] {
        [only] => Scores::of(only),
        several => Scores::of(&several.iter().map(|seed| Scores::of(seed).problems).collect::<Vec<_>>()),
    };
    let proportions = answers.iter().flatten().flatten().all(|&score| is_right_or_wrong(score));
    Scores { proportions, ..scores }
}

/// Answers that score higher on the first, and on the second side.
fn discordant(first: &Answers, second: &Answers) -> [u64; 2] {
    let mut counts = [0, 0];
    for (one, other) in first.iter().zip(second) {
        for draw in 0..one.len().max(other.len()) {
            let at = |side: &'_ [Vec<f64>]| side[draw.min(side.len() - 1)].clone();
            for (one, other) in at(one).into_iter().zip(at(other)) {
                counts[0] += u64::from(one > other);
                counts[1] += u64::from(other > one);
            }
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(right: usize, n: usize) -> Vec<f64> {
        (0..n).map(|i| f64::from(u8::from(i < right))).collect()
    }

    #[test]
    fn scores_are_judged_by_permutation_and_bootstrap_under_the_same_rule() {
        let low: Vec<f64> = (0..200).map(|i| f64::from(i % 10) / 10.0).collect();
        let moved =
            |by: f64| low.iter().enumerate().map(|(i, x)| x + by + 0.2 * f64::from(i as u32 % 3)).collect();
        let test = PairedTest::of(&vec![vec![moved(-0.1)]], &vec![vec![low.clone()]]);
        assert!((test.difference_points - 9.9).abs() < 0.1 && test.claim.resolved, "{test:?}");
        assert!(
            test.claim.p < 2e-4 && test.interval_points.low > 5.0 && test.needed.is_some_and(|n| n < 200)
        );
        let none = PairedTest::of(&vec![vec![moved(-0.2)]], &vec![vec![low.clone()]]);
        assert!(
            none.claim.p > 0.05 && !none.claim.resolved && none.interval_points.contains(0.0),
            "{none:?}"
        );
        let equal = PairedTest::of(&vec![vec![low.clone()]], &vec![vec![low]]);
        assert_eq!((equal.claim.p, equal.claim.resolved, equal.b, equal.needed), (1.0, false, 0, None));
    }

    #[test]
    fn one_run_a_side_is_mcnemars_test_and_newcombes_interval() {
        let test = PairedTest::of(&vec![vec![first(150, 200)]], &vec![vec![first(140, 200)]]);
        assert_eq!((test.n, test.columns, test.b, test.c), (200, 1, 10, 0));
        assert!((test.claim.p - 2.0 / 1024.0).abs() < 1e-12 && test.claim.resolved && test.needed.is_some());
    }

    #[test]
    fn seeds_that_scatter_resolve_less_than_seeds_that_agree() {
        let clean = vec![vec![first(100, 200)]; 3];
        let agree = PairedTest::of(&vec![vec![first(130, 200)]; 3], &clean);
        let scatter = [70, 130, 190].map(|right| vec![first(right, 200)]).to_vec();
        let scatter = PairedTest::of(&scatter, &clean);
        assert!((agree.difference_points - scatter.difference_points).abs() < 1e-9);
        assert!(agree.claim.resolved && !scatter.claim.resolved);
    }

    #[test]
    fn draws_of_one_run_are_doubted_and_the_clean_side_is_shared_by_all() {
        let noisy = vec![vec![first(60, 200), first(140, 200)]];
        let test = PairedTest::of(&vec![vec![first(150, 200)]], &noisy);
        assert_eq!((test.columns, test.b, test.needed), (2, 100, None));
        assert!(!test.claim.resolved && test.interval_points.contains(0.0));
    }
}
