//! A loss that is known by its derivative alone, which is all that the way back needs: nothing is multiplied, summed or
//! spread out again for it.

use burn_autodiff::Autodiff;
use burn_tensor::Tensor;

use super::{primitive, tensor};
use crate::backend::{NoisyBackend, known_by_derivative};

/// A loss `[1, 1]` whose derivative in `y` is `derivative`, both `[rows, width]`. Its own value is not known, and 0.
///
/// # Panics
/// If the shapes differ.
pub fn loss_of<B: NoisyBackend>(
    y: Tensor<Autodiff<B>, 2>,
    derivative: Tensor<B, 2>,
) -> Tensor<Autodiff<B>, 2> {
    assert_eq!(y.dims(), derivative.dims(), "a derivative in every element");
    tensor(known_by_derivative(&primitive(y), primitive(derivative)))
}

#[cfg(test)]
mod tests {
    use burn_flex::Flex;

    use super::*;

    #[test]
    fn what_arrives_is_the_derivative_to_the_bit() {
        let device = Default::default();
        let x = Tensor::<Autodiff<Flex>, 2>::from_data([[1.0, 2.0], [3.0, 4.0]], &device).require_grad();
        let derivative = Tensor::<Flex, 2>::from_data([[0.1, -0.0], [f32::MIN_POSITIVE / 2.0, 7.0]], &device);
        let tape = loss_of(x.clone() * 3.0, derivative.clone()).backward();
        let bits = |x: Tensor<Flex, 2>| x.into_data().iter::<f32>().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(x.grad(&tape).unwrap()), bits(derivative * 3.0));
    }

    #[test]
    #[should_panic(expected = "a derivative in every element")]
    fn another_shape_is_refused() {
        let device = Default::default();
        let y = Tensor::<Autodiff<Flex>, 2>::zeros([2, 3], &device).require_grad();
        loss_of(y, Tensor::zeros([3, 2], &device));
    }
}
