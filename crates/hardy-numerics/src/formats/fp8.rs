//! FP8 with one f32 scale for the tensor: a saturating cast of x/s with s = amax/448 (E4M3) or amax/57344 (E5M2)
//! (OCP 8-bit Floating Point Specification v1.0, table 1).

use super::bits::{at_most, image, magnitude};
use super::definition::Definition;
use super::round::{Minifloat, Round};
use std::marker::PhantomData;

/// Elements `E`.
pub(crate) struct Fp8<E>(PhantomData<E>);

impl<E: Minifloat> Definition for Fp8<E> {
    const SCALES_TENSOR: bool = true;
    const BITS: f64 = 8.0;
    const LARGEST: f64 = E::MAX as f64;

    /// 1 where it would be 0.
    fn tensor_scale(amax: f32) -> f32 {
        let s = amax / E::MAX;
        if s == 0.0 { 1.0 } else { s }
    }

    #[inline(always)]
    fn row<R: Round>(x: &mut [f32], s: f32, r: R) {
        for (i, v) in x.iter_mut().enumerate() {
            let q = E::round(r, i, at_most(magnitude(*v) / s, E::MAX));
            *v = image(*v, q * s);
        }
    }
}
