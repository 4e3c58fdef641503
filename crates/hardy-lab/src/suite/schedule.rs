//! The runs of a suite, checked and placed before anything is written. Seeds are the outer loop, so that a suite that is
//! stopped early has compared every preset already.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
};

use hardy_model::files::write_atomically;
use hardy_ops::NoisyBackend;
use hardy_train::{
    config::{RunConfig, refuse_existing},
    error::Error,
};

use super::{Member, Suite, definition::is_a_directory_name, table::SuiteTable};
use crate::{
    error::LabError,
    record::Metric,
    run::{dry_run, is_finished},
    run_records::{RunRecords, read_run},
};

/// The file that says which suite a directory belongs to.
const DEFINITION: &str = "suite.toml";
/// The file that is locked while a suite is at work.
const LOCK: &str = "suite.lock";

/// A suite's runs, in the order in which they are started.
#[derive(Debug)]
pub struct Schedule {
    suite: Suite,
    directory: PathBuf,
    /// Configuration names in the order of the suite's presets.
    names: Vec<String>,
    members: Vec<Member>,
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
                let own = directory.join(&config.name).join(format!("seed-{seed}"));
                let finished = is_finished(&own, &config)?;
                members.push(Member { preset: config.name.clone(), seed, directory: own, config, finished });
            }
        }
        Ok(Self { suite: suite.clone(), directory: directory.to_owned(), names, members })
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
                known.insert(&member.preset, dry_run::<B>(&member.config, device)?.steps);
            }
        }
        Ok(self.members.iter().map(|member| known[member.preset.as_str()]).collect())
    }

    /// Makes the directory this suite's, and keeps others out of it for as long as the file lives.
    ///
    /// # Errors
    /// A directory that can not be written, or in which the suite is at work.
    pub fn claim(&self) -> Result<File, LabError> {
        std::fs::create_dir_all(&self.directory).map_err(LabError::file(&self.directory))?;
        let path = self.directory.join(LOCK);
        let lock = File::create(&path).map_err(LabError::file(&path))?;
        if lock.try_lock().is_err() {
            let at_work = format!("{}: another `hardy suite` is at work there", self.directory.display());
            return Err(Error::config(at_work).into());
        }
        let text = toml::to_string_pretty(&self.suite).unwrap_or_default();
        write_atomically(&self.directory.join(DEFINITION), text.as_bytes()).map_err(Error::from)?;
        Ok(lock)
    }

    /// The table of the finished suite.
    ///
    /// # Errors
    /// A run that can not be read, or runs that were not judged by the same problems.
    pub fn table(&self) -> Result<SuiteTable, LabError> {
        let runs = |name: &String| -> Result<Vec<RunRecords>, LabError> {
            let own = self.members.iter().filter(|member| member.preset == *name);
            own.map(|member| read_run(&member.directory)).collect()
        };
        let runs = self.names.iter().map(|name| Ok((name.clone(), runs(name)?)));
        let runs = runs.collect::<Result<Vec<_>, LabError>>()?;
        let baseline = self.suite.presets.iter().position(|preset| *preset == self.suite.baseline);
        SuiteTable::new(&self.suite, &runs, baseline.unwrap_or(0))
    }
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
            ("eval.metric", Metric::from(config.metric()).name().to_owned()),
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

/// A suite killed before its definition was written has left a lock, which is nobody's work.
fn refuse_existing_but_lock(directory: &Path) -> Result<(), Error> {
    let only_lock = std::fs::read_dir(directory)
        .is_ok_and(|entries| entries.flatten().all(|entry| entry.file_name() == LOCK));
    if only_lock { Ok(()) } else { refuse_existing(directory) }
}
