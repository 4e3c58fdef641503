//! Gradients of all parameters, summed over the parts of a batch, and their norm.

use burn::{backend::Autodiff, tensor::Tensor};
use hardy_model::Decoder;
use hardy_ops::NoisyBackend;

/// One gradient a parameter that is trained, in the order of the parameters.
#[derive(Clone, Debug)]
pub struct Gradients<B: NoisyBackend>(Vec<Tensor<B, 2>>);

impl<B: NoisyBackend> Gradients<B> {
    /// Zeros for every parameter of `decoder` that is trained.
    pub fn zeros(decoder: &Decoder<B>) -> Self {
        Self(decoder.trained().iter().map(Tensor::zeros_like).collect())
    }

    /// Goes back from `y`, in which the loss has the derivative `grad`: adds what arrives at the parameters of
    /// `tracked`, and gives what arrives at `x`.
    pub fn back_from(
        &mut self,
        tracked: &Decoder<Autodiff<B>>,
        y: Tensor<Autodiff<B>, 2>,
        grad: Tensor<B, 2>,
        x: Option<&Tensor<Autodiff<B>, 2>>,
    ) -> Option<Tensor<B, 2>> {
        let tape = (y * Tensor::from_inner(grad)).sum().backward();
        for (sum, parameter) in self.0.iter_mut().zip(tracked.trained()) {
            if let Some(gradient) = parameter.grad(&tape) {
                *sum = sum.clone() + gradient;
            }
        }
        x.and_then(|x| x.grad(&tape))
    }

    /// The norm over all parameters.
    pub fn norm(&self) -> f64 {
        let square = |gradient: &Tensor<B, 2>| {
            let host = B::host(&gradient.clone().into_primitive().tensor());
            host.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>()
        };
        self.0.iter().map(square).sum::<f64>().sqrt()
    }

    /// The gradients, scaled down to `max_norm` where `norm` exceeds it; 0 never scales.
    pub fn clipped(self, norm: f64, max_norm: f64) -> Vec<Tensor<B, 2>> {
        if max_norm == 0.0 || norm <= max_norm {
            return self.0;
        }
        self.0.into_iter().map(|gradient| gradient * (max_norm / (norm + 1e-6))).collect()
    }
}
