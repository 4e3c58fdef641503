//! A decoder for the length of one generation: its weights as the phase's errors make them, computed once and laid
//! out for products with few rows. The results are those of the decoder itself, to the bit.

use burn_tensor::{Tensor, backend::Backend};
use hardy_ops::{
    Indices, Noise, NoisyBackend,
    ops::{
        attention::{KvBuffer, KvSequence},
        embedding,
        linear::freeze,
    },
};

use crate::{
    decoder::{Batch, Decoder, Weights},
    sites::{Factor, Linear},
};

/// A decoder whose linear weights and embedding stay as they are.
#[derive(Debug)]
pub struct Frozen<'a, B: Backend> {
    pub(crate) decoder: &'a Decoder<B>,
    pub(crate) noise: &'a Noise,
    /// The weight of every linear layer as [`freeze`] makes it, by the index of its parameter.
    weights: Vec<Option<Tensor<B, 2>>>,
    /// The embedding's table.
    pub(crate) table: Tensor<B, 2>,
}

impl<'a, B: NoisyBackend> Frozen<'a, B> {
    /// `decoder` under `noise`.
    pub fn new(decoder: &'a Decoder<B>, noise: &'a Noise) -> Self {
        let mut weights = vec![None; decoder.parameters.len()];
        let factors = |part: Linear| part.adapter.into_iter().flat_map(|adapter| [adapter.a, adapter.b]);
        let adapters = decoder.blueprint.linears().flat_map(factors).map(Factor::linear);
        for part in decoder.blueprint.linears().chain(adapters) {
            let weight = decoder.parameters[part.weight].clone();
            let errors = noise.errors(part.site).in_precision(decoder.blueprint.precision);
            weights[part.weight] = Some(freeze(weight, &errors));
        }
        let table = &decoder.blueprint.embedding;
        let table = embedding::freeze(decoder.parameters[table.weight].clone(), &noise.errors(table.site));
        Self { decoder, noise, weights, table }
    }

    /// The same weights under `noise`, which has the errors of theirs.
    pub(crate) fn under(&self, noise: &'a Noise) -> Self {
        Self { decoder: self.decoder, noise, weights: self.weights.clone(), table: self.table.clone() }
    }

    /// The hidden states after the last norm, `[tokens, hidden]`, of tokens that continue what `cache` holds of
    /// `sequences`, and are added to it.
    ///
    /// # Panics
    /// If `batch` has not as many sequences, or a place in the cache is too small.
    pub fn hidden(&self, batch: &Batch, cache: &mut KvBuffer<B>, sequences: &[KvSequence]) -> Tensor<B, 2> {
        self.decoder.run(&self.decoder.scene(batch, self.noise).continuing(self, cache, sequences))
    }

    /// The same of tokens that were drawn on the device and nobody has seen, those of the rows `chosen`; without errors at the
    /// embedding's output.
    pub(crate) fn hidden_of_drawn(
        &self,
        (drawn, chosen): (&B::Underway, &[u32]),
        batch: &Batch,
        cache: &mut KvBuffer<B>,
        sequences: &[KvSequence],
    ) -> Tensor<B, 2> {
        let x = self.decoder.scaled(embedding::embedding_of_drawn(self.table.clone(), drawn, chosen));
        self.decoder.run_from(x, &self.decoder.scene(batch, self.noise).continuing(self, cache, sequences))
    }

    /// The logits of some rows of the hidden states, `[rows, vocab]`.
    pub fn logits(&self, hidden: Tensor<B, 2>, batch: &Batch, rows: impl Into<Indices>) -> Tensor<B, 2> {
        let weights = Weights::stored(self.decoder).frozen(self);
        self.decoder.head(hidden, batch, &rows.into(), self.noise, &weights)
    }

    pub(crate) fn weight(&self, part: &Linear) -> Option<Tensor<B, 2>> {
        self.weights[part.weight].clone()
    }
}
