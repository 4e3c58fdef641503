//! `hardy export`: a run's model as a Hugging Face directory, adapters merged.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use hardy_model::{Dtype, files::is_adapter};
use hardy_train::{checkpoint, config::refuse_existing, policy::Policy};
use serde_json::json;

use crate::{
    device::{Backend, DeviceArgs},
    failure::Failure,
    new_directory,
    output::Output,
};

const EXAMPLE: &str = "\
Example: the last checkpoint, in half the space
  hardy export runs/e5b --out e5b-model --dtype bf16";

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
    #[command(flatten)]
    device: DeviceArgs,
}

/// Exports a model.
///
/// # Errors
/// A run without that checkpoint, or a directory that exists or can not be written.
pub fn run(args: &Arguments, output: Output) -> Result<(), Failure> {
    refuse_existing(&args.out)?;
    let (step, directory) = find(&args.run, args.step)?;
    let policy = Policy::<Backend>::from_dir(&directory, &args.device.device())?.merged();
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
