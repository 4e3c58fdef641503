//! Scores centered in an update (arXiv:2609.20807): the way back goes through the logits, each token's derivative in them less
//! the mean under the policy that drew it. That one is computed here once more, from the same weights under the rollout's
//! errors, which its addresses give back: so there is one update a step.

use std::ops::Range;

use burn_tensor::Tensor;
use hardy_model::Batch;
use hardy_ops::{Noise, NoisyBackend, Phase};
use rayon::prelude::*;

use super::{
    Trainer,
    minibatch::{Minibatch, Part},
    tally::Tally,
};
use crate::{
    objective::{Correction, Derivatives, centered},
    recording::Recording,
    sequence::Packed,
};

/// The policy that drew the tokens of a part.
struct Sampled<'a, B: NoisyBackend> {
    batch: Batch,
    hidden: Tensor<B, 2>,
    noise: Noise,
    packed: &'a Packed,
}

impl<B: NoisyBackend> Trainer<B> {
    /// Goes back through `pass` with the scores centered. The loss has these derivatives in log-probabilities and entropies.
    pub(super) fn backward_centered(
        &self,
        pass: Recording<B>,
        (minibatch, part, packed): (&Minibatch, &Part, &Packed),
        (d_log_prob, d_entropy): (&[f32], Option<&[f32]>),
        tally: &mut Tally,
    ) {
        let sampled = self.sampled(packed);
        let [advantage, weight] =
            [&minibatch.advantage, &minibatch.weight].map(|values| &values[part.tokens.clone()]);
        let of = |token: usize| Derivatives {
            target: packed.targets[token],
            log_prob: d_log_prob[token],
            entropy: d_entropy.map_or(0.0, |d_entropy| d_entropy[token]),
            score: -advantage[token] * weight[token],
        };
        let (temperature, correction) = (self.train.temperature, self.correction());
        let mut drift = 0.0;
        pass.backward_through_logits(|tokens, logits| {
            let sampler = self.sampler_logits(&sampled, tokens.clone());
            let width = logits.len() / tokens.len();
            let rows = logits.par_chunks_mut(width).zip(sampler.par_chunks(width)).zip(tokens);
            let one = |((logits, sampler), token): ((&mut [f32], &[f32]), usize)| {
                centered(logits, sampler, temperature, correction, of(token))
            };
            drift += rows.map(one).collect::<Vec<f64>>().into_iter().sum::<f64>();
        });
        tally.drift(drift);
    }

    /// What weighs a token.
    fn correction(&self) -> Correction {
        match (self.train.tis_cap, self.train.icepop_bound) {
            (Some(cap), _) => Correction::Truncated(cap),
            (None, Some(bound)) => Correction::Masked(bound),
            (None, None) => Correction::None,
        }
    }

    /// The hidden states of a part's tokens as its rollout had them; they were counted there.
    fn sampled<'a>(&self, packed: &'a Packed) -> Sampled<'a, B> {
        let noise = self.plan.noise(Phase::Rollout, self.steps).recomputed();
        let batch = Batch { dropout: None, ..packed.batch.clone() };
        Sampled { hidden: self.policy.decoder.hidden(&batch, &noise), batch, noise, packed }
    }

    fn sampler_logits(&self, from: &Sampled<B>, tokens: Range<usize>) -> B::Host {
        let rows = &from.packed.rows[tokens];
        let logits = self.policy.decoder.logits(from.hidden.clone(), &from.batch, rows, &from.noise);
        B::host(&logits.into_primitive().tensor())
    }
}
