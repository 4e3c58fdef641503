//! What an update says of itself: sums over its tokens, of which the step's record takes means over its updates.

use serde::{Deserialize, Serialize};

use crate::{
    digest,
    objective::{Loss, Mismatch},
};

/// Bound on the log of a ratio, as in the objectives.
const LOG_RATIO: f64 = 20.0;

/// Sums over the tokens of an update, or of a block of it.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct Tally {
    /// How far rollout and training are apart.
    pub(super) mismatch: Mismatch,
    /// A digest of every parameter's gradient, before clipping; none in a block.
    pub(super) digests: Vec<u128>,
    /// The gradient's norm before clipping.
    pub(super) grad_norm: f64,
    pub(super) loss: f64,
    pub(super) kl: Option<f64>,
    tokens: f64,
    pub(super) clipped: f64,
    pub(super) capped: Option<f64>,
    pub(super) masked: Option<f64>,
    /// Σ ‖mean score‖₁ of tokens, where scores are centered.
    pub(super) drift: Option<f64>,
    pub(super) kl_old: f64,
    pub(super) ratio: f64,
    pub(super) ratio_max: f64,
    pub(super) ratio_deviation: f64,
    pub(super) entropy: f64,
    /// The loss's derivative in the scale at every site's output, of a block; in the scale of every learned rule, of an update.
    pub(super) scales: Vec<f64>,
}

impl Tally {
    /// Adds a part's whole loss and its tokens' entropies.
    pub(super) fn loss(&mut self, loss: &Loss, entropy: &[f32]) {
        let n = entropy.len() as f64;
        self.tokens += n;
        self.loss += f64::from(loss.value);
        self.clipped += f64::from(loss.clipped) * n;
        self.kl_old += f64::from(loss.kl_old) * n;
        self.entropy += entropy.iter().map(|&h| f64::from(h)).sum::<f64>();
    }

    /// Adds the ratios of a part's tokens.
    pub(super) fn ratios(&mut self, current: &[f32], old: &[f32]) {
        for (current, old) in current.iter().zip(old) {
            let ratio = f64::from(current - old).clamp(-LOG_RATIO, LOG_RATIO).exp();
            self.ratio += ratio;
            self.ratio_max = self.ratio_max.max(ratio);
            self.ratio_deviation = self.ratio_deviation.max((ratio - 1.0).abs());
        }
    }

    /// Adds tokens whose importance weight was truncated.
    pub(super) fn capped(&mut self, tokens: usize) {
        *self.capped.get_or_insert_default() += tokens as f64;
    }

    /// Adds tokens that are left out for their importance weight.
    pub(super) fn masked(&mut self, tokens: usize) {
        *self.masked.get_or_insert_default() += tokens as f64;
    }

    /// Adds the lengths of the mean scores of a part's tokens.
    pub(super) fn drift(&mut self, drift: f64) {
        *self.drift.get_or_insert_default() += drift;
    }

    /// Adds a part's divergence from the starting model.
    pub(super) fn kl_from_reference(&mut self, kl: Option<f32>) {
        if let Some(kl) = kl {
            *self.kl.get_or_insert_default() += f64::from(kl);
        }
    }

    /// Adds the sums of the block to the right.
    pub(super) fn merge(&mut self, other: &Self) {
        self.mismatch.merge(&other.mismatch);
        for (own, other) in [
            (&mut self.kl, other.kl),
            (&mut self.capped, other.capped),
            (&mut self.masked, other.masked),
            (&mut self.drift, other.drift),
        ] {
            if let Some(other) = other {
                *own.get_or_insert_default() += other;
            }
        }
        for (own, other) in [
            (&mut self.loss, other.loss),
            (&mut self.tokens, other.tokens),
            (&mut self.clipped, other.clipped),
            (&mut self.kl_old, other.kl_old),
            (&mut self.ratio, other.ratio),
            (&mut self.entropy, other.entropy),
        ] {
            *own += other;
        }
        self.scales.resize(other.scales.len(), 0.0);
        self.scales.iter_mut().zip(&other.scales).for_each(|(own, other)| *own += other);
        self.ratio_max = self.ratio_max.max(other.ratio_max);
        self.ratio_deviation = self.ratio_deviation.max(other.ratio_deviation);
    }

    /// The mean over tokens of which `sum` is the sum.
    pub(super) fn per_token(&self, sum: f64) -> f64 {
        sum / self.tokens.max(1.0)
    }
}

/// The updates of a step.
#[derive(Default)]
pub(super) struct Updates {
    made: Vec<Tally>,
    /// Those that were left out because they were not finite.
    pub(super) skipped: u64,
    /// Seconds that the old log-probabilities took before the first of them.
    pub(super) old_log_probs_seconds: f64,
}

impl Updates {
    /// None yet, after so many seconds of old log-probabilities.
    pub(super) fn after(old_log_probs_seconds: f64) -> Self {
        Self { old_log_probs_seconds, ..Self::default() }
    }

    /// Adds an update; `None` is one that was left out.
    pub(super) fn add(&mut self, update: Option<Tally>) {
        match update {
            Some(tally) => self.made.push(tally),
            None => self.skipped += 1,
        }
    }

    /// How many were made.
    pub(super) fn made(&self) -> u64 {
        self.made.len() as u64
    }

    /// The first one that was made.
    pub(super) fn first(&self) -> Option<&Tally> {
        self.made.first()
    }

    /// The mean over those that were made, 0 without any.
    pub(super) fn mean(&self, of: impl Fn(&Tally) -> f64) -> f64 {
        self.made.iter().map(of).sum::<f64>() / self.made.len().max(1) as f64
    }

    /// The mean of what they may lack.
    pub(super) fn mean_of_some(&self, of: impl Fn(&Tally) -> Option<f64>) -> Option<f64> {
        self.first().and_then(&of)?;
        Some(self.mean(|tally| of(tally).unwrap_or_default()))
    }

    /// The largest over those that were made, 0 without any.
    pub(super) fn largest(&self, of: impl Fn(&Tally) -> f64) -> f64 {
        self.made.iter().map(of).fold(0.0, f64::max)
    }

    /// A digest of every parameter's gradients in all of them; none where none was made.
    pub(super) fn digests(&self) -> Vec<u128> {
        let parameters = self.first().map_or(0, |tally| tally.digests.len());
        let of = |i: usize| {
            digest::of_digests(&self.made.iter().map(|tally| tally.digests[i]).collect::<Vec<_>>())
        };
        (0..parameters).map(of).collect()
    }

    /// How far rollout and training are apart in the first `count` of them.
    pub(super) fn mismatch(&self, count: usize) -> Mismatch {
        self.made.iter().take(count).fold(Mismatch::default(), |mut sum, tally| {
            sum.merge(&tally.mismatch);
            sum
        })
    }
}
