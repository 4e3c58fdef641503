//! Differences of scores that are more than right and wrong: what the problems could have shown otherwise is found by
//! drawing them again. The interval is the bootstrap's, by percentiles (Efron & Tibshirani 1993, *An Introduction to the
//! Bootstrap*, chapter 13) and as much wider as Student's is than the normal one; the test flips the signs of the
//! problems' differences, exactly where they are few (ibid. chapter 15; Phipson & Smyth 2010, Stat. Appl. Genet. Mol. Biol.
//! 9: 39, for the p-value of a random sample of flips).

use std::sync::Arc;

use hardy_train::splitmix::{below, hash, mix};

use super::{Scores, normal_quantile, student::two_sided_quantile};

/// Draws of the problems, and of the flips where there are too many to try all.
pub(crate) const RESAMPLES: usize = 10_000;
/// Differences whose flips are all tried.
const EXACT: usize = 13;
/// Every page draws alike.
const KEY: u64 = 0x5e5a_3b1e;

/// The means of two sides over problems drawn with replacement, the same problems for both.
#[derive(Debug, Clone)]
pub(crate) struct Resampled {
    means: Arc<[[f64; 2]]>,
    problems: usize,
}

impl Resampled {
    pub fn new(first: &Scores, second: &Scores) -> Self {
        let n = first.problems.len();
        let one = |draw: usize| {
            let start = hash(&[KEY, n as u64, draw as u64]);
            let sums = (0..n as u64).fold([0.0, 0.0], |[a, b]: [f64; 2], place| {
                let at = below(mix(start.wrapping_add(place.wrapping_mul(0x9e37_79b9_7f4a_7c15))), n as u64)
                    as usize;
                [a + first.problems[at], b + second.problems[at]]
            });
            sums.map(|sum| sum / n as f64)
        };
        Self { means: (0..RESAMPLES).map(one).collect(), problems: n }
    }

    /// How far the interval of `first − weight·second`, whose ends are missed together with chance `tail`, reaches below
    /// and above `estimate`.
    pub fn reach(&self, weight: f64, estimate: f64, tail: f64) -> [f64; 2] {
        let mut drawn: Vec<f64> = self.means.iter().map(|[a, b]| a - weight * b).collect();
        drawn.sort_by(f64::total_cmp);
        let degrees = self.problems as f64 - 1.0;
        if degrees < 1.0 {
            return [0.0; 2];
        }
        let wider = (self.problems as f64 / degrees).sqrt() * two_sided_quantile(tail, degrees)
            / -normal_quantile(tail / 2.0);
        let at = |share: f64| drawn[((share * RESAMPLES as f64) as usize).min(RESAMPLES - 1)];
        let [low, high] = [at(tail / 2.0), at(1.0 - tail / 2.0)];
        [wider * (estimate - low).max(0.0), wider * (high - estimate).max(0.0)]
    }
}

/// The two-sided p-value of the claim that differences on the same problems are not 0 on average: how many of the ways of
/// flipping their signs give a mean as far from 0.
#[must_use]
pub fn sign_flip_test(differences: &[f64]) -> f64 {
    let apart: Vec<f64> = differences.iter().copied().filter(|difference| *difference != 0.0).collect();
    let seen = apart.iter().sum::<f64>().abs();
    // Sums in another order differ in their last bits.
    let as_far = |sum: f64| sum.abs() >= seen * (1.0 - 1e-12);
    let flipped = |bits: &dyn Fn(usize) -> bool| {
        let signed = apart.iter().enumerate().map(|(at, x)| if bits(at) { -x } else { *x });
        as_far(signed.sum())
    };
    if apart.len() <= EXACT {
        let all = 1_usize << apart.len();
        let found = (0..all).filter(|signs| flipped(&|at| signs >> at & 1 == 1)).count();
        return found as f64 / all as f64;
    }
    let draw = |draw: u64| {
        let word = |at: usize| hash(&[KEY, draw, at as u64 / 64]);
        let words: Vec<u64> = (0..apart.len()).step_by(64).map(word).collect();
        flipped(&|at| words[at / 64] >> (at % 64) & 1 == 1)
    };
    let found = (0..RESAMPLES as u64).filter(|&at| draw(at)).count();
    (1 + found) as f64 / (1 + RESAMPLES) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::mcnemar_exact;

    #[test]
    fn of_right_and_wrong_the_exact_test_is_mcnemars() {
        for (b, c) in [(6, 0), (5, 2), (3, 3), (1, 0), (0, 0)] {
            let differences = [vec![1.0; b], vec![-1.0; c], vec![0.0; 9]].concat();
            let (found, right) = (sign_flip_test(&differences), mcnemar_exact(b as u64, c as u64));
            assert!((found - right).abs() < 1e-12, "{b} {c}: {found} {right}");
        }
    }

    #[test]
    fn drawn_flips_agree_with_the_normal_approximation() {
        // A sum of 30 fair signs is 12 or further from 0 with chance 0.0428 (binomial: at most 9 or at least 21 heads).
        let differences = [vec![0.3; 21], vec![-0.3; 9]].concat();
        assert!((sign_flip_test(&differences) - 0.0428).abs() < 0.007);
        assert!(sign_flip_test(&[0.5; 40]) < 2e-4);
    }

    #[test]
    fn the_interval_is_students_where_scores_are_normal() {
        let normal = |i: usize| normal_quantile((i as f64 + 0.5) / 200.0);
        let first = Scores::of(&[(0..200).map(normal).collect()]);
        let second = Scores::of(&[vec![0.0; 200]]);
        let [low, high] = Resampled::new(&first, &second).reach(1.0, first.mean(), 0.05);
        let half = 1.972 / 200_f64.sqrt();
        assert!((low / half - 1.0).abs() < 0.05 && (high / half - 1.0).abs() < 0.05, "{low} {high} {half}");
    }
}
