//! BF16, TF32 and FP16: [`hardy_numerics::formats::float`].

use super::*;

/// Replaces a block by its image.
#[cube]
pub(super) fn quantize_short(
    e: &Exact,
    x: &mut Array<f32>,
    block: &Block,
    address: &Address,
    sums: &mut Sums,
    #[comptime] dropped: u32,
    #[comptime] cast: Stored,
) {
    for i in 0u32..block.count {
        let mut noise = u32::new(0);
        if comptime!(cast.stochastic) {
            // The 24 upper bits of the word, of which the uppermost decide.
            noise = word(address, block.element + block.offset(i)) >> comptime!(32 - dropped);
        }
        put(e, x, block, i, round_bits(x[block.place(i)], noise, dropped, cast.stochastic), sums, cast);
    }
}

/// Replaces a block by its image.
#[cube]
pub(super) fn quantize_fp16(
    e: &Exact,
    x: &mut Array<f32>,
    block: &Block,
    address: &Address,
    sums: &mut Sums,
    #[comptime] cast: Stored,
) {
    for i in 0u32..block.count {
        let v = x[block.place(i)];
        let a = finite_magnitude(v);
        let a = select(a < 65536.0f32, a, 65536.0f32);
        let q = to_grid(e, a, chance(address, block, i, cast.stochastic), E5M10, cast.stochastic);
        put(
            e,
            x,
            block,
            i,
            signed(v, select(q > 65504.0f32, f32::reinterpret(u32::new(0x7F80_0000)), q)),
            sums,
            cast,
        );
    }
}
