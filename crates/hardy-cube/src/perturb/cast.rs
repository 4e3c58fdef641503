//! Number formats: a thread replaces one block at a time, under the scale of the block, the row or the tensor.

use super::spans::{Spans, address, spans_of};
use super::{Launch, Layout};
use crate::device::{Client, THREADS, array, cubes, empty, exact, owned};
use crate::exact::Exact;
use crate::formats::{Block, Stored, magnitude_bits, quantize};
use crate::rule::{Error, Numbers, Place, Rule};
use crate::tally::Sums;
use cubecl::prelude::*;
use cubecl::server::Handle;
use hardy_numerics::{Blocks, Perturbation, Quantization, Rounding};

/// A number format.
pub(super) fn cast<R: Runtime>(
    client: &Client<R>,
    x: Handle,
    length: usize,
    layout: Layout,
    (error, quantization): (&Error, Quantization),
    tally: Option<&Handle>,
) -> Handle {
    let cast =
        Stored::new(quantization.format, quantization.rounding == Rounding::Stochastic, tally.is_some());
    let side = match (quantization.blocks, quantization.format.side_2d()) {
        (Blocks::TwoD, Some(side)) => side,
        _ => 0,
    };
    let (spans, blocks) = if side > 0 {
        (layout.spans.div_ceil(side), layout.width.div_ceil(side))
    } else {
        (layout.spans, layout.width.div_ceil(cast.block as usize))
    };
    let launch = Launch::new(client, spans, blocks, tally.is_some());
    let out = owned(client, x, length);
    let tensor = layout.place == Place::Weight && !cast.is_by_row();
    let largest = if cast.wants_largest() {
        largest(client, &out, length, layout, tensor)
    } else {
        layout.rows.clone()
    };
    cast_kernel::launch(
        client,
        cubes(launch.cubes),
        CubeDim::new_1d(THREADS),
        exact(client),
        array(&out, length),
        spans_of(layout, layout.spans, layout.width, blocks),
        Rule::<R>::new(&Error { what: Perturbation::AbsoluteGaussian { scale: 0.0 }, keys: error.keys })
            .numbers,
        array(&largest, if cast.wants_largest() && !tensor { layout.spans } else { 1 }),
        array(&launch.parts, launch.words()),
        launch.cubes as u32,
        cast,
        layout.place,
        side as u32,
        tensor,
    );
    launch.finish(client, tally);
    out
}

/// The largest magnitude, in bits, of every row, or of the tensor.
fn largest<R: Runtime>(
    client: &Client<R>,
    x: &Handle,
    length: usize,
    layout: Layout,
    tensor: bool,
) -> Handle {
    let rows = empty(client, layout.spans);
    largest_of_rows::launch(
        client,
        cubes(layout.spans),
        CubeDim::new_1d(THREADS),
        array(x, length),
        spans_of(layout, layout.spans, layout.width, 1),
        array(&rows, layout.spans),
        layout.place,
    );
    if !tensor {
        return rows;
    }
    let one = empty(client, 1);
    largest_of_all::launch(
        client,
        CubeCount::Static(1, 1, 1),
        CubeDim::new_1d(THREADS),
        array(&rows, layout.spans),
        array(&one, 1),
    );
    one
}

#[cube(launch)]
fn cast_kernel(
    e: &Exact,
    x: &mut Array<f32>,
    spans: &Spans,
    numbers: &Numbers,
    largest: &Array<u32>,
    parts: &mut Array<f32>,
    cubes: u32,
    #[comptime] cast: Stored,
    #[comptime] place: Place,
    #[comptime] side: u32,
    #[comptime] tensor: bool,
) {
    let cube = CUBE_POS;
    if cube < cubes as usize {
        let mut sums = Sums::new();
        let mut bands = spans.count;
        if comptime!(side > 0) {
            bands = (bands + comptime!(side.saturating_sub(1))) / comptime!(if side > 0 { side } else { 1 });
        }
        let all = bands * spans.blocks;
        for turn in 0u32..8u32 {
            let index = cube as u32 * 2048u32 + turn * 256u32 + UNIT_POS;
            if index < all {
                let row = index / spans.blocks;
                let span = spans.get(row, place);
                let first = index % spans.blocks * comptime!(if side > 0 { side } else { cast.block });
                let mut block = Block {
                    start: 0u32,
                    columns: 0u32,
                    stride: 0u32,
                    count: 0u32,
                    element: 0u32,
                    counted: span.counted,
                };
                let start = span.start + first;
                if start < span.end {
                    let columns =
                        min(span.end - start, comptime!(if side > 0 { side } else { cast.block }).runtime());
                    block.columns = columns;
                    block.count = columns;
                    block.stride = spans.width;
                    block.start = span.offset + start;
                    block.element = span.element + start;
                    if comptime!(side > 0) {
                        let first_row = row * side;
                        block.count = min(spans.count - first_row, side.runtime()) * columns;
                        block.start = first_row * spans.width + start;
                        block.element = block.start;
                    }
                    let mut row_largest = u32::new(0);
                    if comptime!(cast.wants_largest()) {
                        let mut of = row as usize;
                        if comptime!(tensor) {
                            of = 0usize;
                        }
                        row_largest = largest[of];
                    }
                    let address = address(numbers, &span);
                    quantize(e, x, &block, &address, &mut sums, row_largest, cast, cast.scheme);
                }
            }
        }
        if comptime!(cast.counts) {
            sums.reduce(e, parts, cube, 256usize);
        }
    }
}

/// The largest magnitude of every row; one cube a row.
#[cube(launch)]
fn largest_of_rows(x: &Array<f32>, spans: &Spans, out: &mut Array<u32>, #[comptime] place: Place) {
    let row = CUBE_POS as u32;
    if row < spans.count {
        let span = spans.get(row, place);
        let mut found = u32::new(0);
        let mut j = span.start + UNIT_POS;
        while j < span.end {
            found = max(found, magnitude_bits(x[(span.offset + j) as usize]));
            j += CUBE_DIM;
        }
        let all = largest_of_cube(found);
        if UNIT_POS == 0u32 {
            out[row as usize] = all;
        }
    }
}

#[cube(launch)]
fn largest_of_all(rows: &Array<u32>, out: &mut Array<u32>) {
    let mut found = u32::new(0);
    let mut row = UNIT_POS as usize;
    while row < rows.len() {
        found = max(found, rows[row]);
        row += CUBE_DIM as usize;
    }
    let all = largest_of_cube(found);
    if UNIT_POS == 0u32 {
        out[0] = all;
    }
}

/// The largest of what 256 threads have.
#[cube]
fn largest_of_cube(own: u32) -> u32 {
    let mut shared = SharedMemory::<u32>::new(256usize);
    let me = UNIT_POS as usize;
    shared[me] = own;
    sync_cube();
    let mut half = 128usize.runtime();
    while half > 0usize {
        if me < half {
            shared[me] = max(shared[me], shared[me + half]);
        }
        sync_cube();
        half = half / 2;
    }
    shared[0]
}
