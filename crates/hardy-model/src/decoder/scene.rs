//! What all layers of one pass have in common: its tokens, the angles of their positions, its errors, the weights as it
//! sees them, and, where it continues a generation, what is cached of its sequences.

use std::cell::RefCell;

use hardy_ops::{
    At, Noise, NoisyBackend, SiteId,
    ops::attention::{Angles, KvBuffer, KvSequence},
};

use super::{Batch, Decoder, Weights};
use crate::frozen::Frozen;

/// What all layers of one pass have in common.
#[derive(Debug)]
pub struct Scene<'a, B: NoisyBackend> {
    pub(super) batch: &'a Batch,
    pub(super) angles: Angles,
    /// The angles of layers that turn nothing.
    pub(super) still: Angles,
    pub(super) noise: &'a Noise,
    pub(super) weights: Weights<'a, B>,
    pub(super) continuing: Option<Continuing<'a, B>>,
}

/// What a pass of a generation goes on from. The layers of a pass borrow the cache one after another.
#[derive(Debug)]
pub(super) struct Continuing<'a, B: NoisyBackend> {
    pub cache: RefCell<&'a mut KvBuffer<B>>,
    pub sequences: &'a [KvSequence],
}

impl<B: NoisyBackend> Decoder<B> {
    /// What all layers of one pass have in common.
    pub fn scene<'a>(&'a self, batch: &'a Batch, noise: &'a Noise) -> Scene<'a, B> {
        let config = &self.blueprint.config;
        let frequencies = config.inverse_frequencies();
        let angles = batch.rows.angles(&frequencies, config.rotary_scale());
        let still = if config.per_layer.iter().all(|layer| layer.rotary) { 0 } else { batch.ids.len() };
        let still = Angles::still(still, frequencies.len());
        Scene { batch, angles, still, noise, weights: Weights::stored(self), continuing: None }
    }
}

impl<'a, B: NoisyBackend> Scene<'a, B> {
    /// The same pass as part of a generation: under frozen weights, after what `cache` holds of `sequences`.
    pub(crate) fn continuing(
        self,
        frozen: &'a Frozen<'a, B>,
        cache: &'a mut KvBuffer<B>,
        sequences: &'a [KvSequence],
    ) -> Self {
        let continuing = Some(Continuing { cache: RefCell::new(cache), sequences });
        Self { weights: self.weights.frozen(frozen), continuing, ..self }
    }

    /// The same for other rows, which attention does not come to.
    pub(super) fn for_rows<'b>(&'b self, batch: &'b Batch) -> Scene<'b, B> {
        let Self { angles, still, noise, weights, .. } = self;
        let [angles, still] = [angles, still].map(Clone::clone);
        Scene { batch, angles, still, noise, weights: weights.clone(), continuing: None }
    }

    /// A site's errors for the rows of the pass.
    pub(super) fn at(&self, site: SiteId) -> At {
        self.weights.decoder().at(self.noise, site, &self.batch.rows)
    }
}
