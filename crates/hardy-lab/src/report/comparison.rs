//! Every run against the first, problem by problem, at the last evaluation of each.

use super::Entry;
use crate::compare::{Comparison, LevelComparison, RunComparison};
use crate::format;
use crate::html::{escape, table};

pub fn html(entries: &[Entry]) -> String {
    if entries.len() < 2 {
        return String::new();
    }
    let baseline = (entries[0].name, entries[0].run.last().1);
    // One by one, so that a run that cannot be compared does not silence the others.
    let parts = entries[1..].iter().map(|entry| {
        match Comparison::new(&[baseline, (entry.name, entry.run.last().1)]) {
            Ok(comparison) => comparison.runs.iter().map(|run| one(run, &comparison.baseline)).collect(),
            Err(reason) => format!("<p class=\"note\">{}</p>", escape(&reason.to_string())),
        }
    });
    format!(
        "{}<p class=\"quiet\">Right in one only: problems that only the first, and only the second, gets right.</p>",
        parts.collect::<String>(),
    )
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
    let class = if level.test.resolved { "resolved" } else { "unresolved" };
    format!("<li class=\"{class}\">{}.</li>", escape(&level.sentence))
}

fn row(level: &LevelComparison) -> Vec<String> {
    vec![
        escape(&level.label),
        format::percent(level.baseline_accuracy),
        format::percent(level.accuracy),
        format::points_with_interval(level.test.difference_points, level.test.interval_points),
        format!("{} : {}", level.test.c, level.test.b),
        escape(&format::p_value(level.test.p)),
        level.test.needed.map_or_else(|| "–".into(), format::count),
    ]
}
