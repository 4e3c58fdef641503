//! Matrix products on slices. All are chained, see [`super::chain`], so that no result depends on the rows that share a
//! product, on threads, or on the SIMD level.

mod element;
mod grid;
mod kernel;
mod pack;
mod right;
mod scratch;
mod shares;
mod tile;

use std::ops::Range;

use burn_tensor::bf16;
use hardy_numerics::simd::Level;

use super::chain::{CHAIN, links};
pub(crate) use element::Element;
use grid::Grid;
pub(crate) use kernel::{Kernels, Sums};
pub(crate) use pack::PANEL;
pub(crate) use right::{LaidOut, Panels, Right, laid_out};
use scratch::Scratch;
use shares::Shares;
use tile::{Packing, Tile};

/// A matrix over a slice, with strides. Every element lies within the slice: what makes one checks it, and the fields
/// can not be changed. A right factor may be stored in 16 bits.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a, T = f32> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, T: Element> Mat<'a, T> {
    /// A row-major matrix whose rows are `stride` apart.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn new(data: &'a [T], rows: usize, cols: usize, stride: usize) -> Self {
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
    pub fn get(&self, row: usize, col: usize) -> T {
        self.data[row * self.row_stride + col * self.col_stride]
    }

    /// The elements of a row, and whatever follows them, where they lie in one piece.
    #[inline(always)]
    pub fn row(&self, row: usize) -> Option<&'a [T]> {
        (self.col_stride == 1).then(|| &self.data[row * self.row_stride..])
    }

    /// From its first element on.
    #[inline(always)]
    fn data(&self) -> &'a [T] {
        self.data
    }

    /// From one row to the next.
    #[inline(always)]
    fn row_stride(&self) -> usize {
        self.row_stride
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

/// Multiplications below which the calling thread does all: waking others takes longer.
const WORTH_THREADS: usize = 1 << 20;
/// A product with fewer rows takes as long as with so many, for its right factor has to be read.
const READING: usize = 16;

/// `a·b`, row-major, on all threads, chained; in the memory of `out`, whatever that holds, as far as it suffices.
///
/// # Panics
/// If the shapes do not fit.
pub(crate) fn multiply_chained<'b, T: Element>(
    a: Mat,
    b: impl Into<Right<'b, T>>,
    mut out: Vec<f32>,
) -> Vec<f32> {
    let b = b.into();
    assert_eq!(a.cols, b.rows(), "inner dimensions");
    let len = a.rows * b.cols();
    out.clear();
    if a.cols == 0 {
        out.resize(len, 0.0);
        return out;
    }
    out.reserve(len);
    let links: Vec<Range<usize>> = links(a.cols).collect();
    // SAFETY: `out` has room for the product, and is not read.
    unsafe { run(Start(out.as_mut_ptr()), a, b, &links, false) };
    // SAFETY: every element was written above.
    unsafe { out.set_len(len) };
    out
}

/// The chained product on the calling thread, or that added to `out`, which is row-major with rows `stride` apart.
///
/// # Panics
/// If the shapes do not fit.
pub(crate) fn product_chained(out: &mut [f32], stride: usize, a: Mat, b: Mat, accumulate: bool) {
    assert_eq!(a.cols, b.rows, "inner dimensions");
    assert!(fits(out.len(), a.rows, b.cols, stride), "product exceeds its slice");
    let out = out.as_mut_ptr();
    let one = |links: &[Range<usize>]| {
        let (b, packing) = (Right::Mat(b), Packing::of_one(a.rows));
        let tile = Tile { a, b, out, stride, links, accumulate, packing };
        // SAFETY: the product was checked to lie within its slice, which is borrowed mutably, so that it overlaps neither
        // factor, and is initialised.
        Scratch::with(|scratch| unsafe { tile.run(Level::current(), scratch) });
    };
    if a.cols <= CHAIN {
        let whole = 0..a.cols;
        return one(std::slice::from_ref(&whole));
    }
    one(&links(a.cols).collect::<Vec<_>>());
}

/// `cols` columns of the product of `a` with panels, on the calling thread, in one chain, at `out` with rows `stride` apart. The
/// last panel is read as a whole.
///
/// # Panics
/// If the shapes do not fit.
pub(crate) fn multiply_panels(
    kernels: &Kernels,
    a: Mat,
    b: Panels,
    cols: usize,
    (out, stride): (&mut [f32], usize),
    sums: Sums,
) {
    let (rows, inner) = (a.rows, a.cols);
    assert!(a.col_stride == 1 && rows > 0 && inner > 0 && cols > 0, "a product with terms");
    let read = (cols - 1) / PANEL * b.panel + (inner - 1) * b.row + PANEL;
    assert!(read <= b.data.len() && fits(out.len(), rows, cols, stride), "product exceeds its slice");
    // SAFETY: both lie within their slices, `out` is borrowed mutably, and the processor has a level whose kernels are handed out.
    unsafe { tile::product(kernels, (a, None), &b, (out.as_mut_ptr(), stride), cols, sums) };
}

/// `out += a·b`, with `out` row-major, on all threads: the terms of every run of the inner dimension make a chain, which
/// is added to what is there. Runs that come in two calls give the same bits as in one.
///
/// # Panics
/// If the shapes do not fit.
pub(crate) fn add_chained(out: &mut [f32], a: Mat, b: Mat, runs: &[Range<usize>]) {
    assert!(a.cols == b.rows && out.len() == a.rows * b.cols, "product exceeds its slice");
    let parts = |run: &Range<usize>| {
        let start = run.start;
        links(run.len()).map(move |link| start + link.start..start + link.end)
    };
    let links: Vec<Range<usize>> = runs.iter().flat_map(parts).collect();
    // SAFETY: `out` has the size of the product and is initialised.
    unsafe { run(Start(out.as_mut_ptr()), a, Right::Mat(b), &links, true) };
}

/// # Safety
/// `start` must be valid for writes of a contiguous matrix `[a.rows, b.cols]`, for reads too where `accumulate`, and overlap
/// neither factor; the inner dimensions must agree.
unsafe fn run<T: Element>(start: Start, a: Mat, b: Right<T>, links: &[Range<usize>], accumulate: bool) {
    let (rows, cols, level) = (a.rows, b.cols(), Level::current());
    let part = |[rows, columns]: [Range<usize>; 2], packing: Packing, scratch: &mut Scratch| {
        let (a, b) = (a.rows_from(rows.start, rows.len()), b.columns(columns.start, columns.len()));
        // SAFETY: the part lies within the product, and no other task has any of it; the rest is the caller's.
        unsafe {
            let out = start.at(rows.start * cols + columns.start);
            Tile { a, b, out, stride: cols, links, accumulate, packing }.run(level, scratch);
        }
    };
    let terms: usize = links.iter().map(Range::len).sum();
    let threads = rayon::current_num_threads();
    if threads == 1 || rows == 0 || rows.max(READING) * cols * terms < WORTH_THREADS {
        return Scratch::with(|scratch| part([0..rows, 0..cols], Packing::of_one(rows), scratch));
    }
    let grid = Grid::new(a, b, threads);
    let (shares, packing) = (Shares::new(grid.len(), threads), grid.packing());
    let work = |own: usize| {
        Scratch::with(|scratch| {
            let mut before = None;
            for index in shares.of(own) {
                let [rows, columns] = grid.part(index);
                if before.replace(columns.start) != Some(columns.start) {
                    scratch.right.forget();
                }
                part([rows, columns], packing, scratch);
            }
        });
    };
    rayon::scope(|scope| {
        let work = &work;
        (1..threads.min(grid.len())).for_each(|own| scope.spawn(move |_| work(own)));
        work(0);
    });
}

/// The right factor of a product in either storage.
#[derive(Clone, Copy)]
pub(crate) enum Factor<'a> {
    Wide(Right<'a>),
    Narrow(Right<'a, bf16>),
}

impl Factor<'_> {
    /// `a` times this, as [`multiply_chained`].
    pub fn multiplied_by(self, a: Mat) -> Vec<f32> {
        self.multiplied_in(Vec::new(), a)
    }

    /// `a` times this in the memory of `out`, whatever it holds: a large product that many follow is not made of new pages each time.
    pub fn multiplied_in(self, out: Vec<f32>, a: Mat) -> Vec<f32> {
        match self {
            Self::Wide(b) => multiply_chained(a, b, out),
            Self::Narrow(b) => multiply_chained(a, b, out),
        }
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

#[cfg(test)]
mod tests {
    use super::{Mat, add_chained, multiply_chained, product_chained};

    fn ramp(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 2_654_435_761) % 1000) as f32 / 500.0 - 1.0).collect()
    }

    #[test]
    fn products_do_not_depend_on_the_number_of_threads() {
        let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
        for (m, n, k) in [
            (1, 128, 704),
            (1, 1000, 300),
            (33, 384, 128),
            (100, 200, 128),
            (256, 200, 128),
            (300, 512, 256),
            (128, 384, 3000),
            (2048, 256, 704),
        ] {
            let (a, b) = (ramp(m * k), ramp(k * n));
            let run = |threads| {
                pool(threads).install(|| {
                    multiply_chained(Mat::new(&a, m, k, k), Mat::new(&b, n, k, k).t(), Vec::new())
                })
            };
            let one = run(1);
            for (i, j) in [(0, 0), (m / 2, n / 3), (m / 3, n / 2), (m - 1, n - 1)] {
                let dot: f64 = (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[j * k + l])).sum();
                assert!((f64::from(one[i * n + j]) - dot).abs() < 1e-3, "{m}x{n}x{k} at {i}, {j}");
            }
            assert!(run(2) == one && run(3) == one, "{m}x{n}x{k}");
            let (a, b) = (Mat::new(&a, m, k, k), Mat::new(&b, n, k, k).t());
            let before = vec![f32::NAN; 2 * m * n];
            assert!(multiply_chained(a, b, before) == one, "{m}x{n}x{k} in memory that was used");
        }
    }

    #[test]
    fn strides_and_accumulation_follow_the_definition() {
        let (a, b) = (ramp(4 * 7), ramp(3 * 7));
        let mut out = vec![1.0; 4 * 5];
        product_chained(&mut out, 5, Mat::new(&a, 4, 6, 7), Mat::new(&b, 3, 6, 7).t(), true);
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
    fn a_product_of_no_rows_or_columns_is_empty_and_one_of_no_terms_is_zero() {
        let x = ramp(3000 * 300);
        assert!(
            multiply_chained(Mat::new(&[], 0, 300, 300), Mat::new(&x, 300, 3000, 3000), x.clone()).is_empty()
        );
        assert!(
            multiply_chained(Mat::new(&x, 3000, 300, 300), Mat::<f32>::new(&[], 0, 300, 300).t(), vec![])
                .is_empty()
        );
        assert_eq!(multiply_chained(Mat::new(&[], 2, 0, 0), Mat::<f32>::new(&[], 0, 3, 3), x), [0.0; 6]);
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
