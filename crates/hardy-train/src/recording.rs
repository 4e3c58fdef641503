//! One pass over a micro-batch, forward to the log-probabilities and back to the gradients. With activation
//! checkpointing (arXiv:1604.06174) only what goes into every layer is kept, and the layer is computed again on the
//! way back; addressed noise comes out the same.

use std::ops::Range;

use burn_autodiff::Autodiff;
use burn_tensor::{Tensor, TensorData};
use hardy_model::Decoder;
use hardy_ops::{Noise, NoisyBackend, ops::residual::residual};

use crate::{
    gradients::back_from,
    policy::{columns, from_columns},
    sequence::Packed,
};

type Tape<B> = Tensor<Autodiff<B>, 2>;

/// Logits that are held at once.
const LOGITS: usize = 1 << 22;

/// A forward pass that can be gone back.
#[derive(Debug)]
pub struct Recording<'a, B: NoisyBackend> {
    tracked: &'a Decoder<Autodiff<B>>,
    packed: &'a Packed,
    noise: &'a Noise,
    /// What goes into the head.
    hidden: Tape<B>,
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
        // What a frozen layer's output is perturbed by is learned too, and without a tape below it only the layer says how.
        let untaped = tracked.blueprint.frozen > 0 && noise.learns_at_outputs();
        if !(checkpointing || untaped) {
            let hidden = tracked.hidden(&packed.batch, noise);
            let scores = scores(tracked, &hidden, packed, noise, temperature);
            return Self { tracked, packed, noise, hidden, scores, inputs: Vec::new() };
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
        let scores = scores(tracked, &hidden, packed, noise, temperature);
        Self { tracked, packed, noise, hidden, scores, inputs }
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
        let grad = back_from(self.scores.clone(), derivative, self.inputs.last());
        self.down(grad);
    }

    /// Goes back from a loss whose derivatives in the logits `derive` makes of them, in their place: for some tokens after
    /// others, `[tokens, vocab]`. The logits are computed for it once more; no more than a few tokens' are held at once.
    pub fn backward_through_logits(self, mut derive: impl FnMut(Range<usize>, &mut [f32])) {
        let recomputed = self.noise.recomputed();
        let hidden: Tape<B> = Tensor::from_inner(self.hidden.clone().inner()).require_grad();
        let at_once = (LOGITS / self.tracked.blueprint.config.vocab_size).max(1);
        let (tokens, mut sum) = (self.packed.rows.len(), None::<Tensor<B, 2>>);
        for start in (0..tokens).step_by(at_once) {
            let part = start..tokens.min(start + at_once);
            let rows = &self.packed.rows[part.clone()];
            let logits = self.tracked.logits(hidden.clone(), &self.packed.batch, rows, &recomputed);
            let mut values = B::host(&logits.clone().inner().into_primitive().tensor()).to_vec();
            derive(part, &mut values);
            let derivative = Tensor::from_data(TensorData::new(values, logits.dims()), &logits.device());
            let grad = back_from(logits, derivative, Some(&hidden));
            sum = match (sum, grad) {
                (Some(sum), Some(grad)) => Some(residual(sum, grad)),
                (sum, grad) => sum.or(grad),
            };
        }
        let Some(sum) = sum else { return };
        let grad = back_from(self.hidden.clone(), sum, self.inputs.last());
        self.down(grad);
    }

    /// Goes on from the gradient at the last norm's input, through layers that are computed again.
    fn down(self, mut grad: Option<Tensor<B, 2>>) {
        let Some((_, inputs)) = self.inputs.split_last() else { return };
        let recomputed = self.noise.recomputed();
        let scene = self.tracked.scene(&self.packed.batch, &recomputed);
        for (index, x) in inputs.iter().enumerate().rev() {
            let y = self.tracked.layer(index, x.clone(), &scene);
            let Some(above) = grad else { return };
            grad = back_from(y, above, Some(x));
        }
        let Some(grad) = grad else { return };
        let (blueprint, batch) = (&self.tracked.blueprint, &self.packed.batch);
        if blueprint.frozen == 0 {
            back_from(self.tracked.embed(batch, &recomputed), grad, None);
        } else if self.noise.learns_at_outputs() {
            // Frozen, the embedding has no gradient of its own.
            let grad = grad * blueprint.config.embedding_scale.unwrap_or(1.0);
            self.noise.arrives(blueprint.embedding_site(), &batch.rows, &grad);
        }
    }
}

/// What the head says of the tokens of `packed`.
fn scores<B: NoisyBackend>(
    tracked: &Decoder<Autodiff<B>>,
    hidden: &Tape<B>,
    packed: &Packed,
    noise: &Noise,
    temperature: f32,
) -> Tape<B> {
    let targets = (&packed.targets, temperature);
    tracked.log_probs(hidden.clone(), &packed.batch, &packed.rows, targets, noise)
}
