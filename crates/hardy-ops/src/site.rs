//! A site is a place where an error can enter: a module path, the operator there, and the layer it belongs to.
//! Sites are found by listing a model, never by matching class names at run time.

use serde::{Deserialize, Serialize};

/// Index of a site in its model's list of sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteId(pub usize);

/// The numeric operators of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// `y = x·Wᵀ + b`.
    Linear,
    /// A product of two activations: the scores and the values of attention.
    Matmul,
    /// The softmax of attention.
    Softmax,
    /// Root-mean-square normalisation.
    RmsNorm,
    /// Layer normalisation.
    LayerNorm,
    /// `x·σ(x)`.
    Silu,
    /// `x·Φ(x)`.
    Gelu,
    /// The row of a table.
    Embedding,
}

impl Op {
    /// Every operator, in the order in which they are listed to people.
    pub const ALL: [Self; 8] = [
        Self::Linear,
        Self::Matmul,
        Self::Softmax,
        Self::RmsNorm,
        Self::LayerNorm,
        Self::Silu,
        Self::Gelu,
        Self::Embedding,
    ];

    /// The name used in plans and receipts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Matmul => "matmul",
            Self::Softmax => "softmax",
            Self::RmsNorm => "rms_norm",
            Self::LayerNorm => "layer_norm",
            Self::Silu => "silu",
            Self::Gelu => "gelu",
            Self::Embedding => "embedding",
        }
    }

    /// The points at which an error can enter this operator.
    pub fn points(self) -> &'static [Point] {
        use Point::{GradInput, GradWeight, Input, Output, Weight};
        match self {
            Self::Linear | Self::RmsNorm | Self::LayerNorm => &[Input, Output, Weight, GradInput, GradWeight],
            Self::Matmul | Self::Softmax | Self::Silu | Self::Gelu => &[Input, Output, GradInput],
            Self::Embedding => &[Output, Weight, GradWeight],
        }
    }
}

/// The points of an operator; the last two are of its backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Point {
    /// What the operator reads.
    Input,
    /// What the operator writes.
    Output,
    /// Its weight, as the operator sees it; the stored weight never changes.
    Weight,
    /// The gradient that it passes on, ∂x; of a matmul, of both factors.
    GradInput,
    /// The gradient of its weight, ∂W.
    GradWeight,
}

impl Point {
    /// The name used in plans and receipts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
            Self::Weight => "weight",
            Self::GradInput => "grad_input",
            Self::GradWeight => "grad_weight",
        }
    }

    /// The pass to which the point belongs.
    pub fn pass(self) -> Pass {
        match self {
            Self::Input | Self::Output | Self::Weight => Pass::Forward,
            Self::GradInput | Self::GradWeight => Pass::Backward,
        }
    }
}

/// The forward or the backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pass {
    /// From tokens to logits.
    Forward,
    /// From the loss to gradients.
    Backward,
}

impl Pass {
    /// The name used in plans and receipts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Backward => "backward",
        }
    }
}

/// What a forward pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Sampling responses to learn from.
    Rollout,
    /// Log-probabilities and gradients.
    Train,
    /// Judging.
    Eval,
}

impl Phase {
    /// The three phases.
    pub const ALL: [Self; 3] = [Self::Rollout, Self::Train, Self::Eval];

    /// The name used in plans and receipts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rollout => "rollout",
            Self::Train => "train",
            Self::Eval => "eval",
        }
    }
}

/// A place where an error can enter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The module path, as in `model.layers.3.mlp.down_proj`.
    pub module: String,
    /// The operator there.
    pub op: Op,
    /// The index of the decoder layer; `None` for the embedding, the last norm and the head.
    pub layer: Option<usize>,
}
