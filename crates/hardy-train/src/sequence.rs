//! A prompt with its response as training sees it, and the packing of several into one pass.

use std::{collections::HashMap, ops::Range};

use hardy_model::{Batch, sequence_rows};
use hardy_ops::{Address, Indices, Row, ops::attention::Segments};
use serde::{Deserialize, Serialize};

/// A prompt and a response to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

/// Several sequences in one pass: every token but the last goes in, every response token is a target.
#[derive(Clone, Debug)]
pub struct Packed {
    /// What goes in.
    pub batch: Batch,
    /// The rows whose logits are needed.
    pub rows: Indices,
    /// The token that each of these rows should predict.
    pub targets: Indices,
    /// Whether responses share the rows of their prompt.
    pub shared: bool,
}

impl Packed {
    /// Packs `sequences` one after another. Where they `share`, neighbours that respond to the same prompt have its rows in
    /// common, so that it is computed once, forward and backward.
    pub fn new(sequences: &[Sequence], share: bool) -> Self {
        Packing::default().pack(sequences, share)
    }
}

/// Cuts sequences into runs of at most `limit` tokens each, or one sequence where that alone is longer, and packs each for
/// one pass. Where they `share`, a prompt counts once. Rows that an earlier part computed are marked as repeated.
///
/// Sequences must not share where a rule acts in the backward pass: see [`hardy_ops::Noise::acts_backward`].
pub fn parts(
    sequences: &[Sequence],
    limit: usize,
    share: bool,
) -> impl Iterator<Item = (Range<usize>, Packed)> + '_ {
    let mut packing = Packing::default();
    cut(sequences, limit, share).into_iter().map(move |part| {
        let packed = packing.pack(&sequences[part.clone()], share);
        (part, packed)
    })
}

fn cut(sequences: &[Sequence], limit: usize, share: bool) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut used = 0;
    for (index, sequence) in sequences.iter().enumerate() {
        let shared = share && index > 0 && sequences[index - 1].shares_prompt(sequence);
        let more = if shared { sequence.response_length() } else { sequence.ids.len() };
        match parts.last_mut() {
            Some(last) if used + more <= limit => {
                last.end = index + 1;
                used += more;
            }
            _ => {
                parts.push(index..index + 1);
                used = sequence.ids.len();
            }
        }
    }
    parts
}

/// Passes under construction, one after another.
#[derive(Default)]
struct Packing {
    pass: Pass,
    /// How many positions of every sequence were computed, in this pass or one before.
    computed: HashMap<u64, u32>,
}

/// One of them.
#[derive(Default)]
struct Pass {
    ids: Vec<u32>,
    addresses: Vec<Address>,
    /// Length of every run of rows, and the run that it continues.
    segments: Vec<(usize, Option<usize>)>,
    rows: Vec<u32>,
    targets: Vec<u32>,
    groups: u32,
}

impl Packing {
    fn pack(&mut self, sequences: &[Sequence], share: bool) -> Packed {
        if share {
            sequences.chunk_by(Sequence::shares_prompt).for_each(|group| self.add(group));
        } else {
            sequences.iter().for_each(|sequence| self.add(std::slice::from_ref(sequence)));
        }
        let Pass { ids, addresses, segments, rows, targets, .. } = std::mem::take(&mut self.pass);
        let shared = segments.iter().any(|(_, prefix)| prefix.is_some());
        let rows_of_batch = addresses.into_iter().collect();
        let (ids, rows, targets) = (ids.into(), rows.into(), targets.into());
        let batch = Batch { ids, rows: rows_of_batch, segments: Segments::new(segments), dropout: None };
        Packed { batch, rows, targets, shared }
    }

    /// Adds responses that share their prompt, or one that has it alone.
    fn add(&mut self, group: &[Sequence]) {
        let [first, others @ ..] = group else { return };
        let prompt = if others.is_empty() { None } else { Some(self.pass.segments.len()) };
        let prompt_end = self.pass.ids.len() + first.prompt_length;
        if prompt.is_some() {
            self.add_rows(first, first.prompt, 0..first.prompt_length, None);
        }
        for sequence in group {
            let begin = if prompt.is_some() { sequence.prompt_length } else { 0 };
            let own = self.pass.ids.len() + sequence.prompt_length - begin;
            self.add_rows(sequence, sequence.sample, begin..sequence.ids.len() - 1, prompt);
            // The prompt's last token predicts the first of the response.
            self.pass.rows.push(prompt_end as u32 - 1);
            self.pass.rows.extend(own as u32..self.pass.ids.len() as u32);
            self.pass.targets.extend_from_slice(&sequence.ids[sequence.prompt_length..]);
        }
        self.pass.groups += 1;
    }

    /// Adds rows whose gradients are those of `gradient`: the sample, or of shared rows the prompt.
    fn add_rows(&mut self, sequence: &Sequence, gradient: u64, tokens: Range<usize>, prefix: Option<usize>) {
        let rows = sequence_rows(sequence.prompt, sequence.sample, sequence.prompt_length, tokens.end);
        for row in &rows[tokens.clone()] {
            let computed = self.computed.entry(row.sequence).or_default();
            self.pass.addresses.push(Address {
                row: *row,
                gradient: Row { sequence: gradient, ..*row },
                repeated: row.position < *computed,
                group: self.pass.groups,
            });
            *computed = (*computed).max(row.position + 1);
        }
        self.pass.ids.extend_from_slice(&sequence.ids[tokens.clone()]);
        self.pass.segments.push((tokens.len(), prefix));
    }
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
        let packed = Packed::new(&[sequence(3, 2), sequence(3, 1), sequence(3, 3), sequence(2, 2)], true);
        assert_eq!(packed.batch.ids[..], [0, 1, 2, 3, 3, 4, 0, 1, 2]);
        assert_eq!(packed.batch.segments.ranges().collect::<Vec<_>>(), [0..3, 3..4, 4..4, 4..6, 6..9]);
        assert_eq!(packed.rows[..], [2, 3, 2, 2, 4, 5, 7, 8]);
        assert_eq!(packed.targets[..], [3, 4, 3, 3, 4, 5, 2, 3]);
    }

    #[test]
    fn every_response_token_is_predicted_by_the_row_before_it() {
        let packed = Packed::new(&[sequence(3, 2), sequence(1, 4)], true);
        assert_eq!(packed.targets[..], [3, 4, 1, 2, 3, 4]);
        let inputs: Vec<u32> = packed.rows.iter().map(|&row| packed.batch.ids[row as usize]).collect();
        assert_eq!(inputs, [2, 3, 0, 1, 2, 3]);
    }

    #[test]
    fn prompt_tokens_have_the_prompts_address_and_the_rest_the_samples() {
        let packed = Packed::new(&[sequence(2, 3)], true);
        let addresses: Vec<_> = packed.batch.rows.iter().map(|row| (row.sequence, row.position)).collect();
        assert_eq!(addresses, [(7, 0), (7, 1), (8, 2), (8, 3)]);
    }

    #[test]
    fn parts_hold_at_most_the_limit_and_every_sequence_once() {
        let sequences = [sequence(2, 2), sequence(3, 3), sequence(9, 9), sequence(1, 1), sequence(1, 2)];
        assert_eq!(cut(&sequences, 10, true), [0..2, 2..3, 3..5]);
        assert_eq!(cut(&vec![sequence(4, 2); 5], 10, true), [0..3, 3..5]);
        assert_eq!(cut(&vec![sequence(4, 2); 5], 12, false), [0..2, 2..4, 4..5]);
    }

    #[test]
    fn a_prompt_that_was_computed_before_is_repeated_whether_or_not_its_rows_are_shared() {
        let respond = |sample| Sequence { sample, ..sequence(3, 3) };
        let sequences = [respond(8), respond(9), respond(10)];
        for share in [true, false] {
            for limit in [1, 10, 100] {
                let packed: Vec<Packed> = parts(&sequences, limit, share).map(|(_, packed)| packed).collect();
                let rows = || packed.iter().flat_map(|packed| packed.batch.rows.addresses());
                let fresh = rows().filter(|address| !address.repeated);
                let fresh: Vec<_> =
                    fresh.map(|address| (address.row.sequence, address.row.position)).collect();
                let own = [8, 9, 10].into_iter().flat_map(|sample| [(sample, 3), (sample, 4)]);
                let mut expected: Vec<_> = [(7, 0), (7, 1), (7, 2)].into_iter().chain(own).collect();
                assert_eq!(fresh, expected, "{limit}, {share}");
                if !share {
                    expected = [8, 9, 10].into_iter().flat_map(|s| (0..5).map(move |p| (s, p))).collect();
                    let gradients = rows().map(|address| address.gradient);
                    assert!(gradients.map(|row| (row.sequence, row.position)).eq(expected));
                }
            }
        }
    }
}
