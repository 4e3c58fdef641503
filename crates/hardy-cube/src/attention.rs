//! Causal attention with grouped key-value heads over packed segments, or over caches, with errors at its three sites:
//! the scores, the softmax and the values. Queries and keys come turned, with the errors of their inputs.
//!
//! Scores of a chunk of queries, `[queries, heads, keys]`, lie in a scratch buffer of at most 128 MiB; they become
//! probabilities there, so that any number of errors can fall on them by address, and are computed again for the
//! backward pass. A query is a *slot*: [`slots`] says which row it is and where its keys lie, so that packed and cached
//! passes run the same sums. An element's sum is one chain whatever shares the pass, and a cached pass equals the full
//! one to the bit.
//!
//! For `n` queries of `m` keys on average: `4·n·m·heads·dim` operations forward, `12·n·m·heads·dim` backward;
//! `20·n·m·heads` bytes of scratch traffic forward, which an L2 cache takes in part.

pub mod backward;
mod mix;
mod scores;
pub mod slots;
mod softmax;

use crate::device::{Client, array, empty, threads};
use crate::perturb::{Layout, perturb};
use crate::rule::{Error, Place};
use cubecl::prelude::*;
use cubecl::server::Handle;
use hardy_numerics::Precision;
use slots::Slots;

/// Elements of the scratch buffer, a query at least.
const SCRATCH: usize = 1 << 25;

/// The heads of an attention layer, and what a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Heads {
    /// Query heads, at most 4096.
    pub query: usize,
    /// Key-value heads; divides `query`.
    pub kv: usize,
    /// Width of a head, at most 512.
    pub dim: usize,
    /// Keys that a query sees at most, the last ones, its own among them.
    pub window: usize,
    /// What the products see of their operands.
    pub precision: Precision,
}

impl Heads {
    /// Width of a row of queries.
    pub fn query_width(self) -> usize {
        self.query * self.dim
    }

    /// Width of a row of keys or values.
    pub fn kv_width(self) -> usize {
        self.kv * self.dim
    }

    fn scale(self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }

    fn check(self) {
        assert!(
            self.query <= 1 << 12 && self.dim <= crate::matmul::CHAIN,
            "heads beyond the address space: {self:?}"
        );
    }
}

/// An error, and where its energy goes.
#[derive(Clone, Debug)]
pub struct Injected {
    /// The error.
    pub error: Error,
    /// Its [tally]; `None` where nobody measures it.
    pub tally: Option<Handle>,
}

/// The errors of a forward pass, in the order in which they fall.
#[derive(Clone, Copy, Debug, Default)]
pub struct Errors<'a> {
    /// On the scores, before they are divided by √dim.
    pub scores: &'a [Injected],
    /// On the scores that the softmax sees.
    pub softmax_input: &'a [Injected],
    /// On the probabilities, as an error of the softmax.
    pub softmax_output: &'a [Injected],
    /// On the probabilities, as an error of their product with the values.
    pub probabilities: &'a [Injected],
}

/// Keys, or values, `[rows, kv·dim]`.
#[derive(Clone, Copy, Debug)]
pub struct Keys<'a> {
    /// Where they lie.
    pub data: &'a Handle,
    /// How many rows that holds.
    pub rows: usize,
}

/// `softmax(q·kᵀ/√d)·v`: `q` `[tokens, query·dim]`, the keys and values of `slots`, and the addresses `table`
/// `[tokens, 4]`; gives `[tokens, query·dim]`, before the errors of the output.
///
/// # Panics
/// If a handle is too short, or the heads are too many or too wide.
pub fn attention<R: Runtime>(
    client: &Client<R>,
    q: &Handle,
    [k, v]: [Keys; 2],
    heads: Heads,
    slots: &Slots,
    table: &Handle,
    errors: &Errors,
) -> Handle {
    heads.check();
    let y = empty(client, slots.tokens * heads.query_width());
    for chunk in Chunk::all(slots, heads, table) {
        let p = chunk.probabilities(client, q, k, errors);
        let p = chunk.inject(client, p, errors.softmax_output);
        let p = chunk.inject(client, p, errors.probabilities);
        mix::mix(client, &chunk, &p, v, &y);
    }
    y
}

/// Some of the slots, whose scores fit the scratch buffer.
#[derive(Clone, Copy)]
pub(crate) struct Chunk<'a> {
    pub slots: &'a Slots,
    pub heads: Heads,
    table: &'a Handle,
    /// The first slot, and how many.
    pub first: usize,
    pub count: usize,
}

impl<'a> Chunk<'a> {
    fn all(slots: &'a Slots, heads: Heads, table: &'a Handle) -> impl Iterator<Item = Self> + use<'a> {
        let unit = slots.block();
        let room = SCRATCH / (unit * heads.query * slots.keys).max(1);
        let step = room.max(1) * unit;
        (0..slots.count).step_by(step).map(move |first| {
            let count = step.min(slots.count - first);
            Self { slots, heads, table, first, count }
        })
    }

    /// Elements of the scores.
    pub fn elements(&self) -> usize {
        self.count * self.heads.query * self.slots.keys
    }

    /// The scores of `q` and `k`, or the like, times `factor`.
    fn scores<R: Runtime>(&self, client: &Client<R>, q: &Handle, k: Keys, factor: f32) -> Handle {
        scores::scores(client, self, q, k, factor)
    }

    /// The probabilities as the softmax makes them.
    fn probabilities<R: Runtime>(&self, client: &Client<R>, q: &Handle, k: Keys, errors: &Errors) -> Handle {
        let scale = self.heads.scale();
        if errors.softmax_input.is_empty() {
            let s = self.scores(client, q, k, 1.0);
            let s = self.inject(client, s, errors.scores);
            return softmax::softmax(client, self, s, scale);
        }
        let s = if errors.scores.is_empty() {
            self.scores(client, q, k, scale)
        } else {
            let s = self.scores(client, q, k, 1.0);
            let s = self.inject(client, s, errors.scores);
            multiply(client, s, self.elements(), scale)
        };
        let s = self.inject(client, s, errors.softmax_input);
        softmax::softmax(client, self, s, 1.0)
    }

    /// Injects errors into what the slots see.
    fn inject<R: Runtime>(&self, client: &Client<R>, mut x: Handle, errors: &[Injected]) -> Handle {
        let Slots { keys, tokens, ref table, count, .. } = *self.slots;
        let layout = Layout {
            place: Place::Attention,
            spans: self.count * self.heads.query,
            width: keys,
            rows: self.table,
            table: tokens,
            slots: table,
            attention: [count, self.first, self.heads.query, self.heads.window],
        };
        for Injected { error, tally } in errors {
            x = perturb(client, x, self.elements(), layout, error, tally.as_ref());
        }
        x
    }
}

/// `x·factor` in place.
fn multiply<R: Runtime>(client: &Client<R>, x: Handle, length: usize, factor: f32) -> Handle {
    let out = crate::device::owned(client, x, length);
    let (count, dim) = threads(length);
    multiply_kernel::launch(client, count, dim, array(&out, length), factor);
    out
}

#[cube(launch)]
fn multiply_kernel(x: &mut Array<f32>, factor: f32) {
    if ABSOLUTE_POS < x.len() {
        x[ABSOLUTE_POS] = x[ABSOLUTE_POS] * factor;
    }
}

#[cfg(all(test, any(feature = "vulkan", feature = "cuda")))]
mod tests;
