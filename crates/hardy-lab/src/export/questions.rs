//! What was asked: records keep answers alone, so that the questions are read again from the data that they name.

use std::collections::BTreeMap;

use hardy_train::{
    config::{RunConfig, graders_of},
    data::{self, Split, answers_for},
    error::Error,
};

use crate::{error::LabError, evaluate::EVAL_DATA_SEED, record::data_fingerprint, run_records::RunRecords};

/// Questions by the numbers of their problems.
#[derive(Clone, Debug, Default)]
pub struct Questions {
    texts: BTreeMap<u64, String>,
}

impl Questions {
    /// Reads the questions of a run's evaluations.
    ///
    /// # Errors
    /// Data that can not be read, or is no longer what was answered.
    pub fn of(run: &RunRecords) -> Result<Self, LabError> {
        let config: RunConfig = run.config.clone().try_into().map_err(|error: toml::de::Error| {
            LabError::Toml { path: run.directory.join("config.toml"), reason: error.to_string() }
        })?;
        let graders = graders_of(&config.rewards(), &config.metric())?;
        let source = config.data.source(&config.data.eval, answers_for(&graders));
        let problems =
            data::load(&source, Split::Eval, EVAL_DATA_SEED, Some(config.eval.n)).map_err(Error::from)?;
        let answered = run.last().1;
        let ids: Vec<u64> =
            answered.levels.iter().flat_map(|level| &level.problems).map(|one| one.id).collect();
        let asked: Vec<_> = problems.into_iter().filter(|problem| ids.contains(&problem.id)).collect();
        if let Some(conditions) = &answered.conditions
            && conditions.data_fingerprint != data_fingerprint(&asked)
        {
            return Err(Error::config(format!(
                "{}: is not what was answered in {} (its fingerprint differs)",
                config.data.eval,
                run.directory.display()
            ))
            .into());
        }
        Ok(Self { texts: asked.into_iter().map(|problem| (problem.id, problem.question)).collect() })
    }

    /// The question of a problem; empty where it is not known.
    #[must_use]
    pub fn text(&self, id: u64) -> &str {
        self.texts.get(&id).map_or("", String::as_str)
    }
}

#[cfg(test)]
impl FromIterator<(u64, String)> for Questions {
    fn from_iter<T: IntoIterator<Item = (u64, String)>>(texts: T) -> Self {
        Self { texts: texts.into_iter().collect() }
    }
}
