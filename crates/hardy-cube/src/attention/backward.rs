//! The backward pass: the probabilities are computed again, `∂v = p̃ᵀ·∂y`, `∂p = ∂y·vᵀ`, `∂s = p·(∂p − Σ ∂p·p)/√d`,
//! `∂q = ∂s·k`, `∂k = ∂sᵀ·q`. Gradients of keys and values are sums over blocks of 64 queries, each a chain, and are given
//! for every query head and every segment by itself, prefix and own rows, so that errors can fall there; see [`reduce_kv`].

use super::{Chunk, Errors, Heads, Injected, Keys, mix, slots::Slots, slots::slot, softmax};
use crate::device::{Client, array, empty, exact, threads};
use crate::exact::Exact;
use crate::precision::operand;
use cubecl::prelude::*;
use cubecl::server::Handle;
use hardy_numerics::Precision;

/// The segments of a packed pass, once more, for what is summed over their queries.
#[derive(Clone, Copy, Debug)]
pub struct Segments<'a> {
    /// `[count, 4]`: first row, rows, first row of the prefix, rows of the prefix.
    pub table: &'a Handle,
    /// How many.
    pub count: usize,
    /// Their rows and those of their prefixes, added up.
    pub expanded: usize,
}

/// The errors of the backward pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct GradientErrors<'a> {
    /// On the gradient of the probabilities.
    pub probabilities: &'a [Injected],
    /// On the gradient of the scores that the softmax saw.
    pub softmax: &'a [Injected],
}

/// Gradients of [`attention`](super::attention): of the queries, `[tokens, query·dim]`, and of keys and values, each
/// `[expanded, query·dim]`, segment after segment, its prefix's rows before its own. `tables` are the addresses
/// `[tokens, 4]` of the forward pass and of gradients; `again` are the errors of the forward pass, without tallies.
///
/// # Panics
/// As [`attention`](super::attention), or if `slots` are not packed.
pub fn attention_backward<R: Runtime>(
    client: &Client<R>,
    [q, dy]: [&Handle; 2],
    [k, v]: [Keys; 2],
    heads: Heads,
    (slots, segments): (&Slots, Segments),
    tables: [&Handle; 2],
    (again, errors): (&Errors, &GradientErrors),
) -> [Handle; 3] {
    heads.check();
    assert!(slots.block() > 1, "the backward pass is packed");
    let width = heads.query_width();
    let dq = empty(client, slots.tokens * width);
    let [mut dk, mut dv] = [0; 2].map(|_| empty(client, segments.expanded * width));
    let places = expanded(client, segments);
    for (forward, gradient) in Chunk::all(slots, heads, tables[0]).zip(Chunk::all(slots, heads, tables[1])) {
        let p = forward.probabilities(client, q, k, again);
        // What the values saw is a copy where errors fall on it.
        let seen = forward.inject(client, p.clone(), again.softmax_output);
        let seen = forward.inject(client, seen, again.probabilities);
        dv = spread(client, &forward, &seen, dy, dv, (segments, &places));
        let ds = gradient.scores(client, dy, v, 1.0);
        let ds = gradient.inject(client, ds, errors.probabilities);
        let ds = if errors.softmax.is_empty() {
            softmax::softmax_backward(client, &gradient, &p, ds, heads.scale())
        } else {
            let ds = softmax::softmax_backward(client, &gradient, &p, ds, 1.0);
            let ds = gradient.inject(client, ds, errors.softmax);
            super::multiply(client, ds, gradient.elements(), heads.scale())
        };
        mix::mix(client, &gradient, &ds, k, &dq);
        dk = spread(client, &gradient, &ds, q, dk, (segments, &places));
    }
    [dq, dk, dv]
}

/// For every expanded row `[expanded, 4]`: its segment's rows, its key in the segment, the rows of the prefix, and the
/// first block of the segment.
fn expanded<R: Runtime>(client: &Client<R>, segments: Segments) -> Handle {
    let out = empty(client, 4 * segments.expanded);
    if segments.expanded > 0 {
        let (count, dim) = threads(segments.expanded);
        let (table, places) = (array(segments.table, 4 * segments.count), array(&out, 4 * segments.expanded));
        expanded_kernel::launch(client, count, dim, table, places, segments.count as u32);
    }
    out
}

#[cube(launch)]
fn expanded_kernel(segments: &Array<u32>, places: &mut Array<u32>, count: u32) {
    if 4 * ABSOLUTE_POS < places.len() {
        let index = ABSOLUTE_POS as u32;
        let mut first = u32::new(0);
        let mut block = u32::new(0);
        for segment in 0u32..count {
            let of = 4usize * segment as usize;
            let (rows, prefix) = (segments[of + 1], segments[of + 3]);
            if index >= first && index < first + prefix + rows {
                let place = 4 * ABSOLUTE_POS;
                places[place] = rows;
                places[place + 1] = index - first;
                places[place + 2] = prefix;
                places[place + 3] = block;
            }
            first += prefix + rows;
            block += (rows + 63u32) / 64u32;
        }
    }
}

/// Adds `xᵀ·b` of the chunk's blocks to `sum` `[expanded, heads·dim]`: `x` are probabilities or the like, `b` `[tokens,
/// heads·dim]` lies along the queries.
fn spread<R: Runtime>(
    client: &Client<R>,
    chunk: &Chunk,
    x: &Handle,
    b: &Handle,
    sum: Handle,
    (segments, places): (Segments, &Handle),
) -> Handle {
    let (heads, slots) = (chunk.heads, chunk.slots);
    let length = segments.expanded * heads.query_width();
    if length > 0 {
        let (count, dim) = threads(length);
        spread_kernel::launch(
            client,
            count,
            dim,
            exact(client),
            array(x, chunk.elements().max(1)),
            array(b, slots.tokens * heads.query_width()),
            array(&slots.table, 8 * slots.count),
            array(places, 4 * segments.expanded),
            array(&sum, length),
            (chunk.first / slots.block()) as u32,
            (chunk.count / slots.block()) as u32,
            heads.query as u32,
            heads.dim as u32,
            u32::try_from(heads.window).unwrap_or(u32::MAX),
            slots.keys as u32,
            heads.precision,
        );
    }
    sum
}

/// One thread an element: a chain over the queries of every block that see the key, the blocks in their order.
#[cube(launch)]
fn spread_kernel(
    e: &Exact,
    x: &Array<f32>,
    b: &Array<f32>,
    slots: &Array<u32>,
    places: &Array<u32>,
    sum: &mut Array<f32>,
    first_block: u32,
    blocks: u32,
    heads: u32,
    dim: u32,
    window: u32,
    keys: u32,
    #[comptime] precision: Precision,
) {
    if ABSOLUTE_POS < sum.len() {
        let width = heads * dim;
        let (row, column) = (ABSOLUTE_POS as u32 / width, ABSOLUTE_POS as u32 % width);
        let head = column / dim;
        let place = 4usize * row as usize;
        let (rows, key, prefix, own) =
            (places[place], places[place + 1], places[place + 2], places[place + 3]);
        // The first block of the pass begins every sum.
        let mut total = f32::new(0.0);
        if first_block > 0u32 {
            total = sum[ABSOLUTE_POS];
        }
        let begin = max(own, first_block);
        let end = min(own + (rows + 63u32) / 64u32, first_block + blocks);
        for block in begin..end {
            let query = (block - own) * 64u32;
            let count = min(64u32, rows - query);
            let mut link = f32::new(0.0);
            for i in 0u32..count {
                let at = slot(slots, block * 64u32 + i, window);
                if key >= at.start && key < at.end {
                    let of = (block - first_block) * 64u32 + i;
                    let weight = operand(x[((of * heads + head) * keys + key) as usize], precision);
                    let value = operand(b[(at.row * width + column) as usize], precision);
                    link = e.mul_add(weight, value, link);
                }
            }
            if prefix + query + count > key {
                total += link;
            }
        }
        sum[ABSOLUTE_POS] = total;
    }
}

/// From gradients `x` `[expanded, query·dim]` of every query head and segment to those of keys or values
/// `[tokens, kv·dim]`: the heads of a group are added in their order, then the rows of a token in theirs. `expansion` are
/// the offsets `[tokens + 1]` of every token's rows, and then these rows, `[expanded]`.
///
/// # Panics
/// If a handle is too short.
pub fn reduce_kv<R: Runtime>(
    client: &Client<R>,
    x: &Handle,
    heads: Heads,
    expansion: &Handle,
    [tokens, expanded]: [usize; 2],
) -> Handle {
    let length = tokens * heads.kv_width();
    let out = empty(client, length);
    if length > 0 {
        let (count, dim) = threads(length);
        reduce_kernel::launch(
            client,
            count,
            dim,
            array(x, (expanded * heads.query_width()).max(1)),
            array(expansion, tokens + 1 + expanded),
            array(&out, length),
            tokens as u32,
            (heads.query / heads.kv) as u32,
            heads.dim as u32,
            heads.kv as u32,
        );
    }
    out
}

#[cube(launch)]
fn reduce_kernel(
    x: &Array<f32>,
    expansion: &Array<u32>,
    out: &mut Array<f32>,
    tokens: u32,
    group: u32,
    dim: u32,
    kv_heads: u32,
) {
    if ABSOLUTE_POS < out.len() {
        let width = kv_heads * dim;
        let (token, column) = (ABSOLUTE_POS as u32 / width, ABSOLUTE_POS as u32 % width);
        let (head, within) = (column / dim, column % dim);
        let mut total = f32::new(0.0);
        for entry in expansion[token as usize]..expansion[token as usize + 1] {
            let row = expansion[(tokens + 1u32 + entry) as usize];
            let mut part = f32::new(0.0);
            for query in head * group..(head + 1u32) * group {
                part += x[((row * kv_heads * group + query) * dim + within) as usize];
            }
            total += part;
        }
        out[ABSOLUTE_POS] = total;
    }
}
