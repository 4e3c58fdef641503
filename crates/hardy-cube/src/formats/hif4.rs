//! HiFloat4: [`hardy_numerics::formats::hif4`].

use super::*;

/// Replaces a block by its image.
#[cube]
pub(super) fn quantize_hif4(
    e: &Exact,
    x: &mut Array<f32>,
    block: &Block,
    address: &Address,
    sums: &mut Sums,
    #[comptime] cast: Stored,
) {
    let amax = f32::reinterpret(largest_bits(x, block, 0u32, block.count));
    let seventh = f32::reinterpret(u32::new(0x3E12_0000));
    let base = round_bits(round_bits(e.product(amax, seventh), 0u32, 16u32, false), 0u32, 21u32, false);
    let base = select(base < 3.552_713_7e-15f32, 3.552_713_7e-15f32, base);
    let base = select(base > 49152.0f32, 49152.0f32, base);
    let reciprocal = round_bits(e.quotient(1.0f32, base), 0u32, 16u32, false);
    let mut eight = u32::new(0);
    while eight < block.count {
        let middle = min(eight + 4u32, block.count);
        let end = min(eight + 8u32, block.count);
        let a = e.apart(f32::reinterpret(largest_bits(x, block, eight, middle)) * reciprocal);
        let b = e.apart(f32::reinterpret(largest_bits(x, block, middle, end)) * reciprocal);
        let doubled = a >= 4.0f32 || b >= 4.0f32;
        let threshold = select(doubled, 4.0f32, 2.0f32);
        let coarse = select(doubled, 1u32, 0u32);
        for i in eight..end {
            let four = select(i < middle, a, b);
            let exponent = coarse + select(four >= threshold, 1u32, 0u32);
            let down = reciprocal * f32::reinterpret((127u32 - exponent) << 23u32);
            let up = base * f32::reinterpret((127u32 + exponent) << 23u32);
            let v = x[block.place(i)];
            let size = e.apart(finite_magnitude(v) * down);
            let size = select(size < 1.75f32, size, 1.75f32);
            let q = if comptime!(cast.stochastic) {
                to_multiple(e, size, 0x3E80_0000u32, chance(address, block, i, cast.stochastic), true)
            } else {
                (size * 4.0f32 + 0.5f32).floor() * 0.25f32
            };
            put(e, x, block, i, select(magnitude(v) == 0.0f32, 0.0f32, signed(v, q * up)), sums, cast);
        }
        eight += 8u32;
    }
}
