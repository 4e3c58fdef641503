//! `hardy export`: a run's model as a Hugging Face directory, adapters merged; or its records in the forms of other tools.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use hardy_lab::{
    export::{Form, Questions, write},
    read_run,
};
use hardy_model::{Dtype, files::is_adapter};
use hardy_train::{checkpoint, config::refuse_existing, policy::Policy};
use serde_json::json;

use crate::{
    device::{Backend, DeviceArgs, Engine},
    failure::Failure,
    new_directory,
    output::Output,
};

const EXAMPLE: &str = "\
With --records no model is written but what was recorded: logs of Inspect (`inspect`), results and samples as the \
lm-evaluation-harness keeps them (`lm-eval`), or every number over steps in one table, as trackio imports it (`csv`).

Examples: the last checkpoint, in half the space; the records
  hardy export runs/e5b --out e5b-model --dtype bf16
  hardy export runs/e5b --out e5b-logs --records inspect";

/// The forms in which records can be written.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Records {
    /// Logs of Inspect, one for every evaluation and level
    Inspect,
    /// Results and samples of the lm-evaluation-harness
    LmEval,
    /// Every number over steps in one table
    Csv,
}

/// The types in which weights can be written.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Weights {
    /// IEEE binary32
    F32,
    /// The upper half of a binary32
    Bf16,
    /// IEEE binary16
    F16,
}

/// Arguments of `hardy export`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Arguments {
    /// A run directory
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// The directory to write; must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The step whose checkpoint is exported [default: the last]
    #[arg(long, value_name = "N")]
    step: Option<u64>,
    /// The type of the weights
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Weights,
    /// Write the records instead of the model
    #[arg(long, value_enum, conflicts_with_all = ["dtype", "step"])]
    records: Option<Records>,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Exports a model.
///
/// # Errors
/// A run without that checkpoint, or a directory that exists or can not be written.
pub fn run(args: &Arguments, output: Output) -> Result<(), Failure> {
    refuse_existing(&args.out)?;
    if let Some(form) = args.records {
        return records(args, form, output);
    }
    let (step, directory) = find(&args.run, args.step)?;
    let policy = Policy::<Backend>::from_dir(&directory, &Backend::open(args.device.device)?)?.merged();
    let dtype = match args.dtype {
        Weights::F32 => Dtype::F32,
        Weights::Bf16 => Dtype::Bf16,
        Weights::F16 => Dtype::F16,
    };
    new_directory::create(&args.out, |partial| Ok(policy.save(partial, dtype)?))?;
    let value = json!({ "run": args.run, "step": step, "out": args.out, "dtype": dtype.name() });
    output
        .show(&value, |_| format!("wrote step {step} of {} to {}\n", args.run.display(), args.out.display()))
}

/// Exports the records of a run.
fn records(args: &Arguments, form: Records, output: Output) -> Result<(), Failure> {
    let run = read_run(&args.run)?;
    let form = match form {
        Records::Inspect => Form::Inspect,
        Records::LmEval => Form::LmEval,
        Records::Csv => Form::Csv,
    };
    let questions = if form == Form::Csv { Questions::default() } else { Questions::of(&run)? };
    let mut files = 0;
    new_directory::create(&args.out, |partial| {
        files = write(&run, form, &questions, partial)?.len();
        Ok(())
    })?;
    let value = json!({ "run": args.run, "out": args.out, "files": files });
    output.show(&value, |_| {
        format!("wrote {files} files of {} to {}\n", args.run.display(), args.out.display())
    })
}

/// The checkpoint at a step, by default the last, and its step.
fn find(run: &Path, step: Option<u64>) -> Result<(u64, PathBuf), Failure> {
    let none = |what: String| {
        Failure::input(format!("{}: holds no {what}; give a directory that `hardy run` wrote", run.display()))
    };
    match step {
        None => checkpoint::latest(run).ok_or_else(|| none("checkpoint".to_owned())),
        Some(step) => {
            let directory = checkpoint::directory(run, step);
            let found = directory.join("config.json").exists() || is_adapter(&directory);
            found.then_some((step, directory)).ok_or_else(|| none(format!("checkpoint of step {step}")))
        }
    }
}
