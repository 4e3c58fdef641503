//! The innermost loop: a few rows by a few vectors of a product, whose sums stay in registers. Every element is a chain of
//! fused multiply-adds along the inner dimension, at every SIMD level, so that no tile's shape shows in a result.

use std::hint::black_box;

use burn_tensor::bf16;
use hardy_numerics::simd::Level;
use pulp::{Simd, bytemuck};

use super::{
    super::fetch::{LINE, fetch},
    element::Element,
    pack::PANEL,
};

/// One small part of a product on the calling thread; the right factor is stored in elements `T`.
#[derive(Clone, Copy)]
pub(crate) struct Micro<T> {
    /// Terms of a chain.
    pub inner: usize,
    /// The left factor, from the part's first row on.
    pub a: *const f32,
    /// From one of its rows to the next, where it is not packed.
    pub a_row: usize,
    /// The right factor, from the part's first column on.
    pub b: *const T,
    /// From one of its rows to the next.
    pub b_row: usize,
    /// From one of its panels of columns to the next.
    pub b_panel: usize,
    /// The product, from the part's first element on.
    pub out: *mut f32,
    /// From one of its rows to the next.
    pub out_row: usize,
    /// How many columns are written.
    pub cols: usize,
    /// What becomes of what is there.
    pub sums: Sums,
}

/// What becomes of what is there, where the sums of a product go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Sums {
    /// It is overwritten.
    Begin,
    /// The sums are added to it.
    Add,
    /// The chains go on from it.
    Continue,
}

/// Computes a part of a product with all its columns.
///
/// # Safety
/// The processor must have the level; the left factor must be readable at as many rows as the kernel has, of `inner` elements,
/// the right one at `inner` rows of whole panels, and the product writable at those rows of `cols` elements, and readable
/// there unless its sums begin.
pub(crate) type Sweep<T> = unsafe fn(&Micro<T>);

/// The kernels of a level.
pub(crate) struct Kernels {
    /// Their numbers of rows, from the highest on.
    pub heights: &'static [usize],
    /// For each the kernel of a left factor whose rows lie in one piece, and that of a packed one.
    pub sweeps: &'static [[Sweep<f32>; 2]],
    /// For each the kernel of a right factor in bfloat16, and a left one whose rows lie in one piece.
    pub narrow: &'static [Sweep<bf16>],
}

/// The kernels of one level; `wide` vectors for few rows of a left factor that is not packed.
macro_rules! kernels {
    ($name:ident, $table:ident, $simd:ty, $new:expr, [$(($height:literal, $wide:literal)),*] $(, $features:literal)?) => {
        /// As [`Sweep`].
        $(#[target_feature(enable = $features)])?
        unsafe fn $name<T: Element, const M: usize, const V: usize, const PACKED: bool>(part: &Micro<T>) {
            // SAFETY: the caller's.
            unsafe { sweep::<$simd, T, M, V, PACKED>($new, part) }
        }

        static $table: Kernels = Kernels {
            heights: &[$($height),*],
            sweeps: &[$([$name::<f32, $height, $wide, false>, $name::<f32, $height, 2, true>]),*],
            narrow: &[$($name::<bf16, $height, $wide, false>),*],
        };
    };
}

#[cfg(target_arch = "x86_64")]
kernels!(
    avx512,
    AVX512,
    pulp::x86::V4,
    pulp::x86::V4::new_unchecked(),
    [(12, 2), (8, 2), (4, 4), (3, 8), (2, 8), (1, 8)],
    "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma"
);
#[cfg(target_arch = "x86_64")]
kernels!(
    avx2,
    AVX2,
    pulp::x86::V3,
    pulp::x86::V3::new_unchecked(),
    [(6, 2), (4, 2), (3, 4), (2, 4), (1, 8)],
    "avx2,fma"
);
#[cfg(target_arch = "aarch64")]
kernels!(
    neon,
    NEON,
    pulp::aarch64::Neon,
    pulp::aarch64::Neon::new_unchecked(),
    [(6, 4), (4, 4), (3, 4), (2, 8), (1, 8)],
    "neon"
);
kernels!(scalar, SCALAR, pulp::Scalar, pulp::Scalar::new(), [(4, 2), (2, 2), (1, 4)]);

impl Kernels {
    /// The kernels of `level`.
    pub fn of(level: Level) -> &'static Self {
        match level.name() {
            #[cfg(target_arch = "x86_64")]
            "avx512" => &AVX512,
            #[cfg(target_arch = "x86_64")]
            "avx2" => &AVX2,
            #[cfg(target_arch = "aarch64")]
            "neon" => &NEON,
            _ => &SCALAR,
        }
    }

    /// The rows `0..rows` in runs of groups of one height: the first row of each run, how many rows it has, and the height.
    pub fn runs(&self, rows: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        let mut first = 0;
        self.heights.iter().filter_map(move |&height| {
            let count = (rows - first) / height * height;
            first += count;
            (count > 0).then_some((first - count, count, height))
        })
    }

    /// The rows `0..rows` in groups: the first row of each, and which kernel has its height.
    pub fn groups(&self, rows: usize) -> impl Iterator<Item = (usize, usize)> {
        let mut first = 0;
        std::iter::from_fn(move || {
            let kernel = self.heights.iter().position(|height| first + height <= rows)?;
            first += self.heights[kernel];
            Some((first - self.heights[kernel], kernel))
        })
    }
}

/// All columns of a part, as many at a time as `V` vectors hold, then two vectors, and at the end a panel. Meanwhile the rows that come
/// next are fetched into the second-level cache.
///
/// # Safety
/// As for [`Sweep`].
#[inline(always)]
unsafe fn sweep<S: Simd, T: Element, const M: usize, const V: usize, const PACKED: bool>(
    simd: S,
    part: &Micro<T>,
) {
    let at = |first: usize| Micro {
        b: part.b.wrapping_add(first / PANEL * part.b_panel + first % PANEL),
        out: part.out.wrapping_add(first),
        cols: part.cols - first,
        ..*part
    };
    let (wide, narrow) = (V * S::F32_LANES, 2 * S::F32_LANES);
    let mut first = 0;
    while V > 2 && first + wide <= part.cols {
        // SAFETY: the caller's.
        unsafe { multiply::<S, T, M, V, PACKED>(simd, at(first)) };
        first += wide;
    }
    let mut fetched = if PACKED { M } else { 0 };
    while first < part.cols {
        let due = (M * (first + narrow)).div_ceil(part.cols).min(M);
        while fetched < due {
            let row = part.a.wrapping_add((M + fetched) * part.a_row);
            (0..part.inner).step_by(LINE).for_each(|k| fetch::<false>(row.wrapping_add(k)));
            fetched += 1;
        }
        // SAFETY: the caller's; where there is but one panel left, no vector is read behind it.
        unsafe {
            if part.cols - first <= PANEL && PANEL < narrow {
                multiply::<S, T, M, 1, PACKED>(simd, at(first));
            } else {
                multiply::<S, T, M, 2, PACKED>(simd, at(first));
            }
        }
        first += narrow;
    }
}

/// Terms of a turn of the innermost loop, where the addresses of all rows and panels fit in registers.
const UNROLLED: usize = 4;

/// Terms after which what is fetched now is needed.
const AHEAD: usize = 8;

/// `M` rows by `V` vectors. A packed left factor has the `M` values of a term side by side; else its rows lie in one piece.
///
/// # Safety
/// As for [`Sweep`], of `M` rows and at most `V` vectors.
#[inline(always)]
unsafe fn multiply<S: Simd, T: Element, const M: usize, const V: usize, const PACKED: bool>(
    simd: S,
    part: Micro<T>,
) {
    let lanes = S::F32_LANES;
    let mut sums = [[simd.splat_f32s(0.0); V]; M];
    if part.sums == Sums::Continue {
        // SAFETY: the caller's.
        sums = unsafe { get(simd, part.out, part.out_row, part.cols) };
    }
    for i in 0..M {
        let row = part.out.wrapping_add(i * part.out_row);
        fetch::<true>(row);
        fetch::<true>(row.wrapping_add(LINE));
    }
    let small = M <= 6 && V <= 2;
    let unrolled = if small { UNROLLED } else { 1 };
    let (apart, step) = if PACKED { (1, M) } else { (part.a_row, 1) };
    let rows: [*const f32; M] = std::array::from_fn(|i| {
        let row = part.a.wrapping_add(i * apart);
        // What it can not see through the compiler keeps in a register, and does not compute anew for each term.
        if small && !PACKED { black_box(row) } else { row }
    });
    let mut b = part.b;
    for turn in 0..part.inner / unrolled {
        for k in turn * unrolled..(turn + 1) * unrolled {
            // SAFETY: the caller's.
            unsafe { add_term(simd, &mut sums, &rows, k * step, b, &part) };
            b = b.wrapping_add(part.b_row);
        }
    }
    for k in part.inner / unrolled * unrolled..part.inner {
        // SAFETY: the caller's.
        unsafe { add_term(simd, &mut sums, &rows, k * step, b, &part) };
        b = b.wrapping_add(part.b_row);
    }
    if part.cols >= V * lanes {
        // SAFETY: the caller's.
        return unsafe { put(simd, &sums, part.out, part.out_row, part.sums == Sums::Add) };
    }
    let mut whole = [[simd.splat_f32s(0.0); V]; M];
    let rows = bytemuck::cast_slice_mut(whole.as_flattened_mut());
    // SAFETY: there is room for all vectors.
    unsafe { put(simd, &sums, rows.as_mut_ptr(), V * lanes, false) };
    for (i, row) in rows.chunks_exact(V * lanes).enumerate() {
        // SAFETY: the caller's.
        unsafe { put_some(part.out.add(i * part.out_row), &row[..part.cols], part.sums == Sums::Add) };
    }
}

/// One term of every sum: the elements `k` of `rows` by the vectors at `b`.
///
/// # Safety
/// All of these must be readable.
#[inline(always)]
unsafe fn add_term<S: Simd, T: Element, const M: usize, const V: usize>(
    simd: S,
    sums: &mut [[S::f32s; V]; M],
    rows: &[*const f32; M],
    k: usize,
    b: *const T,
    part: &Micro<T>,
) {
    let lanes = S::F32_LANES;
    let place = |v: usize| v * lanes / PANEL * part.b_panel + v * lanes % PANEL;
    let mut terms = [simd.splat_f32s(0.0); V];
    for (v, term) in terms.iter_mut().enumerate() {
        if v * lanes % LINE == 0 {
            fetch::<true>(b.wrapping_add(AHEAD * part.b_row + place(v)));
        }
        // SAFETY: the caller's.
        *term = unsafe { T::load(simd, b.add(place(v))) };
    }
    for (row, sums) in rows.iter().zip(sums) {
        // SAFETY: the caller's.
        let factor = simd.splat_f32s(unsafe { *row.add(k) });
        for (sum, term) in sums.iter_mut().zip(&terms) {
            *sum = simd.mul_add_f32s(factor, *term, *sum);
        }
    }
}

/// What is there, in as many columns as there are.
///
/// # Safety
/// `out` must be valid for reads of `M` rows, `stride` apart, of `V` vectors or `cols` elements, whichever is less.
#[inline(always)]
unsafe fn get<S: Simd, const M: usize, const V: usize>(
    simd: S,
    out: *const f32,
    stride: usize,
    cols: usize,
) -> [[S::f32s; V]; M] {
    let mut sums = [[simd.splat_f32s(0.0); V]; M];
    let width = V * S::F32_LANES;
    for (i, row) in bytemuck::cast_slice_mut(sums.as_flattened_mut()).chunks_exact_mut(width).enumerate() {
        let from = out.wrapping_add(i * stride);
        // SAFETY: the caller's.
        row[..cols.min(width)].copy_from_slice(unsafe { std::slice::from_raw_parts(from, cols.min(width)) });
    }
    sums
}

/// Writes all sums, or adds them to what is there. Loops this short are unrolled, so that sums never leave their registers.
///
/// # Safety
/// `out` must be valid for writes of `M` rows, `stride` apart, of `V` vectors, and for reads if it accumulates.
#[inline(always)]
unsafe fn put<S: Simd, const M: usize, const V: usize>(
    simd: S,
    sums: &[[S::f32s; V]; M],
    out: *mut f32,
    stride: usize,
    accumulate: bool,
) {
    let place = |i: usize, v: usize| out.wrapping_add(i * stride + v * S::F32_LANES).cast::<S::f32s>();
    if accumulate {
        for (i, row) in sums.iter().enumerate() {
            for (v, sum) in row.iter().enumerate() {
                // SAFETY: the caller's.
                unsafe {
                    let sum = simd.add_f32s(place(i, v).read_unaligned(), *sum);
                    place(i, v).write_unaligned(sum);
                }
            }
        }
        return;
    }
    for (i, row) in sums.iter().enumerate() {
        for (v, sum) in row.iter().enumerate() {
            // SAFETY: the caller's.
            unsafe { place(i, v).write_unaligned(*sum) };
        }
    }
}

/// Writes a row, or adds it to what is there.
///
/// # Safety
/// `out` must be valid for writes of as many elements, and for reads if it accumulates.
#[inline(always)]
unsafe fn put_some(out: *mut f32, row: &[f32], accumulate: bool) {
    for (j, sum) in row.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe { *out.add(j) = if accumulate { *out.add(j) + sum } else { *sum } };
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, ops::Range};

    use pulp::{Scalar128b, Scalar256b, Scalar512b};

    use super::*;

    /// An element that tells when something beside its slice is read.
    #[derive(Clone, Copy)]
    struct Watched(f32);

    thread_local! {
        static WATCHED: Cell<Range<usize>> = const { Cell::new(0..0) };
    }

    impl Element for Watched {
        const WIDE: bool = true;

        fn widen(self) -> f32 {
            self.0
        }

        fn widen_all<const N: usize>(from: &[Self; N]) -> [f32; N] {
            from.map(Self::widen)
        }

        unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::f32s {
            let (first, slice) = (from.addr(), WATCHED.take());
            let end = first + size_of::<S::f32s>();
            assert!(slice.start <= first && end <= slice.end, "{first}..{end} of {slice:?}");
            WATCHED.set(slice);
            // SAFETY: it lies within its slice.
            unsafe { f32::load(simd, from.cast()) }
        }

        fn sweep(_: &Kernels, _: usize, _: bool) -> Option<Sweep<Self>> {
            None
        }
    }

    fn values(count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 2_654_435_761) % 1000) as f32 / 500.0 - 1.0).collect()
    }

    /// Whether vectors of this width read panels alone, and give the chains of the definition, for few columns and many.
    fn agrees<S: Simd, const M: usize, const V: usize>(simd: S) {
        let inner = 3;
        for cols in 1..=9 * PANEL {
            let (a, panels) = (values(M * inner), values(inner * cols.next_multiple_of(PANEL)));
            let b: Vec<Watched> = panels.into_iter().map(Watched).collect();
            let slice = b.as_ptr_range();
            WATCHED.set(slice.start.addr()..slice.end.addr());
            let mut out = vec![f32::NAN; M * cols];
            let part = Micro {
                inner,
                a: a.as_ptr(),
                a_row: inner,
                b: b.as_ptr(),
                b_row: PANEL,
                b_panel: inner * PANEL,
                out: out.as_mut_ptr(),
                out_row: cols,
                cols,
                sums: Sums::Begin,
            };
            // SAFETY: the factors have as many elements, and so has the product.
            unsafe { sweep::<S, Watched, M, V, false>(simd, &part) };
            for (i, row) in out.chunks_exact(cols).enumerate() {
                for (j, sum) in row.iter().enumerate() {
                    let term = |k: usize| b[j / PANEL * inner * PANEL + k * PANEL + j % PANEL].0;
                    let chain = (0..inner).fold(0.0_f32, |sum, k| a[i * inner + k].mul_add(term(k), sum));
                    assert_eq!(sum.to_bits(), chain.to_bits(), "{M}x{cols} at {i}, {j}");
                }
            }
        }
    }

    #[test]
    fn vectors_of_every_width_read_panels_alone() {
        agrees::<_, 4, 2>(pulp::Scalar::new());
        agrees::<_, 6, 4>(Scalar128b);
        agrees::<_, 1, 8>(Scalar128b);
        agrees::<_, 6, 2>(Scalar256b);
        agrees::<_, 3, 4>(Scalar256b);
        agrees::<_, 1, 8>(Scalar256b);
        agrees::<_, 12, 2>(Scalar512b);
        agrees::<_, 4, 4>(Scalar512b);
        agrees::<_, 1, 8>(Scalar512b);
    }
}
