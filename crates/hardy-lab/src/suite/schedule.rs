//! The runs of a suite, checked and placed before anything is written. Seeds are the outer loop, so that a suite that is
//! stopped early has compared every preset already.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use hardy_model::files::{write_atomically, write_json};
use hardy_ops::NoisyBackend;
use hardy_train::{
    config::{RunConfig, refuse_existing},
    error::Error,
};

use super::{Member, Suite, definition::is_a_directory_name, share::Whole, table::SuiteTable};
use crate::{
    error::LabError,
    lock::Lock,
    run::{check, is_finished},
    shard::{Allow, Manifest, Shard},
};

/// The file that says which suite a directory belongs to.
const DEFINITION: &str = "suite.toml";
/// The file that is locked while a suite is at work.
const LOCK: &str = "suite.lock";
/// The file that makes a directory that of a share of a suite.
pub(super) const SHARD: &str = "shard.json";

/// A suite's runs, in the order in which they are started.
#[derive(Debug)]
pub struct Schedule {
    suite: Suite,
    directory: PathBuf,
    /// Configuration names in the order of the suite's presets.
    names: Vec<String>,
    members: Vec<Member>,
    /// What makes the members a share of the suite's runs.
    manifest: Option<Manifest>,
}

impl Schedule {
    /// Reads every configuration, lets `prepare` change it, and places its runs under `directory`; writes nothing.
    ///
    /// # Errors
    /// An unknown preset, one with arms, two runs with one directory, a directory that is not this suite's, or a run in
    /// it of another configuration.
    pub fn new(
        suite: &Suite,
        directory: &Path,
        mut prepare: impl FnMut(&mut RunConfig) -> Result<(), LabError>,
    ) -> Result<Self, LabError> {
        refuse_foreign(suite, directory)?;
        let mut configs: BTreeMap<String, String> = BTreeMap::new();
        let (mut names, mut members) = (Vec::new(), Vec::new());
        for spec in &suite.presets {
            let config = RunConfig::load(spec, &suite.set)?;
            if !config.arm.is_empty() {
                let wrong =
                    format!("{spec} has arms, and a suite compares single runs; name them as presets");
                return Err(Error::config(wrong).into());
            }
            if !is_a_directory_name(&config.name) {
                let wrong = format!(
                    "{spec}: `name` is \"{}\", but must be usable as a directory's name",
                    config.name
                );
                return Err(Error::config(wrong).into());
            }
            if let Some(other) = configs.insert(config.name.clone(), spec.clone()) {
                let name = &config.name;
                let wrong = format!(
                    "{other} and {spec} are both called `{name}`: their runs would share a directory; give each a `name` of its own"
                );
                return Err(Error::config(wrong).into());
            }
            names.push(config.name.clone());
        }
        let baseline = RunConfig::load(&suite.baseline, &suite.set)?;
        for spec in &suite.presets {
            check_alike(&RunConfig::load(spec, &suite.set)?, &baseline)?;
        }
        check_hypotheses(suite, &names)?;
        for &seed in &suite.seeds {
            for spec in &suite.presets {
                let mut config = RunConfig { seed, ..RunConfig::load(spec, &suite.set)? };
                prepare(&mut config)?;
                let own = place(directory, &config.name, seed);
                let finished = is_finished(&own, &config)?;
                members.push(Member { preset: config.name.clone(), seed, directory: own, config, finished });
            }
        }
        Ok(Self { suite: suite.clone(), directory: directory.to_owned(), names, members, manifest: None })
    }

    /// The same suite with the runs of `shard` alone, in a directory of their own within the suite's; `build` and
    /// `processor` say what makes them.
    ///
    /// # Errors
    /// More shards than runs; files that can not be read; a directory that holds this shard of another suite, build or
    /// model.
    pub fn share(self, shard: Shard, build: &toml::Table, processor: &str) -> Result<Self, LabError> {
        shard.check(self.members.len(), "runs").map_err(Error::config)?;
        let whole = Whole::new(&self.suite, &self.names, &self.members);
        let directory = self.directory.join(shard.name());
        let manifest = whole.manifest(shard, &self.members, build, processor)?;
        let path = directory.join(SHARD);
        if path.exists() {
            let before = Manifest::read(&path)?;
            if let Some(wrong) = before.differs(&manifest, Allow::default()) {
                let path = path.display();
                return Err(Error::config(format!(
                    "{path}: was begun as another shard: {wrong}; give another --out"
                ))
                .into());
            }
        } else {
            refuse_foreign(&self.suite, &directory)?;
        }
        let mut members: Vec<Member> = shard.select(self.members).map(|(_, member)| member).collect();
        for member in &mut members {
            member.directory = place(&directory, &member.preset, member.seed);
            member.finished = is_finished(&member.directory, &member.config)?;
        }
        Ok(Self { directory, members, manifest: Some(manifest), ..self })
    }

    /// Which share of the suite it is, where it is one.
    #[must_use]
    pub fn shard(&self) -> Option<Shard> {
        Some(self.manifest.as_ref()?.shard)
    }

    /// The runs.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The suite's directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Binds one run of every preset to its model and data; gives the steps of each run, in the order of the members.
    ///
    /// # Errors
    /// What would stop a run from starting.
    pub fn steps<B: NoisyBackend>(&self, device: &B::Device) -> Result<Vec<u64>, LabError> {
        let mut known: BTreeMap<&str, u64> = BTreeMap::new();
        for member in &self.members {
            if !known.contains_key(member.preset.as_str()) {
                known.insert(&member.preset, check::<B>(&member.config, device)?);
            }
        }
        Ok(self.members.iter().map(|member| known[member.preset.as_str()]).collect())
    }

    /// Makes the directory this suite's, and keeps others out of it for as long as the lock lives.
    ///
    /// # Errors
    /// A directory that can not be written, or in which the suite is at work.
    pub fn claim(&self, warn: &mut dyn FnMut(&str)) -> Result<Lock, LabError> {
        let lock = Lock::take(&self.directory, LOCK, warn)?;
        let text = toml::to_string_pretty(&self.suite).unwrap_or_default();
        write_atomically(&self.directory.join(DEFINITION), text.as_bytes()).map_err(Error::from)?;
        if let Some(manifest) = &self.manifest {
            let manifest = serde_json::to_value(manifest).unwrap_or_default();
            write_json(&self.directory.join(SHARD), &manifest).map_err(Error::from)?;
        }
        Ok(lock)
    }

    /// The table of the finished suite.
    ///
    /// # Errors
    /// A run that can not be read, or runs that were not judged by the same problems.
    pub fn table(&self) -> Result<SuiteTable, LabError> {
        Whole::new(&self.suite, &self.names, &self.members).table(&self.directory)
    }
}

/// Where the run of a preset and seed lives in a suite's directory.
pub(super) fn place(directory: &Path, preset: &str, seed: u64) -> PathBuf {
    directory.join(preset).join(format!("seed-{seed}"))
}

/// Two presets must be asked the same problems in the same way, or hours end in answers that can not be compared.
fn check_alike(config: &RunConfig, baseline: &RunConfig) -> Result<(), LabError> {
    let asked = |config: &RunConfig| {
        [
            ("data.eval", config.data.eval.clone()),
            ("data.prompt", config.data.prompt.clone()),
            ("eval.n", config.eval.n.to_string()),
            ("eval.max_new_tokens", config.eval_max_new_tokens().to_string()),
            ("eval.draws", config.eval.draws.to_string()),
            ("eval.metric", config.metric()),
            ("eval.samples", config.eval.samples.to_string()),
            ("eval.temperature", config.eval.temperature.to_string()),
        ]
    };
    let mut pairs = asked(config).into_iter().zip(asked(baseline));
    let Some(((what, in_first), (_, in_second))) = pairs.find(|(a, b)| a != b) else { return Ok(()) };
    let (name, other) = (&config.name, &baseline.name);
    let wrong = format!(
        "{name} and {other} would answer under different conditions: {what} is {in_first} in one and {in_second} in the \
         other; set it for all of the suite"
    );
    Err(Error::config(wrong).into())
}

/// What hypotheses speak of must be run and evaluated.
fn check_hypotheses(suite: &Suite, names: &[String]) -> Result<(), LabError> {
    for criterion in suite.hypothesis.iter().flat_map(|hypothesis| &hypothesis.criterion) {
        for preset in [&criterion.preset, &criterion.against] {
            let Some(at) = names.iter().position(|name| name == preset) else {
                return Err(LabError::NoSuchPreset { preset: preset.clone(), known: names.join(", ") });
            };
            let levels = RunConfig::load(&suite.presets[at], &suite.set)?.eval.noise_levels;
            if !levels.contains(&criterion.level) {
                let levels = levels.iter().map(f64::to_string).collect::<Vec<_>>().join(", ");
                let (run, level) = (preset.clone(), criterion.level.to_string());
                return Err(LabError::NoSuchLevel { run, level, levels });
            }
        }
    }
    Ok(())
}

/// A directory that holds something must hold this suite.
fn refuse_foreign(suite: &Suite, directory: &Path) -> Result<(), LabError> {
    let path = directory.join(DEFINITION);
    if let Some(shard) = directory.parent().filter(|_| directory.join(SHARD).exists()) {
        let (own, shard) = (directory.display(), shard.display());
        let wrong =
            format!("{own} holds a shard of a suite; give --out {shard} and --shard, or another --out");
        return Err(Error::config(wrong).into());
    }
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(refuse_existing_but_lock(directory)?) };
    let before = Suite::parse(&text, &path.display().to_string())?;
    if before.name != suite.name {
        let wrong = format!(
            "{} is the directory of the suite `{}`; give another --out",
            directory.display(),
            before.name
        );
        return Err(Error::config(wrong).into());
    }
    Ok(())
}

/// A suite killed before its definition was written has left a lock, which is nobody's work; neither are shards.
fn refuse_existing_but_lock(directory: &Path) -> Result<(), Error> {
    let nobodys = |entry: std::fs::DirEntry| entry.file_name() == LOCK || Shard::is_name(&entry.file_name());
    let only_those = std::fs::read_dir(directory).is_ok_and(|entries| entries.flatten().all(nobodys));
    if only_those { Ok(()) } else { refuse_existing(directory) }
}
