//! Errors of single values: a thread replaces the four elements of a Philox block at a time.

use super::spans::{Spans, address, spans_of};
use super::{Launch, Layout};
use crate::device::{Client, THREADS, array, cubes, exact, owned};
use crate::exact::Exact;
use crate::gaussian::{Normals, box_muller};
use crate::image::{happens, image};
use crate::philox::{Address, Words, word, words};
use crate::rule::{Error, Kind, Numbers, Place, Rule};
use crate::tally::Sums;
use cubecl::prelude::*;
use cubecl::server::Handle;

/// An error of single values.
pub(super) fn strike<R: Runtime>(
    client: &Client<R>,
    x: Handle,
    length: usize,
    layout: Layout,
    error: &Error,
    tally: Option<&Handle>,
) -> Handle {
    let Rule { kind, sparse, numbers, later } = Rule::<R>::new(error);
    // A weight is one long row, but for its channels.
    let (spans, width) =
        if layout.place == Place::Weight { (1, length) } else { (layout.spans, layout.width) };
    let blocks = width.div_ceil(4);
    let launch = Launch::new(client, spans, blocks, tally.is_some());
    let later =
        if later.is_empty() { layout.rows.clone() } else { client.create_from_slice(u32::as_bytes(&later)) };
    let later_length = if matches!(kind, Kind::Flip { .. }) { 64 } else { 1 };
    let out = owned(client, x, length);
    strike_kernel::launch(
        client,
        cubes(launch.cubes),
        CubeDim::new_1d(THREADS),
        exact(client),
        array(&out, length),
        spans_of(layout, spans, width, blocks),
        numbers,
        array(&later, later_length),
        array(&launch.parts, launch.words()),
        layout.width as u32,
        launch.cubes as u32,
        kind,
        sparse,
        layout.place,
        tally.is_some(),
    );
    launch.finish(client, tally);
    out
}

#[cube(launch)]
fn strike_kernel(
    e: &Exact,
    x: &mut Array<f32>,
    spans: &Spans,
    numbers: &Numbers,
    later: &Array<u32>,
    parts: &mut Array<f32>,
    columns: u32,
    cubes: u32,
    #[comptime] kind: Kind,
    #[comptime] sparse: bool,
    #[comptime] place: Place,
    #[comptime] counts: bool,
) {
    let cube = CUBE_POS;
    if cube < cubes as usize {
        let mut sums = Sums::new();
        let all = spans.count * spans.blocks;
        for turn in 0u32..8u32 {
            let index = cube as u32 * 2048u32 + turn * 256u32 + UNIT_POS;
            if index < all {
                let span = spans.get(index / spans.blocks, place);
                let block = index % spans.blocks;
                let address = address(numbers, &span);
                let random = if comptime!(kind.is_random()) {
                    words(&address, (span.element >> 2u32) + block)
                } else {
                    Words { a: 0u32, b: 0u32, c: 0u32, d: 0u32 }
                };
                let noise = if comptime!(kind.is_gaussian()) {
                    box_muller(e, &random)
                } else {
                    Normals { a: 0.0f32, b: 0.0f32, c: 0.0f32, d: 0.0f32 }
                };
                #[unroll]
                for lane in 0u32..4u32 {
                    let j = 4u32 * block + lane;
                    if j >= span.start && j < span.end {
                        let at = (span.offset + j) as usize;
                        let element = span.element + j;
                        let before = x[at];
                        let mut after = before;
                        if faulty(numbers, element, columns, sparse, place) {
                            let (word, noise) = (random.get(lane), noise.get(lane));
                            after = image(e, numbers, later, &address, element, word, noise, before, kind);
                            x[at] = after;
                        }
                        if comptime!(counts) {
                            if span.counted == 1u32 {
                                sums.count(e, before, after);
                            }
                        }
                    }
                }
            }
        }
        if comptime!(counts) {
            sums.reduce(e, parts, cube, 256usize);
        }
    }
}

/// Whether the channel of an element is faulty.
#[cube]
fn faulty(
    numbers: &Numbers,
    element: u32,
    columns: u32,
    #[comptime] sparse: bool,
    #[comptime] place: Place,
) -> bool {
    let mut is = true.runtime();
    if comptime!(sparse) {
        let mut channel = element;
        if comptime!(place == Place::Weight) {
            channel = element % columns;
        }
        let address = Address {
            key_low: numbers.channels_low,
            key_high: numbers.channels_high,
            position: 0u32,
            sequence_low: 0u32,
            sequence_high: 0u32,
        };
        is = happens(&address, channel, word(&address, channel), numbers.faulty, numbers.faulty_rest);
    }
    is
}
