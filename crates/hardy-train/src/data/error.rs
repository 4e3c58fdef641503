//! What can be wrong with a data set, said to the person who named it.

use thiserror::Error;

use super::Place;

/// Why problems could not be had; the text names the file, the line and what was found there.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DataError {
    /// The file cannot be read, or is not of a kind that can be.
    #[error("{path}: {reason}")]
    File {
        /// The path as it was given.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// One line of the file holds no problem.
    #[error("{path}:{line}: {reason}")]
    Line {
        /// The path as it was given.
        path: String,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A problem that can not be put to the model.
    #[error("{place}: {reason}")]
    Problem {
        /// Where the problem stands.
        place: Place,
        /// What is wrong with it.
        reason: String,
    },
    /// A `builtin:` source that does not exist.
    #[error("unknown data source `{0}`; the only built-in one is `builtin:arith`")]
    UnknownBuiltin(String),
    /// Zero problems were asked for.
    #[error("data source `{0}`: 0 problems were asked for; ask for at least 1")]
    NoneAsked(String),
}
