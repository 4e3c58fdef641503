//! Rotary position embedding (arXiv:2104.09864), in the half-split layout of Llama and Qwen: element `i` of a head
//! turns with element `i + d/2`. No site of its own.

use std::sync::Arc;

use burn::tensor::Tensor;

use super::{parallel, primitive, tensor};
use crate::backend::{NoisyBackend, Primitive, shape_of};

/// Cosine and sine of every row's angles, each `[tokens, head_dim/2]`.
#[derive(Clone, Debug)]
pub struct Angles {
    table: Arc<[(f32, f32)]>,
    half: usize,
}

impl Angles {
    /// The angles of `positions` `[tokens]` at `frequencies` `[head_dim/2]`, in radians a position.
    pub fn new(positions: impl Iterator<Item = u32>, frequencies: &[f32]) -> Self {
        let turn = |position: u32| {
            frequencies.iter().map(move |frequency| {
                let (sin, cos) = (position as f32 * frequency).sin_cos();
                (cos, sin)
            })
        };
        Self { table: positions.flat_map(turn).collect(), half: frequencies.len() }
    }
}

/// Turns every head of every row of `x` `[tokens, heads·head_dim]` by its position's angles.
pub fn rotary<B: NoisyBackend>(x: Tensor<B, 2>, angles: &Angles) -> Tensor<B, 2> {
    tensor(B::rotary(&primitive(x), angles))
}

/// The forward pass on host slices.
pub fn forward<B: NoisyBackend>(x: &Primitive<B>, angles: &Angles) -> Primitive<B> {
    turn::<B>(x, angles, 1.0)
}

/// The transpose of a rotation is the rotation back.
pub fn backward<B: NoisyBackend>(grad: &Primitive<B>, angles: &Angles) -> Primitive<B> {
    turn::<B>(grad, angles, -1.0)
}

fn turn<B: NoisyBackend>(x: &Primitive<B>, angles: &Angles, sign: f32) -> Primitive<B> {
    let [tokens, width] = shape_of::<B>(x);
    let half = angles.half;
    let mut y = B::host(x).to_vec();
    parallel::for_chunks(
        &mut y,
        width,
        #[inline(always)]
        |first, y| {
            let rows = angles.table[first * half..].chunks_exact(half);
            for (y, angles) in y.chunks_exact_mut(width).zip(rows) {
                for head in y.chunks_exact_mut(2 * half) {
                    let (low, high) = head.split_at_mut(half);
                    for ((a, b), (cos, sin)) in low.iter_mut().zip(high).zip(angles) {
                        let sin = sign * sin;
                        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                    }
                }
            }
        },
    );
    B::upload(y, [tokens, width], x)
}
