//! What an update says of itself: sums over its tokens, of which the step's record takes means.

use crate::{
    objective::{Loss, Mismatch},
    step_record::StepRecord,
};

/// Sums over the tokens of an update.
#[derive(Default)]
pub(super) struct Tally {
    /// How far rollout and training are apart.
    pub(super) mismatch: Mismatch,
    /// The gradient's norm before clipping.
    pub(super) grad_norm: f64,
    loss: f64,
    kl: Option<f64>,
    tokens: f64,
    clipped: f64,
    capped: Option<f64>,
    kl_old: f64,
    ratio: f64,
    ratio_max: f64,
    ratio_deviation: f64,
    entropy: f64,
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
            let ratio = f64::from(current - old).exp();
            self.ratio += ratio;
            self.ratio_max = self.ratio_max.max(ratio);
            self.ratio_deviation = self.ratio_deviation.max((ratio - 1.0).abs());
        }
    }

    /// Adds tokens whose importance weight was truncated.
    pub(super) fn capped(&mut self, tokens: usize) {
        *self.capped.get_or_insert_default() += tokens as f64;
    }

    /// Adds a part's divergence from the starting model.
    pub(super) fn kl_from_reference(&mut self, kl: Option<f32>) {
        if let Some(kl) = kl {
            *self.kl.get_or_insert_default() += f64::from(kl);
        }
    }

    /// Adds the share of one of `count` updates to the step's record.
    pub(super) fn add_to(&self, record: &mut StepRecord, index: usize, count: usize) {
        let share = |sum: f64| sum / self.tokens.max(1.0) / count as f64;
        record.loss += self.loss / count as f64;
        if let Some(kl) = self.kl {
            *record.kl.get_or_insert_default() += kl / count as f64;
        }
        if let Some(capped) = self.capped {
            *record.tis_capped_share.get_or_insert_default() += share(capped);
        }
        record.clip_share += share(self.clipped);
        record.ppo_kl += share(self.kl_old);
        record.ratio_mean += share(self.ratio);
        record.ratio_max = record.ratio_max.max(self.ratio_max);
        record.entropy += share(self.entropy);
        record.grad_norm += self.grad_norm / count as f64;
        if index == 0 {
            record.first_ratio_mean = self.ratio / self.tokens.max(1.0);
            record.first_ratio_deviation = self.ratio_deviation;
        }
    }
}
