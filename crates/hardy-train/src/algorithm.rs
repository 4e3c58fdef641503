//! The algorithms of reinforcement learning, each a set of defaults: what the configuration says itself wins.

use serde::{Deserialize, Serialize};

/// The algorithms of reinforcement learning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// Group-relative policy optimisation (arXiv:2402.03300).
    #[default]
    Grpo,
    /// Decoupled clip and dynamic sampling policy optimisation (arXiv:2503.14476).
    Dapo,
    /// GRPO done right: no division by standard deviation or length (arXiv:2503.20783).
    DrGrpo,
    /// Group sequence policy optimisation: the ratio is the sequence's (arXiv:2507.18071).
    Gspo,
}

/// What an algorithm takes where the configuration does not say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Defaults {
    /// The clip of the ratio below 1.
    pub clip_low: f32,
    /// The clip of the ratio above 1.
    pub clip_high: f32,
    /// How the losses of tokens are averaged.
    pub aggregation: &'static str,
    /// Whether groups that teach nothing are replaced.
    pub dynamic_sampling: bool,
    /// The share of the longest response over which the overlong penalty falls; 0 for no penalty.
    pub overlong_share: f64,
}

impl Algorithm {
    /// The values of the paper.
    pub fn defaults(self) -> Defaults {
        let grpo = Defaults {
            clip_low: 0.2,
            clip_high: 0.2,
            aggregation: "token-mean",
            dynamic_sampling: false,
            overlong_share: 0.0,
        };
        match self {
            Self::Grpo => grpo,
            // 4,096 of 20,480 tokens in the paper.
            Self::Dapo => Defaults { clip_high: 0.28, dynamic_sampling: true, overlong_share: 0.2, ..grpo },
            Self::DrGrpo => Defaults { aggregation: "seq-mean-token-sum-norm", ..grpo },
            Self::Gspo => {
                Defaults { clip_low: 3e-4, clip_high: 4e-4, aggregation: "seq-mean-token-mean", ..grpo }
            }
        }
    }
}
