//! The interval of a difference between two accuracies on the same problems and columns, and the test that agrees with it.

use super::{Interval, Scores, contrast::Contrast};

/// The interval of the first side's mean minus the second's at a two-sided `confidence`; in [−1, 1] of proportions.
///
/// # Panics
///
/// When the sides have other numbers of problems or columns.
#[must_use]
pub fn difference(first: &Scores, second: &Scores, confidence: f64) -> Interval {
    let contrast = Contrast::new(first, second, 1.0);
    let interval = contrast.interval(confidence);
    if contrast.is_of_proportions() { interval.within(-1.0, 1.0) } else { interval }
}

/// The two-sided p-value of the claim that the difference is not `value`: below α just where the interval of confidence
/// 1 − α excludes it.
///
/// # Panics
///
/// As [`difference`].
#[must_use]
pub fn p_against(first: &Scores, second: &Scores, value: f64) -> f64 {
    Contrast::new(first, second, 1.0).p_against(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One column of problems that both, only the first, only the second and neither side gets right.
    fn sides(counts: [usize; 4]) -> [Scores; 2] {
        let column = |right: [f64; 4]| {
            let cells = counts.iter().zip(right);
            Scores::of(&[cells.flat_map(|(&count, right)| vec![right; count]).collect()])
        };
        [column([1.0, 1.0, 0.0, 0.0]), column([1.0, 0.0, 1.0, 0.0])]
    }

    #[test]
    fn agrees_with_published_intervals() {
        // (20, 12, 2, 16) stands in Newcombe 1998; the other two in Fagerland, Lydersen & Laake, *Statistical
        // Analysis of Contingency Tables*, chapter 8 (Bentur et al. 2009; Cavo et al. 2012).
        for (counts, low, high) in [
            ([20, 12, 2, 16], 0.0562, 0.3292),
            ([1, 1, 7, 12], -0.5069, -0.0256),
            ([59, 6, 16, 80], -0.1186, -0.0046),
        ] {
            let [first, second] = sides(counts);
            let found = difference(&first, &second, 0.95);
            assert!((found.low - low).abs() < 6e-5 && (found.high - high).abs() < 6e-5, "{found:?}");
        }
    }

    #[test]
    fn equal_answers_still_leave_some_doubt() {
        let [first, second] = sides([150, 0, 0, 50]);
        let found = difference(&first, &second, 0.95);
        assert!(found.low < -0.005 && found.high > 0.005, "{found:?}");
        assert_eq!(p_against(&first, &second, 0.0), 1.0);
    }

    #[test]
    fn two_seeds_that_disagree_about_the_side_resolve_nothing() {
        let up: Vec<f64> = (0..200).map(|i| f64::from(u8::from(i < 150))).collect();
        let down: Vec<f64> = (0..200).map(|i| f64::from(u8::from(i < 90))).collect();
        let first = Scores::of(&[up.clone(), up]);
        let second = Scores::of(&[down.clone(), down.iter().map(|x| 1.0 - x).collect()]);
        let found = difference(&first, &second, 0.95);
        assert!(found.contains(0.0) && p_against(&first, &second, 0.0) > 0.05, "{found:?}");
    }

    proptest! {
        #[test]
        fn holds_the_difference_turns_with_the_sides_and_agrees_with_its_test(
            counts in [0usize..80, 0usize..80, 0usize..80, 0usize..80], value in -0.5..0.5_f64,
        ) {
            prop_assume!(counts.iter().sum::<usize>() > 0);
            let [first, second] = sides(counts);
            let (there, back) = (difference(&first, &second, 0.95), difference(&second, &first, 0.95));
            let seen = first.mean() - second.mean();
            prop_assert!(there.low <= seen + 1e-12 && seen - 1e-12 <= there.high);
            prop_assert!((there.low + back.high).abs() < 1e-9 && (there.high + back.low).abs() < 1e-9);
            let margin = (value - there.low).abs().min((value - there.high).abs());
            prop_assume!(margin > 1e-9);
            prop_assert_eq!(p_against(&first, &second, value) < 0.05, !there.contains(value));
        }
    }
}
