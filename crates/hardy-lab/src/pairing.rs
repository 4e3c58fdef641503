//! Pairing two evaluations problem by problem. A pair is made by the problem's id and only believed if both sides
//! have the same true answer; sides that answered different problems are refused, not cut to what they share.

use std::collections::BTreeMap;

use crate::error::LabError;
use crate::record::{LevelRecord, ProblemRecord};
use crate::statistics::PairedCounts;

/// Counts, strictly, how `first` and `second` fared on the same problems; the names appear in errors.
///
/// # Errors
///
/// When the two did not answer exactly the same problems (the error says how many they share), or a problem has
/// different true answers.
pub fn pair(first: (&str, &LevelRecord), second: (&str, &LevelRecord)) -> Result<PairedCounts, LabError> {
    let (one, other) = (by_id(first.1), by_id(second.1));
    let shared: Vec<_> = one.iter().filter_map(|(id, a)| Some((*a, *other.get(id)?))).collect();
    if shared.len() != one.len() || shared.len() != other.len() || shared.is_empty() {
        return Err(LabError::DifferentProblems {
            first: first.0.into(),
            second: second.0.into(),
            in_first: one.len(),
            in_second: other.len(),
            shared: shared.len(),
        });
    }
    if let Some((a, b)) = shared.iter().find(|(a, b)| a.truth != b.truth) {
        return Err(LabError::DifferentTruths {
            first: first.0.into(),
            second: second.0.into(),
            id: a.id,
            truth_first: a.truth.clone(),
            truth_second: b.truth.clone(),
        });
    }
    Ok(PairedCounts::of(shared.iter().map(|(a, b)| (a.strict, b.strict))))
}

fn by_id(level: &LevelRecord) -> BTreeMap<u64, &ProblemRecord> {
    level.problems.iter().map(|problem| (problem.id, problem)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::made_up::level;

    #[test]
    fn pairs_are_made_by_id_not_by_order() {
        let first = level(0.0, 10, |i| i < 6);
        let mut second = level(0.0, 10, |i| i >= 5);
        second.problems.reverse();
        let counts = pair(("a", &first), ("b", &second)).unwrap();
        assert_eq!(counts, PairedCounts { both: 1, only_first: 5, only_second: 4, neither: 0 });
    }

    #[test]
    fn sides_with_other_problems_are_refused_with_the_number_they_share() {
        let message =
            pair(("a", &level(0.0, 10, |_| true)), ("b", &level(0.0, 4, |_| true))).unwrap_err().to_string();
        assert!(message.contains("a and b") && message.contains("10 and 4, 4 in both"), "{message}");
    }

    #[test]
    fn one_id_with_two_truths_is_refused() {
        let first = level(0.0, 4, |_| true);
        let mut second = first.clone();
        second.problems[2].truth = "77".into();
        let message = pair(("a", &first), ("b", &second)).unwrap_err().to_string();
        assert!(message.contains("problem 2") && message.contains("\"77\""), "{message}");
    }
}
