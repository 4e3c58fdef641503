//! The best of several evaluations. The best seen is the best by merit or by luck; its interval pays for having looked
//! for it: with m evaluations every interval has confidence 1 − α/m (Bonferroni), so that all hold at once, and then the
//! best true accuracy lies between the largest of their lower ends and the largest of their upper ends.

use super::{Interval, Scores, accuracy};

/// The place of the best mean (the first of equals) and the interval of the best true accuracy at a two-sided
/// `confidence`; `None` where there is no evaluation.
#[must_use]
pub fn peak(evaluations: &[Scores], confidence: f64) -> Option<(usize, Interval)> {
    let each = 1.0 - (1.0 - confidence) / evaluations.len().max(1) as f64;
    let means: Vec<f64> = evaluations.iter().map(Scores::mean).collect();
    let best = (0..means.len()).rev().max_by(|&a, &b| means[a].total_cmp(&means[b]))?;
    let highest = evaluations
        .iter()
        .map(|scores| accuracy(scores, each))
        .reduce(|all, one| Interval { low: all.low.max(one.low), high: all.high.max(one.high) })?;
    Some((best, highest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::wilson;

    fn first(right: usize) -> Scores {
        Scores::of(&[(0..100).map(|i| f64::from(u8::from(i < right))).collect()])
    }

    #[test]
    fn the_best_of_many_is_more_doubtful_than_one() {
        let (best, interval) = peak(&[first(60), first(70), first(70), first(65)], 0.95).unwrap();
        let alone = wilson(70, 100, 0.95);
        assert_eq!(best, 1);
        assert!(interval.low < alone.low && alone.high < interval.high, "{interval:?}");
        assert_eq!(peak(&[], 0.95), None);
    }
}
