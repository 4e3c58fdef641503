//! Errors on a tensor in place: on the rows of an activation, on a weight, on the scores or probabilities of attention.
//! A thread replaces the four elements of a Philox block at a time, or one block of a format.
//!
//! Cost of noise, an element: 8 bytes of traffic, some 25 integer operations of Philox and 35 of Box-Muller; energies add
//! some 30, a format some 15.

use crate::device::{Client, THREADS, array, cubes, empty, exact};
use crate::exact::Exact;
use crate::formats::{Block, Stored, magnitude_bits, quantize};
use crate::gaussian::{Normals, box_muller};
use crate::image::{happens, image};
use crate::philox::{Address, Words, word, words};
use crate::rule::{Error, Kind, Numbers, Place, Rule};
use crate::tally::{self, Sums};
use cubecl::prelude::*;
use cubecl::server::Handle;
use hardy_numerics::{Blocks, Perturbation, Quantization, Rounding};

/// Blocks that a thread replaces, one after another.
const TURNS: usize = 8;

/// Where the values of a tensor and their addresses are.
#[derive(Clone, Copy)]
pub(crate) struct Layout<'a> {
    pub place: Place,
    /// Rows; of attention, slots times heads.
    pub spans: usize,
    /// Values from one row to the next.
    pub width: usize,
    /// The addresses of rows `[rows, 4]`.
    pub rows: &'a Handle,
    /// The number of rows in `rows`.
    pub table: usize,
    /// Of attention: which row each slot is and what it sees; else anything.
    pub slots: &'a Handle,
    /// Of attention: the number of slots, the first of them, heads, and how many keys a query sees.
    pub attention: [usize; 4],
}

/// Injects an error into the rows of `x` `[rows, width]`, in place, at the addresses `table` `[rows, 4]`: position,
/// sequence (two words, the low one first), and whether the row counts in the tally.
///
/// # Panics
/// If a handle is too short, or the error is not [supported](crate::rule::supports) there.
pub fn perturb_rows<R: Runtime>(
    client: &Client<R>,
    x: Handle,
    [rows, width]: [usize; 2],
    table: &Handle,
    error: &Error,
    tally: Option<&Handle>,
) -> Handle {
    let layout = Layout {
        place: Place::Rows,
        spans: rows,
        width,
        rows: table,
        table: rows,
        slots: table,
        attention: [0; 4],
    };
    perturb(client, x, rows * width, layout, error, tally)
}

/// Injects an error into a weight, or the gradient of one, `[rows, width]`, in place; its channels are its columns.
///
/// # Panics
/// As [`perturb_rows`].
pub fn perturb_flat<R: Runtime>(
    client: &Client<R>,
    x: Handle,
    [rows, width]: [usize; 2],
    error: &Error,
    tally: Option<&Handle>,
) -> Handle {
    assert!(rows * width < 1 << 32, "a weight of {} elements", rows * width);
    let nothing = empty(client, 1);
    let layout = Layout {
        place: Place::Weight,
        spans: rows,
        width,
        rows: &nothing,
        table: 0,
        slots: &nothing,
        attention: [0; 4],
    };
    perturb(client, x, rows * width, layout, error, tally)
}

/// Injects an error into `x`, of `length` elements.
pub(crate) fn perturb<R: Runtime>(
    client: &Client<R>,
    x: Handle,
    length: usize,
    layout: Layout,
    error: &Error,
    tally: Option<&Handle>,
) -> Handle {
    if length == 0 {
        return x;
    }
    match error.what {
        Perturbation::Quantization(quantization) => {
            cast(client, x, length, layout, (error, quantization), tally)
        }
        _ => strike(client, x, length, layout, error, tally),
    }
}

/// An error of single values.
fn strike<R: Runtime>(
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
    let out = crate::device::owned(client, x, length);
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

/// A number format.
fn cast<R: Runtime>(
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
    let out = crate::device::owned(client, x, length);
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

/// How a kernel over blocks is launched, and where its cubes leave their sums.
struct Launch {
    cubes: usize,
    parts: Handle,
    counts: bool,
}

impl Launch {
    fn new<R: Runtime>(client: &Client<R>, spans: usize, blocks: usize, counts: bool) -> Self {
        assert!(spans * blocks < 1 << 32, "{spans} rows of {blocks} blocks are too many for one launch");
        let cubes = (spans * blocks).div_ceil(THREADS as usize * TURNS);
        let parts = empty(client, if counts { tally::WORDS * cubes } else { 1 });
        Self { cubes, parts, counts }
    }

    fn words(&self) -> usize {
        if self.counts { tally::WORDS * self.cubes } else { 1 }
    }

    fn finish<R: Runtime>(&self, client: &Client<R>, tally: Option<&Handle>) {
        if let Some(tally) = tally {
            tally::add(client, &self.parts, self.cubes, tally);
        }
    }
}

/// The rows of a tensor for a kernel.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct Spans {
    rows: Array<u32>,
    slots: Array<u32>,
    count: u32,
    width: u32,
    /// Blocks of a row.
    blocks: u32,
    first_slot: u32,
    heads: u32,
    window: u32,
}

fn spans_of<R: Runtime>(layout: Layout, count: usize, width: usize, blocks: usize) -> SpansLaunch<R> {
    let [slots, first_slot, heads, window] = layout.attention;
    SpansLaunch::new(
        array(layout.rows, (4 * layout.table).max(1)),
        array(layout.slots, (8 * slots).max(1)),
        count as u32,
        width as u32,
        blocks as u32,
        first_slot as u32,
        heads as u32,
        u32::try_from(window).unwrap_or(u32::MAX),
    )
}

/// A row: its values `start .. end`, its first one at `offset`, the address of value `j` being element `element + j`.
#[derive(CubeType, Clone, Copy)]
pub(crate) struct Span {
    pub offset: u32,
    pub start: u32,
    pub end: u32,
    pub element: u32,
    pub position: u32,
    pub sequence_low: u32,
    pub sequence_high: u32,
    pub counted: u32,
}

#[cube]
impl Spans {
    fn get(&self, index: u32, #[comptime] place: Place) -> Span {
        let mut span = Span {
            offset: index * self.width,
            start: 0u32,
            end: self.width,
            element: 0u32,
            position: 0u32,
            sequence_low: 0u32,
            sequence_high: 0u32,
            counted: 1u32,
        };
        if comptime!(place == Place::Weight) {
            span.element = index * self.width;
        } else if comptime!(place == Place::Rows) {
            let row = index as usize * 4;
            span.position = self.rows[row];
            span.sequence_low = self.rows[row + 1];
            span.sequence_high = self.rows[row + 2];
            span.counted = self.rows[row + 3];
        } else {
            let slot = (self.first_slot + index / self.heads) as usize * 8;
            span.end = 0u32;
            let row = self.slots[slot];
            if row != 0xFFFF_FFFFu32 {
                span.end = self.slots[slot + 2] + self.slots[slot + 4] + 1u32;
                span.start = select(span.end > self.window, span.end - self.window, 0u32);
                span.element = (index % self.heads) << 20u32;
                let row = row as usize * 4;
                span.position = self.rows[row];
                span.sequence_low = self.rows[row + 1];
                span.sequence_high = self.rows[row + 2];
                span.counted = self.rows[row + 3];
            }
        }
        span
    }
}

#[cube]
fn address(numbers: &Numbers, span: &Span) -> Address {
    Address {
        key_low: numbers.key_low,
        key_high: numbers.key_high,
        position: span.position,
        sequence_low: span.sequence_low,
        sequence_high: span.sequence_high,
    }
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

#[cfg(all(test, any(feature = "vulkan", feature = "cuda")))]
mod tests {
    use super::*;
    use crate::testing::*;
    use hardy_numerics::{Bits, ErrorEnergy, Fault, Format, Image, Keys, NoiseKey};

    fn keys() -> Keys {
        Keys { noise: KEY, channels: NoiseKey([11, 12]) }
    }

    /// Every kind of error of single values, and some of their options.
    fn kinds() -> Vec<Perturbation> {
        let fault = |fault, sparsity| Perturbation::Fault { fault, sparsity };
        let flip = |rate, bits, image| Fault::BitFlip { rate, bits, image };
        vec![
            Perturbation::RelativeGaussian { scale: 0.05 },
            Perturbation::AbsoluteGaussian { scale: 0.3 },
            Perturbation::SystematicBias { scale: 0.1, relative: false },
            Perturbation::SystematicBias { scale: 0.1, relative: true },
            Perturbation::Truncation { scale: 0.07 },
            fault(Fault::DeadZone { scale: 0.5 }, 0.3),
            fault(Fault::Saturation { scale: 0.9 }, 1.0),
            fault(Fault::Bias { scale: 0.4 }, 0.5),
            fault(Fault::Stuck { value: -2.5 }, 0.1),
            fault(Fault::Spike { scale: 3.0, rate: 0.02 }, 1.0),
            fault(Fault::Spike { scale: 3.0, rate: 0.5 }, 0.4),
            fault(flip(0.01, Bits::All, Image::F32), 1.0),
            fault(flip(0.2, Bits::Mantissa, Image::Bf16), 0.7),
            fault(flip(1.0, Bits::Range(3, 5), Image::F32), 1.0),
            fault(flip(1e-12, Bits::Exponent, Image::F32), 1.0),
            Perturbation::AbsoluteGaussian { scale: 0.0 },
        ]
    }

    fn formats() -> impl Iterator<Item = Perturbation> {
        Format::ALL.iter().flat_map(|&format| {
            [Rounding::Nearest, Rounding::Stochastic].map(|rounding| {
                Perturbation::Quantization(Quantization { rounding, ..Quantization::from(format) })
            })
        })
    }

    /// Numbers of all magnitudes, with zeros, NaN and infinities.
    fn values(length: usize) -> Vec<f32> {
        let mut x = numbers(5, length);
        for (i, v) in x.iter_mut().enumerate() {
            match i % 97 {
                0 => *v = 0.0,
                1 => *v = -0.0,
                2 if i % 5 == 0 => *v = f32::NAN,
                3 if i % 7 == 0 => *v = f32::NEG_INFINITY,
                4 => *v *= 1e-20,
                5 => *v *= 1e18,
                _ => {}
            }
        }
        x
    }

    #[track_caller]
    fn assert_energy(got: ErrorEnergy, want: ErrorEnergy, what: &str) {
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-6 * b.abs();
        let same =
            got.non_finite == want.non_finite && near(got.error, want.error) && near(got.signal, want.signal);
        assert!(same, "{what}: {got:?}, not {want:?}");
    }

    #[test]
    fn rows_are_perturbed_as_on_the_cpu_to_the_bit() {
        let client = client();
        let shape @ [rows, width] = [37, 203];
        let (addresses, table) = addresses(rows);
        let table = upload_words(&client, &table);
        for what in kinds().into_iter().chain(formats()) {
            let name = format!("{what:?}");
            let x = values(rows * width);
            let mut wanted = x.clone();
            what.apply_rows(keys(), &addresses, 0, width, &mut wanted);
            let tally = tally::new(&client);
            let error = Error { what, keys: keys() };
            let out = perturb_rows(&client, upload(&client, &x), shape, &table, &error, Some(&tally));
            assert_bits(&download(&client, out, rows * width), &wanted, &name);
            let counted = |i: &usize| i % 3 != 2;
            let energy = (0..rows).filter(counted).map(|i| {
                let row = i * width..(i + 1) * width;
                ErrorEnergy::between(&x[row.clone()], &wanted[row])
            });
            assert_energy(tally::read(&client, tally), energy.sum(), &name);
        }
    }

    #[test]
    fn weights_are_perturbed_as_on_the_cpu_to_the_bit() {
        let client = client();
        let shape @ [rows, width] = [70, 101];
        let squares = Format::ALL.iter().filter(|format| format.side_2d().is_some()).flat_map(|&format| {
            [Rounding::Nearest, Rounding::Stochastic].map(|rounding| {
                let blocks = Blocks::TwoD;
                Perturbation::Quantization(Quantization { rounding, blocks, ..Quantization::from(format) })
            })
        });
        for what in kinds().into_iter().chain(formats()).chain(squares) {
            let name = format!("{what:?}");
            let x = values(rows * width);
            let mut wanted = x.clone();
            let energy = what.apply_flat(keys(), width, &mut wanted);
            let tally = tally::new(&client);
            let error = Error { what, keys: keys() };
            let out = perturb_flat(&client, upload(&client, &x), shape, &error, Some(&tally));
            assert_bits(&download(&client, out, rows * width), &wanted, &name);
            assert_energy(tally::read(&client, tally), energy, &name);
        }
    }

    #[test]
    fn what_someone_else_holds_is_not_changed() {
        let client = client();
        let x = numbers(1, 64);
        let held = upload(&client, &x);
        let error = Error { what: Perturbation::AbsoluteGaussian { scale: 1.0 }, keys: keys() };
        let out = perturb_flat(&client, held.clone(), [1, 64], &error, None);
        assert_bits(&download(&client, held, 64), &x, "the original");
        assert_ne!(download(&client, out, 64), x);
    }

    #[test]
    fn a_value_does_not_depend_on_what_shares_its_pass() {
        let client = client();
        let (_, table) = addresses(20);
        let x = numbers(2, 20 * 50);
        let error = Error { what: Perturbation::RelativeGaussian { scale: 0.1 }, keys: keys() };
        let run = |rows: std::ops::Range<usize>| {
            let table = upload_words(&client, &table[4 * rows.start..4 * rows.end]);
            let x = upload(&client, &x[50 * rows.start..50 * rows.end]);
            let out = perturb_rows(&client, x, [rows.len(), 50], &table, &error, None);
            download(&client, out, 50 * rows.len())
        };
        let parts = [run(0..3), run(3..4), run(4..20)].concat();
        assert_bits(&parts, &run(0..20), "parts");
    }
}
