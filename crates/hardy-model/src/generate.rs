//! Generation in batches with a KV cache: every prompt is computed once for all its samples, a finished sequence
//! leaves the batch, and the next sample takes its place at once. What a sequence becomes depends on its own address alone.

use std::{cmp::Ordering, collections::VecDeque, ops::Range};

use hardy_numerics::NoiseKey;
use hardy_ops::{
    Noise, NoisyBackend, Row,
    ops::attention::{KvBuffer, KvSequence},
};
use rayon::prelude::*;

use crate::{
    decoder::{Batch, Decoder, sequence_rows},
    frozen::Frozen,
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
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// The new tokens, with the stop token where there was one.
    pub ids: Vec<u32>,
    /// The log-probability of each among all tokens, before top-k and top-p (at temperature 1 when greedy).
    pub log_probs: Vec<f32>,
    /// Whether a stop token ended it; otherwise it was cut off.
    pub stopped: bool,
    /// Whether it was cut off because the next token's logits are no distribution, see [`Sampler::choose`].
    pub non_finite: bool,
}

/// A sequence in the batch.
struct Active {
    prompt: usize,
    sample: usize,
    sequence: u64,
    position: u32,
    cached: KvSequence,
    out: Sample,
}

/// A prompt that has been computed, some of whose samples still wait for a place.
struct Ready {
    prompt: usize,
    started: usize,
    cached: KvSequence,
    logits: Vec<f32>,
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
    let total: usize = prompts.iter().map(|p| p.samples.len()).sum();
    let frozen = Frozen::new(decoder, noise);
    let mut cache = cache(decoder, prompts, how);
    let (mut active, mut ready, mut next, mut finished) = (Vec::new(), VecDeque::new(), 0, 0);
    while finished < total {
        let room = how.batch.max(1) - active.len();
        let waiting: usize = ready.iter().map(|ready: &Ready| ready.waiting(prompts)).sum();
        let admitted = admit(&prompts[next..], room.saturating_sub(waiting));
        ready.extend(prefill(&frozen, decoder, prompts, next..next + admitted, &mut cache));
        next += admitted;
        let before = active.len();
        active.extend((0..room).map_while(|_| start(&mut ready, prompts, &mut cache, how)));
        // Those that start have drawn a token already.
        if active.len() == before {
            decode(&frozen, decoder, &mut active, &mut cache, how);
        }
        active.retain_mut(|sequence: &mut Active| {
            let out = &sequence.out;
            let done = out.stopped || out.non_finite || out.ids.len() >= how.max_new_tokens;
            if done {
                finished += 1;
                cache.finish(sequence.cached);
                results[sequence.prompt][sequence.sample] = Some(std::mem::take(&mut sequence.out));
            }
            !done
        });
        progress(finished);
    }
    let all = |samples: Vec<Option<Sample>>| samples.into_iter().flatten().collect();
    results.into_iter().map(all).collect()
}

/// A cache for all prompts and samples that are alive at once. Every such prompt has a sample in the batch, or one that
/// enters it next, so that there are never more of them than the batch has room for.
fn cache<B: NoisyBackend>(decoder: &Decoder<B>, prompts: &[Prompt], how: &Generation) -> KvBuffer {
    let wanted = || prompts.iter().filter(|prompt| !prompt.samples.is_empty());
    let longest = wanted().map(|prompt| prompt.ids.len()).max().unwrap_or(0);
    let samples = wanted().map(|prompt| prompt.samples.len()).sum::<usize>().min(how.batch.max(1));
    let prompts = wanted().count().min(samples);
    KvBuffer::new(decoder.kv_places(prompts, longest), decoder.kv_places(samples, how.max_new_tokens))
}

/// How many of the waiting prompts it takes to fill `room`.
fn admit(waiting: &[Prompt], room: usize) -> usize {
    let mut used = 0;
    let needed = |prompt: &&Prompt| {
        let needed = used < room;
        used += prompt.samples.len();
        needed
    };
    waiting.iter().take_while(needed).count()
}

/// Computes prompts that have samples once each.
fn prefill<B: NoisyBackend>(
    frozen: &Frozen<B>,
    decoder: &Decoder<B>,
    prompts: &[Prompt],
    range: Range<usize>,
    cache: &mut KvBuffer,
) -> Vec<Ready> {
    let chosen: Vec<usize> = range.filter(|&prompt| !prompts[prompt].samples.is_empty()).collect();
    if chosen.is_empty() {
        return Vec::new();
    }
    let all = || chosen.iter().map(|&prompt| &prompts[prompt]);
    let rows: Vec<Vec<Row>> =
        all().map(|p| sequence_rows(p.sequence, p.sequence, p.ids.len(), p.ids.len())).collect();
    let batch = Batch::pack(all().zip(&rows).map(|(p, rows)| (&p.ids[..], &rows[..])));
    let cached: Vec<KvSequence> = all().map(|prompt| cache.prompt(prompt.samples.len())).collect();
    let hidden = frozen.hidden(&batch, cache, &cached);
    let last: Vec<u32> = batch.segments.ranges().map(|rows| rows.end as u32 - 1).collect();
    let logits = B::host(&frozen.logits(hidden, &batch, &last).into_primitive().tensor());
    let rows = logits.chunks_exact(decoder.blueprint.config.vocab_size);
    let one = |((prompt, cached), logits): ((usize, KvSequence), &[f32])| Ready {
        prompt,
        started: 0,
        cached,
        logits: logits.to_vec(),
    };
    chosen.into_iter().zip(cached).zip(rows).map(one).collect()
}

/// Starts the next waiting sample: draws its first token.
fn start(
    ready: &mut VecDeque<Ready>,
    prompts: &[Prompt],
    cache: &mut KvBuffer,
    how: &Generation,
) -> Option<Active> {
    while ready.front().is_some_and(|ready| ready.waiting(prompts) == 0) {
        ready.pop_front();
    }
    let from = ready.front_mut()?;
    let prompt = &prompts[from.prompt];
    let mut started = Active {
        prompt: from.prompt,
        sample: from.started,
        sequence: prompt.samples[from.started],
        position: prompt.ids.len() as u32,
        cached: cache.sample(Some(from.cached)),
        out: Sample::default(),
    };
    from.started += 1;
    started.draw(&from.logits, how);
    Some(started)
}

/// One more token for every sequence in the batch.
fn decode<B: NoisyBackend>(
    frozen: &Frozen<B>,
    decoder: &Decoder<B>,
    active: &mut [Active],
    cache: &mut KvBuffer,
    how: &Generation,
) {
    let tokens: Vec<([u32; 1], [Row; 1])> = active.iter().map(Active::last_token).collect();
    let batch = Batch::pack(tokens.iter().map(|(id, row)| (&id[..], &row[..])));
    let cached: Vec<KvSequence> = active.iter().map(|sequence| sequence.cached).collect();
    let hidden = frozen.hidden(&batch, cache, &cached);
    let every: Vec<u32> = (0..batch.ids.len() as u32).collect();
    let logits = B::host(&frozen.logits(hidden, &batch, &every).into_primitive().tensor());
    let vocab = decoder.blueprint.config.vocab_size;
    active.par_iter_mut().zip(logits.par_chunks_exact(vocab)).for_each(|(sequence, logits)| {
        sequence.draw(logits, how);
    });
}

impl Ready {
    /// How many samples wait.
    fn waiting(&self, prompts: &[Prompt]) -> usize {
        prompts[self.prompt].samples.len() - self.started
    }
}

impl Active {
    /// The token drawn last, and its address.
    fn last_token(&self) -> ([u32; 1], [Row; 1]) {
        let id = self.out.ids.last().copied().unwrap_or_default();
        ([id], [Row { sequence: self.sequence, position: self.position - 1 }])
    }

    /// Draws the token at `position`, or marks the sequence where there is none to draw.
    fn draw(&mut self, logits: &[f32], how: &Generation) {
        let uniform = how.key.uniform(Row { sequence: self.sequence, position: self.position }, 0);
        let Some((id, log_prob)) = how.sampler.choose(logits, uniform) else {
            self.out.non_finite = true;
            return;
        };
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
