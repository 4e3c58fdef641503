//! A prompt with its response as training sees it, and the packing of several into one pass.

use std::ops::Range;

use hardy_model::{Batch, sequence_rows};

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
}

/// Several sequences in one pass: every token but the last goes in, every response token is a target.
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
        let addresses: Vec<_> = sequences
            .iter()
            .map(|s| sequence_rows(s.prompt, s.sample, s.prompt_length, s.ids.len() - 1))
            .collect();
        let inputs = sequences.iter().zip(&addresses).map(|(s, rows)| (&s.ids[..s.ids.len() - 1], &rows[..]));
        let batch = Batch::pack(inputs);
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        for (sequence, range) in sequences.iter().zip(batch.segments.ranges()) {
            let first = range.start + sequence.prompt_length - 1;
            rows.extend((first..range.end).map(|row| row as u32));
            targets.extend_from_slice(&sequence.ids[sequence.prompt_length..]);
        }
        Self { batch, rows, targets }
    }
}

/// Cuts sequences into runs of at most `limit` tokens each, or one sequence where that alone is longer.
pub fn micro_batches(sequences: &[Sequence], limit: usize) -> Vec<Range<usize>> {
    let mut batches: Vec<Range<usize>> = Vec::new();
    let mut used = 0;
    for (index, sequence) in sequences.iter().enumerate() {
        match batches.last_mut() {
            Some(last) if used + sequence.ids.len() <= limit => {
                last.end = index + 1;
                used += sequence.ids.len();
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
    }
}
