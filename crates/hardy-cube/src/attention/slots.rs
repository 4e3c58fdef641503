//! Where the queries of a pass are, and the keys that each sees.

use crate::device::{Client, array, empty, threads};
use cubecl::prelude::*;
use cubecl::server::Handle;

/// Queries of a block.
pub const BLOCK: usize = 64;

/// The slots of a pass. A packed pass has [`BLOCK`] for every block of queries, some of them empty, a cached one as many
/// as rows.
///
/// Of the table `[count, 8]` a row is: the query's row (`u32::MAX`: an empty slot), the first row of the keys of its
/// prefix, how many, the first row of its own keys, its place among these, its segment, and how many keys its block has
/// in all. It sees its prefix and then its own keys up to itself.
#[derive(Clone, Debug)]
pub struct Slots {
    pub(crate) table: Handle,
    pub(crate) count: usize,
    /// Rows of queries.
    pub(crate) tokens: usize,
    /// Keys that the longest sequence has.
    pub(crate) keys: usize,
    packed: bool,
}

impl Slots {
    /// Slots that share their keys.
    pub(crate) fn block(&self) -> usize {
        if self.packed { BLOCK } else { 1 }
    }

    /// The slots of packed `segments` `[segments, 4]`: first row, rows, first row of the prefix, rows of the prefix. `blocks`
    /// `[blocks, 2]` are their queries in tiles of [`BLOCK`]: the segment, and the first query in it, in order. `keys` is
    /// how many the longest has, its prefix included.
    ///
    /// # Panics
    /// If a handle is too short.
    pub fn packed<R: Runtime>(
        client: &Client<R>,
        (segments, count): (&Handle, usize),
        (blocks, tiles): (&Handle, usize),
        tokens: usize,
        keys: usize,
    ) -> Self {
        let slots = tiles * BLOCK;
        let table = empty(client, 8 * slots);
        if slots > 0 {
            let (cubes, dim) = threads(slots);
            let (segments, blocks) = (array(segments, 4 * count), array(blocks, 2 * tiles));
            packed_kernel::launch(client, cubes, dim, segments, blocks, array(&table, 8 * slots));
        }
        Self { table, count: slots, tokens, keys, packed: true }
    }

    /// The slots of `segments` that follow what a cache holds of them. `places` `[segments, 4]` are, in rows of the cache:
    /// the first of the prompt's place, how many it holds, the first of the own place, how many it held before this pass.
    ///
    /// # Panics
    /// If a handle is too short.
    pub fn cached<R: Runtime>(
        client: &Client<R>,
        (segments, count): (&Handle, usize),
        places: &Handle,
        tokens: usize,
        keys: usize,
    ) -> Self {
        let table = empty(client, 8 * tokens);
        if tokens > 0 {
            let (cubes, dim) = threads(tokens);
            cached_kernel::launch(
                client,
                cubes,
                dim,
                array(segments, 4 * count),
                array(places, 4 * count),
                array(&table, 8 * tokens),
                count as u32,
            );
        }
        Self { table, count: tokens, tokens, keys, packed: false }
    }

    /// Writes the rows of `x` `[tokens, width]`, keys or values, to their places in a cache of `rows` rows.
    ///
    /// # Panics
    /// If a handle is too short.
    pub fn store<R: Runtime>(
        &self,
        client: &Client<R>,
        x: &Handle,
        cache: &Handle,
        rows: usize,
        width: usize,
    ) {
        if self.tokens * width > 0 {
            let (cubes, dim) = threads(self.tokens * width);
            let (slots, x) = (array(&self.table, 8 * self.count), array(x, self.tokens * width));
            store_kernel::launch(client, cubes, dim, slots, x, array(cache, rows * width), width as u32);
        }
    }
}

#[cube(launch)]
fn packed_kernel(segments: &Array<u32>, blocks: &Array<u32>, slots: &mut Array<u32>) {
    if 8 * ABSOLUTE_POS < slots.len() {
        let block = ABSOLUTE_POS / 64usize;
        let segment = blocks[2 * block];
        let query = blocks[2 * block + 1] + (ABSOLUTE_POS % 64usize) as u32;
        let of = segment as usize * 4usize;
        let row = segments[of] + query;
        let slot = 8 * ABSOLUTE_POS;
        slots[slot] = select(query < segments[of + 1], row, 0xFFFF_FFFFu32);
        slots[slot + 1] = segments[of + 2];
        slots[slot + 2] = segments[of + 3];
        slots[slot + 3] = segments[of];
        slots[slot + 4] = query;
        slots[slot + 5] = segment;
        slots[slot + 6] = segments[of + 3] + min(blocks[2 * block + 1] + 64u32, segments[of + 1]);
    }
}

#[cube(launch)]
fn cached_kernel(segments: &Array<u32>, places: &Array<u32>, slots: &mut Array<u32>, count: u32) {
    if 8 * ABSOLUTE_POS < slots.len() {
        let row = ABSOLUTE_POS as u32;
        // The last segment that begins at or before the row and is not empty.
        let mut segment = u32::new(0);
        for index in 0u32..count {
            if segments[4 * index as usize] <= row && segments[4 * index as usize + 1] > 0u32 {
                segment = index;
            }
        }
        let of = segment as usize * 4usize;
        let slot = 8 * ABSOLUTE_POS;
        slots[slot] = row;
        slots[slot + 1] = places[of];
        slots[slot + 2] = places[of + 1];
        slots[slot + 3] = places[of + 2];
        slots[slot + 4] = places[of + 3] + row - segments[of];
        slots[slot + 5] = segment;
    }
}

#[cube(launch)]
fn store_kernel(slots: &Array<u32>, x: &Array<f32>, cache: &mut Array<f32>, width: u32) {
    if ABSOLUTE_POS < x.len() {
        let (row, column) = (ABSOLUTE_POS / width as usize, ABSOLUTE_POS % width as usize);
        let place = slots[8 * row + 3] + slots[8 * row + 4];
        cache[place as usize * width as usize + column] = x[ABSOLUTE_POS];
    }
}

/// A query and its keys.
#[derive(CubeType, Clone, Copy)]
pub(crate) struct Slot {
    /// Its row; `u32::MAX` where there is none.
    pub row: u32,
    /// The keys that it sees: from this one
    pub start: u32,
    /// up to this one, not included.
    pub end: u32,
    /// The keys of its block.
    pub held: u32,
    prefix_first: u32,
    prefix: u32,
    own_first: u32,
}

#[cube]
impl Slot {
    /// The row of key `j`.
    pub fn key(&self, j: u32) -> u32 {
        select(j < self.prefix, self.prefix_first + j, self.own_first + j - self.prefix)
    }
}

/// Slot `index`, which sees nothing where it is empty.
#[cube]
pub(crate) fn slot(slots: &Array<u32>, index: u32, window: u32) -> Slot {
    let of = index as usize * 8usize;
    let row = slots[of];
    let prefix = slots[of + 2];
    let end = select(row == 0xFFFF_FFFFu32, 0u32, prefix + slots[of + 4] + 1u32);
    let start = select(end > window, end - window, 0u32);
    Slot {
        row,
        start,
        end,
        held: slots[of + 6],
        prefix_first: slots[of + 1],
        prefix,
        own_first: slots[of + 3],
    }
}
