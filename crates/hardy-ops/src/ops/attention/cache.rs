//! The keys and values that one sequence sees in one layer, and attention of a single query over them: those of its
//! prompt, which samples share, and its own. Keys lie in blocks of sixteen, one element of all sixteen after another,
//! so that the scores of sixteen keys are one chain of vector operations.

use super::super::{chain::CHAIN, fetch::fetch_share};

/// Keys of a block.
pub(super) const BLOCK: usize = 16;

/// Keys and values of neighbouring positions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Piece<'a> {
    /// `[blocks, width, 16]`.
    keys: &'a [f32],
    /// `[length, width]`.
    pub values: &'a [f32],
    length: usize,
    pub width: usize,
}

/// A place that holds some positions and has room for those of the pass.
#[derive(Debug)]
pub(super) struct Growing<'a> {
    /// `[blocks, width, 16]`.
    pub keys: &'a mut [f32],
    /// `[tokens, width]`.
    pub values: &'a mut [f32],
    pub length: usize,
    pub width: usize,
}

/// The keys and values of one sequence: its prompt's and its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cached<'a>(pub [Piece<'a>; 2]);

impl<'a> Piece<'a> {
    /// The first `length` positions of a place, whose keys and values are `width` wide.
    pub fn new(keys: &'a [f32], values: &'a [f32], length: usize, width: usize) -> Self {
        Self { keys, values: &values[..length * width], length, width }
    }

    /// Whether it holds no positions.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn key(self, position: usize) -> impl Iterator<Item = f32> {
        let first = position / BLOCK * BLOCK * self.width + position % BLOCK;
        self.keys[first..].iter().step_by(BLOCK).take(self.width).copied()
    }
}

impl<'a> Growing<'a> {
    /// Adds positions, `keys` and `values` `[positions, width]`.
    #[inline(always)]
    pub fn append(self, keys: &[f32], values: &[f32]) -> Piece<'a> {
        let Self { keys: blocks, values: rows, length, width } = self;
        rows[length * width..][..values.len()].copy_from_slice(values);
        for (position, key) in (length..).zip(keys.chunks_exact(width)) {
            let first = position / BLOCK * BLOCK * width + position % BLOCK;
            blocks[first..].iter_mut().step_by(BLOCK).zip(key).for_each(|(to, from)| *to = *from);
        }
        Piece::new(blocks, rows, length + keys.len() / width, width)
    }
}

impl<'a> Cached<'a> {
    /// A prompt's part, empty where there is none, and the sequence's own.
    pub fn new(prompt: Piece<'a>, own: Piece<'a>) -> Self {
        Self([prompt, own])
    }

    /// How many positions there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(|piece| piece.length).sum()
    }

    /// The keys and values, `[length, width]` each.
    pub fn rows(&self) -> [Vec<f32>; 2] {
        let keys = |piece: Piece<'a>| (0..piece.length).flat_map(move |position| piece.key(position));
        let values = self.0.iter().flat_map(|piece| piece.values).copied();
        [self.0.into_iter().flat_map(keys).collect(), values.collect()]
    }

    /// Asks for all keys.
    #[inline(always)]
    pub fn fetch_keys(&self) {
        for piece in &self.0 {
            fetch_share(&piece.keys[..piece.length.next_multiple_of(BLOCK) * piece.width], 0, 1);
        }
    }

    /// Asks for a share of the values, `part` of `parts`.
    #[inline(always)]
    pub fn fetch_values(&self, part: usize, parts: usize) {
        self.0.iter().for_each(|piece| fetch_share(piece.values, part, parts));
    }

    /// The scores `q·kᵀ` of one head's query `[d]` over the first `scores.len()` positions.
    #[inline(always)]
    pub fn scores(&self, q: &[f32], column: usize, scores: &mut [f32]) {
        let mut rest = scores;
        for piece in &self.0 {
            let (here, after) = rest.split_at_mut(piece.length.min(rest.len()));
            rest = after;
            piece.scores(q, column, here);
        }
    }
}

/// Ends a link of a chain: it begins the sum, or is added to it.
#[inline(always)]
pub(super) fn close(link: &mut [f32], out: &mut [f32], begins: bool) {
    for (out, link) in out.iter_mut().zip(link) {
        *out = if begins { *link } else { *out + *link };
        *link = 0.0;
    }
}

impl Piece<'_> {
    #[inline(always)]
    fn scores(&self, q: &[f32], column: usize, scores: &mut [f32]) {
        for (group, scores) in scores.chunks_mut(4 * BLOCK).enumerate() {
            let keys = &self.keys[group * 4 * BLOCK * self.width..];
            // Several blocks at once hide the latency of the chains.
            match scores.len().div_ceil(BLOCK) {
                4 => score_blocks::<4>(q, keys, column, self.width, scores),
                3 => score_blocks::<3>(q, keys, column, self.width, scores),
                2 => score_blocks::<2>(q, keys, column, self.width, scores),
                _ => score_blocks::<1>(q, keys, column, self.width, scores),
            }
        }
    }
}

/// The scores of up to `N` blocks.
#[inline(always)]
fn score_blocks<const N: usize>(q: &[f32], keys: &[f32], column: usize, width: usize, scores: &mut [f32]) {
    let mut total = [[0.0_f32; BLOCK]; N];
    for (index, q) in q.chunks(CHAIN).enumerate() {
        let first = column + index * CHAIN;
        let blocks: [&[[f32; BLOCK]]; N] = std::array::from_fn(|block| {
            let (rows, _) = keys[(block * width + first) * BLOCK..][..q.len() * BLOCK].as_chunks();
            rows
        });
        let mut sums = [[0.0_f32; BLOCK]; N];
        for (i, factor) in q.iter().enumerate() {
            for (sums, block) in sums.iter_mut().zip(&blocks) {
                let keys = &block[i];
                for lane in 0..BLOCK {
                    sums[lane] = factor.mul_add(keys[lane], sums[lane]);
                }
            }
        }
        for (sums, total) in sums.iter_mut().zip(&mut total) {
            close(sums, total, index == 0);
        }
    }
    for (scores, total) in scores.chunks_mut(BLOCK).zip(&total) {
        scores.copy_from_slice(&total[..scores.len()]);
    }
}
