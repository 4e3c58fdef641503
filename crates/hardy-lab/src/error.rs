//! What can be wrong with records and run directories, said to the person who typed the command.

use std::path::PathBuf;

use thiserror::Error;

/// Why no judgement could be given.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LabError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not the JSON it should be.
    #[error("{}:{line}: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser said.
        reason: String,
    },
    /// `config.toml` of a run is not TOML.
    #[error("{}: {reason}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// What the parser said, with the line.
        reason: String,
    },
    /// The directory was not written by `hardy run`.
    #[error("{} is not a run directory: it has no {missing}; give a directory that `hardy run` wrote", path.display())]
    NotARun {
        /// The directory.
        path: PathBuf,
        /// The file that is missing.
        missing: &'static str,
    },
    /// A run was never evaluated.
    #[error("{} holds no evaluation (no eval/step-*.json): nothing to judge", path.display())]
    NoEvaluation {
        /// The run directory.
        path: PathBuf,
    },
    /// The record has a layout that this version does not know.
    #[error("{what}: record of schema {found}, this version reads up to {known}: use a newer hardy")]
    NewerSchema {
        /// The file.
        what: String,
        /// Its schema.
        found: u32,
        /// The newest schema known.
        known: u32,
    },
    /// A rule that names its phases, and not this one.
    #[error(
        "level {level}: no rule of the plan acts in evaluation; leave `during` out, or name \"eval\" there"
    )]
    NotInEval {
        /// The level's label.
        level: String,
    },
    /// A dump that can not be read.
    #[error("{}: {reason}", path.display())]
    Dump {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A served model that does not answer, or not as its interface says.
    #[error("{url}: {reason}")]
    Endpoint {
        /// Where it listens.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Two sides that can not be compared.
    #[error("{0}")]
    Diverge(String),
    /// A model, a plan or a run.
    #[error(transparent)]
    Train(#[from] hardy_train::error::Error),
    /// A record without levels, or a level without problems.
    #[error("{what} holds no answered problem")]
    Empty {
        /// The record or level.
        what: String,
    },
    /// The same problem twice in one level.
    #[error("{what}: problem {id} occurs twice")]
    RepeatedProblem {
        /// The level.
        what: String,
        /// The problem.
        id: u64,
    },
    /// The level asked for noise and its receipts show none.
    #[error(
        "level {level} asked for noise of scale {asked}, but its receipts show no element that was perturbed; this is no measurement under noise"
    )]
    NoReceipt {
        /// The level's label.
        level: String,
        /// The scale asked for.
        asked: f64,
    },
    /// Two sides answered different problems.
    #[error(
        "{first} and {second} do not share their problems: {in_first} and {in_second}, {shared} in both; evaluate both with the same data and number of problems"
    )]
    DifferentProblems {
        /// The first side, with its data.
        first: String,
        /// The second side, with its data.
        second: String,
        /// Problems of the first.
        in_first: usize,
        /// Problems of the second.
        in_second: usize,
        /// Problems of both.
        shared: usize,
    },
    /// Two sides answered under different conditions.
    #[error(
        "{first} and {second} answered under different conditions: {what} is {in_first} in one and {in_second} in the other; evaluate both alike, or `--allow {what}`"
    )]
    DifferentConditions {
        /// The first side.
        first: String,
        /// The second side.
        second: String,
        /// The condition.
        what: String,
        /// Its value at the first side.
        in_first: String,
        /// Its value at the second side.
        in_second: String,
    },
    /// The same problem has two true answers.
    #[error(
        "{first} and {second} were evaluated on different data: the true answer to problem {id} is {truth_first:?} in one and {truth_second:?} in the other"
    )]
    DifferentTruths {
        /// The first side.
        first: String,
        /// The second side.
        second: String,
        /// The problem.
        id: u64,
        /// Its answer on the first side.
        truth_first: String,
        /// Its answer on the second side.
        truth_second: String,
    },
    /// No noise level occurs in both records.
    #[error("{first} and {second} share no noise level: {levels_first} against {levels_second}")]
    NoSharedLevel {
        /// The first side.
        first: String,
        /// The second side.
        second: String,
        /// Its levels.
        levels_first: String,
        /// The second side's levels.
        levels_second: String,
    },
    /// A level that one side was not evaluated at.
    #[error("{run} is not evaluated at {level}, only at {levels}")]
    NoSuchLevel {
        /// The run or preset.
        run: String,
        /// The level.
        level: String,
        /// The levels it has.
        levels: String,
    },
    /// A preset that the suite does not have.
    #[error("a hypothesis speaks of {preset}, which is not among the suite's presets {known}")]
    NoSuchPreset {
        /// The preset.
        preset: String,
        /// Those of the suite.
        known: String,
    },
    /// A run of a suite.
    #[error("{label}: {error}")]
    Member {
        /// The preset and seed.
        label: String,
        /// What went wrong.
        error: Box<LabError>,
    },
    /// A model that computes what is not finite without any error, so that nothing can be held against it.
    #[error("{what} is not finite without any error; the model itself is broken")]
    NotFinite {
        /// What was computed.
        what: String,
    },
    /// A comparison of fewer than two, or a report of no run.
    #[error("{what} needs at least {least}, got {got}")]
    TooFew {
        /// What was asked for.
        what: &'static str,
        /// How many it needs.
        least: usize,
        /// How many were given.
        got: usize,
    },
}

impl LabError {
    /// Whether the input is at fault (exit code 2) rather than the run (1).
    pub fn is_input(&self) -> bool {
        match self {
            Self::Train(error) => error.is_input(),
            Self::NoReceipt { .. } | Self::Endpoint { .. } | Self::NotFinite { .. } => false,
            Self::Member { error, .. } => error.is_input(),
            _ => true,
        }
    }

    /// For `map_err`: a failure to read or write `path`.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::File { path: path.into(), source }
    }

    /// A failure to parse `path`, at `line` from 1.
    pub(crate) fn json(path: impl Into<PathBuf>, line: usize, error: &serde_json::Error) -> Self {
        let text = error.to_string();
        let reason = text.split(" at line ").next().unwrap_or(&text).to_owned();
        Self::Json { path: path.into(), line, reason }
    }
}
