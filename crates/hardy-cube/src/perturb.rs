//! Errors on a tensor in place: on the rows of an activation, on a weight, on the scores or probabilities of attention.
//! A thread replaces the four elements of a Philox block at a time, or one block of a format.
//!
//! Cost of noise, an element: 8 bytes of traffic, some 25 integer operations of Philox and 35 of Box-Muller; energies add
//! some 30, a format some 15.

mod cast;
mod spans;
mod strike;
#[cfg(all(test, any(feature = "vulkan", feature = "cuda")))]
mod tests;

use crate::device::{Client, THREADS, empty};
use crate::rule::{Error, Place};
use crate::tally;
use cubecl::prelude::*;
use cubecl::server::Handle;
use hardy_numerics::Perturbation;

/// Blocks that a thread replaces, one after another.
const TURNS: usize = 8;

/// Where the values of a tensor and their addresses are.
#[derive(Clone, Copy)]
pub(crate) struct Layout<'a> {
    pub place: Place,
    /// Rows; of attention, slots times heads.
    pub spans: usize,
    /// Values from one row to the next.
    pub width: usize,
    /// The addresses of rows `[rows, 4]`.
    pub rows: &'a Handle,
    /// The number of rows in `rows`.
    pub table: usize,
    /// Of attention: which row each slot is and what it sees; else anything.
    pub slots: &'a Handle,
    /// Of attention: the number of slots, the first of them, heads, and how many keys a query sees.
    pub attention: [usize; 4],
}

/// Injects an error into the rows of `x` `[rows, width]`, in place, at the addresses `table` `[rows, 4]`: position,
/// sequence (two words, the low one first), and whether the row counts in the tally.
///
/// # Panics
/// If a handle is too short, or the error is not [supported](crate::rule::supports) there.
pub fn perturb_rows<R: Runtime>(
    client: &Client<R>,
    x: Handle,
    [rows, width]: [usize; 2],
    table: &Handle,
    error: &Error,
    tally: Option<&Handle>,
) -> Handle {
    let layout = Layout {
        place: Place::Rows,
        spans: rows,
        width,
        rows: table,
        table: rows,
        slots: table,
        attention: [0; 4],
    };
    perturb(client, x, rows * width, layout, error, tally)
}

/// Injects an error into a weight, or the gradient of one, `[rows, width]`, in place; its channels are its columns.
///
/// # Panics
/// As [`perturb_rows`].
pub fn perturb_flat<R: Runtime>(
    client: &Client<R>,
    x: Handle,
    [rows, width]: [usize; 2],
    error: &Error,
    tally: Option<&Handle>,
) -> Handle {
    assert!(rows * width < 1 << 32, "a weight of {} elements", rows * width);
    let nothing = empty(client, 1);
    let layout = Layout {
        place: Place::Weight,
        spans: rows,
        width,
        rows: &nothing,
        table: 0,
        slots: &nothing,
        attention: [0; 4],
    };
    perturb(client, x, rows * width, layout, error, tally)
}

/// Injects an error into `x`, of `length` elements.
pub(crate) fn perturb<R: Runtime>(
    client: &Client<R>,
    x: Handle,
    length: usize,
    layout: Layout,
    error: &Error,
    tally: Option<&Handle>,
) -> Handle {
    if length == 0 {
        return x;
    }
    match error.what {
        Perturbation::Quantization(quantization) => {
            cast::cast(client, x, length, layout, (error, quantization), tally)
        }
        _ => strike::strike(client, x, length, layout, error, tally),
    }
}

/// How a kernel over blocks is launched, and where its cubes leave their sums.
struct Launch {
    cubes: usize,
    parts: Handle,
    counts: bool,
}

impl Launch {
    fn new<R: Runtime>(client: &Client<R>, spans: usize, blocks: usize, counts: bool) -> Self {
        assert!(spans * blocks < 1 << 32, "{spans} rows of {blocks} blocks are too many for one launch");
        let cubes = (spans * blocks).div_ceil(THREADS as usize * TURNS);
        let parts = empty(client, if counts { tally::WORDS * cubes } else { 1 });
        Self { cubes, parts, counts }
    }

    fn words(&self) -> usize {
        if self.counts { tally::WORDS * self.cubes } else { 1 }
    }

    fn finish<R: Runtime>(&self, client: &Client<R>, tally: Option<&Handle>) {
        if let Some(tally) = tally {
            tally::add(client, &self.parts, self.cubes, tally);
        }
    }
}
