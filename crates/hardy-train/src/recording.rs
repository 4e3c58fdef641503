//! One pass over a micro-batch, forward to the log-probabilities and back to the gradients. With activation
//! checkpointing (arXiv:1604.06174) only what goes into every layer is kept, and the layer is computed again on the
//! way back; addressed noise comes out the same.

use burn::{backend::Autodiff, tensor::Tensor};
use hardy_model::Decoder;
use hardy_ops::{Noise, NoisyBackend};

use crate::{
    gradients::back_from,
    policy::{columns, from_columns, log_probs},
    sequence::Packed,
};

type Tape<B> = Tensor<Autodiff<B>, 2>;

/// A forward pass that can be gone back.
#[derive(Debug)]
pub struct Recording<'a, B: NoisyBackend> {
    tracked: &'a Decoder<Autodiff<B>>,
    packed: &'a Packed,
    noise: &'a Noise,
    /// Log-probabilities and entropies, `[tokens, 2]`.
    scores: Tape<B>,
    /// What went into every layer and into the last norm, where layers are computed again.
    inputs: Vec<Tape<B>>,
}

impl<'a, B: NoisyBackend> Recording<'a, B> {
    /// Goes forward over `packed`, keeping everything, or with `checkpointing` what goes into the layers. What goes back
    /// is summed up by `noise`; see [`Noise::gathering`].
    ///
    /// # Panics
    /// If `noise` does not gather gradients; if responses share a prompt's rows although rules act in the backward pass.
    pub fn forward(
        tracked: &'a Decoder<Autodiff<B>>,
        packed: &'a Packed,
        noise: &'a Noise,
        temperature: f32,
        checkpointing: bool,
    ) -> Self {
        assert!(noise.gathers(), "a noise that gathers gradients");
        assert!(
            !(packed.shared && noise.acts_backward()),
            "each response has gradients of its own in its prompt"
        );
        if !checkpointing {
            let scores = log_probs(tracked, packed, noise, temperature);
            return Self { tracked, packed, noise, scores, inputs: Vec::new() };
        }
        let plain = tracked.inner();
        let scene = plain.scene(&packed.batch, noise);
        let leaf = |x: &Tensor<B, 2>| Tensor::from_inner(x.clone()).require_grad();
        let mut x = plain.embed(&packed.batch, noise);
        let mut inputs = vec![leaf(&x)];
        for index in 0..plain.layers() {
            x = plain.layer(index, x, &scene);
            inputs.push(leaf(&x));
        }
        let hidden = tracked.last_norm(inputs[plain.layers()].clone(), &packed.batch, noise);
        let targets = (&packed.targets[..], temperature);
        let scores = tracked.log_probs(hidden, &packed.batch, &packed.rows, targets, noise);
        Self { tracked, packed, noise, scores, inputs }
    }

    /// The log-probability of every response token, and the entropy of the distribution that it stands in.
    pub fn scores(&self) -> [Vec<f32>; 2] {
        columns(&self.scores)
    }

    /// Goes back from a loss with these derivatives in the log-probabilities and entropies.
    ///
    /// # Panics
    /// If there is not one derivative a token.
    pub fn backward(self, d_log_prob: &[f32], d_entropy: Option<&[f32]>) {
        let derivative = from_columns(d_log_prob, d_entropy, &self.scores.device());
        let Some((last, inputs)) = self.inputs.split_last() else {
            back_from(self.scores, derivative, None);
            return;
        };
        let recomputed = self.noise.recomputed();
        let scene = self.tracked.scene(&self.packed.batch, &recomputed);
        let mut grad = back_from(self.scores.clone(), derivative, Some(last));
        for (index, x) in inputs.iter().enumerate().rev() {
            let y = self.tracked.layer(index, x.clone(), &scene);
            let Some(above) = grad else { return };
            grad = back_from(y, above, Some(x));
        }
        // Frozen, the embedding has no gradient.
        if let (Some(grad), 0) = (grad, self.tracked.blueprint.frozen) {
            let y = self.tracked.embed(&self.packed.batch, &recomputed);
            back_from(y, grad, None);
        }
    }
}
