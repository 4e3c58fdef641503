//! A forward pass in stages: the embedding, two halves of every layer, the last norm; the head comes after. Two passes that
//! differ from some stage on are the same before it, so that the second can start from what the first computed.

use burn_tensor::Tensor;
use hardy_ops::{NoisyBackend, Op, SiteId, ops::gather::gather_rows};

use super::{Batch, Decoder, Scene};
use crate::sites::Blueprint;

impl Blueprint {
    /// How many stages a pass has before its head.
    pub fn stages(&self) -> usize {
        2 * self.layers.len() + 2
    }

    /// The stage in which a site computes: 0 the embedding, `1 + 2·layer` and `2 + 2·layer` attention and MLP of a layer,
    /// each with its norm, then the last norm; of the head [`Blueprint::stages`].
    pub fn stage_of(&self, SiteId(index): SiteId) -> usize {
        let site = &self.sites[index];
        let Some(layer) = site.layer else {
            return match site.op {
                Op::Embedding => 0,
                Op::RmsNorm | Op::LayerNorm => self.stages() - 1,
                _ => self.stages(),
            };
        };
        let norm = &self.sites[self.layers[layer].post_norm.site.0].module;
        let of_mlp = site.module == *norm || site.module.starts_with(&format!("model.layers.{layer}.mlp"));
        1 + 2 * layer + usize::from(of_mlp)
    }
}

impl<B: NoisyBackend> Decoder<B> {
    /// What the stages `from ..` up to, not including, `to` make of `x` `[tokens, hidden]`, which goes into the first of
    /// them. Stage 0 reads the tokens of `batch` and not `x`.
    ///
    /// # Panics
    /// If there is no such stage, or `x` is missing after stage 0.
    pub fn advance(
        &self,
        x: Option<Tensor<B, 2>>,
        (from, to): (usize, usize),
        batch: &Batch,
        scene: &Scene<B>,
    ) -> Option<Tensor<B, 2>> {
        let last = self.blueprint.stages() - 1;
        (from..to).fold(x, |x, stage| {
            let x = || x.expect("what goes into a stage after the first");
            Some(match stage {
                0 => self.embed(batch, scene.noise),
                _ if stage == last => self.last_norm(x(), batch, scene.noise),
                _ if stage % 2 == 1 => self.attention_half((stage - 1) / 2, x(), scene),
                _ => self.mlp_half((stage - 1) / 2, x(), scene),
            })
        })
    }

    /// Some rows of `x` `[tokens, hidden]` with their tokens and addresses, for stages that do not look from one token to
    /// another: those after the last attention.
    pub fn with_rows(&self, x: Tensor<B, 2>, batch: &Batch, rows: &[u32]) -> (Tensor<B, 2>, Batch) {
        (gather_rows(x, rows), batch.select(rows))
    }
}
