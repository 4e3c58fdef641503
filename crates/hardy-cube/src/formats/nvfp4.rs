//! NVFP4: [`hardy_numerics::formats::nvfp4`].

use super::*;

/// Replaces a block by its image.
#[cube]
pub(super) fn quantize_nvfp4(
    e: &Exact,
    x: &mut Array<f32>,
    block: &Block,
    address: &Address,
    sums: &mut Sums,
    row_largest: u32,
    #[comptime] tensor: bool,
    #[comptime] cast: Stored,
) {
    let mut t = f32::new(1.0);
    if comptime!(tensor) {
        t = e.quotient(f32::reinterpret(row_largest), 2688.0f32);
        if u32::reinterpret(t) < 0x0080_0000u32 {
            t = f32::reinterpret(u32::new(0x0080_0000));
        }
    }
    let amax = f32::reinterpret(largest_bits(x, block, 0u32, block.count));
    let s = e.quotient(e.quotient(amax, 6.0f32), t);
    let s = select(s < 0.015_625f32, 0.015_625f32, s);
    let s = to_grid(e, select(s > 448.0f32, 448.0f32, s), 0.0f32, E4M3, false);
    let down = e.quotient(e.quotient(1.0f32, t), s);
    let down = select(u32::reinterpret(down) < 0x7F80_0000u32, down, f32::reinterpret(u32::new(0x7F7F_FFFF)));
    let up = e.product(s, t);
    for i in 0u32..block.count {
        let v = x[block.place(i)];
        let a = finite_magnitude(v) * down;
        let a = select(a < 6.0f32, a, 6.0f32);
        let q = to_grid(e, a, chance(address, block, i, cast.stochastic), E2M1, cast.stochastic);
        let mut image = signed(v, q * up);
        if comptime!(tensor) {
            // The image of a tensor of zeros is 0, whatever their signs.
            if row_largest == 0u32 && !is_nan(v) {
                image = f32::new(0.0);
            }
        }
        put(e, x, block, i, image, sums, cast);
    }
}
