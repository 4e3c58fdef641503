//! The report: one HTML page, complete in itself, from one or several runs. It opens with the answer (what survives,
//! and which differences are real) and goes on to what a doubtful reader asks for: curves, receipts, responses,
//! configuration.

mod comparison;
mod configuration;
mod curves;
mod evaluations;
mod flips;
mod headline;
mod heat;
mod receipts;
mod samples;

use std::path::Path;

use hardy_model::files::write_atomically;
use hardy_train::error::Error;

use crate::error::LabError;
use crate::html::{escape, page, section};
use crate::page::decide_together;
use crate::robustness::RobustnessTable;
use crate::run_records::{RunRecords, distinct_names};
use crate::svg::class_of;

/// A run with what the sections need beside its records.
struct Entry<'a> {
    name: &'a str,
    run: &'a RunRecords,
    /// The last evaluation, judged together with everything else on the page.
    table: RobustnessTable,
}

/// The page for `runs`; the first is the baseline of the comparison. Equal inputs give equal pages.
///
/// # Errors
///
/// When there is no run, or a run's last evaluation cannot be judged (see [`RobustnessTable::from_record`]). Runs
/// that cannot be compared with each other are no error: the page says why.
pub fn html(runs: &[RunRecords]) -> Result<String, LabError> {
    if runs.is_empty() {
        return Err(LabError::TooFew { what: "a report", least: 1, got: 0 });
    }
    let names = distinct_names(runs);
    let title = format!("Hardy: {}", names.join(", "));
    let all: Vec<&RunRecords> = runs.iter().collect();
    Ok(page(&title, &(header(runs, &names) + &body(&all, &names)? + &footer(&all))))
}

/// Everything between the header and the footer: what a page on finished runs and one on runs that go on show alike.
///
/// # Errors
///
/// A run whose last evaluation cannot be judged.
pub(crate) fn body(runs: &[&RunRecords], names: &[String]) -> Result<String, LabError> {
    let mut entries =
        names.iter().zip(runs).map(|(name, run)| Entry::new(name, run)).collect::<Result<Vec<_>, _>>()?;
    let mut comparisons = comparison::against_first(&entries);
    decide_together(
        entries.iter_mut().map(|entry| &mut entry.table),
        comparisons.iter_mut().filter_map(|one| one.as_mut().ok()),
    );
    let sections = [
        section("Where learning may be impossible", &warnings(&entries)),
        section("What survives", &headline::html(&entries)),
        section("Are the differences real?", &comparison::html(&comparisons)),
        section("Accuracy over training", &evaluations::over_steps(&entries)),
        section("Training", &curves::html(&entries)),
        section("What was really injected", &(heat::html(&entries) + &receipts::html(&entries))),
        section("Answers that flipped", &flips::html(&entries)),
        section("Sample responses", &samples::html(&entries)),
        section("Configuration", &configuration::html(&entries)),
    ];
    Ok(sections.concat())
}

/// Writes the page of [`html`] to a file, whole or not at all.
///
/// # Errors
///
/// As [`html`], and when the file cannot be written.
pub fn write(runs: &[RunRecords], path: &Path) -> Result<(), LabError> {
    let text = html(runs)?;
    Ok(write_atomically(path, text.as_bytes()).map_err(Error::from)?)
}

impl<'a> Entry<'a> {
    fn new(name: &'a str, run: &'a RunRecords) -> Result<Self, LabError> {
        Ok(Self { name, run, table: RobustnessTable::from_record(run.last().1)? })
    }
}

fn header(runs: &[RunRecords], names: &[String]) -> String {
    let names: Vec<_> = names.iter().map(|name| escape(name)).collect();
    let mut models: Vec<_> = runs.iter().map(about).collect();
    models.dedup();
    let about: String = models.iter().map(|line| format!("<p class=\"quiet\">{line}</p>")).collect();
    format!("<header><p class=\"brand\">Hardy report</p><h1>{}</h1>{about}</header>\n", names.join(" · "))
}

fn about(run: &RunRecords) -> String {
    let (step, record) = run.last();
    let n = crate::format::count(record.n as u64);
    let text =
        format!("model {}, evaluated on {n} problems of {}, after step {step}", record.model, record.data);
    escape(&text)
}

/// What the first steps of the runs warned of; empty where they did not.
fn warnings(entries: &[Entry]) -> String {
    let of_run = |entry: &Entry| {
        let lines = entry.run.metrics.warnings.iter();
        lines
            .map(|warning| format!("<li>{}: {}</li>", escape(entry.name), escape(warning)))
            .collect::<String>()
    };
    let items: String = entries.iter().map(of_run).collect();
    if items.is_empty() { items } else { format!("<ul>{items}</ul>") }
}

/// What the numbers of a page mean; `runs` is not empty.
pub(crate) fn footer(runs: &[&RunRecords]) -> String {
    let version = escape(&runs[0].last().1.hardy_version);
    format!(
        "<footer class=\"quiet\">Intervals are 95 %: Wilson for accuracies, Newcombe (1998, method 10) for \
         differences on the same problems, in doubt of the draws of the error too where there are several. p is McNemar's, \
         exact and two-sided (of several draws, that of the interval); with Holm, corrected for everything that this page \
         claims; resolved: that below 0.05 and an interval without 0. “Needed” is the number of problems that would resolve \
         the difference seen at 5 % with power 0.8. What is said holds for these runs, not for other seeds. Evaluated with \
         Hardy {version}.</footer>\n"
    )
}

/// A run's name after a swatch of its colour.
fn swatch(i: usize, name: &str) -> String {
    format!("<span class=\"swatch {}\"></span>{}", class_of(i), escape(name))
}

/// The names of all runs with their colours; empty for one run.
fn legend(entries: &[Entry]) -> String {
    if entries.len() < 2 {
        return String::new();
    }
    let items = entries.iter().enumerate().map(|(i, entry)| format!("<li>{}</li>", swatch(i, entry.name)));
    format!("<ul class=\"legend\">{}</ul>", items.collect::<String>())
}

/// A chart under its caption; empty when the chart is.
fn figure(caption: &str, chart: &str) -> String {
    match chart.is_empty() {
        true => String::new(),
        false => format!("<figure><figcaption>{}</figcaption>{chart}</figure>", escape(caption)),
    }
}
