//! Products whose partial sums are kept in a narrow format: after every chunk of terms, and at the end, the sum is
//! rounded. The terms of a chunk are added in f32 in their order, so that an element depends on its row and column
//! alone, whatever the other rows are and whichever thread computes it.

use std::ops::Range;

use hardy_numerics::{Accumulation, ErrorEnergy, simd::dispatch};
use rayon::prelude::*;

use super::{
    chain::CHAIN,
    gemm::{self, Element, Factor, Mat, Right},
};
use crate::{
    at::{At, Operand},
    site::Point,
    weight_sums::Sum,
};

/// Columns that are summed together.
const COLUMNS: usize = 64;
/// Rows of a task.
const ROWS: usize = 16;

/// `a·b`, row-major, with its sums as the rules at `point` say; counts and measures what they did.
///
/// # Panics
/// If the shapes do not fit.
pub(crate) fn multiply(at: &At, point: Point, a: Mat, b: Factor) -> Vec<f32> {
    let Some((rule, _)) = at.accumulation(point) else { return b.multiplied_by(a) };
    let ([out, exact], cols) = match b {
        Factor::Wide(b) => (round(rule, a, b), b.cols()),
        Factor::Narrow(b) => (round(rule, a, b), b.cols()),
    };
    let (sums, mut rounded) = (Sums::new(at, point, Operand::Lhs), Rounded::default());
    sums.measure(0..a.rows(), cols, [&exact, &out], &mut rounded);
    sums.count([&rounded].into_iter());
    out
}

/// `a·b` rounded, and not rounded, on all threads.
fn round<T: Element>(rule: Accumulation, a: Mat, b: Right<T>) -> [Vec<f32>; 2] {
    let [mut out, mut exact] = [0; 2].map(|_| vec![0.0; a.rows() * b.cols()]);
    if !out.is_empty() {
        let (size, panels) = (ROWS * b.cols(), Panels::new(b));
        let tasks = out.par_chunks_mut(size).zip(exact.par_chunks_mut(size)).enumerate();
        tasks.for_each(|(task, (out, exact))| {
            let rows = ROWS.min(a.rows() - task * ROWS);
            panels.multiply(rule, a.rows_from(task * ROWS, rows), [out, exact], b.cols());
        });
    }
    [out, exact]
}

/// Adds `∂yᵀ·x` to the sum of a weight's gradient, `dy` `[tokens, out]`, `x` `[tokens, in]`. Where partial sums are rounded,
/// they are within every group of rows; the groups are added up in f32, whichever pass they come in.
///
/// # Panics
/// If the shapes do not fit.
pub(crate) fn add_gradient(at: &At, sum: &mut Sum, dy: Mat, x: Mat) {
    assert_eq!(at.rows().len(), dy.rows(), "an address for every row");
    let Some((rule, _)) = at.accumulation(Point::GradWeight) else {
        return gemm::add_chained(&mut sum.total, dy.t(), x, &at.rows().runs(CHAIN));
    };
    for group in at.rows().runs(usize::MAX) {
        let [dy, x] = [dy, x].map(|mat| mat.rows_from(group.start, group.len()));
        let parts = round(rule, dy.t(), x.into());
        for (sum, part) in [&mut sum.total, &mut sum.exact].into_iter().zip(parts) {
            sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
    }
}

/// The products of one operand at one point of a matmul, part by part, with their sums as the rules say.
#[derive(Clone, Copy)]
pub(crate) struct Sums<'a> {
    at: &'a At,
    point: Point,
    operand: Operand,
}

/// Elements and energy of what was rounded in part of a call.
pub(crate) type Rounded = (u64, ErrorEnergy);

/// Adds what was rounded in another part.
pub(crate) fn add_rounded(sum: &mut Rounded, part: &Rounded) {
    *sum = (sum.0 + part.0, sum.1 + part.1);
}

impl<'a> Sums<'a> {
    pub fn new(at: &'a At, point: Point, operand: Operand) -> Self {
        Self { at, point, operand }
    }

    /// Room for `len` sums that are not rounded, where any are; nothing else measures the rounded ones.
    pub fn exact(self, len: usize) -> Vec<f32> {
        if self.at.accumulation(self.point).is_some() { vec![0.0; len] } else { Vec::new() }
    }

    /// `a·b` to, or where `accumulate` added to, the elements of `out` from `first` on, its rows `stride` apart; and
    /// likewise, not rounded, to `exact`, which [`Sums::exact`] made as long as `out`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn product(
        self,
        [out, exact]: [&mut [f32]; 2],
        first: usize,
        stride: usize,
        [a, b]: [Mat; 2],
        accumulate: bool,
    ) {
        let Some((rule, _)) = self.at.accumulation(self.point) else {
            return gemm::product_chained(&mut out[first..], stride, a, b, accumulate);
        };
        let sums = [&mut out[first..], &mut exact[first..]];
        let fresh = |sums: &mut [f32]| {
            (0..a.rows()).for_each(|row| sums[row * stride..][..b.cols()].fill(0.0));
        };
        let [out, exact] = sums;
        if !accumulate {
            fresh(out);
            fresh(exact);
        }
        Panels::new(b.into()).multiply(rule, a, [out, exact], stride);
    }

    /// Measures rounded sums `out` of the rows `range`, `[range.len(), width]`, against those that were not, `exact`;
    /// where there are none, `exact` is empty.
    pub fn measure(
        self,
        range: Range<usize>,
        width: usize,
        [exact, out]: [&[f32]; 2],
        rounded: &mut Rounded,
    ) {
        if exact.is_empty() {
            return;
        }
        for (span, counted) in self.at.rows().spans(self.point.pass(), range.clone()) {
            if counted {
                let part = (span.start - range.start) * width..(span.end - range.start) * width;
                rounded.0 += part.len() as u64;
                rounded.1 += ErrorEnergy::between(&exact[part.clone()], &out[part]);
            }
        }
    }

    /// Counts one pass, made of several parts in this order.
    pub fn count<'r>(self, parts: impl Iterator<Item = &'r Rounded>) {
        let Some((_, injection)) = self.at.accumulation(self.point) else { return };
        let mut sum = Rounded::default();
        parts.for_each(|part| add_rounded(&mut sum, part));
        let (elements, energy) = sum;
        let calls = self.at.calls(self.point, self.operand);
        self.at.count(injection, self.point, calls, elements, energy);
    }
}

/// A right factor `[inner, cols]` by panels of [`COLUMNS`] columns, the last one padded with zeros.
struct Panels {
    cols: usize,
    panels: Vec<Vec<[f32; COLUMNS]>>,
}

impl Panels {
    fn new<T: Element>(b: Right<T>) -> Self {
        assert!(b.rows() > 0, "a product of nothing");
        let panel = |first: usize| {
            let at = |k, j| if j < b.cols() { b.get(k, j).widen() } else { 0.0 };
            let row = |k| std::array::from_fn(|j| at(k, first + j));
            (0..b.rows()).map(row).collect()
        };
        let starts: Vec<usize> = (0..b.cols()).step_by(COLUMNS).collect();
        Self { cols: b.cols(), panels: starts.into_par_iter().map(panel).collect() }
    }

    /// Adds `a` times this to the rows of `out`, rounded, and of `exact`, not rounded, both `stride` apart.
    fn multiply(&self, rule: Accumulation, a: Mat, [out, exact]: [&mut [f32]; 2], stride: usize) {
        for (panel, first) in self.panels.iter().zip((0..).step_by(COLUMNS)) {
            let columns = first..self.cols.min(first + COLUMNS);
            for row in 0..a.rows() {
                let terms: Vec<f32> = (0..a.cols()).map(|k| a.get(row, k)).collect();
                let place = row * stride + columns.start..row * stride + columns.end;
                let sums = [&mut out[place.clone()], &mut exact[place]];
                dispatch(
                    #[inline(always)]
                    || add_row(rule, &terms, panel, sums),
                );
            }
        }
    }
}

/// Adds `Σ terms[k]·panel[k]` to a row of sums, rounded after every chunk, and to the same not rounded.
#[inline(always)]
fn add_row(rule: Accumulation, terms: &[f32], panel: &[[f32; COLUMNS]], [out, exact]: [&mut [f32]; 2]) {
    let (mut sums, mut total) = ([0.0; COLUMNS], [0.0; COLUMNS]);
    sums[..out.len()].copy_from_slice(out);
    total[..out.len()].copy_from_slice(exact);
    for (terms, panel) in terms.chunks(rule.chunk).zip(panel.chunks(rule.chunk)) {
        let mut part = [0.0; COLUMNS];
        for (term, row) in terms.iter().zip(panel) {
            for j in 0..COLUMNS {
                part[j] += term * row[j];
            }
        }
        for j in 0..COLUMNS {
            sums[j] += part[j];
            total[j] += part[j];
        }
        rule.round(&mut sums);
    }
    out.copy_from_slice(&sums[..out.len()]);
    exact.copy_from_slice(&total[..exact.len()]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use hardy_numerics::{Format, Partial};

    fn ramp(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 2_654_435_761) % 1000) as f32 / 500.0 - 1.0).collect()
    }

    #[test]
    fn partial_sums_are_rounded_after_every_chunk_and_at_the_end() {
        let (rows, inner, cols) = (5, 150, 70);
        let (a, b) = (ramp(rows * inner), ramp(inner * cols));
        for (partial, format) in [(Partial::Bf16, Format::Bf16), (Partial::Fp16, Format::Fp16)] {
            let rule = Accumulation { partial, chunk: 32 };
            let (mut out, mut exact) = (vec![0.0; rows * cols], vec![0.0; rows * cols]);
            let panels = Panels::new(Mat::new(&b, inner, cols, cols).into());
            panels.multiply(rule, Mat::new(&a, rows, inner, inner), [&mut out, &mut exact], cols);
            for (i, (out, exact)) in out.iter().zip(&exact).enumerate() {
                let (mut sum, mut whole) = ([0.0], 0.0);
                for chunk in (0..inner).step_by(32) {
                    let mut part = 0.0;
                    for k in chunk..inner.min(chunk + 32) {
                        part += a[i / cols * inner + k] * b[k * cols + i % cols];
                    }
                    sum[0] += part;
                    whole += part;
                    format.fake_quantize_row(&mut sum);
                }
                assert_eq!((*out, *exact), (sum[0], whole));
            }
        }
    }
}
