//! Matching two evaluations problem by problem. A pair is made by the problem's id and only believed if both sides
//! have the same true answer; sides that answered different problems, or under different conditions, are refused.

use std::collections::BTreeMap;

use crate::error::LabError;
use crate::record::{EvalRecord, LevelRecord, Metric, ProblemRecord};
use crate::statistics::{Answers, PairedTest};

/// One level of one evaluation, with the name that errors call it.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// The name.
    pub name: &'a str,
    /// The evaluation.
    pub record: &'a EvalRecord,
    /// Its level.
    pub level: &'a LevelRecord,
}

/// Judges the first side against the second, seed by seed: each slice holds one side's evaluations, one a seed.
///
/// # Errors
///
/// As [`check`] of every pair.
pub fn pair(
    first: &[Side<'_>],
    second: &[Side<'_>],
    metric: &Metric,
    allowed: &[String],
) -> Result<PairedTest, LabError> {
    for (one, other) in first.iter().zip(second) {
        check(*one, *other, allowed)?;
    }
    for side in [first, second] {
        side.iter().skip(1).try_for_each(|other| check(side[0], *other, allowed))?;
    }
    Ok(PairedTest::of(&answers(first, metric), &answers(second, metric)))
}

/// The answers of a side.
#[must_use]
pub fn answers(side: &[Side<'_>], metric: &Metric) -> Answers {
    side.iter().map(|one| one.level.values(metric)).collect()
}

/// Checks that two sides can be held against each other.
///
/// # Errors
///
/// When they answered under different conditions that are not among `allowed`, did not answer exactly the same problems
/// (the error says how many they share), drew their errors a different number of times, or a problem has different true
/// answers.
pub fn check(first: Side<'_>, second: Side<'_>, allowed: &[String]) -> Result<(), LabError> {
    check_problems(first, second)?;
    let differ = |[what, in_first, in_second]: [String; 3]| {
        let [first, second] = [first.name, second.name].map(str::to_owned);
        Err(LabError::DifferentConditions { first, second, what, in_first, in_second })
    };
    if let (Some(one), Some(other)) = (&first.record.conditions, &second.record.conditions)
        && let Some(difference) = one.first_difference(other, allowed)
    {
        return differ(difference);
    }
    let [one, other] = [first, second].map(|side| (side.level.draws.len() + 1, side.level.is_clean()));
    if one.0 != other.0 && !one.1 && !other.1 {
        return differ(["draws".to_owned(), one.0.to_string(), other.0.to_string()]);
    }
    Ok(())
}

fn check_problems(first: Side<'_>, second: Side<'_>) -> Result<(), LabError> {
    let (one, other) = (by_id(first.level), by_id(second.level));
    let shared: Vec<_> = one.iter().filter_map(|(id, a)| Some((*a, *other.get(id)?))).collect();
    if shared.len() != one.len() || shared.len() != other.len() || shared.is_empty() {
        return Err(LabError::DifferentProblems {
            first: first.name.into(),
            second: second.name.into(),
            in_first: one.len(),
            in_second: other.len(),
            shared: shared.len(),
        });
    }
    if let Some((a, b)) = shared.iter().find(|(a, b)| a.truth != b.truth) {
        return Err(LabError::DifferentTruths {
            first: first.name.into(),
            second: second.name.into(),
            id: a.id,
            truth_first: a.truth.clone(),
            truth_second: b.truth.clone(),
        });
    }
    Ok(())
}

fn by_id(level: &LevelRecord) -> BTreeMap<u64, &ProblemRecord> {
    level.problems.iter().map(|problem| (problem.id, problem)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{
        Conditions,
        made_up::{level, record},
    };

    fn judged(first: &EvalRecord, second: &EvalRecord, allowed: &[String]) -> Result<PairedTest, LabError> {
        let side = |name: &'static str, record| [(name, record)];
        let one = side("a", first).map(|(name, record)| Side { name, record, level: &record.levels[0] });
        let other = side("b", second).map(|(name, record)| Side { name, record, level: &record.levels[0] });
        pair(&one, &other, &Metric::Strict, allowed)
    }

    fn message(first: &EvalRecord, second: &EvalRecord) -> String {
        judged(first, second, &[]).unwrap_err().to_string()
    }

    #[test]
    fn pairs_are_made_by_id_not_by_order() {
        let first = record(vec![level(0.0, 10, |i| i < 6)]);
        let mut second = record(vec![level(0.0, 10, |i| i >= 5)]);
        second.levels[0].problems.reverse();
        let test = judged(&first, &second, &[]).unwrap();
        assert_eq!((test.n, test.b, test.c), (10, 5, 4));
    }

    #[test]
    fn sides_with_other_problems_are_refused_with_the_number_they_share() {
        let message =
            message(&record(vec![level(0.0, 10, |_| true)]), &record(vec![level(0.0, 4, |_| true)]));
        assert!(message.contains("a and b") && message.contains("10 and 4, 4 in both"), "{message}");
    }

    #[test]
    fn one_id_with_two_truths_is_refused() {
        let first = record(vec![level(0.0, 4, |_| true)]);
        let mut second = first.clone();
        second.levels[0].problems[2].truth = "77".into();
        let message = message(&first, &second);
        assert!(message.contains("problem 2") && message.contains("\"77\""), "{message}");
    }

    #[test]
    fn sides_that_were_asked_otherwise_are_refused_unless_that_is_allowed() {
        let conditions = |wording: &str| Conditions {
            wording: wording.into(),
            system: None,
            graders: None,
            chat_template: None,
            max_new_tokens: 8,
            sampling: "greedy".into(),
            precision: "f32".into(),
            data_fingerprint: "d".into(),
        };
        let asked = |wording| EvalRecord {
            conditions: Some(conditions(wording)),
            ..record(vec![level(0.0, 4, |_| true)])
        };
        let message = message(&asked("{question}"), &asked("Q: {question}"));
        assert!(
            message.contains("wording is \"{question}\" in one and \"Q: {question}\" in the other"),
            "{message}"
        );
        assert!(judged(&asked("{question}"), &asked("Q: {question}"), &["wording".into()]).is_ok());
        assert!(judged(&asked("{question}"), &record(vec![level(0.0, 4, |_| true)]), &[]).is_ok());
    }

    #[test]
    fn one_draw_is_not_held_against_several() {
        let one = record(vec![level(0.05, 4, |_| true)]);
        let mut two = one.clone();
        let level = &mut two.levels[0];
        let (problems, receipts) = (level.problems.clone(), level.receipts.clone());
        level.draws.push(crate::record::DrawRecord { draw: 1, seed: 9, problems, receipts });
        assert!(message(&one, &two).contains("draws is 1 in one and 2 in the other"));
    }
}
