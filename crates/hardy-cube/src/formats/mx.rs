//! Microscaling: [`hardy_numerics::formats::mx`].

use super::*;

/// Replaces a block by its image.
#[cube]
pub(super) fn quantize_mx(
    e: &Exact,
    x: &mut Array<f32>,
    block: &Block,
    address: &Address,
    sums: &mut Sums,
    #[comptime] grid: Grid,
    #[comptime] up: bool,
    #[comptime] cast: Stored,
) {
    let mut bits = largest_bits(x, block, 0u32, block.count);
    if comptime!(up) {
        bits += 0x3F_FFFFu32;
    }
    let mut k = i32::cast_from(bits >> 23u32) - comptime!(127 + grid.max_exponent);
    if k < -127i32 {
        k = -127i32;
    }
    let (down, up) = (exp2(-k), exp2(k));
    let largest = f32::reinterpret(comptime!(grid.largest).runtime());
    for i in 0u32..block.count {
        let v = x[block.place(i)];
        let a = to_grid(
            e,
            finite_magnitude(v) * down,
            chance(address, block, i, cast.stochastic),
            grid,
            cast.stochastic,
        );
        put(e, x, block, i, signed(v, select(a < largest, a, largest) * up), sums, cast);
    }
}
