//! Weights in 16 bits where that loses nothing: what a bfloat16 checkpoint holds, as long as nobody trains it. A kernel
//! reads them widened, to the same bits, and only while it needs them.

use burn_flex::{Flex, FlexTensor};
use burn_tensor::{DType, TensorData};
use half::bf16;
use hardy_numerics::Precision;
use rayon::prelude::*;

use crate::{
    backend::NoisyBackend,
    ops::{gather::rows_of, gemm::laid_out},
};

/// Elements that one task converts.
const PART: usize = 1 << 14;
/// The bits of an f32 that a bfloat16 has not.
const LOW: u32 = 0xffff;

/// `x` in bfloat16; `None` where an element is none, or where it is in 16 bits already.
pub(crate) fn narrowed(x: &FlexTensor) -> Option<FlexTensor> {
    if x.dtype() != DType::F32 {
        return None;
    }
    let host = Flex::host(x);
    let lossless = |part: &[f32]| part.iter().fold(0, |bits, x| bits | x.to_bits()) & LOW == 0;
    host.par_chunks(PART).all(lossless).then(|| {
        let data: Vec<bf16> = host.par_iter().with_min_len(PART).map(|x| narrow(*x)).collect();
        FlexTensor::from_data(TensorData::new(data, Flex::shape(x)))
    })
}

/// `x` as products in bfloat16 see it.
pub(crate) fn rounded(x: &[f32]) -> Vec<bf16> {
    let round = |&x: &f32| if x.is_nan() { bf16::NAN } else { narrow(Precision::Bf16.operand(x)) };
    x.par_iter().with_min_len(PART).map(round).collect()
}

/// The elements of `x` in f32; `None` where they are that already.
pub(crate) fn widened(x: &FlexTensor) -> Option<Vec<f32>> {
    let stored = stored(x)?;
    Some(stored.par_iter().with_min_len(PART).map(|x| widen(*x)).collect())
}

/// Some rows of `x`, one after another, in f32.
pub(crate) fn rows(x: &FlexTensor, rows: &[u32]) -> Vec<f32> {
    let [_, width] = Flex::shape(x);
    match stored(x) {
        Some(stored) => rows_of(stored, width, rows, widen),
        None => rows_of(&Flex::host(x), width, rows, |x| x),
    }
}

/// `x` `[out, in]` as [`laid_out`] has it, where it is stored in 16 bits.
pub(crate) fn frozen(x: &FlexTensor) -> Option<FlexTensor> {
    let [outer, inner] = Flex::shape(x);
    Some(FlexTensor::from_data(TensorData::new(laid_out(stored(x)?, inner), [inner, outer])))
}

/// The memory of a tensor in 16 bits; nobody makes a view of one.
pub(crate) fn stored(x: &FlexTensor) -> Option<&[bf16]> {
    (x.dtype() == DType::BF16).then(|| x.storage::<bf16>())
}

fn narrow(x: f32) -> bf16 {
    bf16::from_bits((x.to_bits() >> 16) as u16)
}

/// To f32: its bits are the upper half of an f32's.
#[inline(always)]
pub(crate) fn widen(x: bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tensor(bits: &[u32]) -> FlexTensor {
        let data: Vec<f32> = bits.iter().map(|bits| f32::from_bits(*bits)).collect();
        let shape = [data.len() / 2, 2];
        FlexTensor::from_data(TensorData::new(data, shape))
    }

    fn bits(x: &[f32]) -> Vec<u32> {
        x.iter().map(|x| x.to_bits()).collect()
    }

    proptest! {
        #[test]
        fn what_is_narrowed_is_read_to_the_bit(high in prop::collection::vec(any::<u16>(), 2..40)) {
            let even = high.len() / 2 * 2;
            let all: Vec<u32> = high[..even].iter().map(|high| u32::from(*high) << 16).collect();
            let narrow = Flex::narrowed(tensor(&all));
            prop_assert_eq!(narrow.dtype(), DType::BF16);
            prop_assert_eq!(bits(&Flex::host(&narrow)), all.clone());
            prop_assert_eq!(bits(&Flex::host_rows(&narrow, &[0])), all[..2].to_vec());
            prop_assert_eq!(narrowed(&narrow).is_none(), true);
        }
    }

    #[test]
    fn what_would_lose_a_bit_stays_as_it_is() {
        let x = Flex::narrowed(tensor(&[0x3f80_0000, 0x3f80_0001]));
        assert_eq!(x.dtype(), DType::F32);
        assert_eq!(bits(&Flex::host_rows(&x, &[0])), [0x3f80_0000, 0x3f80_0001]);
    }
}
