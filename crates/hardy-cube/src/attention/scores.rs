//! `q·kᵀ` of every slot and head, over the keys that it sees: one chain of `dim` terms an element. It is `∂p = ∂y·vᵀ`, too.

use super::{Chunk, Keys, slots::slot};
use crate::device::{Client, array, cubes, empty, exact, threads};
use crate::exact::Exact;
use crate::precision::operand;
use cubecl::prelude::*;
use cubecl::server::Handle;
use hardy_numerics::Precision;

/// The products times `factor`, `[slots, heads, keys]`; what a slot does not see is left as it is.
pub(super) fn scores<R: Runtime>(
    client: &Client<R>,
    chunk: &Chunk,
    q: &Handle,
    k: Keys,
    factor: f32,
) -> Handle {
    let (slots, heads) = (chunk.slots, chunk.heads);
    let out = empty(client, chunk.elements());
    if chunk.elements() == 0 {
        return out;
    }
    let group = (heads.query / heads.kv) as u32;
    let window = u32::try_from(heads.window).unwrap_or(u32::MAX);
    let [q, k] = [(q, slots.tokens * heads.query_width()), (k.data, k.rows * heads.kv_width())]
        .map(|(handle, length)| array(handle, length));
    let (table, out_arg) = (array(&slots.table, 8 * slots.count), array(&out, chunk.elements()));
    let (first, count) = (chunk.first as u32, chunk.count as u32);
    if slots.block() > 1 {
        let tiles = slots.keys.div_ceil(64);
        let all = chunk.count / slots.block() * heads.query * tiles;
        let (dim, query, keys) = (heads.dim as u32, heads.query as u32, slots.keys as u32);
        let shape = CubeDim::new_2d(16, 16);
        tile_kernel::launch(
            client,
            cubes(all),
            shape,
            exact(client),
            q,
            k,
            table,
            out_arg,
            first,
            query,
            dim,
            group,
            window,
            keys,
            tiles as u32,
            all as u32,
            factor,
            heads.precision,
        );
    } else {
        let (count_of_cubes, shape) = threads(chunk.elements());
        let (dim, query, keys) = (heads.dim as u32, heads.query as u32, slots.keys as u32);
        one_kernel::launch(
            client,
            count_of_cubes,
            shape,
            exact(client),
            q,
            k,
            table,
            out_arg,
            first,
            count,
            query,
            dim,
            group,
            window,
            keys,
            factor,
            heads.precision,
        );
    }
    out
}

/// One thread an element.
#[cube(launch)]
fn one_kernel(
    e: &Exact,
    q: &Array<f32>,
    k: &Array<f32>,
    slots: &Array<u32>,
    out: &mut Array<f32>,
    first: u32,
    count: u32,
    heads: u32,
    dim: u32,
    group: u32,
    window: u32,
    keys: u32,
    factor: f32,
    #[comptime] precision: Precision,
) {
    let index = ABSOLUTE_POS as u32;
    let (key, row) = (index % keys, index / keys);
    let (head, of) = (row % heads, row / heads);
    if of < count {
        let slot = slot(slots, first + of, window);
        if key >= slot.start && key < slot.end {
            let query = ((slot.row * heads + head) * dim) as usize;
            let place = ((slot.key(key) * (heads / group) + head / group) * dim) as usize;
            let mut sum = f32::new(0.0);
            for i in 0usize..dim as usize {
                let factors = (operand(q[query + i], precision), operand(k[place + i], precision));
                sum = e.mul_add(factors.0, factors.1, sum);
            }
            out[ABSOLUTE_POS] = sum * factor;
        }
    }
}

/// A cube has the 64 slots of a block and 64 keys of one head, a thread 4 × 4 of them.
#[cube(launch)]
fn tile_kernel(
    e: &Exact,
    q: &Array<f32>,
    k: &Array<f32>,
    slots: &Array<u32>,
    out: &mut Array<f32>,
    first: u32,
    heads: u32,
    dim: u32,
    group: u32,
    window: u32,
    keys: u32,
    tiles: u32,
    cubes: u32,
    factor: f32,
    #[comptime] precision: Precision,
) {
    let cube = CUBE_POS as u32;
    if cube < cubes {
        let (tile, head, block) = (cube % tiles, cube / tiles % heads, cube / tiles / heads);
        let first_key = tile * 64u32;
        let first_slot = first + block * 64u32;
        let kv_heads = heads / group;
        let me = UNIT_POS_Y * 16u32 + UNIT_POS_X;
        let mut q_tile = SharedMemory::<f32>::new(1040usize);
        let mut k_tile = SharedMemory::<f32>::new(1040usize);
        let mut sums = Array::<f32>::new(16usize);
        #[unroll]
        for i in 0usize..16usize {
            sums[i] = 0.0f32;
        }
        // All slots of a block have the keys of the first, as far as they go.
        let lead = slot(slots, first_slot, window);
        if first_key < lead.held {
            let mut begin = u32::new(0);
            while begin < dim {
                #[unroll]
                for turn in 0u32..4u32 {
                    let index = me + turn * 256u32;
                    let (row, term) = (index / 16u32, index % 16u32);
                    let at = slot(slots, first_slot + row, window);
                    let mut query = f32::new(0.0);
                    let mut key = f32::new(0.0);
                    if begin + term < dim {
                        if at.end > 0u32 {
                            query = q[((at.row * heads + head) * dim + begin + term) as usize];
                        }
                        if first_key + row < lead.held {
                            let place = lead.key(first_key + row) * kv_heads + head / group;
                            key = k[(place * dim + begin + term) as usize];
                        }
                    }
                    q_tile[(term * 65u32 + row) as usize] = operand(query, precision);
                    k_tile[(term * 65u32 + row) as usize] = operand(key, precision);
                }
                sync_cube();
                for term in 0usize..16usize {
                    let from = term * 65usize;
                    #[unroll]
                    for i in 0usize..4usize {
                        let query = q_tile[from + UNIT_POS_Y as usize + 16 * i];
                        #[unroll]
                        for j in 0usize..4usize {
                            let key = k_tile[from + UNIT_POS_X as usize + 16 * j];
                            sums[4 * i + j] = e.mul_add(query, key, sums[4 * i + j]);
                        }
                    }
                }
                sync_cube();
                begin += 16u32;
            }
            #[unroll]
            for i in 0usize..4usize {
                let of = block * 64u32 + UNIT_POS_Y + comptime!(16 * i as u32);
                let at = slot(slots, first + of, window);
                #[unroll]
                for j in 0usize..4usize {
                    let key = first_key + UNIT_POS_X + comptime!(16 * j as u32);
                    if key >= at.start && key < at.end {
                        out[((of * heads + head) * keys + key) as usize] = sums[4 * i + j] * factor;
                    }
                }
            }
        }
    }
}
