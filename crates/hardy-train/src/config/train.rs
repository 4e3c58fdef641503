//! `[train]`: the algorithm and its numbers. What an algorithm has an opinion on is optional here, and taken from
//! [`Algorithm::defaults`] where it is left out.

mod check;

use serde::{Deserialize, Serialize};

use crate::{
    algorithm::Algorithm,
    config::RewardKind,
    learning_rate::{Decay, LearningRate},
    objective::{Clip, KlEstimator, Mean},
};

/// Where the log-probabilities under the old policy come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OldLogProbs {
    /// Computed again in the train phase, under its noise: the first minibatch's ratio is exactly 1.
    #[default]
    Recompute,
    /// Those that the tokens were drawn with.
    Rollout,
}

/// What happens to an update whose loss or gradient is not finite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnNonfinite {
    /// The run ends.
    #[default]
    Stop,
    /// It is left out: weights and optimizer stay as they are, to the bit.
    Skip,
}

/// Under which errors the starting policy runs, from which the KL divergence is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlReference {
    /// Those of the policy's own pass, value by value, so that equal weights diverge by exactly nothing.
    #[default]
    SameErrors,
    /// None: the errors count as divergence.
    Clean,
}

/// How to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSection {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// Passes over the training problems; where neither this nor `steps` is given, 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<usize>,
    /// Steps in all; where both are given this wins over `epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Prompts of a step.
    pub prompts_per_step: usize,
    /// Responses to every prompt: the group within which advantages are normalised.
    pub samples_per_prompt: usize,
    /// Optimizer steps a step, each on its share of the prompts.
    pub minibatches: usize,
    /// How often a step learns from its rollouts, all minibatches each time (PPO's epochs).
    pub updates_per_rollout: usize,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Steps until it is reached.
    pub warmup_steps: usize,
    /// How it falls afterwards.
    pub decay: Decay,
    /// What it falls to.
    pub min_learning_rate: f64,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// AdamW's β₁ and β₂.
    pub betas: [f64; 2],
    /// Gradients are scaled down to this norm; 0 never.
    pub max_grad_norm: f64,
    /// The clip of the ratio below 1; the algorithm's where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_low: Option<f32>,
    /// The clip of the ratio above 1; the algorithm's where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_high: Option<f32>,
    /// The dual clip: the largest loss of a token with negative advantage is this times |advantage|.
    pub dual_clip: f32,
    /// Weight of the KL divergence from the starting model; 0 leaves it out.
    pub kl_coefficient: f32,
    /// Its estimator.
    pub kl_estimator: KlEstimator,
    /// Under which errors the starting policy runs for it.
    pub kl_reference: KlReference,
    /// Weight of the entropy bonus; 0 leaves it out.
    pub entropy_coefficient: f32,
    /// `token-mean`, `seq-mean-token-sum`, `seq-mean-token-mean` or `seq-mean-token-sum-norm`; the algorithm's where it
    /// is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggregation: Option<String>,
    /// Where the old log-probabilities come from.
    pub old_log_probs: OldLogProbs,
    /// Truncated importance sampling: the largest weight π_train/π_rollout of a token; where it is left out, all weigh 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tis_cap: Option<f32>,
    /// IcePop: tokens whose weight π_train/π_rollout is outside [1/C, C] are left out, the others have that weight; where
    /// it is left out, all weigh 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icepop_bound: Option<f32>,
    /// Score centering: the mean score of a token under the policy that drew it is subtracted, so that a mismatch of
    /// rollout and training does not drift.
    pub score_centering: bool,
    /// Which answers are rewarded; `strict` where neither this nor a `[[reward]]` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward: Option<RewardKind>,
    /// The last tokens below `max_new_tokens` over which the soft overlong penalty falls; 0 for no penalty, the
    /// algorithm's where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlong_buffer: Option<usize>,
    /// The penalty of a response of `max_new_tokens` tokens.
    pub overlong_factor: f32,
    /// Whether responses that were cut off are not learned from: their tokens weigh 0.
    pub filter_truncated: bool,
    /// Whether groups whose answers are all scored alike are dropped and replaced by those of further prompts; the
    /// algorithm's where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dynamic_sampling: Option<bool>,
    /// Rounds of generation in a step, at most, where groups are replaced.
    pub generation_rounds: usize,
    /// Sampling temperature of rollouts.
    pub temperature: f32,
    /// Nucleus of rollouts; 1 keeps all tokens.
    pub top_p: f32,
    /// Most probable tokens of rollouts; 0 keeps all.
    pub top_k: usize,
    /// Tokens after which a response is cut off.
    pub max_new_tokens: usize,
    /// Sequences that are generated at once.
    pub rollout_batch: usize,
    /// Tokens of a forward and backward pass.
    pub micro_batch_tokens: usize,
    /// Blocks of whole groups into which an update is cut, at most. Gradients are summed within each, then over blocks in a
    /// fixed tree; so many workers can share an update.
    pub gradient_blocks: usize,
    /// Keep only what goes into every layer, and compute the layer again on the way back: less memory, and about a
    /// third more time.
    pub activation_checkpointing: bool,
    /// What happens to an update whose loss or gradient is not finite.
    pub on_nonfinite: OnNonfinite,
    /// So many such updates in a row end a run that leaves them out.
    pub max_nonfinite_updates: usize,
}

impl Default for TrainSection {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::Grpo,
            epochs: None,
            steps: None,
            prompts_per_step: 32,
            samples_per_prompt: 8,
            minibatches: 1,
            updates_per_rollout: 1,
            learning_rate: 1e-6,
            warmup_steps: 0,
            decay: Decay::Constant,
            min_learning_rate: 0.0,
            weight_decay: 0.01,
            betas: [0.9, 0.999],
            max_grad_norm: 1.0,
            clip_low: None,
            clip_high: None,
            dual_clip: 3.0,
            kl_coefficient: 0.0,
            kl_estimator: KlEstimator::LowVarKl,
            kl_reference: KlReference::SameErrors,
            entropy_coefficient: 0.0,
            aggregation: None,
            old_log_probs: OldLogProbs::Recompute,
            tis_cap: None,
            icepop_bound: None,
            score_centering: false,
            reward: None,
            overlong_buffer: None,
            overlong_factor: 1.0,
            filter_truncated: false,
            dynamic_sampling: None,
            generation_rounds: 10,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            max_new_tokens: 256,
            rollout_batch: 256,
            micro_batch_tokens: 4096,
            gradient_blocks: 8,
            activation_checkpointing: false,
            on_nonfinite: OnNonfinite::Stop,
            max_nonfinite_updates: 10,
        }
    }
}

impl TrainSection {
    /// The bounds of the ratio.
    pub fn clip(&self) -> Clip {
        let defaults = self.algorithm.defaults();
        Clip {
            low: self.clip_low.unwrap_or(defaults.clip_low),
            high: self.clip_high.unwrap_or(defaults.clip_high),
            dual: self.dual_clip,
        }
    }

    /// The name of the aggregation.
    fn aggregation_name(&self) -> &str {
        self.aggregation.as_deref().unwrap_or(self.algorithm.defaults().aggregation)
    }

    /// How the losses of tokens are averaged.
    pub fn mean(&self) -> Mean {
        // The name was checked when the configuration was read.
        Mean::named(self.aggregation_name(), self.max_new_tokens).unwrap_or(Mean::TokenMean)
    }

    /// Rounds of generation in a step, at most, where groups are dropped; `None` where none is.
    pub fn dropping_rounds(&self) -> Option<usize> {
        let dynamic = self.dynamic_sampling.unwrap_or(self.algorithm.defaults().dynamic_sampling);
        dynamic.then_some(self.generation_rounds)
    }

    /// The tokens over which the overlong penalty falls; 0 for no penalty.
    pub fn overlong_tokens(&self) -> usize {
        let share = self.algorithm.defaults().overlong_share;
        self.overlong_buffer.unwrap_or((self.max_new_tokens as f64 * share) as usize)
    }

    /// The section with everything said that it leaves to its algorithm.
    pub fn resolved(&self) -> Self {
        let Clip { low, high, .. } = self.clip();
        Self {
            clip_low: Some(low),
            clip_high: Some(high),
            aggregation: Some(self.aggregation_name().to_owned()),
            dynamic_sampling: Some(self.dropping_rounds().is_some()),
            overlong_buffer: Some(self.overlong_tokens()),
            ..self.clone()
        }
    }

    /// The learning rate over `total_steps`.
    pub fn learning_rate(&self, total_steps: usize) -> LearningRate {
        let (peak, warmup_steps, decay) = (self.learning_rate, self.warmup_steps, self.decay);
        LearningRate { peak, warmup_steps, decay, total_steps, floor_ratio: self.min_learning_rate / peak }
    }
}
