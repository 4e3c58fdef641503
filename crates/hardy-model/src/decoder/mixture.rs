//! A mixture of experts in a layer. Every expert computes the rows that the router sends it, under their own addresses:
//! the noise of a token is the same whichever other tokens come to the same expert.

use burn_tensor::Tensor;
use hardy_ops::{
    Indices, NoisyBackend,
    ops::{
        attention::Segments,
        experts::{Routes, mix_experts},
        gather::gather_rows,
        row_gate::gate_rows,
        softmax::softmax,
    },
};

use super::{Batch, Decoder, Scene};
use crate::sites::Mixture;

impl<B: NoisyBackend> Decoder<B> {
    /// What the experts make of `x` `[tokens, hidden]`, and the shared one.
    pub(super) fn mixture(&self, part: &Mixture, x: &Tensor<B, 2>, scene: &Scene<B>) -> Tensor<B, 2> {
        let logits = self.adapted(&part.router, x.clone(), scene);
        let probabilities = softmax(logits, &scene.at(part.softmax));
        let routes = Routes::choose(&probabilities, part.per_token, part.normalised);
        let loads: Vec<usize> = routes.loads().iter().map(|(_, load)| *load).collect();
        let inputs = split(gather_rows(x.clone(), routes.rows()), &loads);
        let mut first = 0;
        let outputs = routes.loads().iter().zip(inputs).map(|(&(expert, load), x)| {
            let batch = scene.batch.select(&routes.rows()[first..first + load]);
            first += load;
            self.gated(&part.experts[expert], x, &scene.for_rows(&batch))
        });
        let mixed = mix_experts(Tensor::cat(outputs.collect(), 0), probabilities, &routes);
        let Some((shared, gate)) = &part.shared else { return mixed };
        let gate = self.adapted(gate, x.clone(), scene);
        mixed + gate_rows(self.gated(shared, x.clone(), scene), gate)
    }
}

impl Batch {
    /// Some of its tokens, as rows alone.
    pub(super) fn select(&self, rows: &[u32]) -> Self {
        let at = |&row: &u32| row as usize;
        Self {
            ids: rows.iter().map(|row| self.ids[at(row)]).collect(),
            rows: self.rows.select(rows.iter().map(at)),
            segments: Segments::from_lengths([rows.len()]),
            dropout: self.dropout,
        }
    }
}

/// Splits the rows of `x` into runs of these `lengths`. By halves, since the gradient of a run is as large as what it was
/// taken from.
fn split<B: NoisyBackend>(x: Tensor<B, 2>, lengths: &[usize]) -> Vec<Tensor<B, 2>> {
    if lengths.len() <= 1 {
        return vec![x];
    }
    let (left, right) = lengths.split_at(lengths.len() / 2);
    let (middle, end) = (left.iter().sum::<usize>() as u32, x.dims()[0] as u32);
    let rows = |rows: std::ops::Range<u32>| gather_rows(x.clone(), rows.collect::<Indices>());
    [split(rows(0..middle), left), split(rows(middle..end), right)].concat()
}
