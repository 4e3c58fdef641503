//! Why a command ended early, and the exit code that says so.

use std::process::ExitCode;

use hardy_lab::LabError;
use hardy_ops::BindError;

use crate::output;

/// A command that did not do what it was asked for.
#[derive(Debug)]
pub enum Failure {
    /// Bad usage or input: exit code 2.
    Input(String),
    /// A run that failed: exit code 1.
    Run(String),
    /// A difference was found and told: exit code 1, and nothing more to say.
    Differs,
    /// Whoever read our output has enough of it: nothing to say.
    ReaderGone,
}

impl Failure {
    /// Bad usage or input, in one sentence.
    pub fn input(message: impl Into<String>) -> Self {
        Self::Input(message.into())
    }

    /// A run that failed, in one sentence.
    pub fn run(message: impl Into<String>) -> Self {
        Self::Run(message.into())
    }

    /// Says what went wrong on standard error.
    pub fn report(self) -> ExitCode {
        match self {
            Self::Input(message) => {
                output::note(&format!("error: {message}"));
                ExitCode::from(2)
            }
            Self::Run(message) => {
                output::note(&format!("error: {message}"));
                ExitCode::FAILURE
            }
            Self::Differs => ExitCode::FAILURE,
            Self::ReaderGone => ExitCode::SUCCESS,
        }
    }

    fn new(is_input: bool, message: String) -> Self {
        if is_input { Self::Input(message) } else { Self::Run(message) }
    }
}

impl From<hardy_train::error::Error> for Failure {
    fn from(error: hardy_train::error::Error) -> Self {
        Self::new(error.is_input(), error.to_string())
    }
}

impl From<LabError> for Failure {
    fn from(error: LabError) -> Self {
        Self::new(error.is_input(), error.to_string())
    }
}

impl From<hardy_model::Error> for Failure {
    fn from(error: hardy_model::Error) -> Self {
        hardy_train::error::Error::from(error).into()
    }
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        hardy_train::error::Error::from(error).into()
    }
}
