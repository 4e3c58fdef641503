//! Matrix products on slices, through the `gemm` crate.

use gemm::Parallelism;
use rayon::prelude::*;

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
        assert!(
            fits(data.len(), rows, cols, stride),
            "matrix [{rows}, {cols}] by {stride} exceeds its slice"
        );
        Self { data, rows, cols, row_stride: stride, col_stride: 1 }
    }

    /// `count` columns from `first` on.
    fn columns(self, first: usize, count: usize) -> Self {
        Self { data: &self.data[first * self.col_stride..], cols: count, ..self }
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

/// Up to so many rows, a product is split by columns over the threads; `gemm` itself scales badly there.
const FEW_ROWS: usize = 128;
/// Columns of a part.
const COLUMNS: usize = 64;
/// Multiplications below which the calling thread does all: waking others takes longer.
const WORTH_THREADS: usize = 1 << 21;

/// `a·b`, row-major, on all threads. The order of every sum depends on the shapes alone.
///
/// # Panics
/// If the shapes do not fit.
pub(crate) fn multiply(a: Mat, b: Mat) -> Vec<f32> {
    assert_eq!(a.cols, b.rows, "inner dimensions");
    let (rows, cols) = (a.rows, b.cols);
    if a.cols == 0 {
        return vec![0.0; rows * cols];
    }
    let mut out = Vec::with_capacity(rows * cols);
    let start = Start(out.as_mut_ptr());
    let threads = rayon::current_num_threads();
    let worth_threads = rows * cols * a.cols >= WORTH_THREADS;
    if worth_threads && rows <= FEW_ROWS {
        (0..cols.div_ceil(COLUMNS)).into_par_iter().for_each(|index| {
            let first = index * COLUMNS;
            let part = b.columns(first, COLUMNS.min(cols - first));
            // SAFETY: the columns of `out` from `first` on, as many as `part` has, lie within its capacity and belong
            // to this part alone.
            unsafe { run(start.at(first), cols, a, part, false, Parallelism::None) };
        });
    } else {
        let alone = threads == 1 || !worth_threads;
        let parallelism = if alone { Parallelism::None } else { Parallelism::Rayon(threads) };
        // SAFETY: `out` has room for the product, and is not read.
        unsafe { run(start.at(0), cols, a, b, false, parallelism) };
    }
    // SAFETY: every element was written above.
    unsafe { out.set_len(rows * cols) };
    out
}

/// Where a product begins, for threads that write parts of it.
struct Start(*mut f32);

// SAFETY: the threads write to elements that differ.
unsafe impl Sync for Start {}

impl Start {
    /// # Safety
    /// As for [`pointer::add`].
    unsafe fn at(&self, element: usize) -> *mut f32 {
        // SAFETY: the caller's.
        unsafe { self.0.add(element) }
    }
}

/// `out = a·b`, or `out += a·b`, on the calling thread; `out` is row-major with rows `stride` apart.
///
/// # Panics
/// If the shapes do not fit.
pub(crate) fn product(out: &mut [f32], stride: usize, a: Mat, b: Mat, accumulate: bool) {
    assert_eq!(a.cols, b.rows, "inner dimensions");
    assert!(fits(out.len(), a.rows, b.cols, stride), "product exceeds its slice");
    // SAFETY: the product was checked to lie within its slice, which is borrowed mutably, so that it overlaps neither
    // factor, and is initialised.
    unsafe { run(out.as_mut_ptr(), stride, a, b, accumulate, Parallelism::None) };
}

/// # Safety
/// `out` must be valid for writes of a matrix `[a.rows, b.cols]` whose rows are `stride` apart, for reads too where
/// `accumulate`, and overlap neither factor; the inner dimensions must agree.
unsafe fn run(out: *mut f32, stride: usize, a: Mat, b: Mat, accumulate: bool, parallelism: Parallelism) {
    if a.rows == 0 || b.cols == 0 {
        return;
    }
    // SAFETY: a `Mat` lies within its slice; the rest is the caller's.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out,
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
    use super::{Mat, multiply, product};

    fn ramp(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 2_654_435_761) % 1000) as f32 / 500.0 - 1.0).collect()
    }

    #[test]
    fn products_do_not_depend_on_the_number_of_threads() {
        let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
        for (m, n, k) in [
            (1, 128, 704),
            (33, 384, 128),
            (100, 200, 128),
            (256, 200, 128),
            (300, 512, 256),
            (128, 384, 3000),
            (2048, 256, 704),
        ] {
            let (a, b) = (ramp(m * k), ramp(k * n));
            let run = |threads| {
                pool(threads).install(|| multiply(Mat::new(&a, m, k, k), Mat::new(&b, n, k, k).t()))
            };
            let one = run(1);
            for (i, j) in [(0, 0), (m / 2, n / 3), (m / 3, n / 2), (m - 1, n - 1)] {
                let dot: f64 = (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[j * k + l])).sum();
                assert!((f64::from(one[i * n + j]) - dot).abs() < 1e-3, "{m}x{n}x{k} at {i}, {j}");
            }
            assert!(run(2) == one && run(3) == one, "{m}x{n}x{k}");
        }
    }

    #[test]
    fn strides_and_accumulation_follow_the_definition() {
        let (a, b) = (ramp(4 * 7), ramp(3 * 7));
        let mut out = vec![1.0; 4 * 5];
        product(&mut out, 5, Mat::new(&a, 4, 6, 7), Mat::new(&b, 3, 6, 7).t(), true);
        for i in 0..4 {
            for j in 0..5 {
                let dot: f32 = (0..6).map(|l| if j < 3 { a[i * 7 + l] * b[j * 7 + l] } else { 0.0 }).sum();
                assert!((out[i * 5 + j] - 1.0 - dot).abs() < 1e-5);
            }
        }
    }
}
