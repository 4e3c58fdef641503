//! The order of products: every element is a chain of fused multiply-adds along the inner dimension, begun anew every
//! [`CHAIN`] terms. A row of the result then depends on its own row of `a` and on `b` alone, to the bit, whatever the
//! number of rows, the threads and the SIMD level.

use std::ops::Range;

/// Terms of a chain.
pub(crate) const CHAIN: usize = 512;

/// The parts of an inner dimension, one a chain.
pub(crate) fn links(inner: usize) -> impl Iterator<Item = Range<usize>> {
    (0..inner).step_by(CHAIN).map(move |first| first..inner.min(first + CHAIN))
}

#[cfg(test)]
mod tests {
    use super::super::gemm::{Mat, multiply_chained, product_chained};

    fn ramp(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 2_654_435_761) % 1000) as f32 / 500.0 - 1.0).collect()
    }

    /// The definition, one element at a time.
    fn element(a: &[f32], b: &[f32]) -> f32 {
        let link = |(a, b): (&[f32], &[f32])| a.iter().zip(b).fold(0.0_f32, |sum, (a, b)| a.mul_add(*b, sum));
        let mut links = a.chunks(super::CHAIN).zip(b.chunks(super::CHAIN)).map(link);
        let first = links.next().unwrap_or_default();
        links.fold(first, |sum, link| sum + link)
    }

    #[test]
    fn every_element_is_its_chain_whatever_the_shape() {
        for (m, n, k) in [
            (1, 700, 704),
            (1, 1, 5),
            (2, 100, 2),
            (3, 64, 1100),
            (4, 33, 32),
            (5, 1, 64),
            (40, 130, 513),
            (129, 70, 514),
            (200, 96, 704),
            (300, 512, 256),
        ] {
            let (a, b) = (ramp(m * k), ramp(k * n));
            let a_mat = Mat::new(&a, m, k, k);
            let transposed: Vec<f32> = (0..k * n).map(|i| b[i % n * k + i / n]).collect();
            let by_column = multiply_chained(a_mat, Mat::new(&b, n, k, k).t(), vec![]);
            let by_row = multiply_chained(a_mat, Mat::new(&transposed, k, n, n), vec![]);
            let mut strided = vec![0.0; m * (n + 3)];
            product_chained(&mut strided, n + 3, a_mat, Mat::new(&transposed, k, n, n), false);
            for i in 0..m {
                for j in 0..n {
                    let expected = element(&a[i * k..][..k], &b[j * k..][..k]).to_bits();
                    let got = [by_column[i * n + j], by_row[i * n + j], strided[i * (n + 3) + j]];
                    assert!(got.iter().all(|got| got.to_bits() == expected), "{m}x{n}x{k} at {i}, {j}");
                }
            }
        }
    }
}
