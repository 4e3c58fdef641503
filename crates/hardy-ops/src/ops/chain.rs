//! Products in one order: every element is a chain of fused multiply-adds along the inner dimension, begun anew every
//! [`CHAIN`] terms. A row of the result then depends on its own row of `a` and on `b` alone, to the bit, whatever the
//! number of rows; `gemm` keeps this order but for shapes close to vectors, which are computed here.

use std::ops::Range;

use hardy_numerics::simd::dispatch;

use super::gemm::Mat;

/// Terms of a chain: so many and fewer, `gemm` adds up one after another in one register.
pub(crate) const CHAIN: usize = 512;
/// Columns that are worked on together; of those left over a half, then an eighth.
const TILE: usize = 128;
/// Multiplications of a product with a single row that two threads do faster than one.
const WORTH_HALVING: usize = 1 << 16;

/// The parts of an inner dimension, one a chain.
pub(crate) fn links(inner: usize) -> impl Iterator<Item = Range<usize>> {
    (0..inner).step_by(CHAIN).map(move |first| first..inner.min(first + CHAIN))
}

/// One link of `a·b` into `out` `[a.rows, b.cols]`, or added to it, the columns on two threads where that is worth it.
pub(crate) fn chain_on_threads(out: &mut [f32], a: Mat, b: Mat, accumulate: bool) {
    let one = |out: &mut [f32], b: Mat| {
        dispatch(
            #[inline(always)]
            || chain(out, b.cols(), a, b, accumulate),
        );
    };
    if a.rows() > 1 || b.cols() < 2 * TILE || b.cols() * a.cols() < WORTH_HALVING {
        return one(out, b);
    }
    let half = (b.cols() / 2).next_multiple_of(TILE);
    let (left, right) = out.split_at_mut(half);
    rayon::join(|| one(left, b.columns(0, half)), || one(right, b.columns(half, b.cols() - half)));
}

/// One link of `a·b` into `out`, row-major with rows `stride` apart, or added to it.
#[inline(always)]
pub(crate) fn chain(out: &mut [f32], stride: usize, a: Mat, b: Mat, accumulate: bool) {
    for i in 0..a.rows() {
        let (row, out) = (a.rows_from(i, 1), &mut out[i * stride..][..b.cols()]);
        let done = tiles::<TILE>(out, 0, row, b, accumulate);
        let done = tiles::<{ TILE / 2 }>(out, done, row, b, accumulate);
        let done = tiles::<{ TILE / 8 }>(out, done, row, b, accumulate);
        tiles::<1>(out, done, row, b, accumulate);
    }
}

/// The elements of a row from `first` on, `WIDTH` at a time, as far as whole tiles go; gives where they end. The sums
/// of a tile are a local array of fixed size, so that they stay in registers.
#[inline(always)]
fn tiles<const WIDTH: usize>(out: &mut [f32], first: usize, row: Mat, b: Mat, accumulate: bool) -> usize {
    let (whole, _) = out[first..].as_chunks_mut::<WIDTH>();
    for (tile, out) in whole.iter_mut().enumerate() {
        let columns = b.columns(first + tile * WIDTH, WIDTH);
        let sums: [f32; WIDTH] =
            if b.row(0).is_some() { sum_rows(row, columns) } else { sum_columns(row, columns) };
        let put = |(out, sum): (&mut f32, f32)| *out = if accumulate { *out + sum } else { sum };
        out.iter_mut().zip(sums).for_each(put);
    }
    first + whole.len() * WIDTH
}

/// A tile of a product, where the rows of `b` lie in one piece.
#[inline(always)]
fn sum_rows<const WIDTH: usize>(row: Mat, b: Mat) -> [f32; WIDTH] {
    let mut sums = [0.0_f32; WIDTH];
    for k in 0..row.cols() {
        let factor = row.get(0, k);
        let terms: &[f32; WIDTH] = b.row(k).and_then(|row| row.first_chunk()).expect("a row of the tile");
        sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum = factor.mul_add(*term, *sum));
    }
    sums
}

/// A tile of a product, whatever the strides.
#[inline(always)]
fn sum_columns<const WIDTH: usize>(row: Mat, b: Mat) -> [f32; WIDTH] {
    let mut sums = [0.0_f32; WIDTH];
    for k in 0..row.cols() {
        let factor = row.get(0, k);
        for (column, sum) in sums.iter_mut().enumerate() {
            *sum = factor.mul_add(b.get(k, column), *sum);
        }
    }
    sums
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
            let by_column = multiply_chained(a_mat, Mat::new(&b, n, k, k).t());
            let by_row = multiply_chained(a_mat, Mat::new(&transposed, k, n, n));
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
