//! What a supervised step was.

use serde::{Deserialize, Serialize};

/// One line of a supervised run's `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SftRecord {
    /// The step, from 1.
    pub step: u64,
    /// Mean negative log-likelihood of an answer's token, in nats.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Tokens of the step.
    pub tokens: u64,
    /// Seconds of the step.
    pub step_seconds: f64,
}
