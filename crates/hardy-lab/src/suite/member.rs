//! One run of a suite: a preset with a seed, and where it lives.

use std::path::PathBuf;

use hardy_train::config::RunConfig;

/// One run of a suite.
#[derive(Clone, Debug)]
pub struct Member {
    /// The name of the preset's configuration.
    pub preset: String,
    /// The seed.
    pub seed: u64,
    /// Its run directory.
    pub directory: PathBuf,
    /// Its configuration.
    pub config: RunConfig,
    /// Whether it was finished before the suite was started.
    pub finished: bool,
}

impl Member {
    /// What messages call it.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{} seed {}", self.preset, self.seed)
    }
}
