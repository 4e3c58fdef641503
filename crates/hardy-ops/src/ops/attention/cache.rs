//! The keys and values that one sequence sees in one layer: those of its prompt, which samples share, and its own. Keys lie in
//! blocks, one element of all keys of a block after another: a block is a panel of the product that gives scores.

use std::mem::MaybeUninit;

use super::super::{fetch::fetch_share, gemm::PANEL};

/// Keys of a block.
pub(super) const BLOCK: usize = PANEL;

/// Keys and values of neighbouring positions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Piece<'a> {
    /// `[blocks, width, BLOCK]`, in whole blocks.
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
    pub keys: &'a mut [MaybeUninit<f32>],
    /// `[tokens, width]`.
    pub values: &'a mut [MaybeUninit<f32>],
    /// Positions that were ever written, not fewer than `length`.
    pub written: &'a mut usize,
    pub length: usize,
    pub width: usize,
}

/// The keys and values of one sequence: its prompt's and its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cached<'a>(pub [Piece<'a>; 2]);

impl<'a> Piece<'a> {
    /// The first `length` positions of a place, whose keys and values are `width` wide.
    ///
    /// # Safety
    /// They must have been written, and the rest of the last block of keys too.
    pub unsafe fn new(
        keys: &'a [MaybeUninit<f32>],
        values: &'a [MaybeUninit<f32>],
        length: usize,
        width: usize,
    ) -> Self {
        let keys = &keys[..length.next_multiple_of(BLOCK) * width];
        // SAFETY: the caller's.
        let [keys, values] = [keys, &values[..length * width]].map(|x| unsafe { written(x) });
        Self { keys, values, length, width }
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
    ///
    /// # Panics
    /// If there is no room for them.
    #[inline(always)]
    pub fn append(self, keys: &[f32], values: &[f32]) -> Piece<'a> {
        let Self { keys: blocks, values: rows, written, length, width } = self;
        let added = keys.len() / width;
        let to = &mut rows[length * width..][..added * width];
        to.iter_mut().zip(&values[..added * width]).for_each(|(to, from)| _ = to.write(*from));
        for (position, key) in (length..).zip(keys.chunks_exact(width)) {
            let block = &mut blocks[position / BLOCK * BLOCK * width..][..BLOCK * width];
            if position % BLOCK == 0 {
                block.fill(MaybeUninit::new(0.0));
            }
            let column = block[position % BLOCK..].iter_mut().step_by(BLOCK);
            column.zip(key).for_each(|(to, from)| _ = to.write(*from));
        }
        *written = (*written).max(length + added);
        // SAFETY: what was held had been written, the rest was now, and a block begins with zeros.
        unsafe { Piece::new(blocks, rows, length + added, width) }
    }
}

/// # Safety
/// All must have been written.
unsafe fn written(x: &[MaybeUninit<f32>]) -> &[f32] {
    // SAFETY: a number lies in memory as one that may not be written, and all are, as the caller says.
    unsafe { &*(std::ptr::from_ref(x) as *const [f32]) }
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
            fetch_share(piece.keys, 0, 1);
        }
    }

    /// Asks for a share of the values, `part` of `parts`.
    #[inline(always)]
    pub fn fetch_values(&self, part: usize, parts: usize) {
        self.0.iter().for_each(|piece| fetch_share(piece.values, part, parts));
    }
}
