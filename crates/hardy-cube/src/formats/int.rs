//! Integers: [`hardy_numerics::formats::int`].

use super::*;

/// Replaces a block by its image.
#[cube]
pub(super) fn quantize_int(
    e: &Exact,
    x: &mut Array<f32>,
    block: &Block,
    address: &Address,
    sums: &mut Sums,
    row_largest: u32,
    #[comptime] levels: u32,
    #[comptime] row: bool,
    #[comptime] cast: Stored,
) {
    let levels = f32::cast_from(levels.runtime());
    let mut bits = row_largest;
    if comptime!(!row) {
        bits = largest_bits(x, block, 0u32, block.count);
    }
    let s = scale(e, bits, levels);
    for i in 0u32..block.count {
        let v = x[block.place(i)];
        let a = e.quotient(finite_magnitude(v), s);
        let a = select(a < levels, a, levels);
        let q =
            to_multiple(e, a, 0x3F80_0000u32, chance(address, block, i, cast.stochastic), cast.stochastic);
        put(e, x, block, i, signed(v, q * s), sums, cast);
    }
}
