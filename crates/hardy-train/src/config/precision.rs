//! The arithmetic in which a model computes, beneath whatever errors a plan puts on it.

use serde::{Deserialize, Serialize};

/// What numbers are stored and multiplied as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// IEEE 754 binary32 throughout, on every device: no product is rounded to TF32 on the way.
    #[default]
    F32,
}

impl Precision {
    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
        }
    }
}
