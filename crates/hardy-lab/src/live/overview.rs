//! How every run stands: its step, the time left, what it earns, what it is worth by its last evaluation, and how far
//! rollout and training are apart.

use std::{path::Path, time::SystemTime};

use super::followed::{Followed, Status};
use crate::{
    format,
    html::{escape, table},
    robustness::RobustnessTable,
    run_records::{RunRecords, below, common_folder},
};

/// Steps over which recent values are averaged.
const RECENT: usize = 10;

pub fn html(runs: &[Followed]) -> String {
    if runs.is_empty() {
        return "<p class=\"note\">No run here yet. A run appears when <code>hardy run</code> has made its directory.</p>"
            .into();
    }
    let now = SystemTime::now();
    let folder = common_folder(&runs.iter().map(Followed::directory).collect::<Vec<_>>());
    let rows: Vec<Vec<String>> = runs.iter().map(|run| row(run, folder, now)).collect();
    format!(
        "<div class=\"lines\">{}</div><p class=\"quiet\">In {}. Reward, mismatch (mean |Δ log-probability| of rollout and training) \
         and effective sample size: the mean of the last {RECENT} steps. Accuracy: the last evaluation without added noise, with its \
         95 % interval. Time left: that of training, at the pace of the last 20 steps.</p>\
         <p class=\"quiet\">Next: <code>hardy report RUN…</code> keeps this page as one file; <code>hardy compare A B</code> says \
         whether two runs differ; <code>hardy run CONFIG --resume</code> goes on with one that has stopped.</p>",
        table(&COLUMNS, &rows),
        escape(&folder.display().to_string())
    )
}

/// What is said of a run.
const COLUMNS: [&str; 9] = [
    "run",
    "status",
    "#step",
    "#time left",
    "#reward",
    "#accuracy",
    "#mismatch",
    "#sample size",
    "#tokens / s",
];

fn row(run: &Followed, folder: &Path, now: SystemTime) -> Vec<String> {
    let shown = below(folder, run.directory()).display().to_string();
    let name = run.records().map_or("–", |records| &records.name);
    let recent = |key: &str| run.records().and_then(|records| records.metrics.recent(key, RECENT));
    let number = |value: Option<f64>| value.map_or_else(|| "–".into(), |x| format::significant(x, 3));
    let running = run.status(now) == Status::Running;
    let left = run.seconds_left().filter(|_| running);
    let values = [
        status(run, now),
        step(run),
        left.map_or_else(|| "–".into(), format::duration),
        number(recent("reward_mean")),
        run.records().and_then(accuracy).unwrap_or_else(|| "no evaluation yet".into()),
        number(recent("logprob_mismatch")),
        recent("effective_sample_size").map_or_else(|| "–".into(), format::percent),
        recent("tokens_per_second").map_or_else(|| "–".into(), |x| format::count(x.round() as u64)),
    ];
    let first = format!("<b>{}</b><small>{}</small>", escape(name), escape(&shown));
    // On a narrow screen, where the head of the table is not shown, a value says what it is.
    let labelled = COLUMNS[1..].iter().zip(values).map(|(column, value)| {
        format!("<span class=\"label\">{}</span><span>{value}</span>", escape(column.trim_start_matches('#')))
    });
    std::iter::once(first).chain(labelled).collect()
}

fn status(run: &Followed, now: SystemTime) -> String {
    let (class, word) = match run.status(now) {
        _ if run.problem().is_some() => ("poor", "unreadable"),
        Status::Running => ("open", "running"),
        Status::Finished => ("good", "finished"),
        Status::Silent => ("fair", "silent"),
    };
    let problem = run.problem().map(|problem| format!("<small>{}</small>", escape(problem)));
    format!("<span class=\"tag {class}\">{word}</span>{}", problem.unwrap_or_default())
}

fn step(run: &Followed) -> String {
    let step = run.records().and_then(|records| records.metrics.last_step()).unwrap_or(0);
    match run.total() {
        Some(total) => format!("{} / {}", format::count(step), format::count(total)),
        None => format::count(step),
    }
}

fn accuracy(records: &RunRecords) -> Option<String> {
    let (step, record) = records.evaluations.last_key_value()?;
    let table = RobustnessTable::from_record(record).ok()?;
    let label = &record.clean_level()?.label;
    let level = table.levels.iter().find(|level| level.label == *label)?;
    Some(format!(
        "{}<small>step {step}, {}</small>",
        format::percent_with_interval(level.accuracy, level.interval),
        escape(label)
    ))
}
