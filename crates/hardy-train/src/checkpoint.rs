//! Checkpoints: a Hugging Face directory, which every command and `transformers` reads, and beside the weights what a run
//! needs to go on to the bit. Both are written under a temporary name and renamed, so that what is there is whole.
//!
//! The weights are for use, rounded to `checkpoint.dtype`. To go on takes the f32 masters (`master.safetensors`; the
//! weights themselves where they are f32, or adapters), the moments of the optimizer (`optimizer.safetensors`) and
//! `state.json`: five to seven times as much. It is kept for the last checkpoint alone, unless `checkpoint.optimizer` says
//! otherwise, and goes once the next checkpoint is on the disk. A run without any begins again, and comes out the same.

use std::{
    fs,
    path::{Path, PathBuf},
};

use burn_tensor::{Tensor, TensorData};
use hardy_model::{
    Adapters, Blueprint, Dtype, ModelConfig, ParameterSpec,
    files::{flush_directory, is_adapter, read_adapter_config, read_each, write_each, write_json},
};
use hardy_ops::{BoundPlan, NoisyBackend, Receipt};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    adamw::AdamW,
    config::{CheckpointSection, Kept},
    error::{Error, Result},
    learned_sigma::{LearnedSigma, SigmaState},
    policy::Policy,
};

/// The file without which a run can not go on from here.
const STATE: &str = "state.json";
const OPTIMIZER: &str = "optimizer.safetensors";
const MASTER: &str = "master.safetensors";
const WEIGHTS: &str = "model.safetensors";
const ADAPTERS: &str = "adapter_model.safetensors";
/// The names of the two moments in the optimizer's file.
const MOMENTS: [&str; 2] = ["exp_avg", "exp_avg_sq"];

/// What a training loop is made of, as far as it must be there again to go on.
#[derive(Clone, Copy, Debug)]
pub struct Learner<'a, B: NoisyBackend> {
    /// The policy.
    pub policy: &'a Policy<B>,
    /// The optimizer.
    pub optimizer: &'a AdamW<B>,
    /// The plan, with its receipts.
    pub plan: &'a BoundPlan,
    /// The counts.
    pub counts: Counts,
    /// The sigmas of AQN, where they are learned.
    pub sigma: Option<&'a LearnedSigma>,
}

/// The same, to be set back.
#[derive(Debug)]
pub struct Restoring<'a, B: NoisyBackend> {
    /// The policy.
    pub policy: &'a mut Policy<B>,
    /// The optimizer.
    pub optimizer: &'a mut AdamW<B>,
    /// The plan, with its receipts.
    pub plan: &'a BoundPlan,
    /// The sigmas of AQN, where they are learned.
    pub sigma: Option<&'a mut LearnedSigma>,
}

/// How far a training loop has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Steps made.
    pub step: u64,
    /// How many updates in a row were last left out because they were not finite.
    #[serde(default)]
    pub nonfinite_in_row: u64,
}

/// What a checkpoint knows beside tensors.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    #[serde(flatten)]
    counts: Counts,
    optimizer_steps: u64,
    receipts: Vec<Receipt>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    aqn: Option<SigmaState>,
}

/// The directory of the checkpoint after `step` updates.
pub fn directory(run: &Path, step: u64) -> PathBuf {
    run.join("checkpoints").join(format!("step-{step:06}"))
}

/// The steps of the checkpoints in a run directory, from the first to the last.
pub fn steps(run: &Path) -> Vec<u64> {
    let step = |path: PathBuf| path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok();
    let mut steps: Vec<u64> = entries(run).filter_map(step).collect();
    steps.sort_unstable();
    steps
}

fn entries(run: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(run.join("checkpoints")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

/// The checkpoint with the most updates in a run directory.
pub fn latest(run: &Path) -> Option<(u64, PathBuf)> {
    steps(run).last().map(|&step| (step, directory(run, step)))
}

/// The last checkpoint that a run can go on from.
pub fn resumable(run: &Path) -> Option<(u64, PathBuf)> {
    resumable_up_to(run, u64::MAX)
}

/// The last one of up to `most` updates that a run can go on from.
pub fn resumable_up_to(run: &Path, most: u64) -> Option<(u64, PathBuf)> {
    let before = steps(run).into_iter().rev().filter(|step| *step <= most);
    before.map(|step| (step, directory(run, step))).find(|(_, path)| path.join(STATE).exists())
}

/// Writes a checkpoint of `learner` into a run directory; gives its directory. At step 0 nothing is needed to go on.
///
/// # Errors
/// A file that can not be written; an unfinished checkpoint is then removed.
pub fn save<B: NoisyBackend>(run: &Path, learner: &Learner<B>, how: &CheckpointSection) -> Result<PathBuf> {
    let step = learner.counts.step;
    let target = directory(run, step);
    if target.exists() && (step == 0 || target.join(STATE).exists()) {
        return Ok(target);
    }
    let partial = target.with_extension("partial");
    remove(&partial)?;
    fs::create_dir_all(&partial).map_err(Error::file(&partial))?;
    let rename = |()| {
        // One without the means to go on, from before a run that began again.
        remove(&target)?;
        fs::rename(&partial, &target).map_err(Error::file(&target))
    };
    if let Err(error) = write(&partial, learner, how.dtype).and_then(rename) {
        // The first failure is the one to tell.
        let _ = fs::remove_dir_all(&partial);
        return Err(error);
    }
    flush_directory(&target);
    Ok(target)
}

fn write<B: NoisyBackend>(dir: &Path, learner: &Learner<B>, dtype: Dtype) -> Result<()> {
    let Learner { policy, optimizer, plan, counts, sigma } = learner;
    policy.save(dir, dtype)?;
    if counts.step == 0 {
        return Ok(());
    }
    if dtype != Dtype::F32 && policy.decoder.blueprint.adapters.is_none() {
        policy.decoder.write_trained(&dir.join(MASTER), Dtype::F32)?;
    }
    let moment = |index: usize| {
        let moment = optimizer.moments[index / MOMENTS.len()][index % MOMENTS.len()].clone();
        B::host(&moment.into_primitive().tensor())
    };
    write_each(&dir.join(OPTIMIZER), &moments(&policy.decoder.blueprint), Dtype::F32, moment)?;
    let aqn = sigma.map(|sigma| sigma.state().clone());
    let (optimizer_steps, receipts) = (optimizer.steps, plan.receipts());
    let state = State { counts: *counts, optimizer_steps, receipts, aqn };
    let state = serde_json::to_value(state).map_err(|error| Error::config(error.to_string()))?;
    Ok(write_json(&dir.join(STATE), &state)?)
}

/// The names and shapes of the moments, two a trained parameter.
fn moments(blueprint: &Blueprint) -> Vec<ParameterSpec> {
    let specs = blueprint.parameters[blueprint.frozen..].iter();
    let of = |spec: &ParameterSpec| {
        MOMENTS.map(|name| ParameterSpec { name: format!("{name}/{}", spec.name), shape: spec.shape.clone() })
    };
    specs.flat_map(of).collect()
}

/// Removes the checkpoints of a run that are not to be kept, and what it takes to go on from all but the last. `best` is
/// kept whatever its age.
///
/// # Errors
/// A file that can not be removed.
pub fn prune(run: &Path, how: &CheckpointSection, best: Option<u64>) -> Result<()> {
    let all = steps(run);
    let old = all.len().saturating_sub(how.keep.unwrap_or(usize::MAX));
    for &step in all[..old].iter().filter(|&&step| Some(step) != best) {
        let (path, partial) = (directory(run, step), directory(run, step).with_extension("partial"));
        remove(&partial)?;
        // Under another name first: half a directory must not look like a whole one.
        fs::rename(&path, &partial).map_err(Error::file(&path))?;
    }
    entries(run)
        .filter(|path| path.extension().is_some_and(|x| x == "partial"))
        .try_for_each(|path| remove(&path))?;
    if how.optimizer == Kept::Last {
        for &step in all.split_last().map_or(&[][..], |(_, earlier)| earlier) {
            // The state first: without it nobody misses the others.
            [STATE, OPTIMIZER, MASTER]
                .iter()
                .try_for_each(|name| remove(&directory(run, step).join(name)))?;
        }
    }
    Ok(())
}

/// Removes a file or directory, if it is there.
fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file(path)(error)),
        _ => Ok(()),
    }
}

/// Sets a training loop back to the checkpoint in `dir`; gives how far it had come, and what the reader of its receipts
/// should know, if anything.
///
/// # Errors
/// A checkpoint that is not whole, or belongs to another model.
pub fn restore<B: NoisyBackend>(dir: &Path, to: Restoring<B>) -> Result<(Counts, Option<String>)> {
    let Restoring { policy, optimizer, plan, sigma } = to;
    let wrong = |reason: String| Error::Checkpoint { path: dir.to_owned(), reason };
    let text = fs::read_to_string(dir.join(STATE)).map_err(Error::file(&dir.join(STATE)))?;
    let unreadable = |error: serde_json::Error| wrong(format!("{STATE}: {error}"));
    let value: Value = serde_json::from_str(&text).map_err(unreadable)?;
    let note = unknown_energies(&value, dir);
    let state: State = serde_json::from_value(value).map_err(unreadable)?;
    refuse_other_model(dir, &policy.decoder.blueprint)?;
    let masters =
        [MASTER, ADAPTERS, WEIGHTS].map(|name| dir.join(name)).into_iter().find(|path| path.exists());
    let masters = masters.ok_or_else(|| wrong(format!("holds neither {MASTER} nor {WEIGHTS}")))?;
    policy.decoder.read_trained(&masters)?;
    let specs = moments(&policy.decoder.blueprint);
    let held = &mut optimizer.moments;
    read_each(&dir.join(OPTIMIZER), &specs, |index, data| {
        let moment = &mut held[index / MOMENTS.len()][index % MOMENTS.len()];
        *moment = Tensor::from_data(TensorData::new(data, moment.dims()), &moment.device());
    })?;
    let restored = sigma.is_none_or(|sigma| state.aqn.is_some_and(|state| sigma.restore(state)));
    if !restored {
        return Err(wrong(format!("{STATE} holds no sigma for each of the layers that learn one")));
    }
    optimizer.steps = state.optimizer_steps;
    plan.restore(&state.receipts);
    Ok((state.counts, note))
}

/// Refuses the checkpoint of a model with other parameters.
fn refuse_other_model(dir: &Path, ours: &Blueprint) -> Result<()> {
    let theirs = if is_adapter(dir) {
        let Adapters { lora, base, .. } = read_adapter_config(dir)?;
        let fingerprint = ours.adapters.as_ref().map(|held| held.fingerprint.clone()).unwrap_or_default();
        Blueprint::with_adapters(&ours.config, Adapters { lora, base, fingerprint })?
    } else {
        Blueprint::new(&ModelConfig::from_dir(dir)?)
    };
    if ours.parameters == theirs.parameters {
        return Ok(());
    }
    let differs = ours.parameters.iter().zip(&theirs.parameters).find(|(a, b)| a != b);
    let detail = differs.map_or_else(
        || format!("{} parameters instead of {}", theirs.parameters.len(), ours.parameters.len()),
        |(a, b)| format!("`{}` is {:?} there and `{}` is {:?} here", b.name, b.shape, a.name, a.shape),
    );
    let reason = format!("is a checkpoint of another model: {detail}");
    Err(Error::Checkpoint { path: dir.to_owned(), reason })
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
