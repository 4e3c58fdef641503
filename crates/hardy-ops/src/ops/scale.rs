//! A tensor times a number, or element by element times a mask that nobody trains: in its own memory where nobody else reads it.

use burn_flex::{Flex, FlexTensor};
use burn_tensor::{Tensor, ops::FloatTensorOps};

use super::{parallel, primitive, residual::is_plain, tensor};
use crate::backend::NoisyBackend;

/// `x` `[rows, width]` times `factor`.
pub fn scale<B: NoisyBackend>(x: Tensor<B, 2>, factor: f64) -> Tensor<B, 2> {
    tensor(B::scaled(primitive(x), factor))
}

/// `x` times `mask`, both `[rows, width]`; no gradient flows to the mask.
pub fn masked<B: NoisyBackend>(x: Tensor<B, 2>, mask: Tensor<B, 2>) -> Tensor<B, 2> {
    tensor(B::masked(primitive(x), &primitive(mask)))
}

/// `x` times `factor` on the host.
pub(crate) fn scaled(mut x: FlexTensor, factor: f64) -> FlexTensor {
    if !is_plain(&x) {
        return Flex::float_mul_scalar(x, factor.into());
    }
    let (n, factor) = (x.layout().num_elements(), factor as f32);
    if x.is_unique() {
        parallel::each(&mut x.storage_mut::<f32>()[..n], |x| x * factor);
        return x;
    }
    let product = parallel::map(&x.storage::<f32>()[..n], |x| x * factor);
    Flex::upload(product, Flex::shape(&x), &x)
}

/// `x` times `mask` on the host.
pub(crate) fn times(mut x: FlexTensor, mask: &FlexTensor) -> FlexTensor {
    if Flex::shape(&x) != Flex::shape(mask) || ![&x, mask].into_iter().all(is_plain) {
        return Flex::float_mul(x, mask.clone());
    }
    let n = x.layout().num_elements();
    let mask = &mask.storage::<f32>()[..n];
    if x.is_unique() {
        parallel::zip(&mut x.storage_mut::<f32>()[..n], mask, |x, mask| x * mask);
        return x;
    }
    let product = parallel::map2(&x.storage::<f32>()[..n], mask, |x, mask| x * mask);
    Flex::upload(product, Flex::shape(&x), &x)
}

#[cfg(test)]
mod tests {
    use burn_autodiff::Autodiff;
    use burn_tensor::TensorData;

    use super::*;

    fn values<B: NoisyBackend>(n: usize, first: f32) -> Tensor<B, 2> {
        let data: Vec<f32> = (0..2 * n).map(|i| first + i as f32 * 0.37).collect();
        Tensor::from_data(TensorData::new(data, [n, 2]), &Default::default())
    }

    fn bits(x: Tensor<Flex, 2>) -> Vec<u32> {
        x.into_data().iter::<f32>().map(f32::to_bits).collect()
    }

    #[test]
    fn products_are_those_of_the_elements_whoever_holds_the_memory_and_nothing_shared_changes() {
        for n in [1, 3, 20_000] {
            let (x, mask) = (values::<Flex>(n, -7.5), values::<Flex>(n, 0.25));
            let (by_number, by_mask) = (bits(x.clone() * 0.3), bits(x.clone() * mask.clone()));
            for held in [None, Some(x.clone())] {
                let own = || if held.is_some() { x.clone() } else { values::<Flex>(n, -7.5) };
                assert_eq!(bits(scale(own(), 0.3)), by_number);
                assert_eq!(bits(masked(own(), mask.clone())), by_mask);
            }
            assert_eq!(bits(x), bits(values(n, -7.5)));
        }
    }

    #[test]
    fn what_does_not_lie_row_by_row_is_multiplied_too() {
        let x = values::<Flex>(2, 1.0);
        assert_eq!(bits(scale(x.clone().transpose(), 3.0)), bits(x.clone().transpose() * 3.0));
        assert_eq!(bits(masked(x.clone(), x.clone().transpose())), bits(x.clone() * x.transpose()));
    }

    #[test]
    fn gradients_are_multiplied_like_what_they_belong_to() {
        type B = Autodiff<Flex>;
        let x = values::<B>(3, -1.0).require_grad();
        let mask = values::<B>(3, 0.25);
        let y = masked(scale(x.clone(), 0.5), mask.clone()) * values::<B>(3, 2.0);
        let gradients = y.sum().backward();
        let expected = (values::<Flex>(3, 2.0) * mask.inner()) * 0.5;
        assert_eq!(bits(x.grad(&gradients).unwrap()), bits(expected));
    }
}
