//! `hardy probe --threshold` and `--advise`: the level that every place tolerates, and a plan that the model bears.

use std::path::PathBuf;

use clap::Args;
use hardy_lab::{
    Setting,
    format::significant,
    grid::{
        Cell, Grid, GridMetric,
        advise::{Advice, Held, PlaceLevel, budget, in_words},
        threshold::Threshold,
    },
    run::Crew,
    scan::format_named,
    text_table::{Align, TextTable, wrap},
};
use hardy_model::files::write_atomically;
use hardy_train::config::refuse_existing;
use serde::Serialize;

use crate::{
    crew,
    device::Engine,
    failure::Failure,
    number_args::number,
    output::{Output, note},
    progress::Progress,
};

/// Accuracy that a place may lose, in points, where nothing else is said.
const USUAL_POINTS: f64 = 10.0;
/// Nats that it may lose.
const USUAL_NATS: f64 = 0.1;

/// What is sought beyond the grid.
#[derive(Clone, Debug, Args)]
pub struct AdviceArgs {
    /// Seek the level that every place tolerates, by sequential tests, instead of measuring at given levels
    #[arg(long)]
    threshold: bool,
    /// What a place may lose: points of accuracy, or nats with --metric nll [default: 10 points, 0.1 nats]
    #[arg(long, value_name = "X", value_parser = number("--drop"))]
    drop: Option<f64>,
    /// Write a plan that the model bears, with a level of its own for every place, for `hardy eval --plan` and `hardy run --plan`
    #[arg(long, value_name = "PLAN.toml")]
    advise: Option<PathBuf>,
    /// Let the plan give this number format to all layers but those that it hurts most, which stay in BF16
    #[arg(long, value_name = "NAME", requires = "advise")]
    advise_format: Option<String>,
    /// The share of accuracy that the plan shall keep
    #[arg(long, value_name = "SHARE", default_value_t = 0.95, requires = "advise", value_parser = number("--keep"))]
    keep: f64,
}

/// Thresholds, and the plan that follows from them.
#[derive(Serialize)]
struct Found {
    model: String,
    data: String,
    n: usize,
    metric: &'static str,
    /// What a place may lose: a fraction of answers, or nats.
    amount: f64,
    thresholds: Vec<Threshold>,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<Advice>,
}

impl AdviceArgs {
    /// Whether anything is sought beyond the grid.
    pub fn wanted(&self) -> bool {
        self.threshold || self.advise.is_some()
    }

    /// The flag that asks for it.
    pub fn flag(&self) -> Option<&'static str> {
        if self.threshold { Some("--threshold") } else { self.advise.as_ref().map(|_| "--advise") }
    }

    /// Whether problems are needed to check a plan on.
    pub fn checks(&self) -> bool {
        self.advise.is_some()
    }

    /// Seeks thresholds, shared out among workers, of which the first writes a plan.
    ///
    /// # Errors
    /// What can not be sought, or a plan that exists.
    pub fn run<'a, B: Engine>(
        &self,
        crew: &Crew,
        grid: &Grid<'a, B>,
        cells: &[Cell],
        others: Setting<'a, B>,
        (model, data): (&str, &str),
        output: Output,
    ) -> Result<(), Failure> {
        let speaks = crew.workers.is_first();
        self.advise.as_deref().map_or(Ok(()), refuse_existing)?;
        let amount = match (grid.metric, self.drop) {
            (GridMetric::Nll, drop) => drop.unwrap_or(USUAL_NATS),
            (GridMetric::Accuracy(_), drop) => drop.unwrap_or(USUAL_POINTS) / 100.0,
        };
        let thresholds = match &self.advise_format {
            Some(_) => Vec::new(),
            None => {
                let mut bar: Option<Progress> = None;
                let mut at = |done, of| {
                    if speaks {
                        bar.get_or_insert_with(|| Progress::new("threshold", of)).at(done);
                    }
                };
                crew::ended(crew, grid.thresholds(cells, amount, crew, &mut at))?
            }
        };
        // What follows is one search, each of whose steps needs the one before.
        if !speaks {
            return Ok(());
        }
        let advice = self.advice(grid, &thresholds, others)?;
        let found = Found {
            model: model.to_owned(),
            data: data.to_owned(),
            n: grid.setting.problems.len(),
            metric: grid.metric.name(),
            amount,
            thresholds,
            advice,
        };
        output.show(&found, |width| self.text(&found, width))
    }

    fn advice<'a, B: Engine>(
        &self,
        grid: &Grid<'a, B>,
        thresholds: &[Threshold],
        others: Setting<'a, B>,
    ) -> Result<Option<Advice>, Failure> {
        let Some(path) = &self.advise else { return Ok(None) };
        let mut say = |line: &str| note(line);
        let advice = match &self.advise_format {
            Some(name) => grid.advise_format(format_named(name)?, self.keep, others, &mut say)?,
            None => grid.advise(thresholds, self.keep, others, &mut say)?,
        };
        write_atomically(path, advice.plan.as_bytes())?;
        Ok(Some(advice))
    }

    fn text(&self, found: &Found, width: usize) -> String {
        let mut out = String::new();
        if !found.thresholds.is_empty() {
            out += &thresholds(found, width);
        }
        if let (Some(advice), Some(path)) = (&found.advice, &self.advise) {
            out += &self::advice(advice, &path.display().to_string(), found, width);
        } else {
            out +=
                &wrap("next: a plan with these levels: the same command with --advise PLAN.toml", width, 0);
        }
        out
    }
}

fn thresholds(found: &Found, width: usize) -> String {
    use Align::{Left, Right};
    let amount = match found.metric {
        "nll" => format!("{} nats", significant(found.amount, 3)),
        _ => format!("{} points of accuracy", significant(100.0 * found.amount, 3)),
    };
    let mut out = format!(
        "{} on {}: the level at which a place loses {amount}, from the one that tolerates least\n\n",
        found.model, found.data
    );
    let mut ranked: Vec<&Threshold> = found.thresholds.iter().collect();
    ranked.sort_by(|a, b| a.estimate().total_cmp(&b.estimate()));
    let mut table =
        TextTable::new(&[("place", Left), ("level", Right), ("95 % bracket", Left), ("looks", Right)]);
    for threshold in ranked {
        table.row([
            threshold.cell.place(),
            level(threshold.estimate()),
            format!("{}{}", bracket(threshold), if threshold.open { ", open" } else { "" }),
            threshold.looks.to_string(),
        ]);
    }
    out += &table.render();
    out.push('\n');
    for [least, most] in budget(&found.thresholds) {
        let (weak, strong) = (level(least.estimate()), level(most.estimate()));
        let (op, point) = (least.cell.op.name(), least.cell.point.name());
        let line = format!("{op} {point}: tolerates {weak} in {}, {strong} in {}", place(least), place(most));
        out += &wrap(&line, width, 0);
    }
    out + "\n"
}

fn place(threshold: &Threshold) -> String {
    let cell = &threshold.cell;
    cell.layer.map_or_else(|| cell.modules.clone(), |layer| format!("layer {layer}"))
}

fn level(level: f64) -> String {
    format!("{} %", significant(100.0 * level, 2))
}

fn bracket(threshold: &Threshold) -> String {
    match (threshold.low, threshold.high) {
        (Some(low), Some(high)) => format!("{} to {}", level(low), level(high)),
        (Some(low), None) => format!("above {}", level(low)),
        (None, Some(high)) => format!("below {}", level(high)),
        (None, None) => "unknown".to_owned(),
    }
}

/// What every place has in the plan, beside what it bears.
fn places(advice: &Advice) -> String {
    use Align::{Left, Right};
    if advice.places.is_empty() {
        return String::new();
    }
    let mut table = TextTable::new(&[("place", Left), ("bears alone", Right), ("in the plan", Right)]);
    for PlaceLevel { place, bears, level: given } in &advice.places {
        let words = |known: Option<f64>| known.map_or_else(|| "–".to_owned(), level);
        table.row([place.clone(), words(*bears), words(Some(*given).filter(|given| *given > 0.0))]);
    }
    table.render() + "\n"
}

fn advice(advice: &Advice, path: &str, found: &Found, width: usize) -> String {
    let (keep, checked) = (100.0 * advice.keep, in_words(&advice.checked_on));
    let how = match (&advice.bf16_layers, advice.scaled_by) {
        (Some(layers), _) if layers.is_empty() => "every layer can have the format".to_owned(),
        (Some(layers), _) => format!("layers {layers:?} stay in BF16"),
        (None, _) if advice.plan.trim().is_empty() => {
            "no place is known to bear any level, so that it has no error; more problems (--n) would tell"
                .to_owned()
        }
        (None, Some(1.0)) => "every place has the level that it is known to bear alone".to_owned(),
        (None, Some(scale)) => format!(
            "every place has {} of the level that it is known to bear alone, since with all of them at once {}",
            significant(scale, 2),
            advice.unscaled.as_ref().map(in_words).unwrap_or_default()
        ),
        (None, None) => String::new(),
    };
    let verdict = match advice.verdict {
        Held::Holds => {
            format!("the claim that it keeps {keep} % holds on problems that it was not chosen by")
        }
        Held::Consistent => format!(
            "the claim that it keeps {keep} % agrees with problems that it was not chosen by, but is not certain: more of them (--n) would tell"
        ),
        Held::Open => format!(
            "whether it keeps {keep} % is open on problems that it was not chosen by: more of them (--n) would tell"
        ),
        Held::Fails => {
            format!("the claim that it keeps {keep} % FAILS on problems that it was not chosen by")
        }
    };
    let mut out = places(advice) + &wrap(&format!("plan: {path}; {how}"), width, 0);
    out += &wrap(&format!("chosen on: {}", in_words(&advice.chosen_on)), width, 0);
    out += &wrap(&format!("checked on: {checked}"), width, 0);
    out += &wrap(&verdict, width, 0);
    let (model, data) = (&found.model, &found.data);
    out + &wrap(
        &format!(
            "next: hardy eval --model {model} --data {data} --plan {path}, or train under it: hardy run CONFIG --plan {path}"
        ),
        width,
        0,
    )
}
