//! Hardy's own log-probabilities of the tokens that an endpoint was asked about.

use hardy_model::{Batch, Decoder, sequence_rows};
use hardy_ops::{Noise, NoisyBackend};
use rayon::prelude::*;

/// Logits of a pass, which bound its tokens.
const LOGITS: usize = 1 << 27;

/// What Hardy says of every token of a sequence but the first.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// Its log-probability, in nats.
    pub log_probs: Vec<f64>,
    /// The most probable token in its place.
    pub top: Vec<u32>,
}

/// Scores the tokens of sequence number `row` under `noise`.
pub fn score<B: NoisyBackend>(decoder: &Decoder<B>, row: usize, ids: &[u32], noise: &Noise) -> Scored {
    let addresses = sequence_rows(row as u64, row as u64, ids.len(), ids.len());
    let batch = Batch::pack([(ids, &addresses[..])]);
    let hidden = decoder.hidden(&batch, noise);
    let vocab = decoder.blueprint.config.vocab_size;
    let predicting: Vec<u32> = (0..ids.len().saturating_sub(1) as u32).collect();
    let (mut log_probs, mut top) = (Vec::new(), Vec::new());
    for rows in predicting.chunks((LOGITS / vocab.max(1)).max(1)) {
        let logits = decoder.logits(hidden.clone(), &batch, rows, noise);
        let logits = B::host(&logits.into_primitive().tensor());
        let targets = rows.iter().map(|&row| ids[row as usize + 1] as usize).collect::<Vec<_>>();
        let found: Vec<(f64, u32)> =
            logits.par_chunks(vocab).zip(&targets).map(|(z, &target)| log_prob(z, target)).collect();
        log_probs.extend(found.iter().map(|(log_prob, _)| log_prob));
        top.extend(found.iter().map(|(_, top)| top));
    }
    Scored { log_probs, top }
}

/// The log-probability of `target` under logits `z`, in f64, and the most probable token.
fn log_prob(z: &[f32], target: usize) -> (f64, u32) {
    let best = (0..z.len()).fold(0, |best, i| if z[i] > z[best] { i } else { best });
    let largest = f64::from(z[best]);
    let sum: f64 = z.iter().map(|&z| (f64::from(z) - largest).exp()).sum();
    (f64::from(z[target]) - largest - sum.ln(), best as u32)
}
