//! FP8: [`hardy_numerics::formats::fp8`].

use super::*;

/// Replaces a block by its image.
#[cube]
pub(super) fn quantize_fp8(
    e: &Exact,
    x: &mut Array<f32>,
    block: &Block,
    address: &Address,
    sums: &mut Sums,
    row_largest: u32,
    #[comptime] grid: Grid,
    #[comptime] cast: Stored,
) {
    let largest = f32::reinterpret(comptime!(grid.largest).runtime());
    let s = scale(e, row_largest, largest);
    for i in 0u32..block.count {
        let v = x[block.place(i)];
        let a = e.quotient(finite_magnitude(v), s);
        let a = select(a < largest, a, largest);
        let q = to_grid(e, a, chance(address, block, i, cast.stochastic), grid, cast.stochastic);
        put(e, x, block, i, signed(v, q * s), sums, cast);
    }
}
