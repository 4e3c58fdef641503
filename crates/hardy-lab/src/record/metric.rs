//! Which answers count as right where one number is wanted. Both are always kept.

use hardy_train::reward::Extraction;
use serde::{Deserialize, Serialize};

use super::ProblemRecord;

/// The form in which an answer must be right. Schema 1 says `accuracy` for what is strict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// After `####`, as it is rewarded.
    #[default]
    #[serde(alias = "accuracy")]
    Strict,
    /// In any form.
    Flexible,
}

impl Metric {
    /// As people read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Flexible => "flexible",
        }
    }
}

impl From<Extraction> for Metric {
    fn from(how: Extraction) -> Self {
        match how {
            Extraction::Strict => Self::Strict,
            Extraction::Flexible => Self::Flexible,
        }
    }
}

impl ProblemRecord {
    /// Whether the answer is right.
    #[must_use]
    pub fn right(&self, metric: Metric) -> bool {
        match metric {
            Metric::Strict => self.strict,
            Metric::Flexible => self.flexible,
        }
    }
}
