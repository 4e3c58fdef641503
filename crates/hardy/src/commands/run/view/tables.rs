//! The figures of the last step beside the mean of ten, and what errors were asked for and measured.

use hardy_lab::{RunRecords, format::significant, metric_table::MetricTable};
use hardy_ops::{Pass, Receipt, group_receipts};
use ratatui_core::{layout::Rect, terminal::Frame, text::Line};

use super::{dim, rows, titled};

/// Steps over which recent figures are averaged.
const RECENT: usize = 10;

/// Figures of a step, by their keys in `metrics.jsonl`: the most telling first.
const FIGURES: [(&str, &str); 14] = [
    ("reward_mean", "reward"),
    ("strict_accuracy", "right, of all sampled"),
    ("response_length_mean", "tokens of a response"),
    ("grad_norm", "norm of the gradient"),
    ("logprob_mismatch", "|Δ log p|, rollout to training"),
    ("effective_sample_size", "effective sample size"),
    ("tokens_per_second", "tokens a second"),
    ("step_seconds", "seconds a step"),
    ("entropy", "entropy, nats"),
    ("kl", "KL to the reference"),
    ("aqn_sigma", "sigma of AQN"),
    ("clip_share", "clipped share"),
    ("loss", "loss"),
    ("truncated_share", "cut off share"),
];

/// A name and two numbers.
type Row = [String; 3];

/// The figures that the run has.
pub fn figures(frame: &mut Frame<'_>, area: Rect, metrics: &MetricTable) {
    let row = |(key, caption): &(&str, &str)| -> Option<Row> {
        let number = |steps| metrics.recent(key, steps).map(|value| significant(value, 3));
        Some([(*caption).to_owned(), number(1)?, number(RECENT)?])
    };
    let table: Vec<Row> = FIGURES.iter().filter_map(row).collect();
    draw(frame, area, "figures", ["", "last step", "mean of 10"], &table);
}

/// What was asked and what was measured: in training, and at every level of the last evaluation.
pub fn receipts(frame: &mut Frame<'_>, area: Rect, records: &RunRecords) {
    let mut table = asked_and_measured("", &records.receipts);
    for level in records.evaluations.last_key_value().into_iter().flat_map(|(_, record)| &record.levels) {
        table.extend(asked_and_measured(&format!(" at {}", level.label), &level.receipts));
    }
    let title = if table.is_empty() { "errors: none were injected so far" } else { "errors" };
    draw(frame, area, title, ["", "asked", "measured"], &table);
}

/// A row for every group of sites; `at` says under what.
fn asked_and_measured(at: &str, receipts: &[Receipt]) -> Vec<Row> {
    let row = |receipt: &Receipt| -> Row {
        let Receipt { phase, pass, op, point, .. } = receipt;
        let pass = if *pass == Pass::Backward { ", backward" } else { "" };
        let place = format!("{}{at}: {} {}{pass}", phase.name(), op.name(), point.name());
        let asked = receipt.asked.map_or_else(|| receipt.kind.clone(), percent);
        [place, asked, percent(receipt.measured)]
    };
    let groups = group_receipts(receipts);
    groups.iter().filter(|group| group.sum.elements > 0).map(|group| row(&group.sum)).collect()
}

/// A relative error.
fn percent(error: f64) -> String {
    if error.is_finite() { format!("{} %", significant(100.0 * error, 3)) } else { "∞".to_owned() }
}

fn draw(frame: &mut Frame<'_>, area: Rect, title: &str, header: [&str; 3], table: &[Row]) {
    /// Columns of a number.
    const NUMBER: usize = 12;
    let area = titled(frame, area, Line::raw(title.to_owned()));
    let name = usize::from(area.width).saturating_sub(2 * NUMBER);
    let line = |[caption, a, b]: &Row| {
        let caption: String = caption.chars().take(name).collect();
        Line::raw(format!("{caption:name$}{a:>NUMBER$}{b:>NUMBER$}"))
    };
    let head = line(&header.map(str::to_owned)).style(dim());
    rows(frame, area, std::iter::once(head).chain(table.iter().map(line)));
}
