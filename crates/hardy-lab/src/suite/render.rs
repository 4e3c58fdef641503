//! A suite's table as text for a terminal and as Markdown.

use std::fmt::Write as _;

use super::{
    spread::{Peak, Spread},
    table::{LevelCell, SuiteTable},
};
use crate::{
    format,
    statistics::PairedTest,
    text_table::{Align, TextTable, wrap},
};

const COLUMNS: usize = 10;

const LEGEND: &str = "95 % intervals doubt seeds and problems alike (and draws, of which every seed has its own). final: after the \
                      last step; peak: the best evaluation without added noise, whose interval pays for the choice; cut off: \
                      answers that were cut off and are not right; kept: this level over the one without added noise. against: \
                      points, on the same problems and seeds. p: that of the interval, with one seed exact McNemar; Holm: \
                      corrected for all that this table claims. resolved: p (Holm) below 0.05 and an interval without 0.";
const ONE_SEED: &str =
    " With one seed only the problems are doubted: what is said holds for these runs, not for other seeds.";

impl SuiteTable {
    /// The table as text for a terminal of `width` columns.
    #[must_use]
    pub fn render(&self, width: usize) -> String {
        let names = self.columns();
        let columns: Vec<(&str, Align)> = names.iter().map(|name| (name.as_str(), Align::Left)).collect();
        let mut table = TextTable::new(&columns);
        self.rows().into_iter().for_each(|row| table.row(row));
        let mut out = wrap(&self.title(), width, 0);
        write!(out, "\n{}\n{}", table.render(), wrap(&self.legend(), width, 0)).unwrap_or_default();
        for line in self.verdicts() {
            out += &wrap(&line, width, 0);
        }
        out
    }

    /// The same as Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let mut out = format!("# {}\n\n{}\n\n", self.name, self.title());
        out += &line(&self.columns());
        out += &line(&[(); COLUMNS].map(|()| "---".to_owned()));
        self.rows().iter().for_each(|row| out += &line(row));
        write!(out, "\n{}\n", self.legend()).unwrap_or_default();
        for verdict in self.verdicts() {
            write!(out, "\n{verdict}\n").unwrap_or_default();
        }
        out
    }

    fn title(&self) -> String {
        let (presets, seeds, n) = (self.presets.len(), self.seeds.len(), format::count(self.n as u64));
        format!(
            "{}: {presets} presets, {seeds} seeds, {n} problems, held against {}",
            self.name, self.baseline
        )
    }

    fn columns(&self) -> [String; COLUMNS] {
        let accuracy = match self.metric.other() {
            Some(other) => format!("final accuracy, {} ({})", self.metric.name(), other.name()),
            None => format!("final {}", self.metric),
        };
        let names = [
            "preset",
            "level",
            &accuracy,
            "cut off",
            "peak",
            "kept",
            "against baseline",
            "p",
            "p (Holm)",
            "resolved",
        ];
        names.map(str::to_owned)
    }

    fn legend(&self) -> String {
        format!("{LEGEND}{}", if self.seeds.len() == 1 { ONE_SEED } else { "" })
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let cells = self.presets.iter().flat_map(|preset| {
            let levels = preset.levels.iter().enumerate();
            levels.map(|(at, cell)| (preset.name.as_str(), preset.peak.as_ref(), cell, at == 0))
        });
        cells.map(|(name, peak, cell, first)| row(name, peak, cell, first)).collect()
    }

    /// Every hypothesis and its criteria, a line each.
    fn verdicts(&self) -> Vec<String> {
        let lines = self.hypotheses.iter().flat_map(|judgement| {
            let claim = format!("\"{}\": {}", judgement.claim, judgement.outcome.name());
            std::iter::once(claim).chain(judgement.criteria.iter().map(|one| format!("- {}", one.sentence())))
        });
        lines.collect()
    }
}

fn dash() -> String {
    "–".to_owned()
}

/// A row; the preset's name and peak stand in its first only.
fn row(name: &str, peak: Option<&Peak>, cell: &LevelCell, first: bool) -> Vec<String> {
    let once = |text: String| if first { text } else { String::new() };
    let other = cell.other_accuracy.map(|other| format!(" ({})", format::percent(other))).unwrap_or_default();
    let accuracy = format!("{}{other}", percent(&cell.accuracy));
    let cut_off = cell.cut_off.map_or_else(|| "unknown".to_owned(), format::percent);
    let cut_off = match cell.non_finite {
        0.0 => cut_off,
        share => format!("{cut_off}, {} not finite", format::percent(share)),
    };
    let peak = peak.map_or_else(dash, |peak| format!("{} at step {}", percent(&peak.accuracy), peak.step));
    let kept = cell.retention.as_ref().map_or_else(dash, percent);
    let head = [once(name.to_owned()), cell.label.clone(), accuracy, cut_off, once(peak), kept];
    head.into_iter().chain(difference(cell)).collect()
}

fn percent(spread: &Spread) -> String {
    match spread.interval {
        Some(interval) => format::percent_with_interval(spread.mean, interval),
        None => format::percent(spread.mean),
    }
}

fn difference(cell: &LevelCell) -> [String; 4] {
    let Some(PairedTest { difference_points, interval_points, claim, .. }) = &cell.against_baseline else {
        return [dash(), dash(), dash(), dash()];
    };
    let other = cell.baseline_label.as_ref().map(|label| format!(" (at {label})")).unwrap_or_default();
    [
        format!("{}{other}", format::points_with_interval(*difference_points, *interval_points)),
        format::p_value(claim.p),
        format::p_value(claim.p_holm),
        if claim.resolved { "yes" } else { "no" }.to_owned(),
    ]
}
