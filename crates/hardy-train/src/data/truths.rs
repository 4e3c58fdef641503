//! Answers that no response can match, found before hours are spent on them: `3/4`, `50%`, words.

use super::{DataError, Problem, list_places};
use crate::config::RewardSection;

/// Says which problems of `source` the graders of `rewards` can never give anything for; `None` where there are none.
///
/// # Errors
/// No problem can be matched at all.
pub fn check_truths(
    source: &str,
    problems: &[Problem],
    rewards: &[RewardSection],
) -> Result<Option<String>, DataError> {
    let can_match = |problem: &&Problem| rewards.iter().any(|reward| reward.kind.can_match(&problem.truth));
    let odd: Vec<&Problem> = problems.iter().filter(|problem| !can_match(problem)).collect();
    let Some(first) = odd.first() else { return Ok(None) };
    let (all, truth) = (problems.len(), &first.truth);
    let why = rewards.first().map_or("nothing is rewarded", |reward| reward.kind.wants());
    if odd.len() == all {
        let reason =
            format!("none of its {all} problems can be matched: the first answer is `{truth}`, and {why}");
        return Err(DataError::File { path: source.to_owned(), reason });
    }
    let places = list_places(odd.iter().map(|problem| &problem.place));
    Ok(Some(format!(
        "{source}: {} of {all} problems can never be matched ({places}; the first answer is `{truth}`): {why}",
        odd.len()
    )))
}
