//! The weights as a pass sees them: as they are stored, each pass computing their errors anew, or frozen for a whole
//! generation.

use burn_tensor::{Tensor, backend::Backend};
use hardy_ops::{
    At, Indices, NoisyBackend,
    ops::{
        embedding::{embedding, frozen_embedding},
        linear::{frozen_linear, linear},
    },
};

use super::Decoder;
use crate::{frozen::Frozen, sites::Linear};

/// The weights of a decoder, as they are stored or frozen.
#[derive(Clone, Debug)]
pub(crate) struct Weights<'a, B: Backend> {
    decoder: &'a Decoder<B>,
    frozen: Option<&'a Frozen<'a, B>>,
}

impl<'a, B: NoisyBackend> Weights<'a, B> {
    /// As they are stored.
    pub fn stored(decoder: &'a Decoder<B>) -> Self {
        Self { decoder, frozen: None }
    }

    /// The decoder whose weights these are.
    pub fn decoder(&self) -> &'a Decoder<B> {
        self.decoder
    }

    /// The same, frozen.
    pub fn frozen(self, frozen: &'a Frozen<'a, B>) -> Self {
        Self { frozen: Some(frozen), ..self }
    }

    /// A linear layer without its adapter.
    pub fn linear(&self, part: &Linear, x: Tensor<B, 2>, at: &At) -> Tensor<B, 2> {
        let parameter = |index: usize| self.decoder.parameters[index].clone();
        let bias = part.bias.map(parameter);
        match self.frozen.and_then(|frozen| frozen.weight(part)) {
            Some(weight) => frozen_linear(x, weight, bias, at),
            None => linear(x, parameter(part.weight), bias, at),
        }
    }

    /// The rows of the embedding's table.
    pub fn embedding(&self, ids: &Indices, at: &At) -> Tensor<B, 2> {
        match self.frozen {
            Some(frozen) => frozen_embedding(frozen.table.clone(), ids, at),
            None => {
                let table = self.decoder.blueprint.embedding.weight;
                embedding(self.decoder.parameters[table].clone(), ids, at)
            }
        }
    }
}
