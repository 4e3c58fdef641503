//! Generation in batches with a KV cache: every prompt is computed once for all its samples, a finished sequence
//! leaves the batch, and the next sample takes its place at once. What a sequence becomes depends on its own address alone.

mod late;

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use burn_tensor::Tensor;
use hardy_numerics::NoiseKey;
use hardy_ops::{
    Noise, NoisyBackend, Row,
    ops::{
        attention::{KvBuffer, KvSequence},
        gather::gather_rows,
        sample::{Drawn, Sampler, sample},
    },
};
use rayon::prelude::*;

use crate::{
    decoder::{Batch, Decoder, sequence_rows},
    frozen::Frozen,
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
struct Ready<B: NoisyBackend> {
    prompt: usize,
    started: usize,
    cached: KvSequence,
    /// Of the token after it, `[1, vocab]`.
    logits: Tensor<B, 2>,
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
    progress: impl FnMut(usize) + Send,
) -> Vec<Vec<Sample>> {
    let frozen = Frozen::new(decoder, noise);
    let progress = Mutex::new((0, progress));
    let ended = || {
        let (finished, progress) = &mut *progress.lock().unwrap_or_else(PoisonError::into_inner);
        *finished += 1;
        progress(*finished);
    };
    let lanes = lanes::<B>(prompts, how, noise);
    if lanes.len() == 1 {
        return in_one_batch(&frozen, prompts, how, ended);
    }
    let how = Generation { batch: how.batch / lanes.len(), ..how.clone() };
    let run = |lane: Range<usize>| {
        let noise = noise.counted_apart();
        (in_one_batch(&frozen.under(&noise), &prompts[lane], &how, ended), noise)
    };
    let (samples, counted): (Vec<_>, Vec<_>) = lanes.into_par_iter().with_max_len(1).map(run).unzip();
    counted.iter().for_each(|part| noise.count(part));
    samples.concat()
}

/// In how many lanes a batch of at least so many sequences is generated.
const LANES: [(usize, usize); 2] = [(256, 4), (32, 2)];

/// The prompts in parts that are generated side by side, each a batch of its own, so that threads need not wait for each other at
/// every operator; an idle one helps where others still compute. The parts do not depend on the number of threads. Where a
/// device computes, or somebody watches in order, there is one.
fn lanes<B: NoisyBackend>(prompts: &[Prompt], how: &Generation, noise: &Noise) -> Vec<Range<usize>> {
    let total: usize = prompts.iter().map(|prompt| prompt.samples.len()).sum();
    let wanted = LANES.iter().find(|(sequences, _)| how.batch.min(total) >= *sequences);
    let Some((_, wanted)) = wanted.filter(|_| B::ON_HOST && !noise.is_watched()) else {
        let all = 0..prompts.len();
        return vec![all];
    };
    let (mut lanes, mut first, mut samples) = (Vec::new(), 0, 0);
    for (index, prompt) in prompts.iter().enumerate() {
        samples += prompt.samples.len();
        if samples * wanted >= total * (lanes.len() + 1) {
            lanes.push(first..index + 1);
            first = index + 1;
        }
    }
    if let Some(last) = lanes.last_mut() {
        last.end = prompts.len();
    }
    lanes
}

/// The same in one batch, which calls `ended` at the end of every sequence.
fn in_one_batch<B: NoisyBackend>(
    frozen: &Frozen<B>,
    prompts: &[Prompt],
    how: &Generation,
    ended: impl Fn(),
) -> Vec<Vec<Sample>> {
    let mut results: Vec<Vec<Option<Sample>>> = prompts.iter().map(|p| vec![None; p.samples.len()]).collect();
    let total: usize = prompts.iter().map(|p| p.samples.len()).sum();
    let mut cache = cache(frozen.decoder, prompts, how);
    let (mut active, mut ready, mut next, mut finished) = (Vec::new(), VecDeque::new(), 0, 0);
    while finished < total {
        let room = how.batch.max(1) - active.len();
        let waiting: usize = ready.iter().map(|ready: &Ready<B>| ready.waiting(prompts)).sum();
        let admitted = admit(&prompts[next..], room.saturating_sub(waiting));
        ready.extend(prefill(frozen, prompts, next..next + admitted, &mut cache));
        next += admitted;
        let started = start(&mut ready, prompts, &mut cache, how, room);
        let mut finish = |sequence: &mut Active, cache: &mut KvBuffer<B>| {
            finished += 1;
            cache.finish(sequence.cached);
            results[sequence.prompt][sequence.sample] = Some(std::mem::take(&mut sequence.out));
            ended();
        };
        let none_waits = next == prompts.len() && ready.iter().all(|ready| ready.waiting(prompts) == 0);
        if started.is_empty() && none_waits && late::may_be::<B>(frozen.noise, how) {
            late::decode_to_the_end(frozen, &mut active, &mut cache, how, &mut finish);
        }
        // Those that start have drawn a token already.
        if started.is_empty() && !active.is_empty() {
            decode(frozen, &mut active, &mut cache, how);
        }
        active.extend(started);
        active.retain_mut(|sequence: &mut Active| {
            let has_ended = sequence.has_ended(how);
            if has_ended {
                finish(sequence, &mut cache);
            }
            !has_ended
        });
    }
    let all = |samples: Vec<Option<Sample>>| samples.into_iter().flatten().collect();
    results.into_iter().map(all).collect()
}

/// A cache for all prompts and samples that are alive at once. Every such prompt has a sample in the batch, or one that
/// enters it next, so that there are never more of them than the batch has room for.
fn cache<B: NoisyBackend>(decoder: &Decoder<B>, prompts: &[Prompt], how: &Generation) -> KvBuffer<B> {
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
    prompts: &[Prompt],
    range: Range<usize>,
    cache: &mut KvBuffer<B>,
) -> Vec<Ready<B>> {
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
    let logits = frozen.logits(hidden, &batch, &last);
    let one = |(row, (prompt, cached)): (u32, (usize, KvSequence))| Ready {
        prompt,
        started: 0,
        cached,
        logits: gather_rows(logits.clone(), &[row]),
    };
    (0..).zip(chosen.into_iter().zip(cached)).map(one).collect()
}

/// Starts as many waiting samples as there is `room` for: draws the first token of each.
fn start<B: NoisyBackend>(
    ready: &mut VecDeque<Ready<B>>,
    prompts: &[Prompt],
    cache: &mut KvBuffer<B>,
    how: &Generation,
    room: usize,
) -> Vec<Active> {
    let (mut started, mut logits) = (Vec::new(), Vec::new());
    while started.len() < room {
        let Some(from) = ready.front_mut() else { break };
        if from.waiting(prompts) == 0 {
            ready.pop_front();
            continue;
        }
        started.push(from.next(prompts, cache));
        logits.push(from.logits.clone());
    }
    if !started.is_empty() {
        draw(&mut started, Tensor::cat(logits, 0), how);
    }
    started
}

/// One more token for every sequence in the batch.
fn decode<B: NoisyBackend>(
    frozen: &Frozen<B>,
    active: &mut [Active],
    cache: &mut KvBuffer<B>,
    how: &Generation,
) {
    let tokens: Vec<([u32; 1], [Row; 1])> = active.iter().map(Active::last_token).collect();
    let batch = Batch::pack(tokens.iter().map(|(id, row)| (&id[..], &row[..])));
    let cached: Vec<KvSequence> = active.iter().map(|sequence| sequence.cached).collect();
    let hidden = frozen.hidden(&batch, cache, &cached);
    let every: Vec<u32> = (0..batch.ids.len() as u32).collect();
    draw(active, frozen.logits(hidden, &batch, &every), how);
}

/// Draws the next token of every sequence from its row of `logits` `[sequences, vocab]`.
fn draw<B: NoisyBackend>(active: &mut [Active], logits: Tensor<B, 2>, how: &Generation) {
    let rows: Vec<Row> = active.iter().map(Active::next_row).collect();
    let drawn = sample(logits, &rows, &how.sampler, how.key);
    active.iter_mut().zip(drawn).for_each(|(sequence, drawn)| sequence.push(drawn, how));
}

impl<B: NoisyBackend> Ready<B> {
    /// How many samples wait.
    fn waiting(&self, prompts: &[Prompt]) -> usize {
        prompts[self.prompt].samples.len() - self.started
    }

    /// The next of them, which has drawn nothing yet.
    fn next(&mut self, prompts: &[Prompt], cache: &mut KvBuffer<B>) -> Active {
        let prompt = &prompts[self.prompt];
        self.started += 1;
        Active {
            prompt: self.prompt,
            sample: self.started - 1,
            sequence: prompt.samples[self.started - 1],
            position: prompt.ids.len() as u32,
            cached: cache.sample(Some(self.cached)),
            out: Sample::default(),
        }
    }
}

impl Active {
    /// The address of the token that is drawn next.
    fn next_row(&self) -> Row {
        Row { sequence: self.sequence, position: self.position }
    }

    /// The token drawn last, and its address.
    fn last_token(&self) -> ([u32; 1], [Row; 1]) {
        let id = self.out.ids.last().copied().unwrap_or_default();
        ([id], [Row { sequence: self.sequence, position: self.position - 1 }])
    }

    /// Whether it has no next token.
    fn has_ended(&self, how: &Generation) -> bool {
        self.out.stopped || self.out.non_finite || self.out.ids.len() >= how.max_new_tokens
    }

    /// Takes the token at `position`, or marks the sequence where there was none to draw.
    fn push(&mut self, drawn: Option<Drawn>, how: &Generation) {
        let Some((id, log_prob)) = drawn else {
            self.out.non_finite = true;
            return;
        };
        self.out.ids.push(id);
        self.out.log_probs.push(log_prob);
        self.out.stopped = how.stop.contains(&id);
        self.position += 1;
    }
}
