//! Moving and adding up rows: gather, its transpose, and sums of columns. No atomics: every sum has one order.

use crate::device::{Client, array, empty, threads};
use crate::norm::RUN;
use cubecl::prelude::*;
use cubecl::server::Handle;

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

/// Adds up rows of `x` `[count, width]`: row `r` of the result `[height, width]` is the sum of the rows
/// `entries[offsets[r] .. offsets[r + 1]]` in that order, `order` being the `height + 1` offsets and then the `entries`.
///
/// # Panics
/// If a handle is too short.
pub fn scatter<R: Runtime>(
    client: &Client<R>,
    x: &Handle,
    order: &Handle,
    [height, width, count]: [usize; 3],
    entries: usize,
) -> Handle {
    let out = empty(client, height * width);
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
        );
    }
    out
}

#[cube(launch)]
fn scatter_kernel(x: &Array<f32>, order: &Array<u32>, out: &mut Array<f32>, height: u32, width: u32) {
    if ABSOLUTE_POS < out.len() {
        let (row, column) = (ABSOLUTE_POS / width as usize, ABSOLUTE_POS % width as usize);
        let mut sum = f32::new(0.0);
        for entry in order[row]..order[row + 1] {
            let from = order[height as usize + 1 + entry as usize];
            sum += x[from as usize * width as usize + column];
        }
        out[ABSOLUTE_POS] = sum;
    }
}

/// The sum of the rows of `x` `[rows, width]`, in runs of 128 rows that are then added in their order.
///
/// # Panics
/// If a handle is too short.
pub fn add_columns<R: Runtime>(client: &Client<R>, x: &Handle, [rows, width]: [usize; 2]) -> Handle {
    let runs = rows.div_ceil(RUN);
    let (parts, out) = (empty(client, runs * width), empty(client, width));
    let (cubes, dim) = threads(runs * width);
    let (x, sums) = (array(x, (rows * width).max(1)), array(&parts, (runs * width).max(1)));
    column_parts::launch(client, cubes, dim, x, sums, rows as u32, width as u32);
    add_runs(client, &parts, &out, [runs, width]);
    out
}

#[cube(launch)]
fn column_parts(x: &Array<f32>, parts: &mut Array<f32>, rows: u32, width: u32) {
    if ABSOLUTE_POS < parts.len() {
        let (run, column) = (ABSOLUTE_POS as u32 / width, ABSOLUTE_POS as u32 % width);
        let mut sum = f32::new(0.0);
        for row in run * 128u32..min(run * 128u32 + 128u32, rows) {
            sum += x[(row * width + column) as usize];
        }
        parts[ABSOLUTE_POS] = sum;
    }
}

/// Adds `parts` `[runs, width]` in their order into `out` `[width]`.
pub(crate) fn add_runs<R: Runtime>(
    client: &Client<R>,
    parts: &Handle,
    out: &Handle,
    [runs, width]: [usize; 2],
) {
    let (cubes, dim) = threads(width);
    let (parts, out) = (array(parts, (runs * width).max(1)), array(out, width));
    add_runs_kernel::launch(client, cubes, dim, parts, out, runs as u32);
}

#[cube(launch)]
fn add_runs_kernel(parts: &Array<f32>, out: &mut Array<f32>, runs: u32) {
    if ABSOLUTE_POS < out.len() {
        let mut sum = f32::new(0.0);
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

        let mut sums = vec![0.0; height * width];
        let (mut offsets, mut entries) = (vec![0], Vec::new());
        for row in 0..height as u32 {
            entries.extend((0..count as u32).filter(|&entry| indices[entry as usize] == row));
            offsets.push(entries.len() as u32);
        }
        for (&row, dy) in indices.iter().zip(dy.chunks(width)) {
            sums[row as usize * width..][..width].iter_mut().zip(dy).for_each(|(sum, x)| *sum += x);
        }
        let order = upload_words(&client, &[offsets, entries].concat());
        let found = scatter(&client, &upload(&client, &dy), &order, [height, width, count], count);
        assert_bits(&download(&client, found, height * width), &sums, "scattered");
    }

    #[test]
    fn columns_are_added_up_in_runs() {
        let client = client();
        let [rows, width] = [300, 7];
        let x = numbers(1, rows * width);
        let mut wanted = vec![0.0; width];
        for run in x.chunks(RUN * width) {
            let part = |column: usize| run.iter().skip(column).step_by(width).fold(0.0_f32, |sum, x| sum + x);
            wanted.iter_mut().enumerate().for_each(|(column, sum)| *sum += part(column));
        }
        let found = add_columns(&client, &upload(&client, &x), [rows, width]);
        assert_bits(&download(&client, found, width), &wanted, "sums");
    }
}
