//! How every run stands: its step, the time left, what it earns, what it is worth by its last evaluation, and how far
//! rollout and training are apart.

use std::time::SystemTime;

use super::followed::{Followed, Status};
use crate::{
    format,
    html::{escape, table},
    robustness::RobustnessTable,
    run_records::RunRecords,
};

/// Steps over which recent values are averaged.
const RECENT: usize = 10;

pub fn html(runs: &[Followed]) -> String {
    if runs.is_empty() {
        return "<p class=\"note\">No run here yet. A run appears when <code>hardy run</code> has made its directory.</p>"
            .into();
    }
    let columns = [
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
    let now = SystemTime::now();
    let rows: Vec<Vec<String>> = runs.iter().map(|run| row(run, now)).collect();
    format!(
        "{}<p class=\"quiet\">Reward, mismatch (mean |Δ log-probability| of rollout and training) and effective sample size: the \
         mean of the last {RECENT} steps. Accuracy: the last evaluation without added noise, with its 95 % interval. Time left: \
         that of training, at the pace of the last 20 steps.</p>",
        table(&columns, &rows)
    )
}

fn row(run: &Followed, now: SystemTime) -> Vec<String> {
    let shown = run.directory().display().to_string();
    let name = run.records().map_or("–", |records| &records.name);
    let recent = |key: &str| run.records().and_then(|records| records.metrics.recent(key, RECENT));
    let number = |value: Option<f64>| value.map_or_else(|| "–".into(), |x| format::significant(x, 3));
    vec![
        format!("<b>{}</b><small>{}</small>", escape(name), escape(&shown)),
        status(run, now),
        step(run),
        if run.status(now) == Status::Running {
            run.seconds_left().map_or_else(|| "–".into(), duration)
        } else {
            "–".into()
        },
        number(recent("reward_mean")),
        run.records().and_then(accuracy).unwrap_or_else(|| "no evaluation yet".into()),
        number(recent("logprob_mismatch")),
        recent("effective_sample_size").map_or_else(|| "–".into(), format::percent),
        number(recent("tokens_per_second")),
    ]
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

/// A time as people say it.
fn duration(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    match minutes {
        0 => format!("{seconds:.0} s"),
        1..120 => format!("{minutes} min"),
        120..2880 => format!("{} h {} min", minutes / 60, minutes % 60),
        _ => format!("{} d {} h", minutes / 1440, minutes % 1440 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_in_the_unit_that_fits_them() {
        let said = [12.0, 61.0, 7000.0, 7300.0, 200_000.0].map(duration);
        assert_eq!(said, ["12 s", "1 min", "117 min", "2 h 2 min", "2 d 7 h"]);
    }
}
