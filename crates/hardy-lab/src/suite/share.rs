//! A suite as its shards know it: what all its runs follow from, without the files that said so. From the shards'
//! directories comes the whole suite's, with the same runs and the same table.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use hardy_model::files::write_atomically;
use hardy_train::{config::RunConfig, error::Error};
use serde::{Deserialize, Serialize};

use super::{
    Member, Suite,
    schedule::{SHARD, place},
    table::SuiteTable,
};
use crate::{
    error::LabError,
    run::is_finished,
    run_records::{RunRecords, read_run},
    shard::{Allow, Manifest, Shard, inputs, join},
};

/// What shards of a suite are shards of.
const KIND: &str = "suite";

/// A suite whose presets are named as their configurations are, and these configurations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Whole {
    suite: Suite,
    configs: BTreeMap<String, RunConfig>,
}

impl Whole {
    /// The suite of which `members` are the runs; `names` are those of its presets' configurations.
    pub(super) fn new(suite: &Suite, names: &[String], members: &[Member]) -> Self {
        let baseline = suite.presets.iter().position(|preset| *preset == suite.baseline).unwrap_or(0);
        let (presets, baseline) = (names.to_vec(), names[baseline].clone());
        let config = |member: &Member| {
            (member.preset.clone(), RunConfig { build: None, seed: 0, ..member.config.clone() })
        };
        let suite = Suite { presets, baseline, ..suite.clone() };
        Self { suite, configs: members.iter().map(config).collect() }
    }

    /// What `shard` says of itself; `members` are all runs.
    pub(super) fn manifest(
        &self,
        shard: Shard,
        members: &[Member],
        build: &toml::Table,
        processor: &str,
    ) -> Result<Manifest, LabError> {
        let files = self
            .configs
            .values()
            .flat_map(|config| [&config.model.path, &config.data.train, &config.data.eval]);
        let inputs = inputs(files.map(String::as_str))?;
        Ok(Manifest {
            kind: KIND.to_owned(),
            shard,
            cells: members.len(),
            definition: serde_json::to_value(self).unwrap_or_default(),
            build: serde_json::to_value(build).unwrap_or_default(),
            processor: processor.to_owned(),
            inputs,
        })
    }

    /// The preset and seed of every run, in the order in which they are started.
    fn cells(&self) -> impl Iterator<Item = (&str, u64)> {
        let Suite { seeds, presets, .. } = &self.suite;
        seeds.iter().flat_map(move |&seed| presets.iter().map(move |preset| (preset.as_str(), seed)))
    }

    /// The table of the finished runs in `directory`.
    ///
    /// # Errors
    /// A run that can not be read, or runs that were not judged by the same problems.
    pub(super) fn table(&self, directory: &Path) -> Result<SuiteTable, LabError> {
        let Suite { presets, seeds, baseline, .. } = &self.suite;
        let runs = |name: &String| {
            let read = |&seed: &u64| read_run(&place(directory, name, seed));
            Ok((name.clone(), seeds.iter().map(read).collect::<Result<Vec<RunRecords>, LabError>>()?))
        };
        let runs = presets.iter().map(runs).collect::<Result<Vec<_>, LabError>>()?;
        let baseline = presets.iter().position(|preset| preset == baseline);
        SuiteTable::new(&self.suite, &runs, baseline.unwrap_or(0))
    }
}

/// Joins the shards of a suite in `directory`, which exists and is empty: all runs, the definition and the table.
///
/// # Errors
/// Directories that are not all the shards of one suite, each once and finished; files that can not be read or written.
pub fn merge(shards: &[PathBuf], directory: &Path, allow: Allow) -> Result<SuiteTable, LabError> {
    let read = |path: &PathBuf| Ok((path.clone(), Manifest::read(&path.join(SHARD))?, ()));
    let shards = join(shards.iter().map(read).collect::<Result<_, LabError>>()?, allow)?;
    let definition = shards.first().map(|(_, manifest, ())| manifest.definition.clone()).unwrap_or_default();
    let whole: Whole = serde_json::from_value(definition).map_err(|error| {
        Error::config(format!("{}: is no shard of a suite: {error}", shards[0].0.display()))
    })?;
    let mut places = Vec::new();
    for (path, manifest, ()) in &shards {
        for (_, (preset, seed)) in manifest.shard.select(whole.cells()) {
            let (from, to) = (place(path, preset, seed), place(directory, preset, seed));
            let config = RunConfig { seed, ..whole.configs[preset].clone() };
            if !is_finished(&from, &config)? {
                let wrong = format!(
                    "{}: the run is not finished; go on with --shard {}",
                    from.display(),
                    manifest.shard
                );
                return Err(Error::config(wrong).into());
            }
            places.push((from, to));
        }
    }
    for (from, to) in &places {
        copy(from, to)?;
    }
    let text = toml::to_string_pretty(&whole.suite).unwrap_or_default();
    write_atomically(&directory.join("suite.toml"), text.as_bytes()).map_err(Error::from)?;
    let table = whole.table(directory)?;
    table.keep(directory)?;
    Ok(table)
}

/// Copies a directory with all below; large files that nobody changes are linked where that can be.
fn copy(from: &Path, to: &Path) -> Result<(), LabError> {
    fs::create_dir_all(to).map_err(LabError::file(to))?;
    for entry in fs::read_dir(from).map_err(LabError::file(from))? {
        let from = entry.map_err(LabError::file(from))?.path();
        let to = to.join(from.file_name().unwrap_or_default());
        if from.is_dir() {
            copy(&from, &to)?;
        } else if from.extension().is_none_or(|kind| kind != "safetensors")
            || fs::hard_link(&from, &to).is_err()
        {
            fs::copy(&from, &to).map_err(LabError::file(&to))?;
        }
    }
    Ok(())
}
