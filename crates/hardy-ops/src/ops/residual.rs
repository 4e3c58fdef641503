//! The residual connection, `y = x + branch`, and the sum of what several operators give back to one tensor. All cores add, in
//! the memory of whichever tensor nobody else reads.

use burn_flex::{Flex, FlexTensor};
use burn_tensor::{DType, Tensor, TensorMetadata, ops::FloatTensorOps};

use super::{parallel, primitive, tensor};
use crate::backend::NoisyBackend;

/// Adds the output of a `branch` to the stream `x`, both `[tokens, width]`.
pub fn residual<B: NoisyBackend>(x: Tensor<B, 2>, branch: Tensor<B, 2>) -> Tensor<B, 2> {
    tensor(B::accumulate(primitive(branch), primitive(x)))
}

/// `x + y` of the host.
pub(crate) fn accumulate(x: FlexTensor, y: FlexTensor) -> FlexTensor {
    if x.shape() != y.shape() || ![&x, &y].into_iter().all(is_plain) {
        return Flex::float_add(x, y);
    }
    let (mut into, from) = if x.is_unique() || !y.is_unique() { (x, y) } else { (y, x) };
    let n = into.layout().num_elements();
    if into.is_unique() {
        parallel::zip(&mut into.storage_mut::<f32>()[..n], &from.storage::<f32>()[..n], |x, y| x + y);
        return into;
    }
    let sum = parallel::map2(&into.storage::<f32>()[..n], &from.storage::<f32>()[..n], |x, y| x + y);
    let shape = into.shape().dims::<2>();
    Flex::upload(sum, shape, &into)
}

/// Whether the elements lie one after another from the first, as numbers of 32 bits.
pub(super) fn is_plain(x: &FlexTensor) -> bool {
    x.dtype() == DType::F32
        && x.shape().num_dims() == 2
        && matches!(x.layout().contiguous_offsets(), Some((0, _)))
}

#[cfg(test)]
mod tests {
    use burn_tensor::TensorData;

    use super::*;

    fn values(n: usize, first: f32) -> Tensor<Flex, 2> {
        let data: Vec<f32> = (0..2 * n).map(|i| first + i as f32 * 0.37).collect();
        Tensor::from_data(TensorData::new(data, [n, 2]), &Default::default())
    }

    #[test]
    fn the_sum_is_that_of_the_elements_whoever_holds_the_memory_and_nothing_shared_changes() {
        for n in [1, 40_000] {
            let expected: Vec<f32> = (values(n, 1.0) + values(n, -7.5)).into_data().to_vec().unwrap();
            for kept in 0..4 {
                let (x, y) = (values(n, 1.0), values(n, -7.5));
                let held = [(kept & 1 > 0).then(|| x.clone()), (kept & 2 > 0).then(|| y.clone())];
                let sum: Vec<f32> = residual(x, y).into_data().to_vec().unwrap();
                assert_eq!(sum, expected);
                for (held, first) in held.into_iter().zip([1.0, -7.5]) {
                    assert!(held.is_none_or(|held| held.into_data() == values(n, first).into_data()));
                }
            }
        }
    }

    #[test]
    fn a_transposed_tensor_is_added_by_its_elements() {
        let x = values(2, 0.0);
        let sum: Vec<f32> = residual(x.clone(), x.transpose()).into_data().to_vec().unwrap();
        assert_eq!(sum, [0.0, 0.37 + 0.74, 0.37 + 0.74, 1.11 + 1.11]);
    }
}
