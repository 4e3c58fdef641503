//! Moving and adding up rows: gather, its transpose, and sums of columns. No atomics: every sum has one order.

use crate::device::{Client, array, empty, owned, threads};
use cubecl::prelude::*;
use cubecl::server::Handle;

/// Runs of rows, each of which is added up by itself, and then, in their order, to a sum.
#[derive(Clone, Copy, Debug)]
pub struct Runs<'a> {
    /// The first row of every run, and the end of the last, `[count + 1]`.
    pub table: &'a Handle,
    /// How many there are.
    pub count: usize,
}

/// `sum`, of `length` elements, to be added to in place, or room for one that begins; and whether there is something to
/// add to.
pub(crate) fn begun<R: Runtime>(client: &Client<R>, sum: Option<Handle>, length: usize) -> (Handle, bool) {
    match sum {
        Some(sum) => (owned(client, sum, length), true),
        None => (empty(client, length), false),
    }
}

/// The rows of `x` `[height, width]` that `indices` `[count]` names, `[count, width]`. 8 bytes an element.
///
/// # Panics
/// If a handle is too short. An index beyond `height` reads anything.
pub fn gather<R: Runtime>(
    client: &Client<R>,
    x: &Handle,
    indices: &Handle,
    [height, width, count]: [usize; 3],
) -> Handle {
    let out = empty(client, count * width);
    if count * width > 0 {
        let (cubes, dim) = threads(count * width);
        let (x, indices) = (array(x, height * width), array(indices, count));
        gather_kernel::launch(client, cubes, dim, x, indices, array(&out, count * width), width as u32);
    }
    out
}

#[cube(launch)]
fn gather_kernel(x: &Array<f32>, indices: &Array<u32>, out: &mut Array<f32>, width: u32) {
    if ABSOLUTE_POS < out.len() {
        let (row, column) = (ABSOLUTE_POS / width as usize, ABSOLUTE_POS % width as usize);
        out[ABSOLUTE_POS] = x[indices[row] as usize * width as usize + column];
    }
}

/// The rows of `x` `[height, width]` that some of `ids` `[ids]` name, those at the places `chosen` `[count]`: `[count, width]`. An
/// id beyond `height` gives row 0. 8 bytes an element.
///
/// # Panics
/// If a handle is too short. A place beyond `ids` reads anything.
pub fn gather_by<R: Runtime>(
    client: &Client<R>,
    x: &Handle,
    ids: &Handle,
    chosen: &Handle,
    [height, width, named, count]: [usize; 4],
) -> Handle {
    let out = empty(client, count * width);
    if count * width > 0 {
        let (cubes, dim) = threads(count * width);
        let (x, ids, chosen) = (array(x, height * width), array(ids, named), array(chosen, count));
        let (height, out_arg) = (height as u32, array(&out, count * width));
        gather_by_kernel::launch(client, cubes, dim, x, ids, chosen, out_arg, height, width as u32);
    }
    out
}

#[cube(launch)]
fn gather_by_kernel(
    x: &Array<f32>,
    ids: &Array<u32>,
    chosen: &Array<u32>,
    out: &mut Array<f32>,
    height: u32,
    width: u32,
) {
    if ABSOLUTE_POS < out.len() {
        let (row, column) = (ABSOLUTE_POS / width as usize, ABSOLUTE_POS % width as usize);
        let id = ids[chosen[row] as usize];
        let id = select(id < height, id, 0u32);
        out[ABSOLUTE_POS] = x[id as usize * width as usize + column];
    }
}

/// Adds up rows of `x` `[count, width]`: row `r` of the result `[height, width]` is the sum of the rows
/// `entries[offsets[r] .. offsets[r + 1]]` in that order, `order` being the `height + 1` offsets and then the `entries`;
/// where `sum` is given, they are added to its rows, in place.
///
/// # Panics
/// If a handle is too short.
pub fn scatter<R: Runtime>(
    client: &Client<R>,
    x: &Handle,
    order: &Handle,
    [height, width, count]: [usize; 3],
    entries: usize,
    sum: Option<Handle>,
) -> Handle {
    let (out, adds) = begun(client, sum, height * width);
    if height * width > 0 {
        let (cubes, dim) = threads(height * width);
        scatter_kernel::launch(
            client,
            cubes,
            dim,
            array(x, (count * width).max(1)),
            array(order, height + 1 + entries),
            array(&out, height * width),
            height as u32,
            width as u32,
            adds,
        );
    }
    out
}

#[cube(launch)]
fn scatter_kernel(
    x: &Array<f32>,
    order: &Array<u32>,
    out: &mut Array<f32>,
    height: u32,
    width: u32,
    #[comptime] adds: bool,
) {
    if ABSOLUTE_POS < out.len() {
        let (row, column) = (ABSOLUTE_POS / width as usize, ABSOLUTE_POS % width as usize);
        let mut sum = f32::new(0.0);
        if comptime!(adds) {
            sum = out[ABSOLUTE_POS];
        }
        for entry in order[row]..order[row + 1] {
            let from = order[height as usize + 1 + entry as usize];
            sum += x[from as usize * width as usize + column];
        }
        out[ABSOLUTE_POS] = sum;
    }
}

/// The sum of the rows of `x` `[rows, width]`, run by run; where `sum` is given, added to it in place.
///
/// # Panics
/// If a handle is too short.
pub fn add_columns<R: Runtime>(
    client: &Client<R>,
    x: &Handle,
    [rows, width]: [usize; 2],
    runs: Runs,
    sum: Option<Handle>,
) -> Handle {
    let parts = empty(client, runs.count * width);
    let (cubes, dim) = threads(runs.count * width);
    let (x, sums) = (array(x, (rows * width).max(1)), array(&parts, (runs.count * width).max(1)));
    let table = array(runs.table, runs.count + 1);
    column_parts::launch(client, cubes, dim, x, table, sums, runs.count as u32, width as u32);
    add_runs(client, &parts, [runs.count, width], sum)
}

#[cube(launch)]
fn column_parts(x: &Array<f32>, runs: &Array<u32>, parts: &mut Array<f32>, count: u32, width: u32) {
    let (run, column) = (ABSOLUTE_POS as u32 / width, ABSOLUTE_POS as u32 % width);
    if run < count {
        let mut sum = f32::new(0.0);
        for row in runs[run as usize]..runs[run as usize + 1] {
            sum += x[(row * width + column) as usize];
        }
        parts[ABSOLUTE_POS] = sum;
    }
}

/// Adds `parts` `[runs, width]` in their order, to `sum` `[width]` in place where it is given.
pub(crate) fn add_runs<R: Runtime>(
    client: &Client<R>,
    parts: &Handle,
    [runs, width]: [usize; 2],
    sum: Option<Handle>,
) -> Handle {
    let (out, adds) = begun(client, sum, width);
    let (cubes, dim) = threads(width);
    let (parts, sums) = (array(parts, (runs * width).max(1)), array(&out, width));
    add_runs_kernel::launch(client, cubes, dim, parts, sums, runs as u32, adds);
    out
}

#[cube(launch)]
fn add_runs_kernel(parts: &Array<f32>, out: &mut Array<f32>, runs: u32, #[comptime] adds: bool) {
    if ABSOLUTE_POS < out.len() {
        let mut sum = f32::new(0.0);
        if comptime!(adds) {
            sum = out[ABSOLUTE_POS];
        }
        for run in 0u32..runs {
            sum += parts[run as usize * out.len() + ABSOLUTE_POS];
        }
        out[ABSOLUTE_POS] = sum;
    }
}

#[cfg(all(test, any(feature = "vulkan", feature = "cuda")))]
mod tests {
    use super::*;
    use crate::testing::*;

    #[test]
    fn rows_are_gathered_and_added_up_in_their_order() {
        let client = client();
        let [height, width, count] = [40, 13, 100];
        let indices: Vec<u32> = (0..count as u32).map(|i| i * 7 % 31).collect();
        let (x, dy) = (numbers(1, height * width), numbers(2, count * width));
        let wanted: Vec<f32> =
            indices.iter().flat_map(|&i| x[i as usize * width..][..width].to_vec()).collect();
        let table = upload_words(&client, &indices);
        let found = gather(&client, &upload(&client, &x), &table, [height, width, count]);
        assert_bits(&download(&client, found, count * width), &wanted, "gathered");

        // The same through ids of which only some are wanted, one of them beyond the table.
        let mut ids = indices.clone();
        ids[2] = u32::MAX;
        let chosen = [7, 0, 2, 99, 7];
        let wanted: Vec<f32> = chosen
            .iter()
            .flat_map(|&place| {
                let id = if place == 2 { 0 } else { ids[place as usize] as usize };
                x[id * width..][..width].to_vec()
            })
            .collect();
        let [ids, places] = [&ids[..], &chosen].map(|words| upload_words(&client, words));
        let sizes = [height, width, count, chosen.len()];
        let found = gather_by(&client, &upload(&client, &x), &ids, &places, sizes);
        assert_bits(&download(&client, found, chosen.len() * width), &wanted, "gathered by ids");

        let (mut sums, begin) = (vec![0.0; height * width], numbers(3, height * width));
        let mut more = begin.clone();
        let (mut offsets, mut entries) = (vec![0], Vec::new());
        for row in 0..height as u32 {
            entries.extend((0..count as u32).filter(|&entry| indices[entry as usize] == row));
            offsets.push(entries.len() as u32);
        }
        for (&row, dy) in indices.iter().zip(dy.chunks(width)) {
            for sums in [&mut sums, &mut more] {
                sums[row as usize * width..][..width].iter_mut().zip(dy).for_each(|(sum, x)| *sum += x);
            }
        }
        let order = upload_words(&client, &[offsets, entries].concat());
        for (begin, wanted) in [(None, sums), (Some(upload(&client, &begin)), more)] {
            let dy = upload(&client, &dy);
            let found = scatter(&client, &dy, &order, [height, width, count], count, begin);
            assert_bits(&download(&client, found, height * width), &wanted, "scattered");
        }
    }

    #[test]
    fn columns_are_added_up_run_by_run() {
        let client = client();
        let ([rows, width], cuts) = ([300, 7], [0, 128, 130, 130, 300]);
        let (x, begin) = (numbers(1, rows * width), numbers(2, width));
        for begin in [None, Some(begin)] {
            let mut wanted = begin.clone().unwrap_or_else(|| vec![0.0; width]);
            for run in cuts.windows(2) {
                let part = |column: usize| {
                    (run[0]..run[1]).fold(0.0_f32, |sum, row| sum + x[row as usize * width + column])
                };
                wanted.iter_mut().enumerate().for_each(|(column, sum)| *sum += part(column));
            }
            let table = upload_words(&client, &cuts);
            let runs = Runs { table: &table, count: cuts.len() - 1 };
            let begin = begin.map(|begin| upload(&client, &begin));
            let found = add_columns(&client, &upload(&client, &x), [rows, width], runs, begin);
            assert_bits(&download(&client, found, width), &wanted, "sums");
        }
    }
}
