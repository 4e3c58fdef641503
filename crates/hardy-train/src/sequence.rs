//! A prompt with its response as training sees it, and the packing of several into one pass.

use std::ops::Range;

use hardy_model::{Batch, sequence_rows};
use hardy_ops::{Row, ops::attention::Segments};

/// A prompt and a response to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// The tokens of both; at least one of each.
    pub ids: Vec<u32>,
    /// How many of them are the prompt's.
    pub prompt_length: usize,
    /// The sequence id of the prompt's tokens.
    pub prompt: u64,
    /// The sequence id of the response's tokens.
    pub sample: u64,
}

impl Sequence {
    /// How many tokens are learned from.
    pub fn response_length(&self) -> usize {
        self.ids.len() - self.prompt_length
    }

    /// Whether both respond to the same prompt, tokens and addresses.
    fn shares_prompt(&self, other: &Self) -> bool {
        let prompt = |s: &Self| (s.prompt, s.prompt_length);
        prompt(self) == prompt(other) && self.ids[..self.prompt_length] == other.ids[..other.prompt_length]
    }
}

/// Several sequences in one pass: every token but the last goes in, every response token is a target. Neighbours that
/// respond to the same prompt share its rows, so that it is computed once, forward and backward.
#[derive(Clone, Debug)]
pub struct Packed {
    /// What goes in.
    pub batch: Batch,
    /// The rows whose logits are needed.
    pub rows: Vec<u32>,
    /// The token that each of these rows should predict.
    pub targets: Vec<u32>,
}

impl Packed {
    /// Packs `sequences` one after another.
    pub fn new(sequences: &[Sequence]) -> Self {
        let mut packing = Packing::default();
        sequences.chunk_by(Sequence::shares_prompt).for_each(|group| packing.add(group));
        let Packing { ids, addresses, segments, rows, targets } = packing;
        let batch = Batch { ids, rows: addresses.into(), segments: Segments::new(segments), dropout: None };
        Self { batch, rows, targets }
    }
}

/// A pass under construction.
#[derive(Default)]
struct Packing {
    ids: Vec<u32>,
    addresses: Vec<Row>,
    /// Length of every run of rows, and the run that it continues.
    segments: Vec<(usize, Option<usize>)>,
    rows: Vec<u32>,
    targets: Vec<u32>,
}

impl Packing {
    /// Adds responses to one prompt.
    fn add(&mut self, group: &[Sequence]) {
        let [first, others @ ..] = group else { return };
        let prompt = if others.is_empty() { None } else { Some(self.segments.len()) };
        let prompt_end = self.ids.len() + first.prompt_length;
        if prompt.is_some() {
            self.add_rows(first, 0..first.prompt_length, None);
        }
        for sequence in group {
            let begin = if prompt.is_some() { sequence.prompt_length } else { 0 };
            let own = self.ids.len() + sequence.prompt_length - begin;
            self.add_rows(sequence, begin..sequence.ids.len() - 1, prompt);
            // The prompt's last token predicts the first of the response.
            self.rows.push(prompt_end as u32 - 1);
            self.rows.extend(own as u32..self.ids.len() as u32);
            self.targets.extend_from_slice(&sequence.ids[sequence.prompt_length..]);
        }
    }

    fn add_rows(&mut self, sequence: &Sequence, tokens: Range<usize>, prefix: Option<usize>) {
        let addresses = sequence_rows(sequence.prompt, sequence.sample, sequence.prompt_length, tokens.end);
        self.addresses.extend_from_slice(&addresses[tokens.clone()]);
        self.ids.extend_from_slice(&sequence.ids[tokens.clone()]);
        self.segments.push((tokens.len(), prefix));
    }
}

/// Cuts sequences into runs of at most `limit` tokens each, a shared prompt counted once, or one sequence where that
/// alone is longer.
pub fn micro_batches(sequences: &[Sequence], limit: usize) -> Vec<Range<usize>> {
    let mut batches: Vec<Range<usize>> = Vec::new();
    let mut used = 0;
    for (index, sequence) in sequences.iter().enumerate() {
        let shared = index > 0 && sequences[index - 1].shares_prompt(sequence);
        let more = if shared { sequence.response_length() } else { sequence.ids.len() };
        match batches.last_mut() {
            Some(last) if used + more <= limit => {
                last.end = index + 1;
                used += more;
            }
            _ => {
                batches.push(index..index + 1);
                used = sequence.ids.len();
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(prompt: usize, response: usize) -> Sequence {
        let ids = (0..(prompt + response) as u32).collect();
        Sequence { ids, prompt_length: prompt, prompt: 7, sample: 8 }
    }

    #[test]
    fn responses_to_one_prompt_share_its_rows() {
        let packed = Packed::new(&[sequence(3, 2), sequence(3, 1), sequence(3, 3), sequence(2, 2)]);
        assert_eq!(packed.batch.ids, [0, 1, 2, 3, 3, 4, 0, 1, 2]);
        assert_eq!(packed.batch.segments.ranges().collect::<Vec<_>>(), [0..3, 3..4, 4..4, 4..6, 6..9]);
        assert_eq!(packed.rows, [2, 3, 2, 2, 4, 5, 7, 8]);
        assert_eq!(packed.targets, [3, 4, 3, 3, 4, 5, 2, 3]);
    }

    #[test]
    fn every_response_token_is_predicted_by_the_row_before_it() {
        let packed = Packed::new(&[sequence(3, 2), sequence(1, 4)]);
        assert_eq!(packed.targets, [3, 4, 1, 2, 3, 4]);
        let inputs: Vec<u32> = packed.rows.iter().map(|&row| packed.batch.ids[row as usize]).collect();
        assert_eq!(inputs, [2, 3, 0, 1, 2, 3]);
    }

    #[test]
    fn prompt_tokens_have_the_prompts_address_and_the_rest_the_samples() {
        let packed = Packed::new(&[sequence(2, 3)]);
        let addresses: Vec<_> = packed.batch.rows.iter().map(|row| (row.sequence, row.position)).collect();
        assert_eq!(addresses, [(7, 0), (7, 1), (8, 2), (8, 3)]);
    }

    #[test]
    fn micro_batches_hold_at_most_the_limit_and_every_sequence_once() {
        let sequences = [sequence(2, 2), sequence(3, 3), sequence(9, 9), sequence(1, 1), sequence(1, 2)];
        assert_eq!(micro_batches(&sequences, 10), [0..2, 2..3, 3..5]);
        assert_eq!(micro_batches(&vec![sequence(4, 2); 5], 10), [0..3, 3..5]);
    }
}
