//! A gate on rows, `y[t] = x[t]·σ(g[t])`: how much of the shared expert a token takes. No error enters here: it enters
//! at the linear layer that makes the gate.

use burn_tensor::Tensor;

use super::{parallel, primitive, rms_norm::dot, silu::sigmoid, tensor};
use crate::backend::{NoisyBackend, Primitive};

/// Multiplies every row of `x` `[tokens, width]` by the sigmoid of its `gate` `[tokens, 1]`.
pub fn gate_rows<B: NoisyBackend>(x: Tensor<B, 2>, gate: Tensor<B, 2>) -> Tensor<B, 2> {
    tensor(B::gate_rows(&primitive(x), &primitive(gate)))
}

/// The forward pass on host slices.
pub fn forward<B: NoisyBackend>(x: &Primitive<B>, gate: &Primitive<B>) -> Primitive<B> {
    B::upload(scaled(&B::host(x), &B::host(gate), B::shape(x)[1]), B::shape(x), x)
}

/// Every row of `x` times the sigmoid of its gate.
fn scaled(x: &[f32], gate: &[f32], width: usize) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    parallel::for_chunks(
        &mut y,
        width,
        #[inline(always)]
        |first, y| {
            let rows = y.chunks_exact_mut(width).zip(x[first * width..].chunks_exact(width));
            for ((y, x), gate) in rows.zip(&gate[first..]) {
                let share = sigmoid(*gate);
                y.iter_mut().zip(x).for_each(|(y, x)| *y = x * share);
            }
        },
    );
    y
}

/// `∂x[t] = ∂y[t]·σ(g)`, `∂g[t] = (∂y[t]·x[t])·σ(g)·(1 − σ(g))`.
pub fn backward<B: NoisyBackend>(
    x: &Primitive<B>,
    gate: &Primitive<B>,
    grad: &Primitive<B>,
) -> [Primitive<B>; 2] {
    let (x_host, gate_host, grad_host) = (B::host(x), B::host(gate), B::host(grad));
    let [rows, width] = B::shape(x);
    let dx = scaled(&grad_host, &gate_host, width);
    let of_row = |((x, dy), gate): ((&[f32], &[f32]), &f32)| {
        let share = sigmoid(*gate);
        dot(x, dy) * share * (1.0 - share)
    };
    let rows_of = |x| <[f32]>::chunks_exact(x, width);
    let dg = rows_of(&x_host).zip(rows_of(&grad_host)).zip(&*gate_host).map(of_row).collect();
    [B::upload(dx, [rows, width], x), B::upload(dg, [rows, 1], gate)]
}
