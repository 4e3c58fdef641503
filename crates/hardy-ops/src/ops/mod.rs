//! The operators of a decoder, one a file: the formula, where errors enter, the forward and the backward pass.
//!
//! Activations are packed: `[tokens, width]`, the sequences of a batch one after another without padding, and
//! every row has its address. Functions on tensors call the backend's operator; `forward` and `backward` are the
//! kernels on host slices.

mod accumulation;
pub mod attention;
pub(crate) mod chain;
pub mod derivative;
pub mod embedding;
pub mod experts;
mod fetch;
pub mod gather;
pub mod gelu;
pub(crate) mod gemm;
pub mod head;
pub mod layer_norm;
pub mod linear;
pub mod log_prob;
pub(crate) mod parallel;
pub mod residual;
pub mod rms_norm;
pub mod row_gate;
pub mod sample;
pub mod scale;
pub mod silu;
pub mod softmax;
mod weight;

use burn_tensor::{Tensor, TensorPrimitive};

use crate::backend::{NoisyBackend, Primitive};

/// The backend's own tensor.
fn primitive<B: NoisyBackend>(x: Tensor<B, 2>) -> Primitive<B> {
    x.into_primitive().tensor()
}

/// A tensor from the backend's own.
fn tensor<B: NoisyBackend>(x: Primitive<B>) -> Tensor<B, 2> {
    Tensor::from_primitive(TensorPrimitive::Float(x))
}
