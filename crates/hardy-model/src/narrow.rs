//! Weights that nobody trains in half the memory: the base under adapters, the reference of a KL divergence, and what an
//! evaluation judges.

use burn_tensor::{Tensor, TensorPrimitive};
use hardy_ops::NoisyBackend;

use crate::decoder::Decoder;

impl<B: NoisyBackend> Decoder<B> {
    /// The decoder with those of its matrices in 16 bits that are bfloat16, element by element. It computes the same, to the
    /// bit; but what is trained must be f32.
    #[must_use]
    pub fn narrowed(mut self) -> Self {
        self.parameters.iter_mut().for_each(narrow);
        self
    }
}

/// The same of one parameter. Vectors are left alone: they weigh nothing.
pub(crate) fn narrow<B: NoisyBackend>(tensor: &mut Tensor<B, 2>) {
    if tensor.dims()[0] > 1 {
        let empty = Tensor::zeros([1, 1], &tensor.device());
        let own = std::mem::replace(tensor, empty).into_primitive().tensor();
        *tensor = Tensor::from_primitive(TensorPrimitive::Float(B::narrowed(own)));
    }
}
