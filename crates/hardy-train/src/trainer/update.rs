//! An update of the policy on a minibatch: forward, loss, backward in parts that fit into memory, then one step of
//! the optimizer. An update that is not finite changes nothing: the run stops, or goes on without it.

use burn_autodiff::Autodiff;
use hardy_model::Decoder;
use hardy_ops::{Noise, NoisyBackend, Phase};

use super::{
    Trainer,
    minibatch::{Minibatch, Part},
    tally::Tally,
};
use crate::{
    algorithm::Algorithm,
    config::{KlReference, OldLogProbs, OnNonfinite},
    diagnosis::not_finite,
    error::Result,
    gradients::Gradients,
    objective::{
        Loss, Tokens, add_entropy, add_kl, clipped_surrogate, gspo, masked_weights, truncated_weights,
    },
    policy::{columns, log_probs},
    recording::Recording,
    sequence::{Packed, Sequence, parts},
    tree::Tree,
    workers::reduce,
};

/// What is summed over a minibatch.
type Computed<B> = (Tally, Gradients<B>);
/// What of a block may not be finite.
const NOT_FINITE: [&str; 2] = ["loss", "entropy"];

impl<B: NoisyBackend> Trainer<B> {
    /// One update of the policy on a minibatch; `None` where it is left out because it is not finite.
    pub(super) fn update(&mut self, minibatch: &Minibatch, noise: &Noise) -> Result<Option<Tally>> {
        let (tally, gradients) = match self.gradients(minibatch, noise)? {
            Ok(found) => found,
            Err(what) => return self.leave_out(minibatch, noise, what).map(|()| None),
        };
        let gradients = gradients.clipped(tally.grad_norm, self.train.max_grad_norm);
        let rate = self.learning_rate.at(self.steps as usize);
        self.step_parameters(gradients, rate)?;
        self.nonfinite_in_row = 0;
        Ok(Some(tally))
    }

    /// The gradients of a minibatch, each worker's blocks by itself, then all in the order of a fixed tree; or the name of
    /// what is not finite.
    fn gradients(
        &self,
        minibatch: &Minibatch,
        noise: &Noise,
    ) -> Result<std::result::Result<Computed<B>, &'static str>> {
        if minibatch.sequences.is_empty() {
            return Ok(Err("distribution of every response's first token"));
        }
        let sites = self.policy.decoder.blueprint.sites.len();
        let tracked = self.policy.decoder.tracked();
        let (mut told, mut sums) = (Vec::new(), Tree::default());
        for block in self.workers.share(minibatch.blocks.len()) {
            let noise = noise.clone().gathering(sites);
            let mut tally = self.block(&tracked, (minibatch, block), &noise);
            if let (Ok(tally), Some(_)) = (&mut tally, &self.sigma) {
                tally.scales = noise.take_scales();
            }
            told.push(tally);
            sums.term(block, noise.take_sums());
        }
        drop(tracked);
        let mut tally = Tally::default();
        for block in self.workers.concat(told)? {
            match block {
                Ok(block) => tally.merge(&block),
                Err(what) => return Ok(Err(NOT_FINITE[usize::from(what)])),
            }
        }
        let noise = noise.clone().with_sums(reduce(&self.workers, sums)?);
        if self.sigma.is_some() {
            tally.scales = self.plan.scale_gradients(&noise, &tally.scales);
        }
        let gradients = Gradients::gathered(&self.policy.decoder, &noise);
        tally.digests = gradients.digests();
        tally.grad_norm = gradients.norm();
        let finite = tally.grad_norm.is_finite() && tally.scales.iter().all(|scale| scale.is_finite());
        Ok(if finite { Ok((tally, gradients)) } else { Err("gradient") })
    }

    /// A block forward and backward, part by part; or the place in [`NOT_FINITE`] of what is not finite, and then the sums
    /// that `noise` gathers mean nothing.
    fn block(
        &self,
        tracked: &Decoder<Autodiff<B>>,
        (minibatch, block): (&Minibatch, usize),
        noise: &Noise,
    ) -> std::result::Result<Tally, u8> {
        let mut tally = Tally::default();
        for (part, packed) in self.parts(minibatch, block, !noise.acts_backward()) {
            let (temperature, checkpointing) = (self.train.temperature, self.train.activation_checkpointing);
            let pass = Recording::forward(tracked, &packed, noise, temperature, checkpointing);
            let [current, entropy] = pass.scores();
            let mut loss = self.loss(minibatch, &part, &current, &mut tally);
            let weight = &minibatch.weight[part.tokens.clone()];
            tally.kl_from_reference(self.add_reference(&mut loss, &current, weight, (&packed, noise)));
            let bonus = self.train.entropy_coefficient;
            let d_entropy = (bonus > 0.0).then(|| add_entropy(&mut loss, &entropy, weight, bonus));
            if !loss.value.is_finite() {
                return Err(0);
            }
            if !entropy.iter().all(|entropy| entropy.is_finite()) {
                return Err(1);
            }
            tally.loss(&loss, &entropy);
            if self.train.score_centering {
                let derivatives = (&loss.d_logprob[..], d_entropy.as_deref());
                self.backward_centered(pass, (minibatch, &part, &packed), derivatives, &mut tally);
            } else {
                pass.backward(&loss.d_logprob, d_entropy.as_deref());
            }
        }
        Ok(tally)
    }

    /// Leaves an update out because its `what` is not finite.
    ///
    /// # Errors
    /// Where this stops the run, or too many in a row have been left out.
    fn leave_out(&mut self, minibatch: &Minibatch, noise: &Noise, what: &str) -> Result<()> {
        self.nonfinite_in_row += 1;
        let most = match self.train.on_nonfinite {
            OnNonfinite::Stop => 1,
            OnNonfinite::Skip => self.train.max_nonfinite_updates as u64,
        };
        if self.nonfinite_in_row < most {
            return Ok(());
        }
        let what = match self.nonfinite_in_row {
            1 => what.to_owned(),
            n => format!("{what}, the last of {n} updates in a row,"),
        };
        let (decoder, step) = (&self.policy.decoder, self.steps + 1);
        if minibatch.sequences.is_empty() {
            // A token that was never drawn, so that the prompts go through the model as they did in the rollout.
            let drawn = |prompt: &Sequence| Sequence { ids: [&prompt.ids[..], &[0]].concat(), ..*prompt };
            let sequences: Vec<Sequence> = minibatch.unanswered.iter().map(drawn).collect();
            let parts = parts(&sequences, self.train.micro_batch_tokens, true).map(|(_, packed)| packed);
            return Err(not_finite(decoder, parts, &self.plan.noise(Phase::Rollout, self.steps), step, what));
        }
        let blocks = 0..minibatch.blocks.len();
        let parts = blocks.flat_map(|block| self.parts(minibatch, block, true)).map(|(_, packed)| packed);
        Err(not_finite(decoder, parts, noise, step, what))
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
        let rollout_weight = self.rollout_weights(trained, drawn, tally);
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

    /// What corrects for rollouts under other errors than training; `None` where nothing does.
    fn rollout_weights(&self, trained: &[f32], drawn: &[f32], tally: &mut Tally) -> Option<Vec<f32>> {
        let count =
            |weights: &[f32], what: &dyn Fn(f32) -> bool| weights.iter().filter(|&&w| what(w)).count();
        if let Some(cap) = self.train.tis_cap {
            let weights = truncated_weights(trained, drawn, cap);
            tally.capped(count(&weights, &|weight| weight >= cap));
            return Some(weights);
        }
        let weights = masked_weights(trained, drawn, self.train.icepop_bound?);
        tally.masked(count(&weights, &|weight| weight == 0.0));
        Some(weights)
    }

    /// Adds the divergence from the starting policy to `loss`; gives Σ w·KL. It sees the batch with the same dropout and,
    /// unless it is to be clean, the same errors; they are the policy's pass once more, and not counted again.
    fn add_reference(
        &self,
        loss: &mut Loss,
        current: &[f32],
        weight: &[f32],
        (packed, noise): (&Packed, &Noise),
    ) -> Option<f32> {
        let reference = self.reference.as_ref()?;
        let noise = match self.train.kl_reference {
            KlReference::SameErrors => noise.recomputed(),
            KlReference::Clean => Noise::clean(),
        };
        let [log_probs, _] = columns(&log_probs(reference, packed, &noise, self.train.temperature));
        let (coefficient, estimator) = (self.train.kl_coefficient, self.train.kl_estimator);
        Some(add_kl(loss, current, &log_probs, weight, coefficient, estimator))
    }
}
