//! What can stop a run, said to the person who started it.

use std::path::{Path, PathBuf};

use hardy_ops::BindError;

use crate::{data::DataError, toml_errors::TomlError};

/// The result of everything here that reads files or trains.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a run could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A model's files.
    #[error(transparent)]
    Model(#[from] hardy_model::Error),
    /// A data set.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A file that is not the TOML it should be.
    #[error(transparent)]
    Toml(#[from] TomlError),
    /// A plan that does not fit the model.
    #[error(transparent)]
    Plan(#[from] BindError),
    /// A value of a configuration.
    #[error("{0}")]
    Config(String),
    /// The directory of a new run exists.
    #[error("{} exists and is never overwritten; give another --out, or --resume to go on with it", .0.display())]
    Exists(PathBuf),
    /// A file that can not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A checkpoint that does not belong here.
    #[error("{}: {reason}", path.display())]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A loss or gradient that is not finite.
    #[error(
        "step {step}: the {what} is not finite; the largest output was {magnitude:e} at {site}; {last_good}"
    )]
    NotFinite {
        /// The step.
        step: u64,
        /// What is not finite: the loss or the gradient, of so many updates in a row.
        what: String,
        /// The site of largest magnitude.
        site: String,
        /// That magnitude.
        magnitude: f32,
        /// Where the last good checkpoint is.
        last_good: String,
    },
    /// A run of which nothing was learned.
    #[error("no update was made in {steps} {}: {reason}", if *steps == 1 { "step" } else { "steps" })]
    NoUpdate {
        /// The steps.
        steps: u64,
        /// Why, and what would be right.
        reason: String,
    },
    /// A reward program that does not answer as it should.
    #[error("{0}; once it is mended, --resume goes on from the last checkpoint")]
    Reward(String),
    /// Noise that was asked for and never happened.
    #[error("{0}: a result without the noise that it asks for is no result")]
    Unfired(String),
    /// A worker that is gone, or did not come.
    #[error("{0}")]
    Worker(String),
}

impl Error {
    /// A wrong value of a configuration.
    pub fn config(message: impl Into<String>) -> Self {
        Self::Config(message.into())
    }

    /// For `map_err`: a failure to read or write `path`.
    pub fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        |source| Self::File { path: path.to_owned(), source }
    }

    /// Whether the input is at fault (exit code 2) rather than the run (1).
    pub fn is_input(&self) -> bool {
        !matches!(
            self,
            Self::NotFinite { .. }
                | Self::NoUpdate { .. }
                | Self::Reward(_)
                | Self::Unfired(_)
                | Self::Worker(_)
                | Self::Model(hardy_model::Error::Write { .. })
        )
    }
}
