//! The interval of an accuracy: Wilson's of one column; of several in doubt of problems and columns alike. That of a mean
//! score is the bootstrap's.

use super::{Interval, Scores, contrast::Contrast};

/// The interval of the mean of `scores` at a two-sided `confidence`; both ends in [0, 1] of a proportion.
#[must_use]
pub fn accuracy(scores: &Scores, confidence: f64) -> Interval {
    let interval = Contrast::new(scores, scores, 0.0).interval(confidence);
    if scores.proportions { interval.within(0.0, 1.0) } else { interval }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::wilson;

    fn scores(columns: &[&[u8]]) -> Scores {
        Scores::of(&columns.iter().map(|c| c.iter().map(|&x| f64::from(x)).collect()).collect::<Vec<_>>())
    }

    #[test]
    fn one_column_has_wilsons_interval() {
        let (found, right) = (accuracy(&scores(&[&[1, 1, 0, 1]]), 0.95), wilson(3, 4, 0.95));
        assert!((found.low - right.low).abs() < 1e-12 && (found.high - right.high).abs() < 1e-12);
        assert_eq!(accuracy(&scores(&[&[0, 0]]), 0.95).low, 0.0);
    }

    #[test]
    fn columns_that_repeat_each_other_leave_the_doubt_of_the_problems() {
        let (once, thrice) = (scores(&[&[1, 0, 0, 1, 1]]), scores(&[[1, 0, 0, 1, 1].as_slice(); 3]));
        let (one, three) = (accuracy(&once, 0.95), accuracy(&thrice, 0.95));
        assert!((one.low - three.low).abs() < 1e-12 && (one.high - three.high).abs() < 1e-12);
    }

    #[test]
    fn two_columns_that_differ_widen_it_within_its_bounds() {
        let found = accuracy(&scores(&[&[1, 1, 1, 1, 0], &[0, 0, 0, 0, 1]]), 0.95);
        assert_eq!((found.low, found.high), (0.0, 1.0));
    }
}
