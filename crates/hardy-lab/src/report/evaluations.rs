//! Charts of evaluations: accuracy over training steps, and accuracy against noise, with intervals.

use super::{Entry, figure, legend};
use crate::record::{EvalRecord, LevelRecord};
use crate::statistics::{CONFIDENCE, accuracy, scores};
use crate::svg::{Chart, Point, Series, Style};

/// One chart per noise level; empty when no run was evaluated twice.
pub fn over_steps(entries: &[Entry]) -> String {
    let mut labels: Vec<&str> = vec![];
    for level in records(entries).flat_map(|record| &record.levels) {
        if !labels.contains(&level.label.as_str()) {
            labels.push(&level.label);
        }
    }
    let charts: String =
        labels.iter().map(|label| figure(&caption(label), &level_over_steps(entries, label))).collect();
    if charts.is_empty() {
        charts
    } else {
        format!("{}<div class=\"charts\">{charts}</div>", legend(entries))
    }
}

fn records<'a>(entries: &'a [Entry]) -> impl Iterator<Item = &'a EvalRecord> {
    entries.iter().flat_map(|entry| entry.run.evaluations.values())
}

fn caption(label: &str) -> String {
    format!("Accuracy, {label}")
}

fn level_over_steps(entries: &[Entry], label: &str) -> String {
    let series: Vec<_> =
        entries.iter().enumerate().map(|(i, entry)| over_steps_of(i, entry, label)).collect();
    if series.iter().all(|one| one.points.len() < 2) {
        return String::new();
    }
    let title = format!("Accuracy at each evaluated step, {label}, with 95 % intervals");
    chart(title, "training step", Style::Band, (360.0, 230.0), series).render()
}

fn over_steps_of(i: usize, entry: &Entry, label: &str) -> Series {
    let at = |(step, record): (&u64, &EvalRecord)| {
        let level = record.levels.iter().find(|level| level.label == label)?;
        point(*step as f64, record, level)
    };
    Series {
        name: entry.name.into(),
        colour: i,
        points: entry.run.evaluations.iter().filter_map(at).collect(),
    }
}

/// Accuracy at the last evaluation against the scale of the noise; empty when there are fewer than two scales.
pub fn against_noise(entries: &[Entry]) -> String {
    let mut scales: Vec<f64> = vec![];
    let series: Vec<_> = entries.iter().enumerate().map(|(i, entry)| against_noise_of(i, entry)).collect();
    scales.extend(series.iter().flat_map(|one| one.points.iter().map(|point| point.x)));
    scales.sort_by(f64::total_cmp);
    scales.dedup();
    if scales.len() < 2 {
        return String::new();
    }
    let title = "Accuracy against added noise, with 95 % intervals".into();
    let mut chart =
        chart(title, "added noise, per cent of each value", Style::ErrorBars, (480.0, 260.0), series);
    chart.x_unit = " %";
    chart.x_ticks = scales;
    chart.render()
}

fn against_noise_of(i: usize, entry: &Entry) -> Series {
    let (_, record) = entry.run.last();
    let mut points: Vec<_> = record
        .levels
        .iter()
        .filter_map(|level| point(percent_without_dust(level.noise?), record, level))
        .collect();
    points.sort_by(|a, b| a.x.total_cmp(&b.x));
    Series { name: entry.name.into(), colour: i, points }
}

/// A fraction in per cent, without the dust of binary fractions: 0.07 → 7, not 7.000000000000001.
fn percent_without_dust(fraction: f64) -> f64 {
    (fraction * 1e10).round() / 1e8
}

/// Accuracy in per cent with its interval; `None` for a level without problems.
fn point(x: f64, record: &EvalRecord, level: &LevelRecord) -> Option<Point> {
    if level.problems.is_empty() {
        return None;
    }
    let side = scores(&vec![level.values(&record.metric)]);
    Some(Point { x, y: 100.0 * side.mean(), interval: Some(accuracy(&side, CONFIDENCE).scaled(100.0)) })
}

/// Accuracies are drawn from 0 to 100 %; scores beyond that as far as they go.
fn bounds(series: &[Series]) -> (f64, f64) {
    let mut points = series.iter().flat_map(|one| &one.points);
    if points.all(|point| (0.0..=100.0).contains(&point.y)) { (0.0, 100.0) } else { (f64::MIN, f64::MAX) }
}

fn chart(title: String, x_label: &str, style: Style, size: (f64, f64), series: Vec<Series>) -> Chart {
    Chart {
        title,
        x_label: x_label.into(),
        y_unit: " %",
        y_bounds: bounds(&series),
        x_ticks: vec![],
        x_unit: "",
        size,
        style,
        series,
    }
}
