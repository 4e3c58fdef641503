//! Gradients of all parameters, summed over the parts of a batch, and their norm. The sums are made in place by the
//! operators' backward passes, under a noise that gathers them.

use burn_autodiff::Autodiff;
use burn_tensor::Tensor;
use hardy_model::Decoder;
use hardy_ops::{
    Noise, NoisyBackend,
    ops::{derivative::loss_of, residual::residual, scale::scale},
};
use rayon::prelude::*;

use crate::digest;

/// One gradient a parameter that is trained, in the order of the parameters.
#[derive(Clone, Debug)]
pub struct Gradients<B: NoisyBackend>(Vec<Tensor<B, 2>>);

impl<B: NoisyBackend> Gradients<B> {
    /// What was summed up under `noise`, which gathers, since the pass before the first; the errors on ∂W fall on the
    /// sums here. Where nothing was added, zeros.
    ///
    /// # Panics
    /// If `noise` does not gather.
    pub fn gathered(decoder: &Decoder<B>, noise: &Noise) -> Self {
        let frozen = decoder.blueprint.frozen;
        let mut sums: Vec<Option<Tensor<B, 2>>> = vec![None; decoder.trained().len()];
        let mut add = |parameter: usize, gradient: Option<Tensor<B, 2>>| {
            let Some(gradient) = gradient else { return };
            let sum = &mut sums[parameter - frozen];
            // A tied table has a gradient from the embedding and one from the head.
            *sum = Some(match sum.take() {
                Some(sum) => residual(sum, gradient),
                None => gradient,
            });
        };
        for (site, weight, bias) in decoder.blueprint.weights() {
            let [of_weight, of_bias] = noise.gathered(site, &decoder.weight_at(site, weight));
            add(weight, of_weight);
            if let Some(bias) = bias {
                add(bias, of_bias);
            }
        }
        let or_zeros = |(sum, parameter): (Option<Tensor<B, 2>>, &Tensor<B, 2>)| {
            sum.unwrap_or_else(|| parameter.zeros_like())
        };
        Self(sums.into_iter().zip(decoder.trained()).map(or_zeros).collect())
    }

    /// The norm over all parameters.
    pub fn norm(&self) -> f64 {
        if !B::ON_HOST {
            // One wait for the device, not one a parameter.
            let squares = self.0.iter().map(|gradient| gradient.clone().powi_scalar(2).sum()).collect();
            return Tensor::<B, 1>::cat(squares, 0).into_data().iter::<f64>().sum::<f64>().sqrt();
        }
        let square = |gradient: &Tensor<B, 2>| {
            let host = B::host(&gradient.clone().into_primitive().tensor());
            host.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>()
        };
        // Each by one thread, and added up in their order.
        let squares: Vec<f64> = self.0.par_iter().map(square).collect();
        squares.into_iter().sum::<f64>().sqrt()
    }

    /// A digest of every parameter's gradient.
    pub fn digests(&self) -> Vec<u128> {
        digests(&self.0)
    }

    /// The gradients, scaled down to `max_norm` where `norm` exceeds it; 0 never scales.
    pub fn clipped(self, norm: f64, max_norm: f64) -> Vec<Tensor<B, 2>> {
        if max_norm == 0.0 || norm <= max_norm {
            return self.0;
        }
        self.0.into_iter().map(|gradient| scale(gradient, max_norm / (norm + 1e-6))).collect()
    }
}

/// A digest of every tensor.
pub fn digests<B: NoisyBackend>(tensors: &[Tensor<B, 2>]) -> Vec<u128> {
    let one = |x: &Tensor<B, 2>| digest::of_values(&B::host(&x.clone().into_primitive().tensor()));
    tensors.iter().map(one).collect()
}

/// Goes back from `y`, in which the loss has the derivative `grad`; gives what arrives at `x`. The gradients of parameters
/// are summed up by the noise under which `y` was computed, which gathers.
pub fn back_from<B: NoisyBackend>(
    y: Tensor<Autodiff<B>, 2>,
    grad: Tensor<B, 2>,
    x: Option<&Tensor<Autodiff<B>, 2>>,
) -> Option<Tensor<B, 2>> {
    let tape = loss_of(y, grad).backward();
    x.and_then(|x| x.grad(&tape))
}
