//! The softmax of what every slot and head sees, in place, `p = exp(x − max)/Σ`, and `∂s = p·(∂p − Σ ∂p·p)`. Sums are in
//! sixteen lanes, from the first key that is seen.

use super::{Chunk, slots::slot};
use crate::device::{Client, array, cubes, exact, owned};
use crate::exact::Exact;
use crate::lanes::{add_lanes, dot, largest_lane};
use crate::math::exp;
use cubecl::prelude::*;
use cubecl::server::Handle;

/// The softmax of `x·factor`.
pub(super) fn softmax<R: Runtime>(client: &Client<R>, chunk: &Chunk, x: Handle, factor: f32) -> Handle {
    let out = owned(client, x, chunk.elements());
    if chunk.elements() > 0 {
        let rows = chunk.count * chunk.heads.query;
        softmax_kernel::launch(
            client,
            cubes(rows.div_ceil(16)),
            CubeDim::new_2d(16, 16),
            exact(client),
            array(&out, chunk.elements()),
            array(&chunk.slots.table, 8 * chunk.slots.count),
            chunk.first as u32,
            rows as u32,
            chunk.heads.query as u32,
            u32::try_from(chunk.heads.window).unwrap_or(u32::MAX),
            chunk.slots.keys as u32,
            factor,
        );
    }
    out
}

/// `p·(∂p − Σ ∂p·p)·factor` in the place of `∂p`.
pub(super) fn softmax_backward<R: Runtime>(
    client: &Client<R>,
    chunk: &Chunk,
    p: &Handle,
    dp: Handle,
    factor: f32,
) -> Handle {
    let out = owned(client, dp, chunk.elements());
    if chunk.elements() > 0 {
        let rows = chunk.count * chunk.heads.query;
        softmax_backward_kernel::launch(
            client,
            cubes(rows.div_ceil(16)),
            CubeDim::new_2d(16, 16),
            exact(client),
            array(p, chunk.elements()),
            array(&out, chunk.elements()),
            array(&chunk.slots.table, 8 * chunk.slots.count),
            chunk.first as u32,
            rows as u32,
            chunk.heads.query as u32,
            u32::try_from(chunk.heads.window).unwrap_or(u32::MAX),
            chunk.slots.keys as u32,
            factor,
        );
    }
    out
}

#[cube(launch)]
fn softmax_kernel(
    e: &Exact,
    x: &mut Array<f32>,
    slots: &Array<u32>,
    first: u32,
    rows: u32,
    heads: u32,
    window: u32,
    keys: u32,
    factor: f32,
) {
    let row = CUBE_POS as u32 * 16u32 + UNIT_POS_Y;
    let slot = slot(slots, first + min(row, rows - 1u32) / heads, window);
    // A group beyond the last row takes part in what all threads do, with nothing to see.
    let length = select(row < rows, slot.end - slot.start, 0u32);
    let begin = (row * keys + slot.start) as usize;
    let mut max = f32::reinterpret(u32::new(0xFF80_0000i64));
    let mut i = UNIT_POS_X;
    while i < length {
        let value = e.product(x[begin + i as usize], factor);
        max = select(value > max, value, max);
        i += 16u32;
    }
    let max = largest_lane(max);
    let whole = length / 16u32 * 16u32;
    let mut own = f32::new(0.0);
    let mut i = UNIT_POS_X;
    while i < length {
        let weight = exp(e, e.product(x[begin + i as usize], factor) - max);
        x[begin + i as usize] = weight;
        if i < whole {
            own += weight;
        }
        i += 16u32;
    }
    sync_storage();
    sync_cube();
    let mut rest = f32::new(0.0);
    for i in whole..length {
        let weight = x[begin + i as usize];
        rest = select(i == whole, weight, rest + weight);
    }
    let scale = e.quotient(1.0f32, add_lanes(own, rest, whole < length));
    let mut i = UNIT_POS_X;
    while i < length {
        x[begin + i as usize] = x[begin + i as usize] * scale;
        i += 16u32;
    }
}

#[cube(launch)]
fn softmax_backward_kernel(
    e: &Exact,
    p: &Array<f32>,
    dp: &mut Array<f32>,
    slots: &Array<u32>,
    first: u32,
    rows: u32,
    heads: u32,
    window: u32,
    keys: u32,
    factor: f32,
) {
    let row = CUBE_POS as u32 * 16u32 + UNIT_POS_Y;
    let slot = slot(slots, first + min(row, rows - 1u32) / heads, window);
    let length = select(row < rows, slot.end - slot.start, 0u32);
    let begin = (row * keys + slot.start) as usize;
    let mean = dot(e, dp, begin, p, begin, length);
    let mut i = UNIT_POS_X;
    while i < length {
        let place = begin + i as usize;
        dp[place] = e.product(p[place], dp[place] - mean) * factor;
        i += 16u32;
    }
}
