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
    /// A line or row that holds no problem, or one that can not be put to the model.
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

impl DataError {
    /// A file that can not be read at all.
    pub(super) fn unreadable(path: &str, error: &std::io::Error) -> Self {
        let reason = match error.kind() {
            std::io::ErrorKind::NotFound => "no such file".to_owned(),
            _ => format!("cannot be read: {error}"),
        };
        Self::File { path: path.to_owned(), reason }
    }
}
