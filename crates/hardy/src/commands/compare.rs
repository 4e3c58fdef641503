//! `hardy compare`: whether the differences between runs are real.

use std::path::PathBuf;

use clap::Args;
use hardy_lab::{
    Comparison, EvalRecord, LabError, RunRecords, read_run, record::CONDITIONS, run_records::distinct_names,
};

use crate::{failure::Failure, output::Output};

const EXAMPLE: &str = "\
The first run is the baseline. Every difference is taken on the same problems, at every level at which both add the same \
errors, with a 95 % interval, an exact McNemar test and the number of problems that would resolve it. It is resolved where \
Holm's correction over all differences shown leaves p below 5 % and the interval excludes 0. Runs that were asked otherwise \
(wording, chat template, token limit, sampling, precision, data) are refused.

Example:
  hardy compare runs/quickstart/clean runs/quickstart/noise runs/quickstart/noise-aqn";

/// Arguments of `hardy compare`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Arguments {
    /// Run directories, the baseline first
    #[arg(value_name = "RUN", required = true, num_args = 2..)]
    runs: Vec<PathBuf>,
    /// The step whose evaluations are compared [default: the last of each]
    #[arg(long, value_name = "N")]
    step: Option<u64>,
    /// A condition that may differ between the runs; may be repeated
    #[arg(long, value_name = "CONDITION", value_parser = condition)]
    allow: Vec<String>,
}

/// The name of a condition.
fn condition(name: &str) -> Result<String, String> {
    let known = CONDITIONS.iter().copied().chain(["metric"]);
    if known.clone().any(|known| known == name) {
        return Ok(name.to_owned());
    }
    Err(format!("the conditions are {}", known.collect::<Vec<_>>().join(", ")))
}

/// Compares runs.
///
/// # Errors
/// What is no run, or runs that can not be compared.
pub fn run(args: &Arguments, output: Output) -> Result<(), Failure> {
    let runs = args.runs.iter().map(|path| read_run(path)).collect::<Result<Vec<_>, LabError>>()?;
    let names = distinct_names(&runs);
    let records = runs.iter().map(|run| record(run, args.step)).collect::<Result<Vec<_>, Failure>>()?;
    let named: Vec<(&str, &EvalRecord)> = names.iter().map(String::as_str).zip(records).collect();
    let comparison = Comparison::new(&named, &args.allow)?;
    output.show(&comparison, |width| comparison.render(width))
}

/// The evaluation at a step, by default the last.
fn record(run: &RunRecords, step: Option<u64>) -> Result<&EvalRecord, Failure> {
    let Some(step) = step else { return Ok(run.last().1) };
    run.evaluations.get(&step).ok_or_else(|| {
        let known: Vec<String> = run.evaluations.keys().map(u64::to_string).collect();
        let (path, known) = (run.directory.display(), known.join(", "));
        Failure::input(format!("{path}: has no evaluation at step {step}; it has those at {known}"))
    })
}
