//! Generation in batches with a KV cache: every prompt is computed once for all its samples, a finished sequence
//! leaves the batch, and the next prompts take its place. What a sequence becomes depends on its own address alone.

use std::cmp::Ordering;

use hardy_numerics::NoiseKey;
use hardy_ops::{Noise, NoisyBackend, Row};
use rayon::prelude::*;

use crate::{
    decoder::{Batch, Decoder, KvCache, sequence_rows},
    sampling::Sampler,
};

/// A prompt, and the sequence ids of itself and of the samples wanted.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// Its tokens; at least one.
    pub ids: Vec<u32>,
    /// The sequence id of its tokens.
    pub sequence: u64,
    /// The sequence ids of the samples.
    pub samples: Vec<u64>,
}

/// How to generate.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Tokens after which a sequence is cut off.
    pub max_new_tokens: usize,
    /// Tokens that end a sequence; the one that did is part of it.
    pub stop: Vec<u32>,
    /// How a token is chosen.
    pub sampler: Sampler,
    /// Sequences in the batch at once.
    pub batch: usize,
    /// The key of the random choices; see [`Generation::key`].
    pub key: NoiseKey,
}

impl Generation {
    /// The key of the random choices of a run at one step.
    pub fn key(seed: u64, stream: &str, step: u64) -> NoiseKey {
        NoiseKey::new(seed, stream, step, "sampled token")
    }
}

/// One generated sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The new tokens, with the stop token where there was one.
    pub ids: Vec<u32>,
    /// The log-probability of each under the distribution that it was drawn from (at temperature 1 when greedy).
    pub log_probs: Vec<f32>,
    /// Whether a stop token ended it; otherwise it was cut off.
    pub stopped: bool,
}

/// A sequence in the batch.
struct Active {
    prompt: usize,
    sample: usize,
    sequence: u64,
    position: u32,
    cache: KvCache,
    out: Sample,
}

/// Generates every sample of every prompt; the result is in the order of the prompts and their samples.
/// `progress` is told the number of finished sequences.
///
/// # Panics
/// If a prompt is empty.
pub fn generate<B: NoisyBackend>(
    decoder: &Decoder<B>,
    prompts: &[Prompt],
    how: &Generation,
    noise: &Noise,
    mut progress: impl FnMut(usize),
) -> Vec<Vec<Sample>> {
    let mut results: Vec<Vec<Option<Sample>>> = prompts.iter().map(|p| vec![None; p.samples.len()]).collect();
    let (mut active, mut next, mut finished) = (Vec::new(), 0, 0);
    while next < prompts.len() || !active.is_empty() {
        let room = how.batch.saturating_sub(active.len());
        let admitted = admit(&prompts[next..], room, active.is_empty());
        if admitted > 0 {
            active.extend(prefill(decoder, prompts, next..next + admitted, how, noise));
            next += admitted;
        } else {
            decode(decoder, &mut active, how, noise);
        }
        active.retain_mut(|sequence: &mut Active| {
            let done = sequence.out.stopped || sequence.out.ids.len() >= how.max_new_tokens;
            if done {
                finished += 1;
                let empty = Sample { ids: Vec::new(), log_probs: Vec::new(), stopped: false };
                results[sequence.prompt][sequence.sample] = Some(std::mem::replace(&mut sequence.out, empty));
            }
            !done
        });
        progress(finished);
    }
    let all = |samples: Vec<Option<Sample>>| samples.into_iter().flatten().collect();
    results.into_iter().map(all).collect()
}

/// How many of the waiting prompts fit into `room`; at least one where the batch is empty.
fn admit(waiting: &[Prompt], room: usize, empty: bool) -> usize {
    // A few finished sequences are not worth a prefill of their own: wait until the first group fits.
    let mut used = 0;
    let fits = |prompt: &&Prompt| {
        used += prompt.samples.len();
        used <= room
    };
    let count = waiting.iter().take_while(fits).count();
    if empty { count.max(1).min(waiting.len()) } else { count }
}

/// Computes prompts once each and draws the first token of all their samples.
fn prefill<B: NoisyBackend>(
    decoder: &Decoder<B>,
    prompts: &[Prompt],
    range: std::ops::Range<usize>,
    how: &Generation,
    noise: &Noise,
) -> Vec<Active> {
    let chosen = &prompts[range.clone()];
    let rows: Vec<Vec<Row>> =
        chosen.iter().map(|p| sequence_rows(p.sequence, p.sequence, p.ids.len(), p.ids.len())).collect();
    let batch = Batch::pack(chosen.iter().zip(&rows).map(|(p, rows)| (&p.ids[..], &rows[..])));
    let mut caches = vec![KvCache::new(decoder.blueprint.config.layers); chosen.len()];
    let hidden = decoder.hidden_cached(&batch, noise, &mut caches.iter_mut().collect::<Vec<_>>());
    let last: Vec<u32> = batch.segments.ranges().map(|rows| rows.end as u32 - 1).collect();
    let logits = B::host(&decoder.logits(hidden, &batch, &last, noise).into_primitive().tensor());
    let vocab = decoder.blueprint.config.vocab_size;
    let mut active = Vec::new();
    for (((index, prompt), cache), logits) in range.zip(chosen).zip(caches).zip(logits.chunks_exact(vocab)) {
        for (sample, &sequence) in prompt.samples.iter().enumerate() {
            let mut started = Active {
                prompt: index,
                sample,
                sequence,
                position: prompt.ids.len() as u32,
                cache: cache.clone(),
                out: Sample { ids: Vec::new(), log_probs: Vec::new(), stopped: false },
            };
            started.draw(logits, how);
            active.push(started);
        }
    }
    active
}

/// One more token for every sequence in the batch.
fn decode<B: NoisyBackend>(decoder: &Decoder<B>, active: &mut [Active], how: &Generation, noise: &Noise) {
    let tokens: Vec<([u32; 1], [Row; 1])> = active.iter().map(Active::last_token).collect();
    let batch = Batch::pack(tokens.iter().map(|(id, row)| (&id[..], &row[..])));
    let mut caches: Vec<&mut KvCache> = active.iter_mut().map(|sequence| &mut sequence.cache).collect();
    let hidden = decoder.hidden_cached(&batch, noise, &mut caches);
    let every: Vec<u32> = (0..batch.ids.len() as u32).collect();
    let logits = B::host(&decoder.logits(hidden, &batch, &every, noise).into_primitive().tensor());
    let vocab = decoder.blueprint.config.vocab_size;
    active.par_iter_mut().zip(logits.par_chunks_exact(vocab)).for_each(|(sequence, logits)| {
        sequence.draw(logits, how);
    });
}

impl Active {
    /// The token drawn last, and its address.
    fn last_token(&self) -> ([u32; 1], [Row; 1]) {
        let id = self.out.ids.last().copied().unwrap_or_default();
        ([id], [Row { sequence: self.sequence, position: self.position - 1 }])
    }

    /// Draws the token at `position`.
    fn draw(&mut self, logits: &[f32], how: &Generation) {
        let uniform = how.key.uniform(Row { sequence: self.sequence, position: self.position }, 0);
        let (id, log_prob) = how.sampler.choose(logits, uniform);
        self.out.ids.push(id);
        self.out.log_probs.push(log_prob);
        self.out.stopped = how.stop.contains(&id);
        self.position += 1;
    }
}

/// Larger first; NaN last; equal ones in the order of their index.
pub(crate) fn descending(a: (usize, f32), b: (usize, f32)) -> Ordering {
    let key = |x: f32| if x.is_nan() { f32::NEG_INFINITY } else { x };
    key(b.1).total_cmp(&key(a.1)).then(a.0.cmp(&b.0))
}
