//! Matrix products on slices, through the `gemm` crate.

use gemm::Parallelism;

/// A matrix over a slice, with strides.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A row-major matrix whose rows are `stride` apart.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn new(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(fits(data.len(), rows, cols, stride), "matrix [{rows}, {cols}] by {stride} exceeds its slice");
        Self { data, rows, cols, row_stride: stride, col_stride: 1 }
    }

    /// The transpose, without moving anything.
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

fn fits(len: usize, rows: usize, cols: usize, stride: usize) -> bool {
    cols <= stride && (rows == 0 || len >= (rows - 1) * stride + cols)
}

/// `out = a·b`, or `out += a·b`; `out` is row-major with rows `stride` apart. The order of every sum depends on
/// the shapes alone.
///
/// # Panics
/// If the shapes do not fit.
pub(crate) fn product(out: &mut [f32], stride: usize, a: Mat, b: Mat, accumulate: bool, parallel: bool) {
    assert_eq!(a.cols, b.rows, "inner dimensions");
    assert!(fits(out.len(), a.rows, b.cols, stride), "product exceeds its slice");
    if a.rows == 0 || b.cols == 0 {
        return;
    }
    let threads = if parallel { rayon::current_num_threads() } else { 1 };
    let parallelism = if threads > 1 { Parallelism::Rayon(threads) } else { Parallelism::None };
    // SAFETY: both factors and the product were checked to lie within their slices, and `out` is borrowed mutably,
    // so that it overlaps neither.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out.as_mut_ptr(),
            1,
            stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::{Mat, product};

    fn ramp(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 2_654_435_761) % 1000) as f32 / 500.0 - 1.0).collect()
    }

    #[test]
    fn products_do_not_depend_on_the_number_of_threads() {
        let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
        for (m, n, k) in [(1, 128, 704), (33, 384, 128), (300, 512, 256), (128, 384, 3000), (2048, 256, 704)] {
            let (a, b) = (ramp(m * k), ramp(k * n));
            let run = |threads| {
                let mut out = vec![0.0; m * n];
                pool(threads).install(|| {
                    product(&mut out, n, Mat::new(&a, m, k, k), Mat::new(&b, n, k, k).t(), false, true);
                });
                out
            };
            let one = run(1);
            assert!(run(2) == one && run(3) == one, "{m}x{n}x{k}");
        }
    }

    #[test]
    fn strides_and_accumulation_follow_the_definition() {
        let (a, b) = (ramp(4 * 7), ramp(3 * 7));
        let mut out = vec![1.0; 4 * 5];
        product(&mut out, 5, Mat::new(&a, 4, 6, 7), Mat::new(&b, 3, 6, 7).t(), true, false);
        for i in 0..4 {
            for j in 0..5 {
                let dot: f32 = (0..6).map(|l| if j < 3 { a[i * 7 + l] * b[j * 7 + l] } else { 0.0 }).sum();
                assert!((out[i * 5 + j] - 1.0 - dot).abs() < 1e-5);
            }
        }
    }
}
