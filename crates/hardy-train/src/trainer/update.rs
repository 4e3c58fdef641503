//! An update of the policy on a minibatch: forward, loss, backward in parts that fit into memory, then one step of
//! the optimizer.

use hardy_ops::{Noise, NoisyBackend};

use super::{
    Trainer,
    minibatch::{Minibatch, Part},
    tally::Tally,
};
use crate::{
    algorithm::Algorithm,
    config::OldLogProbs,
    diagnosis::not_finite,
    error::{Error, Result},
    gradients::Gradients,
    objective::{Loss, Tokens, add_entropy, add_kl, clipped_surrogate, gspo, truncated_weights},
    policy::{columns, log_probs},
    recording::Recording,
    sequence::Packed,
};

impl<B: NoisyBackend> Trainer<B> {
    /// One update of the policy on a minibatch.
    pub(super) fn update(&mut self, minibatch: &Minibatch, noise: &Noise) -> Result<Tally> {
        let mut tally = Tally::default();
        let noise = &noise.clone().gathering(self.policy.decoder.blueprint.sites.len());
        let tracked = self.policy.decoder.tracked();
        for (part, packed) in self.parts(minibatch, !noise.acts_backward()) {
            let (temperature, checkpointing) = (self.train.temperature, self.train.activation_checkpointing);
            let pass = Recording::forward(&tracked, &packed, noise, temperature, checkpointing);
            let [current, entropy] = pass.scores();
            let mut loss = self.loss(minibatch, &part, &current, &mut tally);
            let weight = &minibatch.weight[part.tokens.clone()];
            tally.kl_from_reference(self.add_reference(&mut loss, &current, weight, &packed));
            let bonus = self.train.entropy_coefficient;
            let d_entropy = (bonus > 0.0).then(|| add_entropy(&mut loss, &entropy, weight, bonus));
            if !loss.value.is_finite() {
                return Err(self.not_finite(&packed, noise, "loss"));
            }
            tally.loss(&loss, &entropy);
            pass.backward(&loss.d_logprob, d_entropy.as_deref());
        }
        drop(tracked);
        let gradients = Gradients::gathered(&self.policy.decoder, noise);
        tally.grad_norm = gradients.norm();
        if !tally.grad_norm.is_finite() {
            return Err(self.not_finite(&Packed::new(&minibatch.sequences, true), noise, "gradient"));
        }
        let gradients = gradients.clipped(tally.grad_norm, self.train.max_grad_norm);
        let rate = self.learning_rate.at(self.steps as usize);
        self.optimizer.step(self.policy.decoder.trained_mut(), gradients, rate);
        Ok(tally)
    }

    /// The loss of a part of a minibatch whose tokens now have the log-probabilities `current`.
    fn loss(&self, minibatch: &Minibatch, part: &Part, current: &[f32], tally: &mut Tally) -> Loss {
        let of = |values: &'_ [f32]| values[part.tokens.clone()].to_vec();
        let old = minibatch.old.as_deref().map_or_else(|| current.to_vec(), of);
        let drawn = &minibatch.drawn[part.tokens.clone()];
        // Before the first update the current policy is the old one, also where the old log-probabilities are drawn.
        let trained = if self.train.old_log_probs == OldLogProbs::Rollout { current } else { &old };
        tally.ratios(current, &old);
        tally.mismatch.add(trained, drawn);
        let rollout_weight = self.train.tis_cap.map(|cap| {
            let weights = truncated_weights(trained, drawn, cap);
            tally.capped(weights.iter().filter(|&&weight| weight >= cap).count());
            weights
        });
        let tokens = Tokens {
            logprob: current,
            old_logprob: &old,
            advantage: &minibatch.advantage[part.tokens.clone()],
            weight: &minibatch.weight[part.tokens.clone()],
            rollout_weight: rollout_weight.as_deref(),
        };
        match self.train.algorithm {
            Algorithm::Gspo => gspo(&tokens, &minibatch.lengths[part.sequences.clone()], self.train.clip()),
            Algorithm::Grpo | Algorithm::Dapo | Algorithm::DrGrpo => {
                clipped_surrogate(&tokens, self.train.clip())
            }
        }
    }

    /// Adds the divergence from the starting model to `loss`; gives Σ w·KL.
    fn add_reference(
        &self,
        loss: &mut Loss,
        current: &[f32],
        weight: &[f32],
        packed: &Packed,
    ) -> Option<f32> {
        let reference = self.reference.as_ref()?;
        let [log_probs, _] = columns(&log_probs(reference, packed, &Noise::clean(), self.train.temperature));
        let (coefficient, estimator) = (self.train.kl_coefficient, self.train.kl_estimator);
        Some(add_kl(loss, current, &log_probs, weight, coefficient, estimator))
    }

    fn not_finite(&self, packed: &Packed, noise: &Noise, what: &'static str) -> Error {
        not_finite(&self.policy.decoder, packed, noise, self.steps + 1, what)
    }
}
