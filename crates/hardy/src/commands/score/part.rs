//! A batch in parts that fit into memory, and the numbers of all parts put back into the batch's shape.

use burn_tensor::Tensor;
use hardy_model::{Batch, Decoder, HostTensor, sequence_rows};
use hardy_ops::{Noise, NoisyBackend, Row, ops::log_prob::log_prob};

use crate::batch_file::ScoreBatch;

/// Tokens of a part.
const TOKENS: usize = 4096;
/// Logits of a part, which bound its tokens where the vocabulary is large.
const LOGITS: usize = 1 << 27;

/// Some sequences of a batch, without their padding.
#[derive(Debug)]
pub struct Part {
    batch: Batch,
    /// The rows of `batch` whose logits are wanted.
    rows: Vec<u32>,
    /// The token that each of these should predict, if one follows it directly.
    targets: Vec<Option<u32>>,
    /// Where each of these stands in the batch's file, counted along its rows.
    places: Vec<usize>,
}

/// A sequence without its padding.
struct Sequence {
    ids: Vec<u32>,
    /// The columns they stand in.
    columns: Vec<usize>,
    row: usize,
}

impl Sequence {
    fn new(batch: &ScoreBatch, row: usize) -> Self {
        let columns: Vec<usize> = (0..batch.ids.width).filter(|&column| batch.mask[row][column]).collect();
        let ids = columns.iter().map(|&column| batch.ids.rows[row][column]).collect();
        Self { ids, columns, row }
    }

    /// The token after the one at `index`, where they are neighbours in the batch too.
    fn target(&self, index: usize) -> Option<u32> {
        let next = *self.columns.get(index + 1)?;
        (next == self.columns[index] + 1).then(|| self.ids[index + 1])
    }

    fn has_target(&self) -> bool {
        (0..self.ids.len()).any(|index| self.target(index).is_some())
    }
}

/// Cuts a batch into parts; `every_row` asks for the logits of tokens that nothing follows too.
pub fn parts(batch: &ScoreBatch, vocab: usize, every_row: bool) -> Vec<Part> {
    let limit = TOKENS.min((LOGITS / vocab.max(1)).max(1));
    let sequences = (0..batch.ids.rows.len()).map(|row| Sequence::new(batch, row));
    let mut groups: Vec<Vec<Sequence>> = Vec::new();
    let mut used = 0;
    for sequence in sequences.filter(|s| if every_row { !s.ids.is_empty() } else { s.has_target() }) {
        used += sequence.ids.len();
        match groups.last_mut() {
            Some(group) if used <= limit => group.push(sequence),
            _ => {
                used = sequence.ids.len();
                groups.push(vec![sequence]);
            }
        }
    }
    groups.iter().map(|group| Part::new(group, batch.ids.width, every_row)).collect()
}

impl Part {
    fn new(sequences: &[Sequence], width: usize, every_row: bool) -> Self {
        let addresses: Vec<Vec<Row>> = sequences
            .iter()
            .map(|s| sequence_rows(s.row as u64, s.row as u64, s.ids.len(), s.ids.len()))
            .collect();
        let batch = Batch::pack(sequences.iter().zip(&addresses).map(|(s, rows)| (&s.ids[..], &rows[..])));
        let mut part = Self { batch, rows: Vec::new(), targets: Vec::new(), places: Vec::new() };
        let tokens = sequences.iter().flat_map(|s| (0..s.ids.len()).map(move |index| (s, index)));
        for (row, (sequence, index)) in tokens.enumerate() {
            let target = sequence.target(index);
            if every_row || target.is_some() {
                part.rows.push(row as u32);
                part.targets.push(target);
                part.places.push(sequence.row * width + sequence.columns[index]);
            }
        }
        part
    }

    /// How many tokens are scored.
    pub fn targets(&self) -> usize {
        self.targets.iter().flatten().count()
    }

    /// The log-probabilities and entropies `[rows, 2]`, and the logits `[rows, vocab]` if wanted.
    pub fn forward<B: NoisyBackend>(
        &self,
        decoder: &Decoder<B>,
        noise: &Noise,
        with_logits: bool,
    ) -> (Tensor<B, 2>, Option<Tensor<B, 2>>) {
        let hidden = decoder.hidden(&self.batch, noise);
        let targets: Vec<u32> = self.targets.iter().map(|target| target.unwrap_or_default()).collect();
        if !with_logits {
            return (decoder.log_probs(hidden, &self.batch, &self.rows, (&targets, 1.0), noise), None);
        }
        let logits = decoder.logits(hidden, &self.batch, &self.rows, noise);
        (Tensor::cat(log_prob(logits.clone(), &targets, 1.0).to_vec(), 1), Some(logits))
    }

    /// The derivative of the loss, a mean over `tokens` tokens, in the log-probabilities.
    pub fn derivative(&self, tokens: usize) -> Vec<f32> {
        let each = -1.0 / tokens as f32;
        self.targets.iter().map(|target| if target.is_some() { each } else { 0.0 }).collect()
    }
}

/// The numbers of a batch, in its shape.
#[derive(Debug)]
pub struct Scored {
    rows: usize,
    width: usize,
    log_probs: Vec<f32>,
    /// The vocabulary's size and the logits, if wanted.
    logits: Option<(usize, Vec<f32>)>,
    sum: f64,
}

impl Scored {
    /// Nothing scored yet; with logits where the vocabulary's size is given.
    pub fn zeros(batch: &ScoreBatch, vocab: Option<usize>) -> Self {
        let (rows, width) = (batch.ids.rows.len(), batch.ids.width);
        let logits = vocab.map(|vocab| (vocab, vec![0.0; rows * width * vocab]));
        Self { rows, width, log_probs: vec![0.0; rows * (width - 1)], logits, sum: 0.0 }
    }

    /// Puts the numbers of a part in their places.
    pub fn add<B: NoisyBackend>(&mut self, part: &Part, log_probs: &[f32], logits: Option<&Tensor<B, 2>>) {
        for ((place, target), log_prob) in part.places.iter().zip(&part.targets).zip(log_probs) {
            if target.is_some() {
                let (row, column) = (place / self.width, place % self.width);
                self.log_probs[row * (self.width - 1) + column] = *log_prob;
                self.sum += f64::from(*log_prob);
            }
        }
        if let (Some((vocab, all)), Some(logits)) = (&mut self.logits, logits) {
            let host = host(logits);
            for (place, row) in part.places.iter().zip(host.chunks_exact(*vocab)) {
                all[place * *vocab..][..*vocab].copy_from_slice(row);
            }
        }
    }

    /// The mean negative log-probability of `tokens` tokens.
    pub fn loss(&self, tokens: usize) -> f64 {
        -self.sum / tokens as f64
    }

    /// The tensors of the result.
    pub fn tensors(self, loss: f64) -> Vec<HostTensor> {
        let tensor = |name: &str, shape: Vec<usize>, data| HostTensor { name: name.to_owned(), shape, data };
        let (rows, width) = (self.rows, self.width);
        let mut tensors = vec![
            tensor("logprobs", vec![rows, width - 1], self.log_probs),
            tensor("loss", vec![1], vec![loss as f32]),
        ];
        tensors.extend(self.logits.map(|(vocab, logits)| tensor("logits", vec![rows, width, vocab], logits)));
        tensors
    }
}

/// The elements of a tensor, row by row.
pub fn host<B: NoisyBackend>(tensor: &Tensor<B, 2>) -> Vec<f32> {
    B::host(&tensor.clone().into_primitive().tensor()).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch_file::TokenMatrix;

    fn batch(mask: &[&[u8]]) -> ScoreBatch {
        let width = mask[0].len();
        let rows = mask.iter().map(|_| (10..10 + width as u32).collect()).collect();
        let mask = mask.iter().map(|row| row.iter().map(|&m| m != 0).collect()).collect();
        ScoreBatch { ids: TokenMatrix { rows, width }, mask }
    }

    #[test]
    fn padding_may_stand_anywhere_and_positions_count_the_rest() {
        let batch = batch(&[&[1, 1, 1, 0], &[0, 1, 1, 1], &[1, 1, 0, 1]]);
        let [part] = &parts(&batch, 8, false)[..] else { panic!("one part") };
        let positions: Vec<_> = part.batch.rows.iter().map(|row| (row.sequence, row.position)).collect();
        let expected = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)];
        assert_eq!(positions, expected);
        assert_eq!(part.places, [0, 1, 5, 6, 8]);
        assert_eq!(part.targets, [11, 12, 12, 13, 11].map(Some));
    }

    #[test]
    fn every_row_is_there_when_logits_are_wanted() {
        let batch = batch(&[&[1, 1, 0], &[0, 0, 0], &[0, 1, 0]]);
        let [part] = &parts(&batch, 8, true)[..] else { panic!("one part") };
        assert_eq!(part.places, [0, 1, 7]);
        assert_eq!(part.targets, [Some(11), None, None]);
        assert_eq!(part.derivative(1), [-1.0, 0.0, 0.0]);
        assert_eq!(parts(&batch, 8, false)[0].places, [0]);
    }

    #[test]
    fn parts_are_bounded_in_tokens_and_in_logits() {
        let full = vec![&[1_u8; 1000][..]; 9];
        assert_eq!(parts(&batch(&full), 8, false).len(), 3);
        assert_eq!(parts(&batch(&full), LOGITS / 2000, false).len(), 5);
    }
}
