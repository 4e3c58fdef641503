//! `hardy report`: one HTML page, complete in itself, on one or several runs.

use std::path::PathBuf;

use clap::Args;
use hardy_lab::{LabError, read_run, report};
use serde_json::json;

use crate::{failure::Failure, output::Output};

const EXAMPLE: &str = "\
Example:
  hardy report runs/quickstart/clean runs/quickstart/noise --out report.html";

/// Arguments of `hardy report`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Arguments {
    /// Run directories, the baseline first
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// The page to write
    #[arg(long, value_name = "FILE.html")]
    out: PathBuf,
}

/// Writes the page.
///
/// # Errors
/// What is no run, or a page that can not be written.
pub fn run(args: &Arguments, output: Output) -> Result<(), Failure> {
    let runs = args.runs.iter().map(|path| read_run(path)).collect::<Result<Vec<_>, LabError>>()?;
    report::write(&runs, &args.out)?;
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    output.show(&json!({ "out": args.out, "runs": names }), |_| format!("wrote {}\n", args.out.display()))
}
