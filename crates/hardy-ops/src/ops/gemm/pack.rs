//! Factors laid out as the innermost loop reads them: the right one in panels of columns, a left one whose rows do not lie in
//! one piece in groups of rows.

use hardy_numerics::simd::Level;

use super::{
    super::fetch::{LINE, fetch},
    Mat,
    element::Element,
    right::Panels,
};

/// Columns of a panel, at every SIMD level: a line of the cache.
pub(crate) const PANEL: usize = 16;
/// Elements of a side of the squares that are transposed in registers.
const SQUARE: usize = 8;

/// Rows of a factor after which what is fetched now is packed: they lie too far apart for the processor to foresee the next.
const AHEAD: usize = 4;

/// Asks for the row of `mat` that comes [`AHEAD`] rows after the one at `row`.
#[inline(always)]
fn fetch_ahead<T: Element>(mat: Mat<T>, row: &[T]) {
    let next = row.as_ptr().wrapping_add(AHEAD * mat.row_stride());
    (0..mat.cols()).step_by(LINE).for_each(|first| fetch::<true>(next.wrapping_add(first)));
}

/// Elements between two groups: were these a power of two apart, a term of all would go to one set of the nearest cache.
const APART: usize = LINE;

/// Where the group of this index, which begins with row `first`, lies.
pub(super) fn group_start(index: usize, first: usize, inner: usize) -> usize {
    first * inner + index * APART
}

/// Elements that the panels of `inner` rows and `cols` columns take.
pub(super) fn panels_len(inner: usize, cols: usize) -> usize {
    inner * cols.next_multiple_of(PANEL)
}

/// Writes the columns of `b` to `panels`, each `[b.rows, PANEL]`; columns that the last one has not are 0.
#[inline(always)]
pub(super) fn panels<T: Element>(level: Level, b: Mat<T>, panels: &mut [f32]) {
    let (inner, cols) = (b.rows(), b.cols());
    let (rows, _) = panels.as_chunks_mut::<PANEL>();
    let (whole, rest) = (cols / PANEL, cols % PANEL);
    if rest > 0 {
        rows[whole * inner..].iter_mut().for_each(|row| row[rest..].fill(0.0));
    }
    if b.row(0).is_none() {
        for (first, rows) in (0..cols).step_by(PANEL).zip(rows.chunks_exact_mut(inner.max(1))) {
            transpose(level, b.columns(first, PANEL.min(cols - first)), rows);
        }
        return;
    }
    // Row by row, as they lie in memory.
    for k in 0..inner {
        let row = b.row(k).expect("rows in one piece");
        fetch_ahead(b, row);
        let (from, last) = row[..cols].as_chunks::<PANEL>();
        for (panel, from) in from.iter().enumerate() {
            rows[panel * inner + k] = T::widen_all(from);
        }
        if rest > 0 {
            rows[whole * inner + k].iter_mut().zip(last).for_each(|(to, from)| *to = from.widen());
        }
    }
}

/// Writes panels of `inner` rows in f32, one after another.
#[inline(always)]
pub(super) fn widen_panels<T: Element>(b: &Panels<T>, inner: usize, panels: &mut [f32]) {
    let (rows, _) = panels.as_chunks_mut::<PANEL>();
    for (panel, rows) in rows.chunks_exact_mut(inner.max(1)).enumerate() {
        for (k, row) in rows.iter_mut().enumerate() {
            let from = b.data[panel * b.panel + k * b.row..].first_chunk().expect("a row of a panel");
            *row = T::widen_all(from);
        }
    }
}

/// [`panels`] where the columns of `b` lie in one piece: squares first, then what is left at both edges.
#[inline(always)]
fn transpose<T: Element>(level: Level, b: Mat<T>, rows: &mut [[f32; PANEL]]) {
    let (inner, cols) = (b.rows() / SQUARE * SQUARE, b.cols() / SQUARE * SQUARE);
    let columns = b.t();
    for j in (0..cols).step_by(SQUARE) {
        let from: [&[T]; SQUARE] = std::array::from_fn(|i| columns.row(j + i).expect("columns in one piece"));
        for k in (0..inner).step_by(SQUARE) {
            let square: [&[T; SQUARE]; SQUARE] =
                std::array::from_fn(|i| from[i][k..].first_chunk().expect("a side of a square"));
            let to: &mut [[f32; PANEL]; SQUARE] = rows[k..].first_chunk_mut().expect("a side of a square");
            turn(level, square, to, j);
        }
    }
    for (k, to) in rows.iter_mut().enumerate() {
        let done = if k < inner { cols } else { 0 };
        (done..b.cols()).for_each(|j| to[j] = b.get(k, j).widen());
    }
}

/// Writes a square's transpose to `to`, from column `first` on.
#[inline(always)]
fn turn<T: Element>(
    level: Level,
    square: [&[T; SQUARE]; SQUARE],
    to: &mut [[f32; PANEL]; SQUARE],
    first: usize,
) {
    #[cfg(target_arch = "x86_64")]
    if level.has_avx() {
        let to = to.each_mut().map(|row| row[first..].first_chunk_mut().expect("a side of a square"));
        // SAFETY: the processor has AVX2.
        return unsafe { turn_in_registers(square, to) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = level;
    for (k, to) in to.iter_mut().enumerate() {
        (0..SQUARE).for_each(|j| to[first + j] = square[j][k].widen());
    }
}

/// Transposes by exchanging single elements, pairs, and halves of vectors.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn turn_in_registers<T: Element>(square: [&[T; SQUARE]; SQUARE], to: [&mut [f32; SQUARE]; SQUARE]) {
    use std::arch::x86_64::*;
    let mut x = [_mm256_setzero_ps(); SQUARE];
    for (x, row) in x.iter_mut().zip(square) {
        // SAFETY: the processor has AVX2, as all levels above `scalar` do; there are eight elements.
        *x = pulp::cast(unsafe { T::load(pulp::x86::V3::new_unchecked(), row.as_ptr()) });
    }
    let low = |i: usize, j: usize| _mm256_unpacklo_ps(x[i], x[j]);
    let high = |i: usize, j: usize| _mm256_unpackhi_ps(x[i], x[j]);
    let a = [low(0, 1), high(0, 1), low(2, 3), high(2, 3), low(4, 5), high(4, 5), low(6, 7), high(6, 7)];
    let pairs = |i: usize, j: usize| {
        [_mm256_shuffle_ps::<0b01_00_01_00>(a[i], a[j]), _mm256_shuffle_ps::<0b11_10_11_10>(a[i], a[j])]
    };
    let ([b0, b1], [b2, b3], [b4, b5], [b6, b7]) = (pairs(0, 2), pairs(1, 3), pairs(4, 6), pairs(5, 7));
    let (upper, lower) = ([b0, b1, b2, b3], [b4, b5, b6, b7]);
    for (k, to) in to.into_iter().enumerate() {
        let (p, q) = (upper[k % 4], lower[k % 4]);
        let row =
            if k < 4 { _mm256_permute2f128_ps::<0x20>(p, q) } else { _mm256_permute2f128_ps::<0x31>(p, q) };
        // SAFETY: eight elements.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), row) };
    }
}

/// Writes the rows of `a`, a multiple of `M`, in groups of `M`, each term by term, `[a.cols, M]`, [`APART`].
#[inline(always)]
pub(super) fn groups<const M: usize>(a: Mat, groups: &mut [f32]) {
    let (inner, columns) = (a.cols(), a.t());
    let mut write = |group: usize, k: usize, values: &[f32; M]| {
        groups[group_start(group, group * M, inner) + k * M..][..M].copy_from_slice(values);
    };
    for k in 0..inner {
        match columns.row(k) {
            Some(column) => {
                fetch_ahead(columns, column);
                let from = column[..a.rows()].as_chunks().0;
                from.iter().enumerate().for_each(|(group, from)| write(group, k, from));
            }
            None => {
                for group in 0..a.rows() / M {
                    write(group, k, &std::array::from_fn(|i| a.get(group * M + i, k)));
                }
            }
        }
    }
}
