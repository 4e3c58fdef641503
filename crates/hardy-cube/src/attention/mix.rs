//! Probabilities times values, `y = p·v`, of every slot and head: a chain over the keys that it sees, begun anew at every
//! 512th key of the sequence. It is `∂q = ∂s·k`, too.

use super::{Chunk, Keys, slots::slot};
use crate::device::{Client, array, cubes, exact, threads};
use crate::exact::Exact;
use crate::precision::operand;
use cubecl::prelude::*;
use cubecl::server::Handle;
use hardy_numerics::Precision;

/// Writes the rows of the chunk's slots into `y` `[tokens, heads·dim]`.
pub(super) fn mix<R: Runtime>(client: &Client<R>, chunk: &Chunk, p: &Handle, v: Keys, y: &Handle) {
    let (slots, heads) = (chunk.slots, chunk.heads);
    if chunk.elements() == 0 {
        return;
    }
    let group = (heads.query / heads.kv) as u32;
    let window = u32::try_from(heads.window).unwrap_or(u32::MAX);
    let (first, query, dim, keys) =
        (chunk.first as u32, heads.query as u32, heads.dim as u32, slots.keys as u32);
    let (p, v) = (array(p, chunk.elements()), array(v.data, v.rows * heads.kv_width()));
    let (table, y) = (array(&slots.table, 8 * slots.count), array(y, slots.tokens * heads.query_width()));
    if slots.block() > 1 {
        let tiles = heads.dim.div_ceil(64);
        let all = chunk.count / slots.block() * heads.query * tiles;
        let shape = CubeDim::new_2d(16, 16);
        tile_kernel::launch(
            client,
            cubes(all),
            shape,
            exact(client),
            p,
            v,
            table,
            y,
            first,
            query,
            dim,
            group,
            window,
            keys,
            tiles as u32,
            all as u32,
            heads.precision,
        );
    } else {
        let (count, shape) = threads(chunk.count * heads.query_width());
        let all = chunk.count as u32;
        one_kernel::launch(
            client,
            count,
            shape,
            exact(client),
            p,
            v,
            table,
            y,
            first,
            all,
            query,
            dim,
            group,
            window,
            keys,
            heads.precision,
        );
    }
}

/// One thread an element.
#[cube(launch)]
fn one_kernel(
    e: &Exact,
    p: &Array<f32>,
    v: &Array<f32>,
    slots: &Array<u32>,
    y: &mut Array<f32>,
    first: u32,
    count: u32,
    heads: u32,
    dim: u32,
    group: u32,
    window: u32,
    keys: u32,
    #[comptime] precision: Precision,
) {
    let index = ABSOLUTE_POS as u32;
    let (column, row) = (index % dim, index / dim);
    let (head, of) = (row % heads, row / heads);
    if of < count {
        let slot = slot(slots, first + of, window);
        if slot.end > 0u32 {
            let mut total = f32::new(0.0);
            let mut link = f32::new(0.0);
            for key in slot.start..slot.end {
                if key % 512u32 == 0u32 && key > slot.start {
                    total += link;
                    link = f32::new(0.0);
                }
                let place = ((slot.key(key) * (heads / group) + head / group) * dim + column) as usize;
                let weight = operand(p[(row * keys + key) as usize], precision);
                link = e.mul_add(weight, operand(v[place], precision), link);
            }
            y[((slot.row * heads + head) * dim + column) as usize] = total + link;
        }
    }
}

/// A cube has the 64 slots of a block and 64 columns of one head, a thread 4 × 4 of them.
#[cube(launch)]
fn tile_kernel(
    e: &Exact,
    p: &Array<f32>,
    v: &Array<f32>,
    slots: &Array<u32>,
    y: &mut Array<f32>,
    first: u32,
    heads: u32,
    dim: u32,
    group: u32,
    window: u32,
    keys: u32,
    tiles: u32,
    cubes: u32,
    #[comptime] precision: Precision,
) {
    let cube = CUBE_POS as u32;
    if cube < cubes {
        let (tile, head, block) = (cube % tiles, cube / tiles % heads, cube / tiles / heads);
        let first_column = tile * 64u32;
        let first_slot = first + block * 64u32;
        let kv_heads = heads / group;
        let me = UNIT_POS_Y * 16u32 + UNIT_POS_X;
        let mut p_tile = SharedMemory::<f32>::new(1040usize);
        let mut v_tile = SharedMemory::<f32>::new(1040usize);
        let mut total = Array::<f32>::new(16usize);
        let mut link = Array::<f32>::new(16usize);
        #[unroll]
        for i in 0usize..16usize {
            total[i] = 0.0f32;
            link[i] = 0.0f32;
        }
        let mut starts = Array::<u32>::new(4usize);
        let mut ends = Array::<u32>::new(4usize);
        #[unroll]
        for i in 0usize..4usize {
            let at = slot(slots, first_slot + UNIT_POS_Y + comptime!(16 * i as u32), window);
            starts[i] = at.start;
            ends[i] = at.end;
        }
        let lead = slot(slots, first_slot, window);
        let held = lead.held;
        let mut begin = lead.start / 16u32 * 16u32;
        while begin < held {
            #[unroll]
            for turn in 0u32..4u32 {
                let index = me + turn * 256u32;
                // Probabilities lie along the keys, values along the columns.
                let (row, term) = (index / 16u32, index % 16u32);
                let mut probability = f32::new(0.0);
                if begin + term < held {
                    probability = p[(((block * 64u32 + row) * heads + head) * keys + begin + term) as usize];
                }
                p_tile[(term * 65u32 + row) as usize] = operand(probability, precision);
                let (term, column) = (index / 64u32, index % 64u32);
                let mut value = f32::new(0.0);
                if begin + term < held && first_column + column < dim {
                    let place = lead.key(begin + term) * kv_heads + head / group;
                    value = v[(place * dim + first_column + column) as usize];
                }
                v_tile[(term * 65u32 + column) as usize] = operand(value, precision);
            }
            sync_cube();
            if begin % 512u32 == 0u32 {
                #[unroll]
                for i in 0usize..16usize {
                    total[i] = total[i] + link[i];
                    link[i] = 0.0f32;
                }
            }
            for term in 0u32..16u32 {
                let from = term as usize * 65usize;
                #[unroll]
                for i in 0usize..4usize {
                    let sees = begin + term >= starts[i] && begin + term < ends[i];
                    let probability = p_tile[from + UNIT_POS_Y as usize + 16 * i];
                    #[unroll]
                    for j in 0usize..4usize {
                        let value = v_tile[from + UNIT_POS_X as usize + 16 * j];
                        let sum = e.mul_add(probability, value, link[4 * i + j]);
                        link[4 * i + j] = select(sees, sum, link[4 * i + j]);
                    }
                }
            }
            sync_cube();
            begin += 16u32;
        }
        #[unroll]
        for i in 0usize..4usize {
            let at = slot(slots, first_slot + UNIT_POS_Y + comptime!(16 * i as u32), window);
            #[unroll]
            for j in 0usize..4usize {
                let column = first_column + UNIT_POS_X + comptime!(16 * j as u32);
                if at.end > 0u32 && column < dim {
                    y[((at.row * heads + head) * dim + column) as usize] = total[4 * i + j] + link[4 * i + j];
                }
            }
        }
    }
}
