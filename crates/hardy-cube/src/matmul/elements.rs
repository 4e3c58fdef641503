//! The elements of a tile that a thread has: `high` × `wide`, sixteen rows and columns apart, from its own on.

use cubecl::prelude::*;

/// What there is to add to, or zeros.
#[cube]
pub(super) fn begin(
    out: &Array<f32>,
    total: &mut Array<f32>,
    m: u32,
    n: u32,
    first_row: u32,
    first_col: u32,
    #[comptime] adds: bool,
    #[comptime] high: usize,
    #[comptime] wide: usize,
) {
    #[unroll]
    for i in 0..high {
        #[unroll]
        for j in 0..wide {
            let place = comptime!(i * wide + j);
            total[place] = 0.0f32;
            if comptime!(adds) {
                let row = first_row + UNIT_POS_Y + comptime!(16 * i as u32);
                let col = first_col + UNIT_POS_X + comptime!(16 * j as u32);
                if row < m && col < n {
                    total[place] = out[(row * n + col) as usize];
                }
            }
        }
    }
}

/// Puts them where they belong.
#[cube]
pub(super) fn store(
    out: &mut Array<f32>,
    total: &Array<f32>,
    m: u32,
    n: u32,
    first_row: u32,
    first_col: u32,
    #[comptime] high: usize,
    #[comptime] wide: usize,
) {
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
