//! Rotary position embedding in the half-split layout: element `i` of a head turns with element `i + d/2`. Memory is the
//! limit: 8 bytes an element, the angles shared by all heads of a row.

use crate::device::{Client, array, exact, owned, threads};
use crate::exact::Exact;
use cubecl::prelude::*;
use cubecl::server::Handle;

/// Turns every head, of `2·half` elements, of `x` `[tokens, width]` by the `angles` `[tokens, half, 2]`, cosine and sine,
/// of its row, in place; with `back` the other way round, as gradients are.
///
/// # Panics
/// If a handle is too short.
pub fn rotary<R: Runtime>(
    client: &Client<R>,
    x: Handle,
    [tokens, width]: [usize; 2],
    half: usize,
    angles: &Handle,
    back: bool,
) -> Handle {
    let out = owned(client, x, tokens * width);
    if tokens * width > 0 {
        let (cubes, dim) = threads(tokens * width / 2);
        rotary_kernel::launch(
            client,
            cubes,
            dim,
            exact(client),
            array(&out, tokens * width),
            array(angles, tokens * half * 2),
            width as u32,
            half as u32,
            if back { -1.0 } else { 1.0 },
        );
    }
    out
}

#[cube(launch)]
fn rotary_kernel(e: &Exact, x: &mut Array<f32>, angles: &Array<f32>, width: u32, half: u32, sign: f32) {
    let pair = ABSOLUTE_POS as u32;
    let pairs = width / 2u32;
    if 2u32 * pair < x.len() as u32 {
        let (row, within) = (pair / pairs, pair % pairs);
        let (head, i) = (within / half, within % half);
        let low = (row * width + head * 2u32 * half + i) as usize;
        let high = low + half as usize;
        let angle = (2u32 * (row * half + i)) as usize;
        let (cos, sin) = (angles[angle], sign * angles[angle + 1]);
        let (a, b) = (x[low], x[high]);
        x[low] = e.product(a, cos) - e.product(b, sin);
        x[high] = e.product(b, cos) + e.product(a, sin);
    }
}

#[cfg(all(test, any(feature = "vulkan", feature = "cuda")))]
mod tests {
    use super::*;
    use crate::testing::*;

    #[test]
    fn heads_turn_as_on_the_cpu_to_the_bit_and_back() {
        let client = client();
        let ([tokens, width], half) = ([23, 24], 4);
        let x = numbers(1, tokens * width);
        let angles: Vec<f32> =
            (0..tokens * half).flat_map(|i| [(i as f32 * 0.3).cos(), (i as f32 * 0.3).sin()]).collect();
        let table = upload(&client, &angles);
        for (sign, back) in [(1.0_f32, false), (-1.0, true)] {
            let mut wanted = x.clone();
            for (row, x) in wanted.chunks_mut(width).enumerate() {
                for head in x.chunks_mut(2 * half) {
                    for i in 0..half {
                        let angle = 2 * (row * half + i);
                        let (cos, sin) = (angles[angle], sign * angles[angle + 1]);
                        let (a, b) = (head[i], head[i + half]);
                        (head[i], head[i + half]) = (a * cos - b * sin, b * cos + a * sin);
                    }
                }
            }
            let found = rotary(&client, upload(&client, &x), [tokens, width], half, &table, back);
            assert_bits(&download(&client, found, tokens * width), &wanted, "turned");
        }
    }
}
