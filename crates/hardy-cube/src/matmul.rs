//! Matrix products in one order: every element is a chain of fused multiply-adds along the inner dimension, begun anew
//! every 512 terms, the links added in their order. It is that of hardy-ops' products, so that an element is the same to
//! the bit whatever the number of rows and, where the device has a fused multiply-add, on the CPU. There is no split of
//! the inner dimension and nothing that is tuned by the clock.
//!
//! A cube of 16 × 16 threads computes a tile through shared memory; a tile of `r` × `c` reads `4·k·(r + c)` bytes for
//! `2·k·r·c` operations: 16 operations a byte at 128 × 128, where the arithmetic is the limit, 2 at 16 × 16, where one
//! factor has few rows and the memory is.

use crate::device::{Client, array, cubes, empty, exact, owned};
use crate::exact::Exact;
use cubecl::prelude::*;
use cubecl::server::Handle;

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

/// `a·b` `[m, n]`; where `add` is given, that plus the product, link by link, in place.
///
/// # Panics
/// If a handle is too short.
pub fn matmul<R: Runtime>(
    client: &Client<R>,
    a: &Handle,
    b: &Handle,
    [m, k, n]: [usize; 3],
    layout: Layout,
    add: Option<Handle>,
) -> Handle {
    let adds = add.is_some();
    let out = match add {
        Some(sum) => owned(client, sum, m * n),
        None => empty(client, m * n),
    };
    if m * n == 0 {
        return out;
    }
    let tile = Tile::of(m, n);
    let (rows, cols) = (m.div_ceil(tile.rows), n.div_ceil(tile.cols));
    // SAFETY: the kernel compares every place in a factor or in the result with its size, and `array` the sizes with the
    // handles.
    unsafe {
        product::launch_unchecked(
            client,
            cubes(rows * cols),
            CubeDim::new_2d(16, 16),
            exact(client),
            array(a, (m * k).max(1)),
            array(b, (k * n).max(1)),
            array(&out, m * n),
            m as u32,
            k as u32,
            n as u32,
            cols as u32,
            (rows * cols) as u32,
            layout,
            tile,
            adds,
        );
    }
    out
}

#[cube(launch_unchecked)]
fn product(
    e: &Exact,
    a: &Array<f32>,
    b: &Array<f32>,
    out: &mut Array<f32>,
    m: u32,
    k: u32,
    n: u32,
    tiles: u32,
    cubes: u32,
    #[comptime] layout: Layout,
    #[comptime] tile: Tile,
    #[comptime] adds: bool,
) {
    let cube = CUBE_POS as u32;
    if cube < cubes {
        let first_row = cube / tiles * comptime!(tile.rows as u32);
        let first_col = cube % tiles * comptime!(tile.cols as u32);
        let (high, wide) = comptime!((tile.rows / 16, tile.cols / 16));
        let me = UNIT_POS_Y * 16u32 + UNIT_POS_X;
        let mut a_tile = SharedMemory::<f32>::new(comptime!(tile.depth * (tile.rows + 1)));
        let mut b_tile = SharedMemory::<f32>::new(comptime!(tile.depth * (tile.cols + 1)));
        let mut link = Array::<f32>::new(comptime!(high * wide));
        let mut total = Array::<f32>::new(comptime!(high * wide));
        #[unroll]
        for i in 0..comptime!(high * wide) {
            link[i] = 0.0f32;
            total[i] = 0.0f32;
        }
        if comptime!(adds) {
            #[unroll]
            for i in 0..high {
                #[unroll]
                for j in 0..wide {
                    let row = first_row + UNIT_POS_Y + comptime!(16 * i as u32);
                    let col = first_col + UNIT_POS_X + comptime!(16 * j as u32);
                    if row < m && col < n {
                        total[comptime!(i * wide + j)] = out[(row * n + col) as usize];
                    }
                }
            }
        }
        let mut first = u32::new(0);
        while first < k {
            fill(
                a,
                &mut a_tile,
                me,
                first_row,
                m,
                first,
                k,
                comptime!(layout != Layout::TN),
                tile.rows,
                tile.depth,
            );
            fill(
                b,
                &mut b_tile,
                me,
                first_col,
                n,
                first,
                k,
                comptime!(layout == Layout::NT),
                tile.cols,
                tile.depth,
            );
            sync_cube();
            if first > 0u32 && first % 512u32 == 0u32 {
                close(&mut total, &mut link, adds || first > 512u32, comptime!(high * wide));
            }
            let depth = min(comptime!(tile.depth as u32).runtime(), k - first) as usize;
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
        close(&mut total, &mut link, adds || k > 512u32, comptime!(high * wide));
        #[unroll]
        for i in 0..high {
            #[unroll]
            for j in 0..wide {
                let row = first_row + UNIT_POS_Y + comptime!(16 * i as u32);
                let col = first_col + UNIT_POS_X + comptime!(16 * j as u32);
                if row < m && col < n {
                    out[(row * n + col) as usize] = total[comptime!(i * wide + j)];
                }
            }
        }
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

/// Brings the terms `first ..` of `size` rows of a factor to shared memory, term by term, zeros beyond its end. A factor
/// lies `inner` along its rows, `[outer, k]`, or across them, `[k, outer]`.
#[cube]
fn fill(
    x: &Array<f32>,
    tile: &mut SharedMemory<f32>,
    me: u32,
    first_row: u32,
    outer: u32,
    first: u32,
    k: u32,
    #[comptime] inner: bool,
    #[comptime] size: usize,
    #[comptime] depth: usize,
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
        if first_row + row < outer && first + term < k {
            let mut place = (first + term) * outer + first_row + row;
            if comptime!(inner) {
                place = (first_row + row) * k + first + term;
            }
            value = x[place as usize];
        }
        tile[(term * comptime!(size as u32 + 1) + row) as usize] = value;
    }
}

#[cfg(all(test, any(feature = "vulkan", feature = "cuda")))]
mod tests {
    use super::*;
    use crate::testing::*;

    /// The factors of a product `[m, k]·[k, n]` as `layout` stores them.
    fn element(x: &[f32], [rows, cols]: [usize; 2], row: usize, col: usize, turned: bool) -> f32 {
        if turned { x[col * rows + row] } else { x[row * cols + col] }
    }

    #[test]
    fn every_element_is_its_chain_whatever_the_shape_and_layout() {
        let client = client();
        let fused = fused(&client);
        for [m, k, n] in
            [[1, 5, 3], [7, 700, 40], [70, 33, 130], [65, 1100, 66], [300, 40, 290], [3, 1536, 20], [2, 0, 3]]
        {
            let (a, b, begin) = (numbers(1, m * k), numbers(2, k * n), numbers(3, m * n));
            for layout in [Layout::NN, Layout::NT, Layout::TN] {
                let terms = |i: usize, j: usize| -> Vec<(f32, f32)> {
                    let a = |term| element(&a, [m, k], i, term, layout == Layout::TN);
                    let b = |term| element(&b, [k, n], term, j, layout == Layout::NT);
                    (0..k).map(|term| (a(term), b(term))).collect()
                };
                for add in [false, true] {
                    let wanted: Vec<f32> = (0..m * n)
                        .map(|i| plain::chain(fused, &terms(i / n, i % n), add.then(|| begin[i])))
                        .collect();
                    let [a, b] =
                        [&a, &b].map(|x| if x.is_empty() { empty(&client, 1) } else { upload(&client, x) });
                    let add = add.then(|| upload(&client, &begin));
                    let out = matmul(&client, &a, &b, [m, k, n], layout, add);
                    let what = format!("[{m}, {k}, {n}] {layout:?}");
                    assert_bits(&download(&client, out, m * n), &wanted, &what);
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_how_many_there_are() {
        let client = client();
        let ([k, n], x, w) = ([520, 33], numbers(1, 200 * 520), upload(&client, &numbers(2, 520 * 33)));
        let run = |rows: usize| {
            let x = upload(&client, &x[..rows * k]);
            download(&client, matmul(&client, &x, &w, [rows, k, n], Layout::NT, None), rows * n)
        };
        let all = run(200);
        for rows in [1, 2, 16, 17, 65, 129] {
            assert_bits(&run(rows), &all[..rows * n], &format!("{rows} rows"));
        }
    }
}
