//! A step of a run again, from the nearest checkpoint before it: the same hashes, or the first step at which they differ,
//! and there whether it was the sampling, the gradients or the update, and in which tensor.

use std::{fs, path::Path};

use hardy_ops::NoisyBackend;
use hardy_train::{
    checkpoint,
    config::RunConfig,
    error::Error,
    step_record::{StepRecord, TensorHashes},
};
use serde::Serialize;

use crate::{
    error::LabError,
    run::{HASHES, Prepared, prepare},
};

/// What a step is made of, in the order in which it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The tokens sampled, and their log-probabilities.
    Rollouts,
    /// The gradients of the updates.
    Gradients,
    /// The parameters after them.
    Weights,
}

/// Where a step that was made again is another.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// The first step that differs.
    pub step: u64,
    /// What of it does, first.
    pub stage: Stage,
    /// The first parameter whose gradient or value differs, in the order of the forward pass.
    pub tensor: Option<String>,
    /// How many do.
    pub tensors: usize,
    /// Of so many.
    pub of: usize,
    /// The hash in the run's metrics.
    pub recorded: String,
    /// The hash now.
    pub replayed: String,
}

/// What came of making a step again.
#[derive(Clone, Debug, Serialize)]
pub struct Replay {
    /// The step that was asked for.
    pub step: u64,
    /// The checkpoint that it was made from: so many updates.
    pub from: u64,
    /// Steps made again.
    pub replayed: u64,
    /// Whether all of them came out the same.
    pub same: bool,
    /// The first that did not.
    pub difference: Option<Difference>,
    /// The hash of the parameters after the last step that was made again.
    pub weights_hash: String,
    /// What the versions of then and now say, where they are not the same.
    pub note: Option<String>,
}

/// Makes `step` of the run in `directory` again, and all after the nearest checkpoint before it; `progress` is told how many
/// of how many are made. Nothing is written.
///
/// # Errors
/// What is no run, has not made that step, was made before runs wrote hashes, or can not be made again.
pub fn replay<B: NoisyBackend>(
    directory: &Path,
    step: u64,
    device: &B::Device,
    build: Option<&toml::Table>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Replay, LabError> {
    let path = directory.join("config.toml");
    if !path.is_file() {
        return Err(LabError::NotARun { path: directory.to_owned(), missing: "config.toml" });
    }
    let config = RunConfig::load(&path.display().to_string(), &[])?;
    let records = records(directory)?;
    let made = records.len() as u64;
    if step == 0 || step > made {
        let wanted =
            format!("{}: --step {step}, but the run has made steps 1 to {made}", directory.display());
        return Err(Error::config(wanted).into());
    }
    let Prepared { mut trainer, .. } = prepare::<B>(&config, device)?;
    // Where nothing is kept to go on from, the run is made again from its start.
    let before = checkpoint::resumable_up_to(directory, step - 1);
    if let Some((_, checkpoint)) = &before {
        trainer.restore(checkpoint)?;
    }
    let from = before.map_or(0, |(step, _)| step);
    let tensors = tensor_hashes(directory)?;
    let blueprint = std::sync::Arc::clone(&trainer.policy.decoder.blueprint);
    let names: Vec<&str> =
        blueprint.parameters[blueprint.frozen..].iter().map(|spec| spec.name.as_str()).collect();
    let mut outcome = Replay {
        step,
        from,
        replayed: 0,
        same: true,
        difference: None,
        weights_hash: String::new(),
        note: other_build(&config, build),
    };
    while trainer.steps < step {
        let now = trainer.step(|_, _| {})?;
        outcome.replayed += 1;
        outcome.weights_hash.clone_from(&now.weights_hash);
        progress(outcome.replayed, step - from);
        let recorded = tensors.iter().find(|hashes| hashes.step == now.step);
        outcome.difference = difference(&records[now.step as usize - 1], &now, recorded, &names);
        if outcome.difference.is_some() {
            outcome.same = false;
            break;
        }
    }
    Ok(outcome)
}

/// The lines of `metrics.jsonl`, each with its hashes; a last one that was cut off is left aside.
fn records(directory: &Path) -> Result<Vec<StepRecord>, LabError> {
    let path = directory.join("metrics.jsonl");
    let text = fs::read_to_string(&path).map_err(LabError::file(&path))?;
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let mut records = Vec::new();
    for (index, line) in whole.enumerate() {
        let record: StepRecord =
            serde_json::from_str(line).map_err(|error| LabError::json(&path, index + 1, &error))?;
        if record.weights_hash.is_empty() {
            let old = format!(
                "{}:{}: has no `weights_hash`; the run was made by a version that wrote none, so that no step of it can be \
                 held against itself",
                path.display(),
                index + 1
            );
            return Err(Error::config(old).into());
        }
        records.push(record);
    }
    Ok(records)
}

fn tensor_hashes(directory: &Path) -> Result<Vec<TensorHashes>, LabError> {
    let path = directory.join(HASHES);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        // Without it the tensor is not named.
        Err(_) => return Ok(Vec::new()),
    };
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n')).enumerate();
    lines
        .map(|(i, line)| serde_json::from_str(line).map_err(|error| LabError::json(&path, i + 1, &error)))
        .collect()
}

/// What of a step differs first.
fn difference(
    then: &StepRecord,
    now: &StepRecord,
    tensors: Option<&TensorHashes>,
    names: &[&str],
) -> Option<Difference> {
    let stages = [
        (Stage::Rollouts, &then.rollouts_hash, &now.rollouts_hash),
        (Stage::Gradients, &then.gradients_hash, &now.gradients_hash),
        (Stage::Weights, &then.weights_hash, &now.weights_hash),
    ];
    let (stage, recorded, replayed) = stages.into_iter().find(|(_, then, now)| then != now)?;
    let own = &now.tensor_hashes;
    let pair = tensors.and_then(|then| match stage {
        Stage::Rollouts => None,
        Stage::Gradients => Some((&then.gradients, &own.gradients)),
        Stage::Weights => Some((&then.weights, &own.weights)),
    });
    let differing = pair.map_or_else(Vec::new, |(then, now)| {
        let parts = then.as_bytes().chunks(8).zip(now.as_bytes().chunks(8)).zip(names);
        parts.filter(|((then, now), _)| then != now).map(|(_, name)| (*name).to_owned()).collect()
    });
    Some(Difference {
        step: now.step,
        stage,
        tensor: differing.first().cloned(),
        tensors: differing.len(),
        of: names.len(),
        recorded: recorded.clone(),
        replayed: replayed.clone(),
    })
}

fn other_build(config: &RunConfig, build: Option<&toml::Table>) -> Option<String> {
    let then = config.build.as_ref()?;
    let now = build?;
    let differs = then.iter().find(|(key, value)| now.get(*key) != Some(value))?;
    Some(format!("the run was made by another build: {} was {}", differs.0, differs.1))
}
