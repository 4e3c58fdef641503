//! Accuracy against noise level: a table of runs by levels, and a chart with error bars.

use std::collections::BTreeSet;

use super::{Entry, evaluations, figure, legend, swatch};
use crate::format;
use crate::html::{escape, table};
use crate::robustness::{LevelRow, RobustnessTable, Verdict};

pub fn html(entries: &[Entry]) -> String {
    let labels = level_labels(entries);
    let mut columns = vec!["run"];
    columns.extend(labels.iter().map(String::as_str));
    let rows: Vec<_> = entries.iter().enumerate().map(|(i, entry)| row(i, entry, &labels)).collect();
    let metrics: BTreeSet<String> = entries.iter().map(|entry| entry.table.metric.to_string()).collect();
    let metric = capitalised(&escape(&metrics.into_iter().collect::<Vec<_>>().join(" and ")));
    let chart = figure("Accuracy against noise, with 95 % intervals", &evaluations::against_noise(entries));
    format!(
        "<div class=\"stack\">{}</div><p class=\"quiet\">{metric}, with its interval; below it, what is lost against the \
         level without added noise on the same problems, in points, with Holm's p over all that this page claims. Cut off: \
         answers that were cut off and are not right. Not finite: answers that ended at logits that are. Robust: less than 1 point lost; moderately robust: up to 3; not \
         resolved: the interval does not decide.</p>{}",
        table(&columns, &rows),
        match chart.is_empty() {
            true => String::new(),
            false => format!("{}<div class=\"charts single\">{chart}</div>", legend(entries)),
        },
    )
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// The labels of all levels, in the order in which the runs bring them.
fn level_labels(entries: &[Entry]) -> Vec<String> {
    let mut labels: Vec<String> = vec![];
    for level in entries.iter().flat_map(|entry| &entry.table.levels) {
        if !labels.contains(&level.label) {
            labels.push(level.label.clone());
        }
    }
    labels
}

fn row(i: usize, entry: &Entry, labels: &[String]) -> Vec<String> {
    let level = |label: &String| entry.table.levels.iter().find(|level| level.label == *label);
    let cells =
        labels.iter().map(|label| level(label).map_or_else(|| "–".into(), |level| cell(&entry.table, level)));
    std::iter::once(format!("<strong>{}</strong>", swatch(i, entry.name))).chain(cells).collect()
}

fn cell(table: &RobustnessTable, level: &LevelRow) -> String {
    let [low, high] = [level.interval.low, level.interval.high].map(|end| format!("{:.1}", 100.0 * end));
    let label = format!("<small class=\"label\">{}</small>", escape(&level.label));
    let accuracy = format!(
        "{label}<b class=\"big\">{}</b> <span>[{low}, {high}]</span>",
        format::percent(level.accuracy)
    );
    let other = table.other().zip(table.other_accuracy(level));
    let other =
        other.map(|(metric, x)| format!("{} {}, ", metric.name(), format::percent(x))).unwrap_or_default();
    let draws = match level.draws.len() {
        0 => String::new(),
        _ => format!("<small>draws {}</small>", level.draws_cell()),
    };
    let samples = match level.pass_at.len() {
        0 => String::new(),
        _ => format!("<small>{}</small>", level.pass_at_cell()),
    };
    let more = format!("<small>{other}{}</small>{draws}{samples}", level.ended());
    let Some(loss) = &level.loss else {
        return format!("{accuracy}{more}");
    };
    let [lost, kept, p, _, _] = loss.cells();
    format!(
        "{accuracy}<small>lost {}</small><small>kept {kept}</small><small>p {}</small>{more}{}",
        escape(&lost),
        escape(&p),
        tag(loss.verdict),
    )
}

fn tag(verdict: Verdict) -> String {
    let class = match verdict {
        Verdict::Robust => "good",
        Verdict::ModeratelyRobust => "fair",
        Verdict::NotRobust => "poor",
        Verdict::NotResolved => "open",
    };
    format!("<span class=\"tag {class}\">{verdict}</span>")
}
