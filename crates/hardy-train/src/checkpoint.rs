//! Checkpoints: a Hugging Face directory with the optimizer's moments and the receipts beside it, written under a
//! temporary name and renamed, so that what is there is whole.

use std::{
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::{Tensor, TensorData};
use hardy_model::{
    Dtype, HostTensor,
    files::{read_tensors, write_json, write_tensors},
};
use hardy_ops::{NoisyBackend, Receipt};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    error::{Error, Result},
    policy::Policy,
    trainer::Trainer,
};

/// The file that is written last into a checkpoint.
const STATE: &str = "state.json";
const OPTIMIZER: &str = "optimizer.safetensors";
/// The names of the two moments in the optimizer's file.
const MOMENTS: [&str; 2] = ["exp_avg", "exp_avg_sq"];

/// What a checkpoint knows beside tensors.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    step: u64,
    optimizer_steps: u64,
    #[serde(default)]
    nonfinite_in_row: u64,
    receipts: Vec<Receipt>,
}

/// The directory of the checkpoint after `step` updates.
pub fn directory(run: &Path, step: u64) -> PathBuf {
    run.join("checkpoints").join(format!("step-{step:06}"))
}

/// The checkpoint with the most updates in a run directory.
pub fn latest(run: &Path) -> Option<(u64, PathBuf)> {
    let entries = fs::read_dir(run.join("checkpoints")).ok()?;
    let step = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?.strip_prefix("step-")?;
        path.join(STATE).exists().then_some(())?;
        name.parse().ok()
    };
    entries.flatten().filter_map(|entry| Some((step(&entry.path())?, entry.path()))).max()
}

/// Writes a checkpoint of `trainer` into a run directory; gives its directory.
///
/// # Errors
/// A file that can not be written; an unfinished checkpoint is then removed.
pub fn save<B: NoisyBackend>(run: &Path, trainer: &Trainer<B>) -> Result<PathBuf> {
    let target = directory(run, trainer.steps);
    if target.join(STATE).exists() {
        return Ok(target);
    }
    let partial = target.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(Error::file(&partial))?;
    }
    fs::create_dir_all(&partial).map_err(Error::file(&partial))?;
    let written =
        write(&partial, trainer).and_then(|()| fs::rename(&partial, &target).map_err(Error::file(&target)));
    if let Err(error) = written {
        // The first failure is the one to tell.
        let _ = fs::remove_dir_all(&partial);
        return Err(error);
    }
    Ok(target)
}

fn write<B: NoisyBackend>(dir: &Path, trainer: &Trainer<B>) -> Result<()> {
    trainer.policy.save(dir, Dtype::F32)?;
    let blueprint = &trainer.policy.decoder.blueprint;
    let specs = &blueprint.parameters[blueprint.frozen..];
    let mut tensors = Vec::new();
    for (spec, moments) in specs.iter().zip(&trainer.optimizer.moments) {
        for (name, moment) in MOMENTS.iter().zip(moments) {
            let data = B::host(&moment.clone().into_primitive().tensor()).to_vec();
            tensors.push(HostTensor {
                name: format!("{name}/{}", spec.name),
                shape: spec.shape.clone(),
                data,
            });
        }
    }
    write_tensors(&dir.join(OPTIMIZER), &tensors, Dtype::F32)?;
    let state = State {
        step: trainer.steps,
        optimizer_steps: trainer.optimizer.steps,
        nonfinite_in_row: trainer.nonfinite_in_row,
        receipts: trainer.plan.receipts(),
    };
    let state = serde_json::to_value(state).map_err(|error| Error::config(error.to_string()))?;
    Ok(write_json(&dir.join(STATE), &state)?)
}

/// Sets `trainer` back to the checkpoint in `dir`; gives what the reader of its receipts should know, if anything.
///
/// # Errors
/// A checkpoint that is not whole, or belongs to another model.
pub fn restore<B: NoisyBackend>(
    dir: &Path,
    trainer: &mut Trainer<B>,
    device: &B::Device,
) -> Result<Option<String>> {
    let wrong = |reason: String| Error::Checkpoint { path: dir.to_owned(), reason };
    let policy = Policy::<B>::from_dir(dir, device)?;
    let (ours, theirs) = (&trainer.policy.decoder.blueprint, &policy.decoder.blueprint);
    if ours.parameters != theirs.parameters {
        let differs = ours.parameters.iter().zip(&theirs.parameters).find(|(a, b)| a != b);
        let detail = differs.map_or_else(
            || format!("{} parameters instead of {}", theirs.parameters.len(), ours.parameters.len()),
            |(a, b)| format!("`{}` is {:?} there and `{}` is {:?} here", b.name, b.shape, a.name, a.shape),
        );
        return Err(wrong(format!("is a checkpoint of another model: {detail}")));
    }
    let text = fs::read_to_string(dir.join(STATE)).map_err(Error::file(&dir.join(STATE)))?;
    let unreadable = |error: serde_json::Error| wrong(format!("{STATE}: {error}"));
    let value: Value = serde_json::from_str(&text).map_err(unreadable)?;
    let note = unknown_energies(&value, dir);
    let state: State = serde_json::from_value(value).map_err(unreadable)?;
    let file = read_tensors(&dir.join(OPTIMIZER))?;
    for (spec, moments) in ours.parameters[ours.frozen..].iter().zip(&mut trainer.optimizer.moments) {
        for (name, moment) in MOMENTS.iter().zip(moments) {
            let tensor = file.get(&format!("{name}/{}", spec.name))?;
            if tensor.shape != spec.shape {
                let (found, wanted) = (&tensor.shape, &spec.shape);
                return Err(wrong(format!(
                    "{OPTIMIZER}: `{}` is {found:?}, the model asks for {wanted:?}",
                    tensor.name
                )));
            }
            *moment = Tensor::from_data(TensorData::new(tensor.as_f32()?, moment.dims()), device);
        }
    }
    // What is frozen stays, shared with the reference model.
    trainer.policy.decoder.trained_mut().clone_from_slice(policy.decoder.trained());
    trainer.optimizer.steps = state.optimizer_steps;
    trainer.steps = state.step;
    trainer.nonfinite_in_row = state.nonfinite_in_row;
    trainer.plan.restore(&state.receipts);
    Ok(note)
}

/// Says how many receipts hold no energy because it was not finite, in checkpoints of versions that summed all elements.
fn unknown_energies(state: &Value, dir: &Path) -> Option<String> {
    let receipts = state["receipts"].as_array()?;
    let unknown =
        receipts.iter().filter(|r| r["error_energy"].is_null() || r["signal_energy"].is_null()).count();
    (unknown > 0).then(|| {
        format!(
            "{}: the error of {unknown} of {} receipts was not finite and is unknown; they are measured from here on",
            dir.display(),
            receipts.len()
        )
    })
}
