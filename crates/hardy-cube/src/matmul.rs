//! Matrix products in one order: every element is a chain of fused multiply-adds along the inner dimension, begun anew
//! every 512 terms, or where a table says so, the links added in their order. It is that of hardy-ops' products, so that
//! an element is the same to the bit whatever the number of rows and, where the device has a fused multiply-add, on the
//! CPU. There is no split of the inner dimension and nothing that is tuned by the clock.
//!
//! A cube of 16 × 16 threads computes a tile through shared memory; a tile of `r` × `c` reads `4·k·(r + c)` bytes for
//! `2·k·r·c` operations: 16 operations a byte at 128 × 128, where the arithmetic is the limit, 2 at 16 × 16, where one
//! factor has few rows and the memory is.

mod epilogue;

use crate::device::{Client, array, cubes, exact};
use crate::exact::Exact;
use crate::precision::operand;
use crate::rows::{Runs, begun};
use cubecl::prelude::*;
use cubecl::server::Handle;
use epilogue::{Ending, Ends, end};
use hardy_numerics::Precision;

pub use epilogue::{Epilogue, Noise, fuses};

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
    multiply(client, factors, sizes, (layout, precision), None, None, epilogue)
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
    multiply(client, factors, sizes, (Layout::TN, precision), Some(runs), sum, Epilogue::default())
}

fn multiply<R: Runtime>(
    client: &Client<R>,
    [a, b]: [&Handle; 2],
    [m, k, n]: [usize; 3],
    (layout, precision): (Layout, Precision),
    runs: Option<Runs>,
    sum: Option<Handle>,
    epilogue: Epilogue,
) -> Handle {
    let (out, adds) = begun(client, sum, m * n);
    if m * n == 0 {
        return out;
    }
    let tile = Tile::of(m, n);
    let (rows, cols) = (m.div_ceil(tile.rows), n.div_ceil(tile.cols));
    // Without a table any handle stands in its place, and is not read.
    let links = runs.map_or_else(|| array(b, 1), |runs| array(runs.table, runs.count + 1));
    let count = runs.map_or(k.div_ceil(CHAIN), |runs| runs.count);
    let (ending, launched) = epilogue.launch(client, [m, n], rows * cols, &out);
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
            links,
            array(&out, m * n),
            ending,
            m as u32,
            k as u32,
            n as u32,
            count as u32,
            cols as u32,
            (rows * cols) as u32,
            layout,
            tile,
            precision,
            runs.is_some(),
            adds,
            launched.ends,
        );
    }
    launched.finish(client);
    out
}

#[cube(launch_unchecked)]
fn product(
    e: &Exact,
    a: &Array<f32>,
    b: &Array<f32>,
    links: &Array<u32>,
    out: &mut Array<f32>,
    ending: &mut Ending,
    m: u32,
    k: u32,
    n: u32,
    count: u32,
    tiles: u32,
    cubes: u32,
    #[comptime] layout: Layout,
    #[comptime] tile: Tile,
    #[comptime] precision: Precision,
    #[comptime] cut: bool,
    #[comptime] adds: bool,
    #[comptime] ends: Ends,
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
        for run in 0u32..count {
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
mod tests {
    use super::*;
    use crate::perturb::perturb_rows;
    use crate::rule::Error;
    use crate::{device::empty, tally, testing::*};
    use hardy_numerics::{Keys, NoiseKey, Perturbation};

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
            let (a, b) = (numbers(1, m * k), numbers(2, k * n));
            for (layout, precision) in
                [Layout::NN, Layout::NT, Layout::TN].into_iter().flat_map(|x| Precision::ALL.map(|y| (x, y)))
            {
                let terms = |i: usize, j: usize| -> Vec<(f32, f32)> {
                    let a = |term| element(&a, [m, k], i, term, layout == Layout::TN);
                    let b = |term| element(&b, [k, n], term, j, layout == Layout::NT);
                    (0..k).map(|term| (precision.operand(a(term)), precision.operand(b(term)))).collect()
                };
                let wanted: Vec<f32> =
                    (0..m * n).map(|i| plain::chain(fused, &terms(i / n, i % n), None)).collect();
                let [a, b] = [&a, &b].map(|x| upload_some(&client, x));
                let out = matmul(&client, [&a, &b], [m, k, n], layout, precision, Epilogue::default());
                let name = format!("[{m}, {k}, {n}] {layout:?} {precision}");
                assert_bits(&download(&client, out, m * n), &wanted, &name);
            }
        }
    }

    #[test]
    fn links_end_where_the_table_says_and_are_added_to_a_sum_in_their_order() {
        let client = client();
        let fused = fused(&client);
        for ([m, k, n], cuts) in [
            ([5, 40, 3], vec![0, 40]),
            ([70, 600, 33], vec![0, 1, 17, 17, 529, 600]),
            ([300, 90, 290], vec![0, 31, 90]),
            ([2, 0, 3], vec![0]),
        ] {
            let (a, b, begin) = (numbers(1, m * k), numbers(2, k * n), numbers(3, m * n));
            for (add, precision) in [false, true].into_iter().flat_map(|x| Precision::ALL.map(|y| (x, y))) {
                let element = |i: usize| {
                    let link = |run: &[u32]| {
                        let terms =
                            (run[0] as usize..run[1] as usize).map(|t| (a[t * m + i / n], b[t * n + i % n]));
                        let see = |x: f32| precision.operand(x);
                        terms.fold(0.0, |sum, (a, b)| plain::mul_add(fused, see(a), see(b), sum))
                    };
                    let begin = add.then(|| begin[i]);
                    let links = cuts.windows(2).map(link);
                    links
                        .fold(begin, |sum, link| Some(sum.map_or(link, |sum| sum + link)))
                        .unwrap_or_default()
                };
                let wanted: Vec<f32> = (0..m * n).map(element).collect();
                let [x, y] = [&a, &b].map(|x| upload_some(&client, x));
                let table = upload_words(&client, &cuts);
                let runs = Runs { table: &table, count: cuts.len() - 1 };
                let sum = add.then(|| upload(&client, &begin));
                let out = add_product(&client, [&x, &y], [m, k, n], precision, runs, sum);
                assert_bits(&download(&client, out, m * n), &wanted, &format!("[{m}, {k}, {n}] {precision}"));
            }
        }
    }

    fn upload_some(client: &Client<Device>, x: &[f32]) -> Handle {
        if x.is_empty() { empty(client, 1) } else { upload(client, x) }
    }

    #[test]
    fn a_row_does_not_depend_on_how_many_there_are() {
        let client = client();
        let ([k, n], x, w) = ([520, 33], numbers(1, 200 * 520), upload(&client, &numbers(2, 520 * 33)));
        let run = |rows: usize| {
            let x = upload(&client, &x[..rows * k]);
            let (precision, end) = (Precision::F32, Epilogue::default());
            download(&client, matmul(&client, [&x, &w], [rows, k, n], Layout::NT, precision, end), rows * n)
        };
        let all = run(200);
        for rows in [1, 2, 16, 17, 65, 129] {
            assert_bits(&run(rows), &all[..rows * n], &format!("{rows} rows"));
        }
    }
    #[test]
    fn a_bias_and_noise_as_a_product_is_stored_are_those_of_passes_after_it_to_the_bit() {
        let client = client();
        let keys = Keys { noise: KEY, channels: NoiseKey([11, 12]) };
        let error = Error { what: Perturbation::RelativeGaussian { scale: 0.05 }, keys };
        // Two kernels: each takes a minute to compile where a fused multiply-add is made of parts, the third minutes.
        for [m, k, n] in [[1, 5, 3], [7, 700, 40], [70, 33, 130], [65, 40, 66]] {
            let (mut a, b, bias) = (numbers(1, m * k), numbers(2, k * n), numbers(3, n));
            a[k / 2] = f32::INFINITY;
            let [a, b, bias_there] = [&a, &b, &bias].map(|x| upload(&client, x));
            let (rows, table) = (m, upload_words(&client, &addresses(m).1));
            let product = |epilogue| {
                let (factors, sizes) = ([&a, &b], [m, k, n]);
                matmul(&client, factors, sizes, Layout::NT, Precision::F32, epilogue)
            };
            let mut wanted = download(&client, product(Epilogue::default()), m * n);
            wanted.iter_mut().zip(bias.iter().cycle()).for_each(|(y, bias)| *y += bias);
            let [apart, fused] = [0; 2].map(|_| tally::new(&client));
            let y = upload(&client, &wanted);
            let y = perturb_rows(&client, y, [rows, n], &table, &error, Some(&apart));
            let wanted = download(&client, y, m * n);
            let noise = Some(Noise { error: &error, rows: &table, tally: Some(&fused) });
            let found = product(Epilogue { bias: Some(&bias_there), noise });
            assert_bits(&download(&client, found, m * n), &wanted, &format!("[{m}, {k}, {n}]"));
            let [apart, fused] = [apart, fused].map(|tally| tally::read(&client, tally));
            let near = |a: f64, b: f64| (a - b).abs() <= 1e-6 * b.abs();
            assert!(apart.non_finite == fused.non_finite, "{apart:?} {fused:?}");
            assert!(
                near(fused.error, apart.error) && near(fused.signal, apart.signal),
                "{apart:?} {fused:?}"
            );
        }
    }
}
