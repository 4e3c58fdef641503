//! One sequence of a pass in blocks of queries, and what each query sees of it.
//!
//! A block is computed as one product with zeros above the diagonal. Zero times NaN or infinity is NaN, so that a later
//! token would reach an earlier one: where a factor is not finite, every row is computed over what it sees alone.

use std::{borrow::Cow, ops::Range};

use super::{
    super::{
        accumulation::{Rounded, Sums as Products},
        gemm::Mat,
    },
    BLOCK, HEAD_SHIFT, Heads,
    segments::Segments,
};
use crate::{
    at::At,
    by_row::{ByRow, Part, Sums},
    site::Point,
};

/// One sequence of a pass: its queries, and the keys and values up to them, as the products see them.
pub(super) struct Sequence<'a> {
    pub q: &'a [f32],
    pub k: Cow<'a, [f32]>,
    pub v: Cow<'a, [f32]>,
    /// The rows of the queries.
    pub rows: Range<usize>,
    /// How many keys a query sees at most, the last ones.
    pub window: usize,
}

impl<'a> Sequence<'a> {
    pub fn packed([q, k, v]: [&'a [f32]; 3], segments: &Segments, index: usize, heads: Heads) -> Self {
        let (rows, prefix) = (segments.rows(index), segments.prefix(index));
        let of = |x: &'a [f32], rows: &Range<usize>, width: usize| &x[rows.start * width..rows.end * width];
        let with_prefix = |x: &'a [f32]| {
            let [before, own] = [&prefix, &rows].map(|rows| of(x, rows, heads.kv_width()));
            if before.is_empty() { Cow::Borrowed(own) } else { Cow::Owned([before, own].concat()) }
        };
        Self {
            q: of(q, &rows, heads.query_width()),
            k: with_prefix(k),
            v: with_prefix(v),
            rows,
            window: segments.window(),
        }
    }

    /// The blocks of queries.
    pub fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let queries = self.rows.len();
        (0..queries).step_by(BLOCK).map(move |first| first..queries.min(first + BLOCK))
    }

    /// How many keys precede the first query.
    pub fn offset(&self, heads: Heads) -> usize {
        self.k.len() / heads.kv_width() - self.rows.len()
    }

    pub fn queries(&self, block: &Range<usize>, head: usize, heads: Heads) -> Mat<'_> {
        Mat::new(self.query(block.start, head, heads), block.len(), heads.dim, heads.query_width())
    }

    /// From one query's head on.
    pub fn query(&self, index: usize, head: usize, heads: Heads) -> &'a [f32] {
        &self.q[index * heads.query_width() + head * heads.dim..]
    }

    pub fn keys(&self, count: usize, head: usize, heads: Heads) -> Mat<'_> {
        Mat::new(&self.k[heads.kv_columns(head)..], count, heads.dim, heads.kv_width())
    }

    pub fn values(&self, count: usize, head: usize, heads: Heads) -> Mat<'_> {
        Mat::new(&self.v[heads.kv_columns(head)..], count, heads.dim, heads.kv_width())
    }
}

/// What the queries of a block see, one head after another: one key more than the query before.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    /// The row of the first query.
    pub row: usize,
    /// How many queries there are.
    pub queries: usize,
    /// The first head.
    pub head: usize,
    /// How many keys the first query sees.
    pub shortest: usize,
    /// From one query's scores to the next one's.
    pub keys: usize,
    /// How many keys a query sees at most, the last ones.
    pub window: usize,
}

impl Seen {
    /// The rows of the queries.
    fn rows(self) -> Range<usize> {
        self.row..self.row + self.queries
    }

    /// Injects into what the queries see of `x` `[heads·queries, keys]`.
    #[inline(always)]
    pub fn inject(self, errors: ByRow, x: &mut [f32], sums: &mut Sums) {
        let part = |i: usize| {
            let (head, query) = (self.head + i / self.queries, i % self.queries);
            Part { row: self.row + query, first_element: (head as u64) << HEAD_SHIFT, seen: self.range(i) }
        };
        errors.apply_parts(self.rows(), self.keys, x, part, sums);
    }

    /// What every query sees of `x` `[heads·queries, keys]`.
    #[inline(always)]
    pub fn visible(self, x: &mut [f32]) -> impl Iterator<Item = &mut [f32]> {
        x.chunks_exact_mut(self.keys).enumerate().map(move |(i, x)| &mut x[self.range(i)])
    }

    /// Keeps what every query sees of `x` `[heads·queries, keys]` as values of `point`, where a tap wants them.
    pub fn keep(self, at: &At, point: Point, x: &[f32]) {
        if at.watch().tap().is_none() {
            return;
        }
        for (index, x) in x.chunks_exact(self.queries * self.keys).enumerate() {
            let seen = x.chunks_exact(self.keys).enumerate().map(|(i, x)| {
                let range = self.range(i);
                (self.row + i, range.start, &x[range])
            });
            at.keep_seen(point, self.head + index, seen);
        }
    }

    /// The keys that row `i` of `[heads·queries, keys]` sees.
    #[inline(always)]
    pub fn range(self, i: usize) -> Range<usize> {
        let end = self.shortest + i % self.queries;
        end.saturating_sub(self.window)..end
    }

    /// Puts 0 where row `i` of `x` `[heads·queries, keys]` does not see.
    #[inline(always)]
    pub fn hide(self, x: &mut [f32]) {
        for (i, x) in x.chunks_exact_mut(self.keys).enumerate() {
            let Range { start, end } = self.range(i);
            x[..start].fill(0.0);
            x[end..].fill(0.0);
        }
    }

    /// Puts 0 where the queries of `x` `[queries, keys]` do not see, and measures what rounding its sums did to the rest.
    #[inline(always)]
    pub fn mask(self, products: Products, [exact, x]: [&mut [f32]; 2], rounded: &mut Rounded) {
        self.hide(x);
        for (i, x) in x.chunks_exact_mut(self.keys).enumerate() {
            let (seen, first) = (self.range(i), i * self.keys);
            let exact = exact.get(first + seen.start..first + seen.end).unwrap_or_default();
            let visible = &mut x[seen];
            products.measure(self.row + i..self.row + i + 1, visible.len(), [exact, visible], rounded);
        }
    }

    /// `x·b`, into rows of `out` that are `stride` apart from element `first` on: `x` `[queries, keys]` is 0 above the
    /// diagonal, which is left out where it is not `finite` what it meets there.
    #[inline(always)]
    pub fn mix(
        self,
        products: Products,
        [out, exact]: [&mut [f32]; 2],
        (first, stride): (usize, usize),
        [x, b]: [Mat; 2],
        finite: bool,
    ) {
        if finite {
            return products.product([out, exact], first, stride, [x, b], false);
        }
        for i in 0..self.queries {
            let visible = self.shortest + i;
            let factors = [x.rows_from(i, 1).columns(0, visible), b.rows_from(0, visible)];
            products.product([&mut *out, &mut *exact], first + i * stride, stride, factors, false);
        }
    }

    /// Adds `xᵀ·b` likewise, `b` `[queries, d]`: a key gets something of the queries that see it.
    #[inline(always)]
    pub fn spread(
        self,
        products: Products,
        [out, exact]: [&mut [f32]; 2],
        (first, stride): (usize, usize),
        [x, b]: [Mat; 2],
        finite: bool,
    ) {
        let all_see = if finite { self.keys } else { self.shortest };
        let factors = [x.columns(0, all_see).t(), b];
        products.product([&mut *out, &mut *exact], first, stride, factors, true);
        for key in all_see..self.keys {
            let from = key + 1 - self.shortest;
            let [x, b] = [x.columns(key, 1), b].map(|mat| mat.rows_from(from, self.queries - from));
            let factors = [x.t(), b];
            products.product([&mut *out, &mut *exact], first + key * stride, stride, factors, true);
        }
    }
}

/// Whether some element is NaN or infinite.
#[inline(always)]
pub(super) fn not_finite(x: &[f32]) -> bool {
    x.iter().any(|x| !x.is_finite())
}
