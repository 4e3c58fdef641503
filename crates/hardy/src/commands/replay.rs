//! `hardy replay`: a step of a run again.

use std::path::PathBuf;

use clap::Args;
use hardy_lab::replay::{Replay, Stage, replay};

use crate::{
    build_info,
    device::{DeviceArgs, Engine, on_device},
    failure::Failure,
    output::Output,
    progress::Progress,
};

const EXAMPLE: &str = "\
Every step of a run leaves hashes of the tokens it sampled, of its gradients and of the parameters after it in metrics.jsonl \
(`rollouts_hash`, `gradients_hash`, `weights_hash`), and those of every tensor in hashes.jsonl. The step is made again from the \
nearest checkpoint before it, with all steps in between. Nothing is written. A machine that works, with the same version of Hardy, \
gives the same hashes, whatever its number of threads.

Exit codes: 0 the same, 1 another, 2 bad usage or input.

Example:
  hardy replay runs/quickstart/clean --step 20";

/// Arguments of `hardy replay`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Arguments {
    /// A run directory
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// The step, from 1
    #[arg(long, value_name = "N")]
    step: u64,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Replays.
///
/// # Errors
/// A run that can not be read or made again, or a step that comes out differently.
pub fn run(args: &Arguments, output: Output) -> Result<(), Failure> {
    on_device!(args.device.device, run_on(args, output))
}

fn run_on<B: Engine>(args: &Arguments, output: Output) -> Result<(), Failure> {
    let mut bar: Option<Progress> = None;
    let mut progress =
        |done, of| bar.get_or_insert_with(|| Progress::new("replay", of as usize)).at(done as usize);
    let build = build_info::table();
    let found =
        replay::<B>(&args.run, args.step, &B::open(args.device.device)?, Some(&build), &mut progress)?;
    drop(bar);
    output.show(&found, |_| text(&found))?;
    if found.same { Ok(()) } else { Err(Failure::Differs) }
}

fn text(found: &Replay) -> String {
    let Replay { step, from, replayed, .. } = found;
    let steps = if *replayed == 1 { "step" } else { "steps" };
    let note = found.note.as_ref().map(|note| format!("Note: {note}\n")).unwrap_or_default();
    let Some(difference) = &found.difference else {
        return format!(
            "step {step} is the same: {replayed} {steps} made again from the checkpoint of step {from}, weights {}\n{note}",
            found.weights_hash
        );
    };
    let what = match difference.stage {
        Stage::Rollouts => "what is sampled",
        Stage::Gradients => "the gradients",
        Stage::Weights => "the parameters after the update",
    };
    let tensor = match &difference.tensor {
        Some(tensor) => format!(": {tensor} first, {} of {} tensors", difference.tensors, difference.of),
        None => String::new(),
    };
    let next = match (&found.note, difference.stage) {
        (Some(_), _) => "Next: replay with the build that made the run; another may round differently.",
        (None, Stage::Rollouts) => {
            "Next: `hardy find` looks for a faulty machine; replay again to see whether this comes back."
        }
        (None, _) => {
            "Next: replay again to see whether this comes back; if it does, the two machines compute differently: `hardy dump` \
             on both and `hardy diverge`. If it does not, one of them is faulty: `hardy find`."
        }
    };
    format!(
        "step {} is another: {what} differ{tensor}\n  then {}\n  now  {}\n{replayed} {steps} made again from the checkpoint of \
         step {from}\n{note}{next}\n",
        difference.step, difference.recorded, difference.replayed
    )
}
