//! Root-mean-square normalisation, `y = x·r·w` with `r = 1/√(mean(x²) + ε)`, and its gradient. Memory is the limit:
//! forward 8 bytes an element in two readings, the second from the cache, backward 12 and then 8 for ∂w.

use crate::device::{Client, array, cubes, empty, exact, threads};
use crate::exact::Exact;
use crate::lanes::{add_lanes, dot};
use crate::rows::{Runs, add_runs};
use cubecl::prelude::*;
use cubecl::server::Handle;

/// Normalises `x` `[rows, width]`; every head, as wide as `w` `[w_len]`, by itself.
///
/// # Panics
/// If a handle is too short, or a row is no whole number of heads.
pub fn norm<R: Runtime>(
    client: &Client<R>,
    x: &Handle,
    w: &Handle,
    [rows, width]: [usize; 2],
    w_len: usize,
    epsilon: f32,
) -> Handle {
    let heads = heads(rows, width, w_len);
    let out = empty(client, rows * width);
    norm_kernel::launch(
        client,
        cubes(heads.div_ceil(16)),
        CubeDim::new_2d(16, 16),
        exact(client),
        array(x, rows * width),
        array(w, w_len),
        array(&out, rows * width),
        heads as u32,
        w_len as u32,
        epsilon,
    );
    out
}

fn heads(rows: usize, width: usize, w_len: usize) -> usize {
    assert!(
        w_len > 0 && width.is_multiple_of(w_len),
        "rows of {width} are no whole number of heads of {w_len}"
    );
    rows * width / w_len
}

/// The gradient of [`norm`] with respect to `x`, `[rows, width]`, and `r` of every head, for that of `w`.
///
/// # Panics
/// As [`norm`].
pub fn norm_backward<R: Runtime>(
    client: &Client<R>,
    x: &Handle,
    w: &Handle,
    dy: &Handle,
    [rows, width]: [usize; 2],
    w_len: usize,
    epsilon: f32,
) -> (Handle, Handle) {
    let heads = heads(rows, width, w_len);
    let [dx, r] = [rows * width, heads].map(|length| empty(client, length));
    norm_backward_kernel::launch(
        client,
        cubes(heads.div_ceil(16)),
        CubeDim::new_2d(16, 16),
        exact(client),
        array(x, rows * width),
        array(w, w_len),
        array(dy, rows * width),
        array(&dx, rows * width),
        array(&r, heads),
        heads as u32,
        w_len as u32,
        epsilon,
    );
    (dx, r)
}

/// The gradient of [`norm`] with respect to `w`, `[w_len]`, added up run by run; where `sum` is given, added to it in
/// place. `r` is [`norm_backward`]'s.
///
/// # Panics
/// As [`norm`].
pub fn norm_weight<R: Runtime>(
    client: &Client<R>,
    [x, dy, r]: [&Handle; 3],
    [rows, width]: [usize; 2],
    w_len: usize,
    runs: Runs,
    sum: Option<Handle>,
) -> Handle {
    let (heads, parts) = (heads(rows, width, w_len), empty(client, runs.count * w_len));
    let (count, dim) = threads(runs.count * w_len);
    weight_parts::launch(
        client,
        count,
        dim,
        exact(client),
        array(x, rows * width),
        array(dy, rows * width),
        array(r, heads),
        array(runs.table, runs.count + 1),
        array(&parts, (runs.count * w_len).max(1)),
        runs.count as u32,
        (width / w_len) as u32,
        w_len as u32,
    );
    add_runs(client, &parts, [runs.count, w_len], sum)
}

/// `1/√(mean(x²) + ε)`, of sixteen rows in the sixteen groups of a cube.
#[cube]
fn reciprocal(e: &Exact, x: &Array<f32>, first: usize, width: u32, epsilon: f32) -> f32 {
    let squares = dot(e, x, first, x, first, width);
    e.quotient(1.0f32, e.root(e.quotient(squares, f32::cast_from(width)) + epsilon))
}

/// The group's head, or the last one where there is none, so that all threads of a cube take part.
#[cube]
fn head_of_group(heads: u32) -> (u32, bool) {
    let head = CUBE_POS as u32 * 16u32 + UNIT_POS_Y;
    (min(head, heads - 1u32), head < heads)
}

#[cube(launch)]
fn norm_kernel(
    e: &Exact,
    x: &Array<f32>,
    w: &Array<f32>,
    out: &mut Array<f32>,
    heads: u32,
    width: u32,
    epsilon: f32,
) {
    let (head, is) = head_of_group(heads);
    let first = head as usize * width as usize;
    let r = reciprocal(e, x, first, width, epsilon);
    if is {
        let mut i = UNIT_POS_X;
        while i < width {
            out[first + i as usize] = w[i as usize] * e.product(x[first + i as usize], r);
            i += 16u32;
        }
    }
}

#[cube(launch)]
fn norm_backward_kernel(
    e: &Exact,
    x: &Array<f32>,
    w: &Array<f32>,
    dy: &Array<f32>,
    dx: &mut Array<f32>,
    reciprocals: &mut Array<f32>,
    heads: u32,
    width: u32,
    epsilon: f32,
) {
    let (head, is) = head_of_group(heads);
    let first = head as usize * width as usize;
    let r = reciprocal(e, x, first, width, epsilon);
    let whole = width / 16u32 * 16u32;
    let mut own = f32::new(0.0);
    let mut i = UNIT_POS_X;
    while i < whole {
        let place = first + i as usize;
        own += e.product(e.product(dy[place], w[i as usize]), x[place]);
        i += 16u32;
    }
    let mut rest = f32::new(0.0);
    for i in whole..width {
        let place = first + i as usize;
        let term = e.product(e.product(dy[place], w[i as usize]), x[place]);
        rest = select(i == whole, term, rest + term);
    }
    let mixed = add_lanes(own, rest, whole < width);
    let pull = e.quotient(e.product(e.product(e.product(mixed, r), r), r), f32::cast_from(width));
    if is {
        let mut i = UNIT_POS_X;
        while i < width {
            let place = first + i as usize;
            dx[place] = e.product(e.product(dy[place], w[i as usize]), r) - e.product(x[place], pull);
            i += 16u32;
        }
        if UNIT_POS_X == 0u32 {
            reciprocals[head as usize] = r;
        }
    }
}

/// `Σ ∂y·x·r` over every run, whose rows have `own` heads each, one thread an element of the weight.
#[cube(launch)]
fn weight_parts(
    e: &Exact,
    x: &Array<f32>,
    dy: &Array<f32>,
    reciprocals: &Array<f32>,
    runs: &Array<u32>,
    parts: &mut Array<f32>,
    count: u32,
    own: u32,
    width: u32,
) {
    let (run, column) = (ABSOLUTE_POS as u32 / width, ABSOLUTE_POS as u32 % width);
    if run < count {
        let mut sum = f32::new(0.0);
        for head in runs[run as usize] * own..runs[run as usize + 1] * own {
            let place = (head * width + column) as usize;
            sum += e.product(e.product(dy[place], x[place]), reciprocals[head as usize]);
        }
        parts[ABSOLUTE_POS] = sum;
    }
}

#[cfg(all(test, any(feature = "vulkan", feature = "cuda")))]
mod tests {
    use super::*;
    use crate::testing::*;

    #[test]
    fn rows_are_normalised_as_on_the_cpu_to_the_bit() {
        let client = client();
        for ([rows, width], w_len) in [([5, 64], 64), ([300, 37], 37), ([33, 96], 32)] {
            let (x, w, dy) = (numbers(1, rows * width), numbers(2, w_len), numbers(3, rows * width));
            let reciprocal = |x: &[f32]| 1.0 / (plain::dot(x, x) / w_len as f32 + 1e-5).sqrt();
            let mut y = Vec::new();
            let (mut dx, begin) = (Vec::new(), numbers(4, w_len));
            let (mut dw, cuts) = (begin.clone(), [0, rows as u32 / 3, rows as u32]);
            for (x, dy) in x.chunks(w_len).zip(dy.chunks(w_len)) {
                let r = reciprocal(x);
                y.extend(x.iter().zip(&w).map(|(x, w)| w * (x * r)));
                let mixed: Vec<f32> = dy.iter().zip(&w).map(|(dy, w)| dy * w).collect();
                let pull = plain::dot(&mixed, x) * r * r * r / w_len as f32;
                dx.extend(mixed.iter().zip(x).map(|(dx, x)| dx * r - x * pull));
            }
            for run in cuts.windows(2) {
                let run = run[0] as usize * width..run[1] as usize * width;
                let (x, dy) = (&x[run.clone()], &dy[run]);
                let mut part = vec![0.0; w_len];
                for (x, dy) in x.chunks(w_len).zip(dy.chunks(w_len)) {
                    let r = reciprocal(x);
                    part.iter_mut().zip(x.iter().zip(dy)).for_each(|(sum, (x, dy))| *sum += dy * x * r);
                }
                dw.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            }
            let [x, w, dy] = [x, w, dy].map(|x| upload(&client, &x));
            let found = norm(&client, &x, &w, [rows, width], w_len, 1e-5);
            assert_bits(&download(&client, found, rows * width), &y, "y");
            let (found_x, r) = norm_backward(&client, &x, &w, &dy, [rows, width], w_len, 1e-5);
            let table = upload_words(&client, &cuts);
            let runs = Runs { table: &table, count: cuts.len() - 1 };
            let begin = Some(upload(&client, &begin));
            let found_w = norm_weight(&client, [&x, &dy, &r], [rows, width], w_len, runs, begin);
            assert_bits(&download(&client, found_x, rows * width), &dx, "dx");
            assert_bits(&download(&client, found_w, w_len), &dw, "dw");
        }
    }
}
