//! Matrix products in one order: every element is a chain of fused multiply-adds along the inner dimension, begun anew
//! every 512 terms, or where a table says so, the links added in their order. It is that of hardy-ops' products, so that
//! an element is the same to the bit whatever the number of rows and, where the device has a fused multiply-add, on the
//! CPU. There is no split of the inner dimension and nothing that is tuned by the clock. In bfloat16, tensor cores compute
//! the links where a device has them (in `tensor_cores`).
//!
//! A cube of 16 × 16 threads computes a tile through shared memory; a tile of `r` × `c` reads `4·k·(r + c)` bytes for
//! `2·k·r·c` operations: 32 operations a byte at 128 × 128, where the arithmetic is the limit, 4 at 16 × 16, where one
//! factor has few rows and the memory is.

mod elements;
mod epilogue;
mod tensor_cores;

use crate::device::{Client, array, cubes, exact};
use crate::exact::Exact;
use crate::precision::operand;
use crate::rows::{Runs, begun};
use cubecl::prelude::*;
use cubecl::server::Handle;
use elements::{begin, store};
use epilogue::{Ending, EndingLaunch, Ends, end};
use hardy_numerics::Precision;

pub use epilogue::{Epilogue, Noise, fuses};
pub use tensor_cores::are_used as uses_tensor_cores;

/// Terms of a chain.
pub const CHAIN: usize = 512;

/// How the factors of `[m, k]·[k, n]` lie in memory, row by row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// `a` `[m, k]`, `b` `[k, n]`.
    NN,
    /// `a` `[m, k]`, `b` `[n, k]`.
    NT,
    /// `a` `[k, m]`, `b` `[k, n]`.
    TN,
}

/// Elements that a cube computes, and terms that it holds at a time, a divisor of [`CHAIN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Tile {
    rows: usize,
    cols: usize,
    depth: usize,
}

impl Tile {
    fn of(m: usize, n: usize) -> Self {
        match m.min(n) {
            ..=16 => Self { rows: 16, cols: 16, depth: 32 },
            17..=256 => Self { rows: 64, cols: 64, depth: 16 },
            _ => Self { rows: 128, cols: 128, depth: 16 },
        }
    }
}

/// `a·b` `[m, n]`, and what `epilogue` makes of it.
///
/// # Panics
/// If a handle is too short, or the epilogue has an error that no product injects.
pub fn matmul<R: Runtime>(
    client: &Client<R>,
    factors: [&Handle; 2],
    sizes: [usize; 3],
    layout: Layout,
    precision: Precision,
    epilogue: Epilogue,
) -> Handle {
    let product = Product { factors, sizes, layout, precision, runs: None, epilogue };
    product.compute(client, None, product.on_tensor_cores(client))
}

/// `aᵀ·b` `[m, n]` of `a` `[k, m]` and `b` `[k, n]`, every run of rows a link; where `sum` is given, added to it link by
/// link, in place.
///
/// # Panics
/// If a handle is too short.
pub fn add_product<R: Runtime>(
    client: &Client<R>,
    factors: [&Handle; 2],
    sizes: [usize; 3],
    precision: Precision,
    runs: Runs,
    sum: Option<Handle>,
) -> Handle {
    let (layout, runs, epilogue) = (Layout::TN, Some(runs), Epilogue::default());
    let product = Product { factors, sizes, layout, precision, runs, epilogue };
    product.compute(client, sum, product.on_tensor_cores(client))
}

/// A product to be computed.
#[derive(Clone, Copy)]
struct Product<'a> {
    factors: [&'a Handle; 2],
    sizes: [usize; 3],
    layout: Layout,
    precision: Precision,
    runs: Option<Runs<'a>>,
    epilogue: Epilogue<'a>,
}

/// The sizes of a product `[m, k]·[k, n]`, its links, and its tiles: those side by side, and all.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Sizes {
    m: u32,
    k: u32,
    n: u32,
    links: u32,
    across: u32,
    tiles: u32,
}

impl Product<'_> {
    /// Whether tensor cores compute it, which neither the number of rows nor anything else of a batch decides.
    fn on_tensor_cores<R: Runtime>(&self, client: &Client<R>) -> bool {
        self.precision == Precision::Bf16
            && tensor_cores::fits(self.sizes, self.layout)
            && tensor_cores::are_used(client)
    }

    /// The product, added to `sum` where there is one.
    fn compute<R: Runtime>(self, client: &Client<R>, sum: Option<Handle>, on_tensor_cores: bool) -> Handle {
        let [m, k, n] = self.sizes;
        let (out, adds) = begun(client, sum, m * n);
        if m * n == 0 {
            return out;
        }
        let tile = if on_tensor_cores { tensor_cores::tile(m, n) } else { Tile::of(m, n) };
        let (down, across) = (m.div_ceil(tile.rows), n.div_ceil(tile.cols));
        let links = self.runs.map_or(k.div_ceil(CHAIN), |runs| runs.count);
        let sizes = [m, k, n, links, across, down * across].map(|size| size as u32);
        let (ending, launched) = self.epilogue.launch(client, [m, n], down * across, &out);
        let launch = if on_tensor_cores { Self::launch_fragments } else { Self::launch_chains };
        launch(&self, client, (sizes, tile), (&out, adds), (ending, launched.ends));
        launched.finish(client);
        out
    }

    /// The table of links; without one any handle stands in its place, and is not read.
    fn links<R: Runtime>(&self) -> ArrayArg<R> {
        self.runs.map_or_else(|| array(self.factors[1], 1), |runs| array(runs.table, runs.count + 1))
    }

    fn launch_chains<R: Runtime>(
        &self,
        client: &Client<R>,
        (sizes, tile): ([u32; 6], Tile),
        (out, adds): (&Handle, bool),
        (ending, ends): (EndingLaunch<R>, Ends),
    ) {
        let ([rows, terms, cols], [a, b]) = (self.sizes, self.factors);
        let [m, k, n, links, across, tiles] = sizes;
        // SAFETY: the kernel compares every place in a factor or in the result with its size, and `array` the sizes with the
        // handles.
        unsafe {
            chains::launch_unchecked(
                client,
                cubes(tiles as usize),
                CubeDim::new_2d(16, 16),
                exact(client),
                array(a, (rows * terms).max(1)),
                array(b, (terms * cols).max(1)),
                self.links(),
                array(out, rows * cols),
                ending,
                SizesLaunch::new(m, k, n, links, across, tiles),
                self.layout,
                tile,
                self.precision,
                self.runs.is_some(),
                adds,
                ends,
            );
        }
    }
}

#[cube(launch_unchecked)]
fn chains(
    e: &Exact,
    a: &Array<f32>,
    b: &Array<f32>,
    links: &Array<u32>,
    out: &mut Array<f32>,
    ending: &mut Ending,
    sizes: Sizes,
    #[comptime] layout: Layout,
    #[comptime] tile: Tile,
    #[comptime] precision: Precision,
    #[comptime] cut: bool,
    #[comptime] adds: bool,
    #[comptime] ends: Ends,
) {
    let cube = CUBE_POS as u32;
    if cube < sizes.tiles {
        let (m, k, n) = (sizes.m, sizes.k, sizes.n);
        let first_row = cube / sizes.across * comptime!(tile.rows as u32);
        let first_col = cube % sizes.across * comptime!(tile.cols as u32);
        let (high, wide) = comptime!((tile.rows / 16, tile.cols / 16));
        let me = UNIT_POS_Y * 16u32 + UNIT_POS_X;
        let mut a_tile = SharedMemory::<f32>::new(comptime!(tile.depth * (tile.rows + 1)));
        let mut b_tile = SharedMemory::<f32>::new(comptime!(tile.depth * (tile.cols + 1)));
        let mut link = Array::<f32>::new(comptime!(high * wide));
        let mut total = Array::<f32>::new(comptime!(high * wide));
        #[unroll]
        for i in 0..comptime!(high * wide) {
            link[i] = 0.0f32;
        }
        begin(out, &mut total, m, n, first_row, first_col, adds, high, wide);
        for run in 0u32..sizes.links {
            let mut first = run * 512u32;
            let mut end = min(first + 512u32, k);
            if comptime!(cut) {
                first = links[run as usize];
                end = links[run as usize + 1];
            }
            while first < end {
                let along = comptime!(layout != Layout::TN);
                fill(
                    a,
                    &mut a_tile,
                    me,
                    first_row,
                    m,
                    first,
                    end,
                    k,
                    along,
                    tile.rows,
                    tile.depth,
                    precision,
                );
                let along = comptime!(layout == Layout::NT);
                fill(
                    b,
                    &mut b_tile,
                    me,
                    first_col,
                    n,
                    first,
                    end,
                    k,
                    along,
                    tile.cols,
                    tile.depth,
                    precision,
                );
                sync_cube();
                let depth = min(comptime!(tile.depth as u32).runtime(), end - first) as usize;
                for term in 0usize..depth {
                    let a_first = term * comptime!(tile.rows + 1) + UNIT_POS_Y as usize;
                    let b_first = term * comptime!(tile.cols + 1) + UNIT_POS_X as usize;
                    let mut b_own = Array::<f32>::new(wide);
                    #[unroll]
                    for j in 0..wide {
                        b_own[j] = b_tile[b_first + comptime!(16 * j)];
                    }
                    #[unroll]
                    for i in 0..high {
                        let factor = a_tile[a_first + comptime!(16 * i)];
                        #[unroll]
                        for j in 0..wide {
                            let place = comptime!(i * wide + j);
                            link[place] = e.mul_add(factor, b_own[j], link[place]);
                        }
                    }
                }
                sync_cube();
                first += comptime!(tile.depth as u32);
            }
            close(&mut total, &mut link, adds || run > 0u32, comptime!(high * wide));
        }
        end(e, ending, &mut total, &mut a_tile, m, n, first_row, first_col, ends, high, wide);
        store(out, &total, m, n, first_row, first_col, high, wide);
    }
}

/// Adds a link to what there is, or begins with it, and begins a new one.
#[cube]
fn close(total: &mut Array<f32>, link: &mut Array<f32>, add: bool, #[comptime] count: usize) {
    #[unroll]
    for i in 0..count {
        total[i] = select(add, total[i] + link[i], link[i]);
        link[i] = 0.0f32;
    }
}

/// Brings the terms `first .. end` of `size` rows of a factor to shared memory, term by term, zeros beyond its end. A
/// factor lies `inner` along its rows, `[outer, k]`, or across them, `[k, outer]`.
#[cube]
fn fill(
    x: &Array<f32>,
    tile: &mut SharedMemory<f32>,
    me: u32,
    first_row: u32,
    outer: u32,
    first: u32,
    end: u32,
    k: u32,
    #[comptime] inner: bool,
    #[comptime] size: usize,
    #[comptime] depth: usize,
    #[comptime] precision: Precision,
) {
    #[unroll]
    for turn in 0..comptime!(size * depth / 256) {
        let index = me + comptime!(256 * turn as u32);
        let (mut row, mut term) = (index % comptime!(size as u32), index / comptime!(size as u32));
        if comptime!(inner) {
            row = index / comptime!(depth as u32);
            term = index % comptime!(depth as u32);
        }
        let mut value = f32::new(0.0);
        if first_row + row < outer && first + term < end {
            let mut place = (first + term) * outer + first_row + row;
            if comptime!(inner) {
                place = (first_row + row) * k + first + term;
            }
            value = operand(x[place as usize], precision);
        }
        tile[(term * comptime!(size as u32 + 1) + row) as usize] = value;
    }
}

#[cfg(all(test, any(feature = "vulkan", feature = "cuda")))]
mod tests;
