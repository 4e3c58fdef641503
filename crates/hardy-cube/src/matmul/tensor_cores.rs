//! The same products on tensor cores, where both factors are rounded to bfloat16: sixteen terms at a time, in steps of
//! one size whatever the tile, links of the same terms, added in the same order. What a step adds up inside is the
//! hardware's own: within a link the last bits differ from a chain's, and depend on nothing but the terms.
//!
//! Factors stay in f32 in memory. Of a large product they are rounded first, in a pass of its own.
//!
//! A cube of eight planes of 32 threads computes a tile. While a slab of the factors is multiplied from shared memory,
//! the next one is on its way to registers. A fragment's elements lie nowhere that is known, so that a link goes
//! through shared memory, sixteen rows at a time, to the threads that add it up.

mod factor;
mod trial;

use super::elements::{begin, store};
use super::epilogue::{Ending, EndingLaunch, Ends, end};
use super::{CHAIN, Layout, Product, Sizes, SizesLaunch, Tile};
use crate::device::{Client, Found, array, cubes, exact, threads};
use crate::exact::Exact;
use cubecl::cmma::{self, Matrix, MatrixIdent, MatrixLayout};
use cubecl::ir::{ElemType, FloatKind, features::MmaConfig};
use cubecl::prelude::*;
use cubecl::server::Handle;
use factor::{Factor, Four, PAD, Slab};
use half::bf16;

/// Rows, columns and terms of a fragment.
const SIDE: usize = 16;
/// Rows and columns from which on factors are rounded before a product and not by every cube that reads them: what a
/// cube reads is half as long, and so often is it read that the pass is worth it.
const LARGE: usize = 1024;
/// Rows of tiles that neighbouring cubes compute, so that they find each other's factors in the cache.
const GROUP: u32 = 8;

/// Whether the device of `client` has them and gets right what it is tried with, once for each kind of runtime; else
/// products in bfloat16 are chains as all others are.
pub fn are_used<R: Runtime>(client: &Client<R>) -> bool {
    static FOUND: Found<bool> = Found::new();
    FOUND.of::<R>(|| are_there(client) && trial::is_passed(client))
}

/// Whether the device says that it multiplies such fragments, and loads them from where fours of numbers lie.
fn are_there<R: Runtime>(client: &Client<R>) -> bool {
    let [narrow, wide] =
        [FloatKind::BF16, FloatKind::F32].map(|kind| StorageType::from(ElemType::Float(kind)));
    let [m, n, k] = [SIDE as u32; 3];
    let wanted = MmaConfig { a_type: narrow, b_type: narrow, cd_type: wide, m, n, k };
    let (features, hardware) = (client.features(), &client.properties().hardware);
    features.matmul.cmma.contains(&wanted)
        && features.memory_reinterpret
        && features.alignment
        && [hardware.plane_size_min, hardware.plane_size_max] == [32, 32]
}

/// Elements that a cube computes, and terms that it holds at a time.
pub(super) fn tile(m: usize, n: usize) -> Tile {
    match m.min(n) {
        ..=16 => Tile { rows: 16, cols: 16, depth: 64 },
        17..=256 => Tile { rows: 64, cols: 64, depth: 64 },
        _ => Tile { rows: 128, cols: 128, depth: 32 },
    }
}

/// The fragments that a plane computes, `high` × `wide` of a tile.
#[derive(Clone, Copy, Debug)]
struct Planes {
    high: usize,
    wide: usize,
    across: usize,
    count: usize,
}

impl Planes {
    /// Four planes above each other and two side by side, where there are so many fragments.
    fn of(tile: Tile) -> Self {
        let (high, wide) = ((tile.rows / SIDE).div_ceil(4), (tile.cols / SIDE).div_ceil(2));
        let across = tile.cols / SIDE / wide;
        Self { high, wide, across, count: tile.rows / SIDE / high * across }
    }
}

/// Whether factors of these sizes can be read four numbers at a time.
pub(super) fn fits([m, k, n]: [usize; 3], layout: Layout) -> bool {
    let widths = match layout {
        Layout::NN => [k, n],
        Layout::NT => [k, k],
        Layout::TN => [m, n],
    };
    widths.iter().all(|width| width.is_multiple_of(4))
}

impl Product<'_> {
    pub(super) fn launch_fragments<R: Runtime>(
        &self,
        client: &Client<R>,
        (sizes, tile): ([u32; 6], Tile),
        to: (&Handle, bool),
        ends: (EndingLaunch<R>, Ends),
    ) {
        let [m, k, n] = self.sizes;
        if m.min(n) < LARGE {
            return self.launch_stored::<f32, R>(client, self.factors, (sizes, tile), to, ends);
        }
        let [a, b] = self.factors;
        let narrow = [rounded(client, a, m * k), rounded(client, b, k * n)];
        self.launch_stored::<bf16, R>(client, narrow.each_ref(), (sizes, tile), to, ends);
    }

    /// The same with factors that are stored as `F`.
    fn launch_stored<F: Float + CubeElement, R: Runtime>(
        &self,
        client: &Client<R>,
        [a, b]: [&Handle; 2],
        ([m, k, n, links, across, tiles], tile): ([u32; 6], Tile),
        (out, adds): (&Handle, bool),
        (ending, ends): (EndingLaunch<R>, Ends),
    ) {
        let [rows, terms, cols] = self.sizes;
        // SAFETY: the kernel compares every place in a factor or in the result with its size, and `fours` and `array` the
        // sizes with the handles.
        unsafe {
            fragments::launch_unchecked::<F, R>(
                client,
                cubes(tiles as usize),
                CubeDim::new_2d(16, 16),
                exact(client),
                fours::<F, R>(a, rows * terms),
                fours::<F, R>(b, terms * cols),
                self.links(),
                array(out, rows * cols),
                ending,
                SizesLaunch::new(m, k, n, links, across, tiles),
                self.layout,
                tile,
                self.runs.is_some(),
                adds,
                ends,
            );
        }
    }
}

/// The `length` numbers of a handle, four by four; where there are none, any handle stands in their place.
///
/// # Panics
/// If it is shorter.
fn fours<F: CubeElement, R: Runtime>(handle: &Handle, length: usize) -> ArrayArg<R> {
    assert!(handle.size_in_used() >= (length * size_of::<F>()) as u64, "{length} numbers in a handle");
    // SAFETY: the length was checked.
    unsafe { ArrayArg::from_raw_parts(handle.clone(), length.max(4)) }
}

/// `x`, of `length` numbers, rounded to nearest, ties to even: 6 bytes each.
fn rounded<R: Runtime>(client: &Client<R>, x: &Handle, length: usize) -> Handle {
    let out = client.empty((2 * length).max(8));
    let (count, dim) = threads(length / 4);
    round::launch(client, count, dim, fours::<f32, R>(x, length), fours::<bf16, R>(&out, length));
    out
}

#[cube(launch)]
fn round(x: &Array<Vector<f32, Four>>, out: &mut Array<Vector<bf16, Four>>) {
    if ABSOLUTE_POS < out.len() {
        out[ABSOLUTE_POS] = Vector::<bf16, Four>::cast_from(x[ABSOLUTE_POS]);
    }
}

#[cube(launch_unchecked)]
fn fragments<F: Float>(
    e: &Exact,
    a: &Array<Vector<F, Four>>,
    b: &Array<Vector<F, Four>>,
    links: &Array<u32>,
    out: &mut Array<f32>,
    ending: &mut Ending,
    sizes: Sizes,
    #[comptime] layout: Layout,
    #[comptime] tile: Tile,
    #[comptime] cut: bool,
    #[comptime] adds: bool,
    #[comptime] ends: Ends,
) {
    let cube = CUBE_POS as u32;
    if cube < sizes.tiles {
        let (m, k, n) = (sizes.m, sizes.k, sizes.n);
        let me = UNIT_POS_Y * 16u32 + UNIT_POS_X;
        let (row, col) = place_of(cube, sizes.tiles / sizes.across, sizes.across);
        let (first_row, first_col) = (row * comptime!(tile.rows as u32), col * comptime!(tile.cols as u32));
        let left = Factor {
            first: first_row,
            outer: m,
            k,
            slab: comptime!(Slab { along: layout != Layout::TN, size: tile.rows, depth: tile.depth }),
        };
        let right = Factor {
            first: first_col,
            outer: n,
            k,
            slab: comptime!(Slab { along: layout == Layout::NT, size: tile.cols, depth: tile.depth }),
        };
        let mut a_tile =
            SharedMemory::<Vector<bf16, Four>>::new_aligned(comptime!(left.slab.fours()), 32usize);
        let mut b_tile =
            SharedMemory::<Vector<bf16, Four>>::new_aligned(comptime!(right.slab.fours()), 32usize);
        let mut rows = SharedMemory::<f32>::new_aligned(comptime!(SIDE * (tile.cols + PAD)), 32usize);
        let mut a_held = Array::<Vector<F, Four>>::new(comptime!(left.slab.turns()));
        let mut b_held = Array::<Vector<F, Four>>::new(comptime!(right.slab.turns()));
        let (high, wide) = comptime!((tile.rows / SIDE, tile.cols / SIDE));
        let mut total = Array::<f32>::new(comptime!(high * wide));
        begin(out, &mut total, m, n, first_row, first_col, adds, high, wide);
        let mut link = Sequence::<Matrix<f32>>::new();
        #[unroll]
        for _ in 0..comptime!(Planes::of(tile).high * Planes::of(tile).wide) {
            link.push(Matrix::<f32>::from_value(
                MatrixIdent::Accumulator,
                16usize,
                16usize,
                16usize,
                MatrixLayout::Undefined,
                0.0f32,
            ));
        }
        let (mut from, mut until) = span(links, 0u32, sizes.links, k, cut);
        left.fetch(a, &mut a_held, me, from, until);
        right.fetch(b, &mut b_held, me, from, until);
        for run in 0u32..sizes.links {
            while from < until {
                left.put(&a_held, &mut a_tile, me);
                right.put(&b_held, &mut b_tile, me);
                sync_cube();
                from += comptime!(tile.depth as u32);
                left.fetch(a, &mut a_held, me, from, until);
                right.fetch(b, &mut b_held, me, from, until);
                multiply(&left, &right, &a_tile, &b_tile, &link, me / 32u32, tile);
                sync_cube();
            }
            let (next, end) = span(links, run + 1u32, sizes.links, k, cut);
            from = next;
            until = end;
            left.fetch(a, &mut a_held, me, from, until);
            right.fetch(b, &mut b_held, me, from, until);
            close(&link, &mut rows, &mut total, me / 32u32, adds || run > 0u32, tile);
        }
        end(e, ending, &mut total, &mut rows, m, n, first_row, first_col, ends, high, wide);
        store(out, &total, m, n, first_row, first_col, high, wide);
    }
}

/// The row and the column of a cube's tile.
#[cube]
fn place_of(cube: u32, rows: u32, cols: u32) -> (u32, u32) {
    let group = cube / (GROUP * cols);
    let high = min(GROUP.runtime(), rows - group * GROUP);
    let rest = cube % (GROUP * cols);
    (group * GROUP + rest % high, rest / high)
}

/// The first term of a link and its end; both the end of the last beyond it.
#[cube]
fn span(links: &Array<u32>, run: u32, count: u32, k: u32, #[comptime] cut: bool) -> (u32, u32) {
    let mut first = min(run * comptime!(CHAIN as u32), k);
    let mut until = min(first + comptime!(CHAIN as u32), k);
    if comptime!(cut) {
        first = links[min(run, count) as usize];
        until = links[min(run + 1u32, count) as usize];
    }
    (first, until)
}

/// Adds the products of a slab to the link, sixteen terms after sixteen.
#[cube]
fn multiply(
    left: &Factor,
    right: &Factor,
    a_tile: &SharedMemory<Vector<bf16, Four>>,
    b_tile: &SharedMemory<Vector<bf16, Four>>,
    link: &Sequence<Matrix<f32>>,
    plane: u32,
    #[comptime] tile: Tile,
) {
    let planes = comptime!(Planes::of(tile));
    if plane < comptime!(planes.count as u32) {
        let across = comptime!(planes.across as u32);
        let row = plane / across * comptime!((planes.high * SIDE) as u32);
        let col = plane % across * comptime!((planes.wide * SIDE) as u32);
        #[unroll]
        for step in 0..comptime!(tile.depth / SIDE) {
            let term = comptime!((step * SIDE) as u32);
            let mut b_own = Sequence::<Matrix<bf16>>::new();
            #[unroll]
            for j in 0..comptime!(planes.wide) {
                b_own.push(right.fragment(b_tile, col + comptime!((j * SIDE) as u32), term, MatrixIdent::B));
            }
            #[unroll]
            for i in 0..comptime!(planes.high) {
                let a_own = left.fragment(a_tile, row + comptime!((i * SIDE) as u32), term, MatrixIdent::A);
                #[unroll]
                for j in 0..comptime!(planes.wide) {
                    let sum = link.index(comptime!(i * planes.wide + j));
                    cmma::execute::<bf16, bf16, f32, f32>(&a_own, b_own.index(j), sum, sum);
                }
            }
        }
    }
}

/// Adds a link to what there is, or begins with it, and begins a new one.
#[cube]
fn close(
    link: &Sequence<Matrix<f32>>,
    rows: &mut SharedMemory<f32>,
    total: &mut Array<f32>,
    plane: u32,
    add: bool,
    #[comptime] tile: Tile,
) {
    let planes = comptime!(Planes::of(tile));
    let pitch = comptime!((tile.cols + PAD) as u32);
    let across = comptime!(planes.across as u32);
    let col = plane % across * comptime!((planes.wide * SIDE) as u32);
    let wide = comptime!(tile.cols / SIDE);
    #[unroll]
    for i in 0..comptime!(tile.rows / SIDE) {
        if plane / across == comptime!((i / planes.high) as u32) {
            #[unroll]
            for j in 0..comptime!(planes.wide) {
                let first = (col + comptime!((j * SIDE) as u32)) as usize;
                let mut place = rows.slice_mut(first, comptime!(SIDE * (tile.cols + PAD)));
                let sum = link.index(comptime!(i % planes.high * planes.wide + j));
                cmma::store(&mut place, sum, pitch, MatrixLayout::RowMajor);
            }
        }
        sync_cube();
        #[unroll]
        for j in 0..wide {
            let own = rows[(UNIT_POS_Y * pitch + UNIT_POS_X + comptime!((j * SIDE) as u32)) as usize];
            let place = comptime!(i * wide + j);
            total[place] = select(add, total[place] + own, own);
        }
        sync_cube();
    }
    #[unroll]
    for place in 0..comptime!(planes.high * planes.wide) {
        cmma::fill(link.index(place), 0.0f32);
    }
}
