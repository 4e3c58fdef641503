//! Matrix products on slices, through the `gemm` crate.
//!
//! Forward products are chained: see [`super::chain`].

use std::ops::Range;

use gemm::Parallelism;
use rayon::prelude::*;

use super::chain::{chain, chain_on_threads, links};

/// A matrix over a slice, with strides.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    pub data: &'a [f32],
    pub rows: usize,
    pub cols: usize,
    pub row_stride: usize,
    pub col_stride: usize,
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

    /// The part of the inner dimension `range` of a left factor.
    fn inner_of_lhs(self, range: &Range<usize>) -> Self {
        self.columns(range.start, range.len())
    }

    /// The part of the inner dimension `range` of a right factor.
    fn inner_of_rhs(self, range: &Range<usize>) -> Self {
        self.t().columns(range.start, range.len()).t()
    }

    /// An element.
    #[inline(always)]
    pub(super) fn get(&self, row: usize, col: usize) -> f32 {
        self.data[row * self.row_stride + col * self.col_stride]
    }

    /// `count` rows from `first` on.
    pub(super) fn rows_from(self, first: usize, count: usize) -> Self {
        Self { data: &self.data[first * self.row_stride..], rows: count, ..self }
    }

    /// `count` columns from `first` on.
    pub fn columns(self, first: usize, count: usize) -> Self {
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

pub(super) fn fits(len: usize, rows: usize, cols: usize, stride: usize) -> bool {
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
    // SAFETY: `out` has room for the product, and is not read.
    unsafe { run_on_threads(Start(out.as_mut_ptr()), a, b, false) };
    // SAFETY: every element was written above.
    unsafe { out.set_len(rows * cols) };
    out
}

/// `out += a·b`, with `out` row-major, on all threads.
///
/// # Panics
/// If the shapes do not fit.
pub(crate) fn add_product(out: &mut [f32], a: Mat, b: Mat) {
    assert!(a.cols == b.rows && out.len() == a.rows * b.cols, "product exceeds its slice");
    // SAFETY: `out` has the size of the product and is initialised.
    unsafe { run_on_threads(Start(out.as_mut_ptr()), a, b, true) };
}

/// The same as [`multiply`], chained.
///
/// # Panics
/// If the shapes do not fit.
pub(crate) fn multiply_chained(a: Mat, b: Mat) -> Vec<f32> {
    assert_eq!(a.cols, b.rows, "inner dimensions");
    let (rows, cols) = (a.rows, b.cols);
    let mut links = links(a.cols);
    let Some(first) = links.next() else { return vec![0.0; rows * cols] };
    let mut out = first_link(a.inner_of_lhs(&first), b.inner_of_rhs(&first));
    for inner in links {
        let (a, b) = (a.inner_of_lhs(&inner), b.inner_of_rhs(&inner));
        if gemm_reorders(a, b) {
            chain_on_threads(&mut out, a, b, true);
        } else {
            // SAFETY: `out` has the size of the product and is initialised.
            unsafe { run_on_threads(Start(out.as_mut_ptr()), a, b, true) };
        }
    }
    out
}

fn first_link(a: Mat, b: Mat) -> Vec<f32> {
    if !gemm_reorders(a, b) {
        return multiply(a, b);
    }
    let mut out = vec![0.0; a.rows * b.cols];
    chain_on_threads(&mut out, a, b, false);
    out
}

/// The chained product on the calling thread; `out` is row-major with rows `stride` apart.
///
/// # Panics
/// If the shapes do not fit.
#[inline(always)]
pub(crate) fn product_chained(out: &mut [f32], stride: usize, a: Mat, b: Mat) {
    for (index, inner) in links(a.cols).enumerate() {
        let (a, b) = (a.inner_of_lhs(&inner), b.inner_of_rhs(&inner));
        if gemm_reorders(a, b) {
            chain(out, stride, a, b, index > 0);
        } else {
            product(out, stride, a, b, index > 0);
        }
    }
}

/// Whether `gemm` would leave the order of the inner dimension: it does for vectors, for next to no terms, and for
/// next to no elements where both factors lie along the inner dimension.
fn gemm_reorders(a: Mat, b: Mat) -> bool {
    let tiny = a.rows * b.cols <= 256 && a.col_stride == 1 && b.row_stride == 1;
    a.rows <= 1 || b.cols <= 1 || a.cols <= 2 || tiny
}

/// # Safety
/// As for [`run`], with `out` `[a.rows, b.cols]`, contiguous.
unsafe fn run_on_threads(start: Start, a: Mat, b: Mat, accumulate: bool) {
    let (rows, cols) = (a.rows, b.cols);
    let threads = rayon::current_num_threads();
    let worth_threads = rows * cols * a.cols >= WORTH_THREADS;
    if worth_threads && rows <= FEW_ROWS {
        let parts = (cols / COLUMNS).max(1);
        (0..parts).into_par_iter().for_each(|index| {
            let first = index * COLUMNS;
            // The last part takes the rest, for a narrow part of its own would be added up in another order.
            let count = if index + 1 == parts { cols - first } else { COLUMNS };
            let part = b.columns(first, count);
            // SAFETY: the columns of `out` from `first` on, as many as `part` has, lie within its capacity and belong
            // to this part alone.
            unsafe { run(start.at(first), cols, a, part, accumulate, Parallelism::None) };
        });
    } else {
        let alone = threads == 1 || !worth_threads;
        let parallelism = if alone { Parallelism::None } else { Parallelism::Rayon(threads) };
        // SAFETY: the caller's.
        unsafe { run(start.at(0), cols, a, b, accumulate, parallelism) };
    }
}

/// Where a product begins, for threads that write parts of it.
#[derive(Clone, Copy)]
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
