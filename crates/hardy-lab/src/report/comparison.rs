//! Every run against the first, problem by problem, at the last evaluation of each.

use super::Entry;
use crate::compare::{Comparison, LevelComparison, RunComparison};
use crate::error::LabError;
use crate::format;
use crate::html::{escape, table};

/// Every run but the first against the first; one by one, so that a run that cannot be compared does not silence the
/// others.
pub fn against_first(entries: &[Entry]) -> Vec<Result<Comparison, LabError>> {
    let Some((first, others)) = entries.split_first() else { return Vec::new() };
    let baseline = (first.name, first.run.last().1);
    let compared = |entry: &Entry| Comparison::new(&[baseline, (entry.name, entry.run.last().1)], &[]);
    others.iter().map(compared).collect()
}

pub fn html(comparisons: &[Result<Comparison, LabError>]) -> String {
    if comparisons.is_empty() {
        return String::new();
    }
    let parts = comparisons.iter().map(|one| match one {
        Ok(comparison) => compared(comparison),
        Err(reason) => format!("<p class=\"note\">{}</p>", escape(&reason.to_string())),
    });
    format!(
        "{}<p class=\"quiet\">Right in one only: answers that only the first, and only the second, gets right. A level with \
         two names is the same addition on different hardware: the first's and the second's.</p>",
        parts.collect::<String>(),
    )
}

fn compared(comparison: &Comparison) -> String {
    let runs: String = comparison.runs.iter().map(|run| one(run, &comparison.baseline)).collect();
    match comparison.caution() {
        caution if caution.is_empty() => runs,
        caution => format!("{runs}<p class=\"note\">{}</p>", escape(&caution)),
    }
}

fn one(run: &RunComparison, baseline: &str) -> String {
    let sentences: String = run.levels.iter().map(sentence).collect();
    let columns = [
        "level",
        &format!("#{baseline}"),
        &format!("#{}", run.name),
        "#difference, points",
        "#right in one only",
        "#p",
        "#p (Holm)",
        "#needed",
    ];
    let rows: Vec<_> = run.levels.iter().map(row).collect();
    let not_shared = match run.not_shared.is_empty() {
        true => String::new(),
        false => format!(
            "<p class=\"note\">Evaluated in one of them only: {}.</p>",
            escape(&run.not_shared.join(", "))
        ),
    };
    let heading = escape(&format!("{} against {baseline}", run.name));
    format!(
        "<h3>{heading}</h3><ul class=\"sentences\">{sentences}</ul>{}{not_shared}",
        table(&columns, &rows)
    )
}

fn sentence(level: &LevelComparison) -> String {
    let class = if level.test.claim.resolved { "resolved" } else { "unresolved" };
    format!("<li class=\"{class}\">{}.</li>", escape(&level.sentence))
}

fn row(level: &LevelComparison) -> Vec<String> {
    vec![
        escape(&level.name()),
        format::percent(level.baseline_accuracy),
        format::percent(level.accuracy),
        format::points_with_interval(level.test.difference_points, level.test.interval_points),
        format!("{} : {}", level.test.c, level.test.b),
        escape(&format::p_value(level.test.claim.p)),
        escape(&format::p_value(level.test.claim.p_holm)),
        level.test.needed.map_or_else(|| "–".into(), format::count),
    ]
}
