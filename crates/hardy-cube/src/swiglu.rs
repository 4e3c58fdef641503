//! SiLU, `y = x·σ(x)`, alone and gating a second input as in SwiGLU, and their gradients. Memory is the limit: 12 bytes
//! an element forward, 20 backward, against some 25 operations of the exponential.

use crate::device::{Client, array, empty, exact, threads};
use crate::exact::Exact;
use crate::math::sigmoid;
use cubecl::prelude::*;
use cubecl::server::Handle;

/// `x·σ(x)` of `length` elements.
///
/// # Panics
/// If a handle is too short; so for all here.
pub fn silu<R: Runtime>(client: &Client<R>, x: &Handle, length: usize) -> Handle {
    let out = empty(client, length);
    let (cubes, dim) = threads(length);
    silu_kernel::launch(client, cubes, dim, exact(client), array(x, length), array(&out, length));
    out
}

/// `∂x = ∂y·σ(x)·(1 + x·(1 − σ(x)))`.
///
/// # Panics
/// As [`silu`].
pub fn silu_backward<R: Runtime>(client: &Client<R>, x: &Handle, dy: &Handle, length: usize) -> Handle {
    let out = empty(client, length);
    let (cubes, dim) = threads(length);
    let [x, dy, dx] = [x, dy, &out].map(|handle| array(handle, length));
    silu_backward_kernel::launch(client, cubes, dim, exact(client), x, dy, dx);
    out
}

/// `gate·σ(gate)·up`.
///
/// # Panics
/// As [`silu`].
pub fn swiglu<R: Runtime>(client: &Client<R>, gate: &Handle, up: &Handle, length: usize) -> Handle {
    let out = empty(client, length);
    let (cubes, dim) = threads(length);
    let [gate, up, y] = [gate, up, &out].map(|handle| array(handle, length));
    swiglu_kernel::launch(client, cubes, dim, exact(client), gate, up, y);
    out
}

/// `∂gate = ∂y·up·σ(x)·(1 + x·(1 − σ(x)))` and `∂up = ∂y·silu(x)`, x being the gate.
///
/// # Panics
/// As [`silu`].
pub fn swiglu_backward<R: Runtime>(
    client: &Client<R>,
    gate: &Handle,
    up: &Handle,
    dy: &Handle,
    length: usize,
) -> (Handle, Handle) {
    let (d_gate, d_up) = (empty(client, length), empty(client, length));
    let (cubes, dim) = threads(length);
    let [gate, up, dy, out_gate, out_up] = [gate, up, dy, &d_gate, &d_up].map(|handle| array(handle, length));
    swiglu_backward_kernel::launch(client, cubes, dim, exact(client), gate, up, dy, out_gate, out_up);
    (d_gate, d_up)
}

/// σ(x)·(1 + x·(1 − σ(x))) times `dy`.
#[cube]
fn slope(e: &Exact, x: f32, dy: f32) -> f32 {
    let s = sigmoid(e, x);
    dy * s * (1.0f32 + e.product(x, 1.0f32 - s))
}

#[cube(launch)]
fn silu_kernel(e: &Exact, x: &Array<f32>, y: &mut Array<f32>) {
    if ABSOLUTE_POS < y.len() {
        let x = x[ABSOLUTE_POS];
        y[ABSOLUTE_POS] = x * sigmoid(e, x);
    }
}

#[cube(launch)]
fn silu_backward_kernel(e: &Exact, x: &Array<f32>, dy: &Array<f32>, dx: &mut Array<f32>) {
    if ABSOLUTE_POS < dx.len() {
        dx[ABSOLUTE_POS] = slope(e, x[ABSOLUTE_POS], dy[ABSOLUTE_POS]);
    }
}

#[cube(launch)]
fn swiglu_kernel(e: &Exact, gate: &Array<f32>, up: &Array<f32>, y: &mut Array<f32>) {
    if ABSOLUTE_POS < y.len() {
        let x = gate[ABSOLUTE_POS];
        y[ABSOLUTE_POS] = e.product(x, sigmoid(e, x)) * up[ABSOLUTE_POS];
    }
}

#[cube(launch)]
fn swiglu_backward_kernel(
    e: &Exact,
    gate: &Array<f32>,
    up: &Array<f32>,
    dy: &Array<f32>,
    d_gate: &mut Array<f32>,
    d_up: &mut Array<f32>,
) {
    if ABSOLUTE_POS < d_gate.len() {
        let (x, dy) = (gate[ABSOLUTE_POS], dy[ABSOLUTE_POS]);
        d_gate[ABSOLUTE_POS] = slope(e, x, e.product(dy, up[ABSOLUTE_POS]));
        d_up[ABSOLUTE_POS] = e.product(x, sigmoid(e, x)) * dy;
    }
}

#[cfg(all(test, any(feature = "vulkan", feature = "cuda")))]
mod tests {
    use super::*;
    use crate::testing::*;

    #[test]
    fn gates_and_gradients_are_those_of_the_cpu_to_the_bit() {
        let client = client();
        let n = 5000;
        let scaled = |seed| -> Vec<f32> { numbers(seed, n).iter().map(|x| x * 20.0).collect() };
        let (x, up, dy) = (scaled(1), scaled(2), scaled(3));
        let each = |f: &dyn Fn(f32, f32, f32) -> f32| -> Vec<f32> {
            (0..n).map(|i| f(x[i], up[i], dy[i])).collect()
        };
        let slope = |x: f32, dy: f32| {
            let s = plain::sigmoid(x);
            dy * s * (1.0 + x * (1.0 - s))
        };
        let wanted = [
            each(&|x, _, _| x * plain::sigmoid(x)),
            each(&|x, _, dy| slope(x, dy)),
            each(&|x, up, _| x * plain::sigmoid(x) * up),
            each(&|x, up, dy| slope(x, dy * up)),
            each(&|x, _, dy| x * plain::sigmoid(x) * dy),
        ];
        let [x, up, dy] = [&x, &up, &dy].map(|x| upload(&client, x));
        let (d_gate, d_up) = swiglu_backward(&client, &x, &up, &dy, n);
        let found = [
            silu(&client, &x, n),
            silu_backward(&client, &x, &dy, n),
            swiglu(&client, &x, &up, n),
            d_gate,
            d_up,
        ];
        for ((found, wanted), name) in
            found.into_iter().zip(wanted).zip(["y", "dx", "gated", "d_gate", "d_up"])
        {
            assert_bits(&download(&client, found, n), &wanted, name);
        }
    }
}
