//! What a training step says of itself: one line of `metrics.jsonl`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The digests of a step's tensors, 8 hexadecimal digits each, in the order of the trained parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorHashes {
    /// The step, from 1.
    pub step: u64,
    /// Of gradients; empty where there was no update.
    pub gradients: String,
    /// Of parameters.
    pub weights: String,
}

/// One line of `metrics.jsonl`. Keys of durations and rates end in `_seconds` and `_per_second`. What is said of
/// updates and of the tokens learned from speaks of the updates that were made, and is 0 where there was none: where
/// dynamic sampling kept no group, or all were left out because they were not finite. No number here is not finite.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The step, from 1: so many updates have been made.
    pub step: u64,
    /// Epochs of the training problems begun; the further prompts of dynamic sampling do not count.
    pub epoch: u64,
    /// Mean reward, penalties included, of all responses sampled in the step, dropped or not.
    pub reward_mean: f64,
    /// Its standard deviation.
    pub reward_std: f64,
    /// Mean score of each of several graders, and of whatever a reward program said, of all responses sampled, as
    /// `reward/NAME`; learned sigmas as `aqn_sigma/LAYER`.
    #[serde(flatten)]
    pub named: BTreeMap<String, f64>,
    /// Share of all responses sampled that are right in the rewarded form.
    pub strict_accuracy: f64,
    /// Share of them that are right in any form.
    pub flexible_accuracy: f64,
    /// Mean overlong penalty of all responses sampled; absent where there is no penalty.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub overlong_penalty_mean: Option<f64>,
    /// Mean reward of the responses that are learned from; absent without dynamic sampling, or where none is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kept_reward_mean: Option<f64>,
    /// Share of the responses that are learned from that are right in the rewarded form; absent likewise.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kept_strict_accuracy: Option<f64>,
    /// Rounds of generation; above 1 only with dynamic sampling.
    #[serde(default)]
    pub generation_rounds: u64,
    /// Groups of responses sampled, in all rounds.
    #[serde(default)]
    pub groups_sampled: u64,
    /// Those of them that dynamic sampling dropped.
    #[serde(default)]
    pub groups_dropped: u64,
    /// Share of all groups sampled whose responses are all scored alike, and so teach nothing.
    pub uniform_groups: f64,
    /// Mean tokens of a response, of all sampled.
    pub response_length_mean: f64,
    /// Share of all responses sampled that were cut off.
    pub truncated_share: f64,
    /// Responses that ended because the next token's logits were not finite.
    #[serde(default)]
    pub nonfinite_responses: u64,
    /// Updates made.
    #[serde(default)]
    pub updates: u64,
    /// Updates left out because their loss or gradient was not finite.
    #[serde(default)]
    pub skipped_updates: u64,
    /// The objective's loss with KL penalty and entropy bonus, the mean over the minibatches.
    pub loss: f64,
    /// Estimated KL divergence from the starting model, aggregated as the loss is; absent where the coefficient is 0.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kl: Option<f64>,
    /// Estimated KL divergence from the old policy.
    pub ppo_kl: f64,
    /// Share of tokens whose ratio, or whose sequence's (GSPO), was clipped.
    pub clip_share: f64,
    /// Mean ratio to the old policy in the first update; exactly 1 where the old log-probabilities are recomputed.
    pub first_ratio_mean: f64,
    /// Largest |ratio − 1| there.
    pub first_ratio_deviation: f64,
    /// Mean ratio over all minibatches.
    pub ratio_mean: f64,
    /// Largest ratio over all minibatches.
    pub ratio_max: f64,
    /// Mean |log-probability in training − in the rollout| of the tokens learned from, before the first update; where
    /// the old log-probabilities are the rollout's, of those of the first minibatch.
    pub logprob_mismatch: f64,
    /// Effective sample size of the importance weights π_train/π_rollout of the same tokens, as a share of them: 1
    /// where rollout and training agree.
    #[serde(default)]
    pub effective_sample_size: f64,
    /// The largest of these weights.
    #[serde(default)]
    pub importance_weight_max: f64,
    /// Share of tokens whose weight reached `tis_cap`; absent without truncated importance sampling.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tis_capped_share: Option<f64>,
    /// Share of tokens that IcePop left out; absent without it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub icepop_masked_share: Option<f64>,
    /// Mean length Σ_v |∂/∂logit_v| of the expected score of a token, which centering subtracts: 0 where rollouts and
    /// training agree; absent without it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub score_drift: Option<f64>,
    /// Mean entropy of the token distributions, in nats.
    pub entropy: f64,
    /// Norm of the gradient before clipping, the mean over the minibatches.
    pub grad_norm: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Scale of the adaptive quantisation noise; where a guide gives groups of layers their own, the mean over the groups.
    pub aqn_sigma: f64,
    /// The smallest of these; absent where all layers have one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub aqn_sigma_min: Option<f64>,
    /// The largest of these; absent likewise.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub aqn_sigma_max: Option<f64>,
    /// Prompt and response tokens of all that was sampled in the step.
    pub tokens: u64,
    /// A digest of the tokens sampled in the step and of their log-probabilities, 32 hexadecimal digits, as the two that
    /// follow: with the same seed, configuration and version the same on every machine of one kind.
    #[serde(default)]
    pub rollouts_hash: String,
    /// That of the gradients of its updates, before clipping.
    #[serde(default)]
    pub gradients_hash: String,
    /// That of all trained parameters after it.
    #[serde(default)]
    pub weights_hash: String,
    /// Of both, tensor by tensor; they stand in `hashes.jsonl`.
    #[serde(skip)]
    pub tensor_hashes: TensorHashes,
    /// Seconds of sampling.
    pub rollout_seconds: f64,
    /// Seconds of the old log-probabilities, where they take a pass of their own.
    #[serde(default)]
    pub old_log_probs_seconds: f64,
    /// Seconds of learning, these included.
    pub train_seconds: f64,
    /// Seconds of the step.
    pub step_seconds: f64,
    /// Tokens a second.
    pub tokens_per_second: f64,
    /// Why nothing may be learned, where that can be seen.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub warnings: Vec<String>,
}
