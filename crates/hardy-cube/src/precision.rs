//! What a product sees of its operands; see [`hardy_numerics::Precision`].

use crate::formats::round_bits;
use cubecl::prelude::*;
use hardy_numerics::Precision;

/// `x` as a product sees it.
#[cube]
pub(crate) fn operand(x: f32, #[comptime] precision: Precision) -> f32 {
    let mut seen = x;
    if comptime!(precision == Precision::Bf16) {
        seen = round_bits(x, 0u32, 16u32, false);
    }
    seen
}
