//! Matrix products on slices, through the `gemm` crate.
//!
//! All products are chained: see [`super::chain`].

use std::ops::Range;

use gemm::Parallelism;
use hardy_numerics::simd::dispatch;
use rayon::prelude::*;

use super::chain::{chain, chain_on_threads, links};

/// A matrix over a slice, with strides. Every element lies within the slice: what makes one checks it, and the fields
/// can not be changed.
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

    /// How many rows there are.
    #[inline(always)]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many columns there are.
    #[inline(always)]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// An element.
    ///
    /// # Panics
    /// If there is none.
    #[inline(always)]
    pub fn get(&self, row: usize, col: usize) -> f32 {
        self.data[row * self.row_stride + col * self.col_stride]
    }

    /// The elements of a row, and whatever follows them, where they lie in one piece.
    #[inline(always)]
    pub fn row(&self, row: usize) -> Option<&'a [f32]> {
        (self.col_stride == 1).then(|| &self.data[row * self.row_stride..])
    }

    /// `count` rows from `first` on.
    ///
    /// # Panics
    /// If there are not so many.
    #[inline(always)]
    pub fn rows_from(self, first: usize, count: usize) -> Self {
        assert!(first + count <= self.rows, "rows {first} and {count} more of {}", self.rows);
        let start = if count * self.cols == 0 { 0 } else { first * self.row_stride };
        Self { data: &self.data[start..], rows: count, ..self }
    }

    /// `count` columns from `first` on.
    ///
    /// # Panics
    /// If there are not so many.
    #[inline(always)]
    pub fn columns(self, first: usize, count: usize) -> Self {
        self.t().rows_from(first, count).t()
    }

    /// The transpose, without moving anything.
    #[inline(always)]
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

/// Whether rows `stride` apart lie within a slice of `len` elements, one after another.
fn fits(len: usize, rows: usize, cols: usize, stride: usize) -> bool {
    let end = |rows: usize| (rows - 1).checked_mul(stride)?.checked_add(cols);
    cols <= stride && (rows == 0 || end(rows).is_some_and(|end| end <= len))
}

/// Up to so many rows, a product is split by columns over the threads; `gemm` itself scales badly there.
const FEW_ROWS: usize = 128;
/// Columns of a part.
const COLUMNS: usize = 64;
/// Multiplications below which the calling thread does all: waking others takes longer.
const WORTH_THREADS: usize = 1 << 21;

/// `a·b`, row-major, on all threads, chained.
///
/// # Panics
/// If the shapes do not fit.
pub(crate) fn multiply_chained(a: Mat, b: Mat) -> Vec<f32> {
    assert_eq!(a.cols, b.rows, "inner dimensions");
    let (rows, cols) = (a.rows, b.cols);
    let mut links = links(a.cols);
    let Some(first) = links.next() else { return vec![0.0; rows * cols] };
    let mut out = first_link(a.columns(first.start, first.len()), b.rows_from(first.start, first.len()));
    for inner in links {
        let (a, b) = (a.columns(inner.start, inner.len()), b.rows_from(inner.start, inner.len()));
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
    let len = a.rows * b.cols;
    if gemm_reorders(a, b) {
        let mut out = vec![0.0; len];
        chain_on_threads(&mut out, a, b, false);
        return out;
    }
    let mut out = Vec::with_capacity(len);
    // SAFETY: `out` has room for the product, and is not read.
    unsafe { run_on_threads(Start(out.as_mut_ptr()), a, b, false) };
    // SAFETY: every element was written above.
    unsafe { out.set_len(len) };
    out
}

/// The chained product on the calling thread, or that added to `out`, which is row-major with rows `stride` apart.
///
/// # Panics
/// If the shapes do not fit.
#[inline(always)]
pub(crate) fn product_chained(out: &mut [f32], stride: usize, a: Mat, b: Mat, accumulate: bool) {
    assert_eq!(a.cols, b.rows, "inner dimensions");
    for (index, inner) in links(a.cols).enumerate() {
        let (a, b) = (a.columns(inner.start, inner.len()), b.rows_from(inner.start, inner.len()));
        let accumulate = accumulate || index > 0;
        if gemm_reorders(a, b) {
            chain(out, stride, a, b, accumulate);
        } else {
            product(out, stride, a, b, accumulate);
        }
    }
}

/// Rows of `out` that one thread adds to, run after run, while they stay in its cache.
const SUM_ROWS: usize = 64;

/// `out += a·b`, with `out` row-major, on all threads: the terms of every run of the inner dimension make a chain, which
/// is added to what is there. Runs that come in two calls give the same bits as in one.
///
/// # Panics
/// If the shapes do not fit.
pub(crate) fn add_chained(out: &mut [f32], a: Mat, b: Mat, runs: &[Range<usize>]) {
    let cols = b.cols;
    assert!(a.cols == b.rows && out.len() == a.rows * cols, "product exceeds its slice");
    let task = |(index, out): (usize, &mut [f32])| {
        let a = a.rows_from(index * SUM_ROWS, out.len() / cols);
        dispatch(
            #[inline(always)]
            || {
                for run in runs {
                    let (a, b) = (a.columns(run.start, run.len()), b.rows_from(run.start, run.len()));
                    product_chained(out, cols, a, b, true);
                }
            },
        );
    };
    let size = SUM_ROWS * cols.max(1);
    if a.rows * cols * a.cols < WORTH_THREADS {
        return out.chunks_mut(size).enumerate().for_each(task);
    }
    out.par_chunks_mut(size).enumerate().for_each(task);
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
fn product(out: &mut [f32], stride: usize, a: Mat, b: Mat, accumulate: bool) {
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
    use super::{Mat, add_chained, multiply_chained, product};

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
                pool(threads).install(|| multiply_chained(Mat::new(&a, m, k, k), Mat::new(&b, n, k, k).t()))
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

    #[test]
    fn sums_continue_to_the_bit_wherever_their_runs_are_parted() {
        for (rows, cols) in [(130, 70), (1, 200), (64, 1), (5, 3)] {
            let (a, b) = (ramp(100 * rows), ramp(100 * cols));
            let (a, b) = (Mat::new(&a, 100, rows, rows), Mat::new(&b, 100, cols, cols));
            let runs = [0..1, 1..40, 40..42, 42..90, 90..100];
            let mut once = vec![0.5; rows * cols];
            add_chained(&mut once, a.t(), b, &runs);
            let mut expected = vec![0.5_f32; rows * cols];
            for run in &runs {
                for (i, sum) in expected.iter_mut().enumerate() {
                    let term = |k: usize| [a.get(k, i / cols), b.get(k, i % cols)];
                    *sum += run.clone().map(term).fold(0.0_f32, |sum, [a, b]| a.mul_add(b, sum));
                }
            }
            assert!(once == expected, "{rows}x{cols}");
            let mut parted = vec![0.5; rows * cols];
            for part in [0..40, 40..100] {
                let (a, b) = (a.rows_from(part.start, part.len()), b.rows_from(part.start, part.len()));
                let within = runs.iter().filter(|run| part.contains(&run.start));
                let within: Vec<_> = within.map(|run| run.start - part.start..run.end - part.start).collect();
                add_chained(&mut parted, a.t(), b, &within);
            }
            assert!(once == parted, "{rows}x{cols}");
        }
    }

    #[test]
    #[should_panic(expected = "rows 3 and 2 more of 4")]
    fn a_part_beyond_a_matrix_is_refused() {
        Mat::new(&ramp(20), 4, 5, 5).rows_from(3, 2);
    }

    #[test]
    #[should_panic(expected = "rows 4 and 2 more of 5")]
    fn columns_beyond_a_matrix_are_refused() {
        Mat::new(&ramp(20), 4, 5, 5).columns(4, 2);
    }

    #[test]
    #[should_panic(expected = "exceeds its slice")]
    fn a_size_that_overflows_is_refused() {
        Mat::new(&ramp(20), usize::MAX / 2, 5, 5);
    }
}
