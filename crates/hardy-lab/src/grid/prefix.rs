//! Passes over worked answers that start late: what an error can not have changed is computed once and kept, for one stage of
//! the decoder at a time. A cell of a later stage goes on from there, to the same bits as a pass from the beginning.

use std::ops::{Range, RangeInclusive};

use burn_tensor::Tensor;
use hardy_model::{Batch, Decoder};
use hardy_ops::{Indices, Noise, NoisyBackend, Rule};
use hardy_train::{
    policy::columns,
    sequence::{Packed, Sequence, parts},
};

/// Some sequences in one pass, and what goes into the stage that has been reached.
struct Part<B: NoisyBackend> {
    sequences: Range<usize>,
    packed: Packed,
    x: Option<Tensor<B, 2>>,
}

/// Sequences on their way through a decoder without errors.
pub(crate) struct Prefix<'a, B: NoisyBackend> {
    decoder: &'a Decoder<B>,
    parts: Vec<Part<B>>,
    stage: usize,
    clean: Noise,
}

/// The stages in which a rule acts; the head is one after the last.
pub(crate) fn stages_of<B: NoisyBackend>(decoder: &Decoder<B>, rule: &Rule) -> RangeInclusive<usize> {
    let blueprint = &decoder.blueprint;
    let acts = blueprint.sites.iter().enumerate().filter(|(_, site)| rule.selects(site));
    let stages = acts.map(|(site, _)| blueprint.stage_of(hardy_ops::SiteId(site)));
    let (first, last) = stages.fold((usize::MAX, 0), |(first, last), s| (first.min(s), last.max(s)));
    first.min(blueprint.stages())..=last
}

impl<'a, B: NoisyBackend> Prefix<'a, B> {
    /// Sequences at the beginning, in passes of at most `tokens` tokens.
    pub fn new(decoder: &'a Decoder<B>, sequences: &[Sequence], tokens: usize) -> Self {
        Self::of(decoder, parts(sequences, tokens, true))
    }

    /// The same in passes of `size` sequences each.
    pub fn in_groups(decoder: &'a Decoder<B>, sequences: &[Sequence], size: usize) -> Self {
        let chunks = (0..).step_by(size).zip(sequences.chunks(size));
        Self::of(decoder, chunks.map(|(at, chunk)| (at..at + chunk.len(), Packed::new(chunk, true))))
    }

    fn of(decoder: &'a Decoder<B>, parts: impl Iterator<Item = (Range<usize>, Packed)>) -> Self {
        let part = |(sequences, packed)| Part { sequences, packed, x: None };
        Self { decoder, parts: parts.map(part).collect(), stage: 0, clean: Noise::clean() }
    }

    /// The decoder.
    pub fn decoder(&self) -> &'a Decoder<B> {
        self.decoder
    }

    /// Goes on to what goes into `stage`; the head reads what the last stage gives.
    ///
    /// # Panics
    /// If that lies behind.
    pub fn advance_to(&mut self, stage: usize) {
        assert!(stage >= self.stage, "a prefix does not go back");
        for part in &mut self.parts {
            let batch = &part.packed.batch;
            let scene = self.decoder.scene(batch, &self.clean);
            part.x = self.decoder.advance(part.x.take(), (self.stage, stage), batch, &scene);
        }
        self.stage = stage;
    }

    /// How many passes there are.
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// The sequences of pass `part`.
    pub fn sequences(&self, part: usize) -> Range<usize> {
        self.parts[part].sequences.clone()
    }

    /// The mean negative log-likelihood of the tokens of every response of pass `part`, in nats, under `noise`, which acts in
    /// `stages` alone.
    pub fn likelihoods(
        &self,
        part: usize,
        of: &[Sequence],
        noise: &Noise,
        stages: &RangeInclusive<usize>,
    ) -> Vec<f64> {
        let (hidden, batch, rows) = self.hidden(part, noise, stages);
        let targets = &self.parts[part].packed.targets;
        let [log_probs, _] = columns(&self.decoder.log_probs(hidden, &batch, &rows, (targets, 1.0), noise));
        let mut rest = &log_probs[..];
        let mean = |sequence: &Sequence| {
            let (own, after) = rest.split_at(sequence.response_length());
            rest = after;
            -own.iter().map(|&x| f64::from(x)).sum::<f64>() / own.len() as f64
        };
        of[self.sequences(part)].iter().map(mean).collect()
    }

    /// Whether every token of the responses of pass `part` is still the most probable one under `noise`, by sequence.
    pub fn agrees(
        &self,
        part: usize,
        of: &[Sequence],
        noise: &Noise,
        stages: &RangeInclusive<usize>,
    ) -> Vec<bool> {
        let (hidden, batch, rows) = self.hidden(part, noise, stages);
        let targets = &self.parts[part].packed.targets;
        let mut same = self.most_probable(&hidden, &batch, &rows, noise).into_iter().zip(targets.iter());
        let mut all_same =
            |n| (0..n).filter_map(|_| same.next()).filter(|(a, b)| *a == Some(**b)).count() == n;
        of[self.sequences(part)].iter().map(|sequence| all_same(sequence.response_length())).collect()
    }

    /// What the head reads, with the rows of it that are wanted. After the last attention only those are computed, unless the
    /// noise still acts there and would be counted on all of them.
    fn hidden(
        &self,
        part: usize,
        noise: &Noise,
        stages: &RangeInclusive<usize>,
    ) -> (Tensor<B, 2>, Batch, Indices) {
        let Part { packed, x, .. } = &self.parts[part];
        let (batch, end) = (&packed.batch, self.decoder.blueprint.stages());
        let after_attention = end.saturating_sub(2);
        let free = (*stages.end() + 1).max(after_attention).max(self.stage).min(end);
        let scene = self.decoder.scene(batch, noise);
        let x = self.decoder.advance(x.clone(), (self.stage, free), batch, &scene);
        let Some(x) = x else { unreachable!("a decoder has a stage") };
        if free == end {
            return (x, batch.clone(), packed.rows.clone());
        }
        let (x, narrow) = self.decoder.with_rows(x, batch, &packed.rows);
        let scene = self.decoder.scene(&narrow, noise);
        let Some(x) = self.decoder.advance(Some(x), (free, end), &narrow, &scene) else {
            unreachable!("it had a value")
        };
        let rows = (0..packed.rows.len() as u32).collect();
        (x, narrow, rows)
    }

    /// The token of the largest logit in each of `rows`; `None` where the logits are no distribution.
    fn most_probable(
        &self,
        hidden: &Tensor<B, 2>,
        batch: &Batch,
        rows: &[u32],
        noise: &Noise,
    ) -> Vec<Option<u32>> {
        use rayon::prelude::*;
        /// Logits at once.
        const LOGITS: usize = 1 << 24;
        let vocab = self.decoder.blueprint.config.vocab_size;
        let choose = |logits: &[f32]| hardy_model::Sampler::GREEDY.choose(logits, 0.0).map(|(id, _)| id);
        rows.chunks((LOGITS / vocab).max(1))
            .flat_map(|rows| {
                let logits = self.decoder.logits(hidden.clone(), batch, rows, noise);
                let logits = B::host(&logits.into_primitive().tensor()).to_vec();
                logits.par_chunks_exact(vocab).map(choose).collect::<Vec<_>>()
            })
            .collect()
    }
}
