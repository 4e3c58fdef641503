//! What queries mix: the scores of their heads over the keys of a cache, and their probabilities' sums of its values, as products
//! of a few rows. Heads that share keys and values are rows of one product, so that these are read once for all.

use super::{
    super::{
        chain::CHAIN,
        gemm::{Kernels, Mat, PANEL, Panels, Sums, multiply_panels},
    },
    cache::{BLOCK, Cached},
};

impl Cached<'_> {
    /// The scores `q·kᵀ` of heads `q` `[heads, dim]` that share the keys from `column` on: into `scores` `[heads, keys]`, of the
    /// first positions.
    pub fn scores(
        &self,
        kernels: &Kernels,
        (q, dim): (&[f32], usize),
        column: usize,
        (scores, keys): (&mut [f32], usize),
    ) {
        let q = Mat::new(q, q.len() / dim, dim, dim);
        let mut first = 0;
        for piece in &self.0 {
            let count = piece.len().min(keys - first);
            if count == 0 {
                continue;
            }
            for link in (0..dim).step_by(CHAIN) {
                let q = q.columns(link, CHAIN.min(dim - link));
                let data = &piece.keys[(column + link) * BLOCK..];
                let b = Panels { data, row: BLOCK, panel: piece.width * BLOCK };
                let sums = if link == 0 { Sums::Begin } else { Sums::Add };
                multiply_panels(kernels, q, b, count, (&mut scores[first..], keys), sums);
            }
            first += count;
        }
    }

    /// The products of probabilities `p` `[heads, keys]` with the values from `column` on, which the heads share, into `y`
    /// `[heads, dim]`. Positions after the first `keys` are not seen.
    pub fn mix(
        &self,
        kernels: &Kernels,
        (p, keys): (&[f32], usize),
        column: usize,
        (y, dim): (&mut [f32], usize),
    ) {
        let whole = dim / PANEL * PANEL;
        if whole > 0 {
            self.mix_panels(kernels, Mat::new(p, p.len() / keys, keys, keys), column, (y, dim), whole);
        }
        for (p, y) in p.chunks_exact(keys).zip(y.chunks_exact_mut(dim)) {
            for (first, y) in (whole..).zip(&mut y[whole..]) {
                *y = self.mix_element(p, column + first);
            }
        }
    }

    /// The first `cols` columns, whole panels.
    fn mix_panels(
        &self,
        kernels: &Kernels,
        p: Mat,
        column: usize,
        (y, dim): (&mut [f32], usize),
        cols: usize,
    ) {
        let (mut position, mut link) = (0, Vec::new());
        for piece in &self.0 {
            let mut values = piece.values;
            while !values.is_empty() && position < p.cols() {
                let left = (CHAIN - position % CHAIN).min(p.cols() - position);
                let count = left.min(values.len() / piece.width);
                let here;
                (here, values) = values.split_at(count * piece.width);
                let b = Panels { data: &here[column..], row: piece.width, panel: PANEL };
                let sums = if position % CHAIN == 0 { Sums::Begin } else { Sums::Continue };
                let first = position < CHAIN;
                if !first {
                    link.resize(y.len(), 0.0);
                }
                let out = if first { &mut *y } else { &mut link[..] };
                multiply_panels(kernels, p.columns(position, count), b, cols, (out, dim), sums);
                position += count;
                if !first && count == left {
                    let rows = y.chunks_exact_mut(dim).zip(link.chunks_exact(dim));
                    rows.for_each(|(y, link)| {
                        y[..cols].iter_mut().zip(link).for_each(|(y, link)| *y += link)
                    });
                }
            }
        }
    }

    /// One column of one head.
    fn mix_element(&self, p: &[f32], column: usize) -> f32 {
        let values = self.0.iter().flat_map(|piece| piece.values.chunks_exact(piece.width.max(1)));
        let mut terms = p.iter().zip(values).map(|(p, row)| (p, row[column]));
        let mut link = || terms.by_ref().take(CHAIN).fold(0.0_f32, |sum, (p, value)| p.mul_add(value, sum));
        let first = link();
        (1..p.len().div_ceil(CHAIN)).fold(first, |sum, _| sum + link())
    }
}
