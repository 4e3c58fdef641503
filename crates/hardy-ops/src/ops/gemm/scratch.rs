//! Room for packed factors, which stays with the thread. Parts of a product that a thread computes one after another find the
//! right factor as the first of them packed it.

use std::cell::Cell;

use pulp::bytemuck;

use super::super::fetch::LINE;

/// Elements that begin with a line of the cache, so that no vector lies across two.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([f32; LINE]);

// SAFETY: numbers, of any bits, without gaps.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: the same.
unsafe impl bytemuck::Pod for Line {}

/// As many elements as were asked for, whatever they are.
#[derive(Default)]
pub(super) struct Room(Vec<Line>);

/// The blocks of a right factor, in the order in which a part of the product needs them.
#[derive(Default)]
pub(super) struct Blocks {
    room: Room,
    /// Elements of the blocks that are packed.
    packed: usize,
    /// Where the next block begins.
    next: usize,
}

/// Room for both factors.
#[derive(Default)]
pub(super) struct Scratch {
    pub left: Room,
    pub right: Blocks,
}

thread_local! {
    static SCRATCH: Cell<Option<Scratch>> = const { Cell::new(None) };
}

impl Scratch {
    /// Calls `f` with the room of this thread, which holds nothing.
    pub fn with<R>(f: impl FnOnce(&mut Self) -> R) -> R {
        let mut scratch = SCRATCH.take().unwrap_or_default();
        scratch.right.forget();
        let result = f(&mut scratch);
        SCRATCH.set(Some(scratch));
        result
    }
}

impl Room {
    pub fn elements(&mut self, len: usize) -> &mut [f32] {
        if self.0.len() * LINE < len {
            self.0.resize(len.div_ceil(LINE), Line([0.0; LINE]));
        }
        &mut bytemuck::cast_slice_mut(&mut self.0)[..len]
    }
}

impl Blocks {
    /// From now on blocks are those of other columns.
    pub fn forget(&mut self) {
        (self.packed, self.next) = (0, 0);
    }

    /// From now on blocks are those of the first again.
    pub fn rewind(&mut self) {
        self.next = 0;
    }

    /// The next block, of `len` elements, which `pack` writes if no part before did; kept for the next part, or not.
    pub fn block(&mut self, len: usize, kept: bool, pack: impl FnOnce(&mut [f32])) -> &[f32] {
        let (first, end) = (self.next, self.next + len);
        let block = &mut self.room.elements(end)[first..];
        if end > self.packed {
            pack(block);
        }
        if kept {
            (self.packed, self.next) = (self.packed.max(end), end);
        }
        block
    }
}
