//! A suite's table as text for a terminal and as Markdown.

use std::fmt::Write as _;

use super::{
    spread::Spread,
    table::{Against, LevelCell, SuiteTable},
};
use crate::{
    format,
    text_table::{Align, TextTable, wrap},
};

const COLUMNS: [&str; 9] =
    ["preset", "level", "final accuracy", "peak", "kept", "against baseline", "p", "p (Holm)", "resolved"];

const LEGEND: &str = "Means over seeds with 95 % intervals, in doubt of the seeds (Student) as of the problems. final: \
                      strict accuracy after the last step; peak: the best evaluation without noise; kept: this level \
                      over the clean one. against: points, on the same problems and seeds. p: exact sign-flip test with \
                      the problem as the unit; Holm: corrected for all tests of this table. resolved: p (Holm) below \
                      0.05 and an interval without 0.";

impl SuiteTable {
    /// The table as text for a terminal of `width` columns.
    #[must_use]
    pub fn render(&self, width: usize) -> String {
        let columns: Vec<(&str, Align)> = COLUMNS.iter().map(|name| (*name, Align::Left)).collect();
        let mut table = TextTable::new(&columns);
        self.rows().into_iter().for_each(|row| table.row(row));
        let mut out = wrap(&self.title(), width, 0);
        write!(out, "\n{}\n{}", table.render(), wrap(LEGEND, width, 0)).unwrap_or_default();
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
        out += &line(&COLUMNS.map(str::to_owned));
        out += &line(&COLUMNS.map(|_| "---".to_owned()));
        self.rows().iter().for_each(|row| out += &line(row));
        write!(out, "\n{LEGEND}\n").unwrap_or_default();
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

    fn rows(&self) -> Vec<Vec<String>> {
        let row = |(name, peak, cell, first): (&str, &Spread, &LevelCell, bool)| {
            let once = |text: String| if first { text } else { String::new() };
            let head =
                [once(name.to_owned()), cell.label.clone(), percent(&cell.accuracy), once(percent(peak))];
            let kept = cell.retention.as_ref().map_or_else(dash, percent);
            [head.to_vec(), vec![kept], difference(cell.against_baseline.as_ref()).to_vec()].concat()
        };
        let cells = self.presets.iter().flat_map(|preset| {
            let levels = preset.levels.iter().enumerate();
            levels.map(|(at, cell)| (preset.name.as_str(), &preset.peak, cell, at == 0))
        });
        cells.map(row).collect()
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

fn percent(spread: &Spread) -> String {
    match spread.interval {
        Some(interval) => format::percent_with_interval(spread.mean, interval),
        None => format::percent(spread.mean),
    }
}

fn difference(against: Option<&Against>) -> [String; 4] {
    let Some(against) = against else { return [dash(), dash(), dash(), dash()] };
    [
        format::points_with_interval(against.difference_points, against.interval_points),
        format::p_value(against.p),
        format::p_value(against.p_holm),
        if against.resolved { "yes" } else { "no" }.to_owned(),
    ]
}
