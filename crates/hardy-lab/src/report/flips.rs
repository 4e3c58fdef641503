//! Problems whose answer changed: from the level without added noise to the noisiest one, and from the first evaluation to
//! the last. Numbers say how much is lost; these say what.

use std::collections::BTreeMap;

use super::{Entry, samples::noisiest};
use crate::html::{details, escape};
use crate::record::{EvalRecord, LevelRecord, ProblemRecord};

/// Pairs of answers that are shown of each kind.
const EACH: usize = 4;
/// Characters of a response that are shown.
const LONGEST: usize = 600;

/// Two answers to one problem.
type Pair<'a> = (&'a ProblemRecord, &'a ProblemRecord);

pub fn html(entries: &[Entry]) -> String {
    entries.iter().map(of_run).collect()
}

fn of_run(entry: &Entry) -> String {
    let (last, record) = entry.run.last();
    let noise =
        record.clean_level().zip(noisiest(record)).filter(|(clean, noisy)| clean.label != noisy.label);
    let under_noise = noise.map(|(clean, noisy)| {
        let label = format!("{} to {}, step {last}", clean.label, noisy.label);
        turned(&format!("{}, from {label}", entry.name), record, &clean.problems, &noisy.problems)
    });
    let first = entry.run.evaluations.first_key_value().filter(|(first, _)| **first < last);
    let by_training = first.and_then(|(first, before)| {
        let (from, to) = same_level(before, record)?;
        let label = format!("{}, from step {first} to step {last}, {}", entry.name, to.label);
        Some(turned(&label, record, &from.problems, &to.problems))
    });
    [under_noise, by_training].into_iter().flatten().collect()
}

/// The level without noise of both evaluations.
fn same_level<'a>(
    before: &'a EvalRecord,
    after: &'a EvalRecord,
) -> Option<(&'a LevelRecord, &'a LevelRecord)> {
    let to = after.clean_level()?;
    Some((before.levels.iter().find(|level| level.label == to.label)?, to))
}

/// What became of the answers of one condition in another; `label` says which.
fn turned(label: &str, record: &EvalRecord, from: &[ProblemRecord], to: &[ProblemRecord]) -> String {
    let right = |problem: &ProblemRecord| problem.first.right(&record.metric);
    let before: BTreeMap<u64, &ProblemRecord> = from.iter().map(|problem| (problem.id, problem)).collect();
    let pairs = to.iter().filter_map(|after| Some((*before.get(&after.id)?, after)));
    let (lost, won): (Vec<Pair>, Vec<Pair>) =
        pairs.filter(|(a, b)| right(a) != right(b)).partition(|(before, _)| right(before));
    let summary = format!("{label}: {} lost, {} won", lost.len(), won.len());
    let cards = [("poor", "lost", &lost), ("good", "won", &won)].map(|(class, fate, pairs)| {
        pairs.iter().take(EACH).map(|pair| card(pair, class, fate)).collect::<String>()
    });
    let more = (lost.len() + won.len()).saturating_sub(lost.len().min(EACH) + won.len().min(EACH));
    let more = if more == 0 { String::new() } else { format!("<p class=\"quiet\">and {more} more</p>") };
    details(&summary, false, &format!("<div class=\"samples\">{}</div>{more}", cards.concat()))
}

fn card((before, after): &Pair, class: &str, fate: &str) -> String {
    let side = |problem: &ProblemRecord| {
        let response = &problem.first.response;
        let shown: String = response.chars().take(LONGEST).collect();
        let more = if shown.len() < response.len() { " …" } else { "" };
        let answer = problem.first.answer.as_deref().unwrap_or("none found");
        format!("<p class=\"quiet\">answer {}</p><pre>{}{more}</pre>", escape(answer), escape(&shown))
    };
    format!(
        "<article><p><b>Problem {}</b> <span class=\"tag {class}\">{fate}</span> <span class=\"quiet\">truth {}</span></p>{}{}</article>",
        before.id,
        escape(&before.truth),
        side(before),
        side(after),
    )
}
