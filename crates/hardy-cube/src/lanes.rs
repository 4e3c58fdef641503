//! Sums and largest values of a row in sixteen lanes, as the CPU adds them: element `i` goes to lane `i mod 16`, the lanes
//! are added in a tree, and what is left over after the last sixteen is added one by one, last. A cube of 16 × 16 threads
//! works on sixteen rows.

use crate::exact::Exact;
use cubecl::prelude::*;

/// Adds up sixteen lanes in the threads of a group, and then what was left over; every thread gets the sum.
#[cube]
pub(crate) fn add_lanes(own: f32, rest: f32, any: bool) -> f32 {
    let mut shared = SharedMemory::<f32>::new(256usize);
    let lane = UNIT_POS_X as usize;
    let first = UNIT_POS_Y as usize * 16usize;
    sync_cube();
    shared[first + lane] = own;
    sync_cube();
    let mut half = 8usize.runtime();
    while half > 0usize {
        if lane < half {
            shared[first + lane] = shared[first + lane] + shared[first + lane + half];
        }
        sync_cube();
        half = half / 2usize;
    }
    let sum = shared[first];
    select(any, sum + rest, sum)
}

/// The largest of the threads of a group.
#[cube]
pub(crate) fn largest_lane(own: f32) -> f32 {
    let mut shared = SharedMemory::<f32>::new(256usize);
    let lane = UNIT_POS_X as usize;
    let first = UNIT_POS_Y as usize * 16usize;
    sync_cube();
    shared[first + lane] = own;
    sync_cube();
    let mut half = 8usize.runtime();
    while half > 0usize {
        if lane < half {
            let other = shared[first + lane + half];
            if other > shared[first + lane] {
                shared[first + lane] = other;
            }
        }
        sync_cube();
        half = half / 2usize;
    }
    shared[first]
}

/// `Σ a·b` of `length` elements from `a_first` and `b_first` on.
#[cube]
pub(crate) fn dot(
    e: &Exact,
    a: &Array<f32>,
    a_first: usize,
    b: &Array<f32>,
    b_first: usize,
    length: u32,
) -> f32 {
    let whole = length / 16u32 * 16u32;
    let mut own = f32::new(0.0);
    let mut i = UNIT_POS_X;
    while i < whole {
        own += e.product(a[a_first + i as usize], b[b_first + i as usize]);
        i += 16u32;
    }
    let mut rest = f32::new(0.0);
    for i in whole..length {
        let term = e.product(a[a_first + i as usize], b[b_first + i as usize]);
        rest = select(i == whole, term, rest + term);
    }
    add_lanes(own, rest, whole < length)
}
