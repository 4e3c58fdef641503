//! What the models wrote at the last step: a few right and a few wrong responses at the noisiest level, first those
//! that are right without noise and wrong with it.

use super::Entry;
use crate::html::{details, escape};
use crate::record::{EvalRecord, LevelRecord, ProblemRecord};

/// Responses of each kind.
const EACH: usize = 3;
/// Characters of a response that are shown.
const LONGEST: usize = 1500;

pub fn html(entries: &[Entry]) -> String {
    let parts = entries.iter().filter_map(|entry| {
        let (step, record) = entry.run.last();
        let level = noisiest(record)?;
        let summary = format!("{}, step {step}, {}", entry.name, level.label);
        Some(details(&summary, entries.len() == 1, &samples(record, level)))
    });
    parts.collect()
}

/// The level of the largest scale, else the last.
pub(super) fn noisiest(record: &EvalRecord) -> Option<&LevelRecord> {
    let scale = |level: &LevelRecord| level.noise.unwrap_or(0.0);
    record.levels.iter().max_by(|a, b| scale(a).total_cmp(&scale(b)))
}

fn samples(record: &EvalRecord, level: &LevelRecord) -> String {
    let clean = record.clean_level().filter(|clean| !std::ptr::eq(*clean, level));
    let is_right = |problem: &ProblemRecord| problem.first.right(&record.metric);
    let right_when_clean = |problem: &ProblemRecord| {
        clean
            .is_some_and(|clean| clean.problems.iter().any(|other| other.id == problem.id && is_right(other)))
    };
    let (right, wrong): (Vec<_>, Vec<_>) = level.problems.iter().partition(|problem| is_right(problem));
    let mut wrong: Vec<_> = wrong.into_iter().map(|problem| (right_when_clean(problem), problem)).collect();
    wrong.sort_by_key(|(lost, _)| !lost);
    let wrong = wrong.into_iter().take(EACH).map(|(lost, problem)| {
        let fate = match (lost, problem.first.flexible) {
            _ if problem.first.truncated == Some(true) && lost => "cut off, right without added noise",
            _ if problem.first.truncated == Some(true) => "cut off",
            (true, _) => "wrong, right without added noise",
            (false, true) => "right, but not in the rewarded form",
            (false, false) => "wrong",
        };
        card(problem, "poor", fate)
    });
    let right = right.into_iter().take(EACH).map(|problem| card(problem, "good", "right"));
    format!("<div class=\"samples\">{}</div>", wrong.chain(right).collect::<String>())
}

fn card(problem: &ProblemRecord, class: &str, fate: &str) -> String {
    let first = &problem.first;
    let answer = first.answer.as_deref().unwrap_or("none found");
    let score = first.score.map(|score| format!("score {score}, ")).unwrap_or_default();
    let facts = format!("{score}answer {answer}, truth {}, {} tokens", problem.truth, first.tokens);
    let shown: String = first.response.chars().take(LONGEST).collect();
    let more = if shown.len() < first.response.len() { " …" } else { "" };
    format!(
        "<article><p><b>Problem {}</b> <span class=\"tag {class}\">{fate}</span></p>\
         <p class=\"quiet\">{}</p><pre>{}{more}</pre></article>",
        problem.id,
        escape(&facts),
        escape(&shown),
    )
}
