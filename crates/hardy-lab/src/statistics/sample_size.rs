//! How many problems a difference needs: two independent evaluations, and the paired one that Hardy makes. Pairing
//! needs fewer, because problems on which both sides agree drop out of the variance.

use super::{
    mcnemar_exact, normal_quantile,
    scores::{mean, variance},
};

/// Problems in each of two independent evaluations, so that a two-sided test at level `alpha` sees the difference
/// between accuracies `p1` and `p2` with probability `power`:
/// `⌈(z_{1−α/2}·√(2·p̄·(1−p̄)) + z_power·√(p1(1−p1) + p2(1−p2)))² / (p1−p2)²⌉` with p̄ the mean of the two (Fleiss,
/// Levin & Paik, *Statistical Methods for Rates and Proportions*, 3rd ed., chapter 4, no continuity correction).
/// `None` when the accuracies are equal.
///
/// # Panics
///
/// When an argument is not a probability, or `alpha` or `power` is 0 or 1.
#[must_use]
pub fn two_proportion_sample_size(p1: f64, p2: f64, alpha: f64, power: f64) -> Option<u64> {
    assert!((0.0..=1.0).contains(&p1) && (0.0..=1.0).contains(&p2), "not proportions: {p1}, {p2}");
    let (z_alpha, z_power) = quantiles(alpha, power);
    let mean = (p1 + p2) / 2.0;
    let pooled = (2.0 * mean * (1.0 - mean)).sqrt();
    let separate = (p1 * (1.0 - p1) + p2 * (1.0 - p2)).sqrt();
    problems((z_alpha * pooled + z_power * separate) / (p1 - p2))
}

/// Problems in a paired evaluation, so that a two-sided McNemar test at level `alpha` sees, with probability
/// `power`, a difference as large as that of `b` against `c` discordant problems among `n`:
/// `⌈(z_{1−α/2}·√ψ + z_power·√(ψ − δ²))² / δ²⌉` with ψ = (b + c)/n and δ = (b − c)/n (Connor 1987, Biometrics
/// 43: 207–211). The exact test cannot reach `alpha` on fewer than some
/// number of discordant problems (6 at 0.05), however lopsided, so at least as many problems as yield those are
/// asked for. `None` when `b` equals `c`: there is no difference to resolve.
///
/// # Panics
///
/// When `b + c > n`, or `alpha` or `power` is not in (0, 1).
#[must_use]
pub fn mcnemar_sample_size(b: u64, c: u64, n: u64, alpha: f64, power: f64) -> Option<u64> {
    assert!(b + c <= n, "{b} + {c} discordant problems among only {n}");
    if b == c {
        return None;
    }
    let (z_alpha, z_power) = quantiles(alpha, power);
    let discordant = (b + c) as f64 / n as f64;
    let difference = b.abs_diff(c) as f64 / n as f64;
    let spread = (discordant - difference * difference).max(0.0);
    let normal = problems((z_alpha * discordant.sqrt() + z_power * spread.sqrt()) / difference)?;
    let floor = (fewest_discordant(alpha) as f64 / discordant).ceil() as u64;
    Some(normal.max(floor))
}

/// Problems in a paired evaluation of scores, so that a two-sided test at level `alpha` sees, with probability `power`, a
/// mean difference as large as that of `differences`: `⌈(z_{1−α/2} + z_power)²·s² / d̄²⌉`, and as many as the exact test of
/// signs needs at least. `None` where the mean is 0.
///
/// # Panics
///
/// When `alpha` or `power` is not in (0, 1).
#[must_use]
pub fn paired_mean_sample_size(differences: &[f64], alpha: f64, power: f64) -> Option<u64> {
    let (z_alpha, z_power) = quantiles(alpha, power);
    let normal = problems((z_alpha + z_power) * variance(differences).sqrt() / mean(differences))?;
    Some(normal.max(fewest_discordant(alpha)))
}

/// The smallest number of discordant problems, all to one side, whose exact p-value is below `alpha`.
fn fewest_discordant(alpha: f64) -> u64 {
    (1..64).find(|&count| mcnemar_exact(count, 0) < alpha).unwrap_or(64)
}

fn quantiles(alpha: f64, power: f64) -> (f64, f64) {
    assert!(alpha > 0.0 && alpha < 1.0 && power > 0.0 && power < 1.0, "alpha {alpha}, power {power}");
    (normal_quantile(1.0 - alpha / 2.0), normal_quantile(power))
}

/// The square of `root`, rounded up to whole problems; `None` where it is infinite.
fn problems(root: f64) -> Option<u64> {
    let count = (root * root).ceil();
    count.is_finite().then_some(count as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn agrees_with_connors_formula_worked_elsewhere() {
        // Discordant rates 0.45 and 0.05 at power 0.8 need 23 pairs (powersamplesize.com's example of Connor 1987).
        assert_eq!(mcnemar_sample_size(45, 5, 100, 0.05, 0.8), Some(23));
        // Rates 0.30 and 0.15 need 155.
        assert_eq!(mcnemar_sample_size(30, 15, 100, 0.05, 0.8), Some(155));
    }

    #[test]
    fn no_difference_cannot_be_resolved() {
        assert_eq!(mcnemar_sample_size(7, 7, 100, 0.05, 0.8), None);
        assert_eq!(two_proportion_sample_size(0.5, 0.5, 0.05, 0.8), None);
    }

    #[test]
    fn five_discordant_problems_are_never_enough() {
        assert_eq!(mcnemar_sample_size(5, 0, 5, 0.05, 0.8), Some(6));
    }

    proptest! {
        #[test]
        fn an_unresolved_difference_needs_more_problems_than_there_were(
            fewer in 0u64..200, by in 1u64..25, agreed in 0u64..1000,
        ) {
            let (b, c) = (fewer, fewer + by);
            let n = b + c + agreed;
            let needed = mcnemar_sample_size(b, c, n, 0.05, 0.8);
            prop_assert!(mcnemar_exact(b, c) < 0.05 || needed.is_some_and(|needed| needed > n));
        }
    }
}
