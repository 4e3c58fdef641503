//! What answers are judged by where one number is wanted: right in the strict or the flexible form, of which both are
//! always kept, or a score.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::SampleRecord;

/// What answers are judged by. Schema 1 says `accuracy` for what is strict.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Metric {
    /// Right after `####`.
    #[default]
    Strict,
    /// Right in any form.
    Flexible,
    /// A score by the graders of this name.
    Score(String),
}

impl Metric {
    /// As it is written in configurations and records.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Strict => "strict",
            Self::Flexible => "flexible",
            Self::Score(name) => name,
        }
    }

    /// The form of accuracy that is told beside this one; a score has none.
    #[must_use]
    pub fn other(&self) -> Option<Self> {
        match self {
            Self::Strict => Some(Self::Flexible),
            Self::Flexible => Some(Self::Strict),
            Self::Score(_) => None,
        }
    }
}

impl fmt::Display for Metric {
    /// `strict accuracy`, or `math score`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if matches!(self, Self::Score(_)) { "score" } else { "accuracy" };
        write!(f, "{} {what}", self.name())
    }
}

impl From<String> for Metric {
    fn from(name: String) -> Self {
        match name.as_str() {
            "strict" | "accuracy" => Self::Strict,
            "flexible" => Self::Flexible,
            _ => Self::Score(name),
        }
    }
}

impl From<Metric> for String {
    fn from(metric: Metric) -> Self {
        metric.name().to_owned()
    }
}

impl SampleRecord {
    /// What the answer is worth: 1 and 0 for right and wrong, or its score.
    #[must_use]
    pub fn value(&self, metric: &Metric) -> f64 {
        match metric {
            Metric::Strict => f64::from(u8::from(self.strict)),
            Metric::Flexible => f64::from(u8::from(self.flexible)),
            Metric::Score(_) => self.score.unwrap_or(0.0),
        }
    }

    /// Whether the answer is right: worth 1 or more.
    #[must_use]
    pub fn right(&self, metric: &Metric) -> bool {
        self.value(metric) >= 1.0
    }
}
