//! What becomes of an element of a product before it is stored: a bias is added to it, and a relative Gaussian error falls
//! on it, so that noise costs no pass over memory of its own.
//!
//! The normals of sixteen rows of a tile are computed by all threads of its cube, four for a Philox block, and lie where
//! the left factor lay, for which there is just enough room.

use crate::device::{Client, array, empty};
use crate::exact::{Exact, magnitude};
use crate::gaussian::box_muller;
use crate::philox::{Address, words};
use crate::rule::{Error, Kind, Numbers, NumbersLaunch, Rule};
use crate::tally::{self, Sums};
use cubecl::prelude::*;
use cubecl::server::Handle;
use hardy_numerics::Perturbation;

/// What becomes of every element of a product; by default nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// Is added to every row, `[n]`.
    pub bias: Option<&'a Handle>,
    /// Falls on what there is then.
    pub noise: Option<Noise<'a>>,
}

/// An error that falls on the rows of a product as [`perturb_rows`](crate::perturb::perturb_rows) would inject it, to the
/// bit; only its energy is added up in another order.
#[derive(Clone, Copy, Debug)]
pub struct Noise<'a> {
    /// A relative Gaussian error.
    pub error: &'a Error,
    /// The addresses of rows, `[m, 4]`.
    pub rows: &'a Handle,
    /// Where its energy goes; `None` where nobody measures it.
    pub tally: Option<&'a Handle>,
}

/// Whether a product can inject an error as it is stored.
pub fn fuses(what: &Perturbation) -> bool {
    matches!(what, Perturbation::RelativeGaussian { .. }) && !what.is_off()
}

/// What is compiled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ends {
    pub bias: bool,
    pub noise: bool,
    pub counts: bool,
}

/// An epilogue as the kernel takes it.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Ending {
    bias: Array<f32>,
    rows: Array<u32>,
    numbers: Numbers,
    parts: Array<f32>,
}

/// An epilogue that was launched: what is left to do after the product.
pub(super) struct Launched<'a> {
    pub ends: Ends,
    parts: Handle,
    cubes: usize,
    tally: Option<&'a Handle>,
}

impl<'a> Epilogue<'a> {
    /// Its arguments for a product `[m, n]` by so many cubes; where it has none, `any` of numbers stands in their place.
    ///
    /// # Panics
    /// If a handle is too short, or the product can not inject the error.
    pub(super) fn launch<R: Runtime>(
        self,
        client: &Client<R>,
        [m, n]: [usize; 2],
        cubes: usize,
        any: &Handle,
    ) -> (EndingLaunch<R>, Launched<'a>) {
        let tally = self.noise.and_then(|noise| noise.tally);
        let words = if tally.is_some() { tally::WORDS * cubes } else { 1 };
        let parts = if tally.is_some() { empty(client, words) } else { any.clone() };
        let bias = self.bias.map_or_else(|| array(any, 1), |bias| array(bias, n));
        let rows = self.noise.map_or_else(|| array(any, 1), |noise| array(noise.rows, 4 * m));
        let arguments = EndingLaunch::new(bias, rows, numbers(self.noise), array(&parts, words));
        let ends = Ends { bias: self.bias.is_some(), noise: self.noise.is_some(), counts: tally.is_some() };
        (arguments, Launched { ends, parts, cubes, tally })
    }
}

pub(super) fn numbers<R: Runtime>(noise: Option<Noise>) -> NumbersLaunch<R> {
    let Some(Noise { error, .. }) = noise else { return Numbers::nothing() };
    let rule = Rule::<R>::new(error);
    assert!(rule.kind == Kind::Relative && !rule.sparse, "no product injects {:?}", error.what);
    rule.numbers
}

impl Launched<'_> {
    /// Adds what was measured to the tally.
    pub(super) fn finish<R: Runtime>(self, client: &Client<R>) {
        if let Some(tally) = self.tally {
            tally::add(client, &self.parts, self.cubes, tally);
        }
    }
}

/// Ends a tile, of which a thread has `total`: `high` × `wide` elements, sixteen rows and columns apart, from its own on.
#[cube]
pub(super) fn end(
    e: &Exact,
    ending: &mut Ending,
    total: &mut Array<f32>,
    shared: &mut SharedMemory<f32>,
    m: u32,
    n: u32,
    first_row: u32,
    first_col: u32,
    #[comptime] ends: Ends,
    #[comptime] high: usize,
    #[comptime] wide: usize,
) {
    if comptime!(ends.bias) {
        #[unroll]
        for j in 0..wide {
            let col = first_col + UNIT_POS_X + comptime!(16 * j as u32);
            if col < n {
                let bias = ending.bias[col as usize];
                #[unroll]
                for i in 0..high {
                    total[comptime!(i * wide + j)] = total[comptime!(i * wide + j)] + bias;
                }
            }
        }
    }
    if comptime!(ends.noise) {
        let mut sums = Sums::new();
        #[unroll]
        for i in 0..high {
            let first = first_row + comptime!(16 * i as u32);
            sync_cube();
            normals(e, ending, shared, first, m, first_col, wide);
            sync_cube();
            let row = first + UNIT_POS_Y;
            #[unroll]
            for j in 0..wide {
                let col = UNIT_POS_X + comptime!(16 * j as u32);
                if row < m && first_col + col < n {
                    let before = total[comptime!(i * wide + j)];
                    let normal = shared[(UNIT_POS_Y * comptime!(16 * wide as u32) + col) as usize];
                    let scaled = e.product(normal, ending.numbers.scale);
                    let after = before + e.product(scaled, magnitude(before));
                    total[comptime!(i * wide + j)] = after;
                    if comptime!(ends.counts) {
                        if ending.rows[row as usize * 4 + 3] == 1u32 {
                            sums.count(e, before, after);
                        }
                    }
                }
            }
        }
        if comptime!(ends.counts) {
            sums.reduce(e, &mut ending.parts, CUBE_POS, 256usize);
        }
    }
}

/// The normals of sixteen rows and `16·wide` columns, row by row.
#[cube]
fn normals(
    e: &Exact,
    ending: &Ending,
    shared: &mut SharedMemory<f32>,
    first_row: u32,
    m: u32,
    first_col: u32,
    #[comptime] wide: usize,
) {
    let me = UNIT_POS_Y * 16u32 + UNIT_POS_X;
    let blocks = comptime!(4 * wide as u32);
    #[unroll]
    for turn in 0..comptime!(wide.div_ceil(4)) {
        let index = me + comptime!(256 * turn as u32);
        let (row, block) = (index / blocks, index % blocks);
        if row < 16u32 && first_row + row < m {
            let of = (first_row + row) as usize * 4;
            let address = Address {
                key_low: ending.numbers.key_low,
                key_high: ending.numbers.key_high,
                position: ending.rows[of],
                sequence_low: ending.rows[of + 1],
                sequence_high: ending.rows[of + 2],
            };
            let four = box_muller(e, &words(&address, first_col / 4u32 + block));
            let place = index as usize * 4;
            shared[place] = four.a;
            shared[place + 1] = four.b;
            shared[place + 2] = four.c;
            shared[place + 3] = four.d;
        }
    }
}
