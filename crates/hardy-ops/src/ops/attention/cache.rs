//! The keys and values that one sequence sees in one layer: those of its prompt, which samples share, and its own. Keys lie in
//! blocks, one element of all keys of a block after another: a block is a panel of the product that gives scores.

use super::super::{fetch::fetch_share, gemm::PANEL};

/// Keys of a block.
pub(super) const BLOCK: usize = PANEL;

/// Keys and values of neighbouring positions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Piece<'a> {
    /// `[blocks, width, BLOCK]`.
    pub keys: &'a [f32],
    /// `[length, width]`.
    pub values: &'a [f32],
    length: usize,
    pub width: usize,
}

/// A place that holds some positions and has room for those of the pass.
#[derive(Debug)]
pub(super) struct Growing<'a> {
    /// `[blocks, width, BLOCK]`.
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

    /// How many positions it holds.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it holds none.
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
}
