//! The key-value cache of one sequence in one layer, and attention of a single query over it. Samples of one prompt
//! share the prompt's part; keys lie in blocks of sixteen, one element of all sixteen after another, so that the
//! scores of sixteen keys are one chain of vector operations.

use std::sync::Arc;

use super::{super::chain::CHAIN, Heads};

/// Keys of a block.
const BLOCK: usize = 16;
/// Elements of a head that are mixed together.
const TILE: usize = 32;

/// The keys and values of one sequence in one layer, as the products see them.
#[derive(Clone, Debug, Default)]
pub struct LayerCache {
    prompt: Option<Arc<Piece>>,
    own: Piece,
}

/// Keys and values of neighbouring positions.
#[derive(Clone, Debug, Default)]
struct Piece {
    /// `[blocks, kv_heads·d, 16]`.
    keys: Vec<f32>,
    /// `[length, kv_heads·d]`.
    values: Vec<f32>,
    length: usize,
}

impl LayerCache {
    /// How many positions it holds.
    pub fn len(&self) -> usize {
        self.pieces().map(|piece| piece.length).sum()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes what it holds, a prompt's keys and values, common to all clones that are taken from now on.
    ///
    /// # Panics
    /// If it holds a common part already.
    pub fn share(&mut self) {
        assert!(self.prompt.is_none(), "a cache is shared once");
        self.prompt = Some(Arc::new(std::mem::take(&mut self.own)));
    }

    /// Makes room for `tokens` more positions of `heads`, so that nothing moves while they come.
    pub fn reserve(&mut self, tokens: usize, heads: Heads) {
        let width = heads.kv_width();
        self.own.values.reserve_exact(tokens * width);
        self.own.keys.reserve_exact((self.own.length + tokens).next_multiple_of(BLOCK) * width);
    }

    /// Adds positions: `keys` and `values` `[positions, width]`.
    pub(super) fn append(&mut self, keys: &[f32], values: &[f32], width: usize) {
        let own = &mut self.own;
        own.values.extend_from_slice(values);
        for key in keys.chunks_exact(width) {
            let lane = own.length % BLOCK;
            if lane == 0 {
                own.keys.resize(own.keys.len() + width * BLOCK, 0.0);
            }
            let block = own.length / BLOCK * BLOCK * width;
            own.keys[block + lane..].iter_mut().step_by(BLOCK).zip(key).for_each(|(to, from)| *to = *from);
            own.length += 1;
        }
    }

    /// Its keys and values, `[length, width]` each.
    pub(super) fn rows(&self, width: usize) -> [Vec<f32>; 2] {
        let key = |piece: &Piece, position: usize| -> Vec<f32> {
            let block = position / BLOCK * BLOCK * width + position % BLOCK;
            piece.keys[block..].iter().step_by(BLOCK).take(width).copied().collect()
        };
        let keys = self.pieces().flat_map(|piece| (0..piece.length).flat_map(move |at| key(piece, at)));
        [keys.collect(), self.pieces().flat_map(|piece| &piece.values).copied().collect()]
    }

    fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.prompt.as_deref().into_iter().chain([&self.own])
    }

    /// The scores `q·kᵀ` of one head's query `[d]` over the first `scores.len()` positions.
    #[inline(always)]
    pub(super) fn scores(&self, q: &[f32], column: usize, width: usize, scores: &mut [f32]) {
        let mut rest = scores;
        for piece in self.pieces() {
            let (here, after) = rest.split_at_mut(piece.length.min(rest.len()));
            rest = after;
            piece.scores(q, column, width, here);
        }
    }

    /// The product of one head's probabilities `p` over the first `p.len()` positions with their values, into
    /// `out` `[d]`.
    #[inline(always)]
    pub(super) fn mix(&self, p: &[f32], column: usize, width: usize, out: &mut [f32]) {
        let (tiles, rest) = out.as_chunks_mut::<TILE>();
        let first_of_rest = column + tiles.len() * TILE;
        for (tile, out) in tiles.iter_mut().enumerate() {
            self.mix_tile(p, column + tile * TILE, width, out);
        }
        for (i, out) in rest.iter_mut().enumerate() {
            self.mix_tile(p, first_of_rest + i, width, std::array::from_mut(out));
        }
    }

    /// The same for `N` elements of the head, kept in registers.
    #[inline(always)]
    fn mix_tile<const N: usize>(&self, p: &[f32], column: usize, width: usize, out: &mut [f32; N]) {
        let (mut link, mut position) = ([0.0_f32; N], 0);
        for piece in self.pieces() {
            let rows = piece.values.chunks_exact(width);
            for (p, row) in p[position..].iter().zip(rows) {
                if position > 0 && position % CHAIN == 0 {
                    close(&mut link, out, position == CHAIN);
                }
                let value = &row[column..column + N];
                for i in 0..N {
                    link[i] = p.mul_add(value[i], link[i]);
                }
                position += 1;
            }
        }
        close(&mut link, out, position <= CHAIN);
    }
}

/// Ends a link of a chain: it begins the sum, or is added to it.
#[inline(always)]
fn close(link: &mut [f32], out: &mut [f32], begins: bool) {
    for (out, link) in out.iter_mut().zip(link) {
        *out = if begins { *link } else { *out + *link };
        *link = 0.0;
    }
}

impl Piece {
    #[inline(always)]
    fn scores(&self, q: &[f32], column: usize, width: usize, scores: &mut [f32]) {
        for (group, scores) in scores.chunks_mut(4 * BLOCK).enumerate() {
            let keys = &self.keys[group * 4 * BLOCK * width..];
            // Several blocks at once hide the latency of the chains.
            match scores.len().div_ceil(BLOCK) {
                4 => score_blocks::<4>(q, keys, column, width, scores),
                3 => score_blocks::<3>(q, keys, column, width, scores),
                2 => score_blocks::<2>(q, keys, column, width, scores),
                _ => score_blocks::<1>(q, keys, column, width, scores),
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
