//! The instrumented operators as an extension of burn's backends: one method an operator, one for its gradient.
//!
//! The default methods run the kernels of [`crate::ops`] on host slices, so that every device runs everything; a
//! device with kernels of its own overrides them one by one.

mod flex;
mod tape;

use std::ops::Deref;

use burn_tensor::{Bytes, TensorData, TensorMetadata, backend::Backend, bf16, ops::FloatTensor};
use hardy_numerics::{NoiseKey, Row};

pub(crate) use tape::known_by_derivative;

use crate::{
    at::At,
    errors::Errors,
    indices::Indices,
    narrow::widen,
    ops::{
        attention::{self, Angles, AttentionAt, Heads, KvPass, Places, Segments},
        embedding,
        experts::{self, Routes},
        gather, gelu, head, layer_norm, linear, log_prob, rms_norm, row_gate,
        sample::{self, Drawn, Sampler},
        silu, softmax,
    },
    site::Point,
};

/// A float tensor as a backend holds it; all here are `[rows, width]`, vectors `[1, width]`.
pub type Primitive<B> = FloatTensor<B>;

/// The gradients of an operator's inputs, `None` where nobody needs one.
pub type Grads<B, const N: usize> = [Option<Primitive<B>>; N];

/// A burn backend with the instrumented operators.
pub trait NoisyBackend: Backend {
    /// Whether tensors lie in the host's memory, so that work on slices costs no copies.
    const ON_HOST: bool = false;

    /// A tensor's elements on the host.
    type Host: Deref<Target = [f32]> + Send + Sync;

    /// Room for the keys and values of many sequences in all layers.
    type Cache: std::fmt::Debug + Send;

    /// Tokens that a device has drawn and the host has not seen; of a backend on the host there are none.
    type Underway;

    /// Rows and width of a tensor.
    fn shape(x: &Primitive<Self>) -> [usize; 2] {
        x.shape().dims::<2>()
    }

    /// The elements of `x`, row by row.
    fn host(x: &Primitive<Self>) -> Self::Host;

    /// Some rows of `x` `[height, width]`, one after another; no others are read.
    fn host_rows(x: &Primitive<Self>, rows: &[u32]) -> Vec<f32> {
        gather::rows_of(&Self::host(x), Self::shape(x)[1], rows, |x| x)
    }

    /// `x` in 16 bits where each of its elements is a bfloat16: half the memory, and every kernel reads the same of it, to
    /// the bit. Else, and on a device that has no such storage, `x` itself.
    fn narrowed(x: Primitive<Self>) -> Primitive<Self> {
        x
    }

    /// The elements of `x`, row by row, where they are stored in 16 bits on the host.
    fn narrow(_: &Primitive<Self>) -> Option<&[bf16]> {
        None
    }

    /// A tensor `[rows, width]` on the device of `like`.
    fn upload(data: Vec<f32>, shape: [usize; 2], like: &Primitive<Self>) -> Primitive<Self> {
        Self::float_from_data(TensorData::new(data, shape), &Self::float_device(like))
    }

    /// A tensor `[rows, width]` on `device` of bfloat16 elements in the host's byte order, kept in 16 bits where there is such
    /// storage.
    ///
    /// # Panics
    /// If there are not whole elements, or they do not begin at an even address.
    fn upload_narrow(data: Bytes, shape: [usize; 2], device: &Self::Device) -> Primitive<Self> {
        let wide: Vec<f32> = bytemuck::cast_slice(&data).iter().copied().map(widen).collect();
        Self::float_from_data(TensorData::new(wide, shape), device)
    }

    /// `x + y`, of one shape, in the memory of one of them where nobody else reads it.
    fn accumulate(x: Primitive<Self>, y: Primitive<Self>) -> Primitive<Self> {
        Self::float_add(x, y)
    }

    /// See [`scale`](crate::ops::scale::scale).
    fn scaled(x: Primitive<Self>, factor: f64) -> Primitive<Self> {
        Self::float_mul_scalar(x, factor.into())
    }

    /// See [`masked`](crate::ops::scale::masked).
    fn masked(x: Primitive<Self>, mask: &Primitive<Self>) -> Primitive<Self> {
        Self::float_mul(x, mask.clone())
    }

    /// See [`linear::linear`].
    fn noisy_linear(
        x: &Primitive<Self>,
        w: &Primitive<Self>,
        b: Option<&Primitive<Self>>,
        at: &At,
    ) -> Primitive<Self> {
        linear::forward::<Self>(x, w, b, at)
    }

    /// Gradients of [`NoisyBackend::noisy_linear`] with respect to input, weight and bias.
    fn noisy_linear_backward(
        x: &Primitive<Self>,
        w: &Primitive<Self>,
        grad: &Primitive<Self>,
        needs: [bool; 3],
        at: &At,
    ) -> Grads<Self, 3> {
        linear::backward::<Self>(x, w, grad, needs, at)
    }

    /// The gradient of a weight, summed up, with the errors that `errors` has for it.
    fn weight_gradient_errors(dw: Primitive<Self>, errors: &Errors) -> Primitive<Self> {
        if errors.injections(Point::GradWeight).is_empty() {
            return dw;
        }
        let (shape @ [_, width], mut host) = (Self::shape(&dw), Self::host(&dw).to_vec());
        errors.perturb_flat(Point::GradWeight, width, &mut host);
        Self::upload(host, shape, &dw)
    }

    /// See [`linear::freeze`].
    fn freeze_weight(w: &Primitive<Self>, errors: &Errors) -> Primitive<Self> {
        linear::frozen_weight::<Self>(w, errors)
    }

    /// See [`linear::frozen_linear`].
    fn noisy_frozen_linear(
        x: &Primitive<Self>,
        frozen: &Primitive<Self>,
        b: Option<&Primitive<Self>>,
        at: &At,
    ) -> Primitive<Self> {
        linear::forward_frozen::<Self>(x, frozen, b, at)
    }

    /// See [`attention::attention`].
    fn noisy_attention(
        qkv: [&Primitive<Self>; 3],
        angles: &Angles,
        heads: Heads,
        segments: &Segments,
        at: &AttentionAt,
    ) -> Primitive<Self> {
        attention::forward::<Self>(qkv, angles, heads, segments, at)
    }

    /// Gradients of [`NoisyBackend::noisy_attention`] with respect to queries, keys and values.
    fn noisy_attention_backward(
        qkv: [&Primitive<Self>; 3],
        grad: &Primitive<Self>,
        angles: &Angles,
        heads: Heads,
        segments: &Segments,
        at: &AttentionAt,
    ) -> [Primitive<Self>; 3] {
        attention::backward::<Self>(qkv, grad, angles, heads, segments, at)
    }

    /// An empty cache with places for prompts and for samples, on the device of `like`.
    fn new_cache(places: [Places; 2], like: &Primitive<Self>) -> Self::Cache;

    /// See [`attention::cached_attention`].
    fn noisy_cached_attention(
        qkv: [&Primitive<Self>; 3],
        cache: KvPass<Self::Cache>,
        angles: &Angles,
        heads: Heads,
        segments: &Segments,
        at: &AttentionAt,
    ) -> Primitive<Self>;

    /// See [`softmax::softmax`].
    fn noisy_softmax(x: &Primitive<Self>, at: &At) -> Primitive<Self> {
        softmax::forward::<Self>(x, at)
    }

    /// Gradient of [`NoisyBackend::noisy_softmax`].
    fn noisy_softmax_backward(x: &Primitive<Self>, grad: &Primitive<Self>, at: &At) -> Primitive<Self> {
        softmax::backward::<Self>(x, grad, at)
    }

    /// See [`rms_norm::rms_norm`].
    fn noisy_rms_norm(x: &Primitive<Self>, w: &Primitive<Self>, epsilon: f32, at: &At) -> Primitive<Self> {
        rms_norm::forward::<Self>(x, w, epsilon, at)
    }

    /// Gradients of [`NoisyBackend::noisy_rms_norm`] with respect to input and weight.
    fn noisy_rms_norm_backward(
        x: &Primitive<Self>,
        w: &Primitive<Self>,
        grad: &Primitive<Self>,
        epsilon: f32,
        needs_weight: bool,
        at: &At,
    ) -> Grads<Self, 2> {
        rms_norm::backward::<Self>(x, w, grad, epsilon, needs_weight, at)
    }

    /// See [`layer_norm::layer_norm`].
    fn noisy_layer_norm(
        x: &Primitive<Self>,
        w: &Primitive<Self>,
        b: &Primitive<Self>,
        epsilon: f32,
        at: &At,
    ) -> Primitive<Self> {
        layer_norm::forward::<Self>(x, w, b, epsilon, at)
    }

    /// Gradients of [`NoisyBackend::noisy_layer_norm`] with respect to input, weight and bias.
    fn noisy_layer_norm_backward(
        x: &Primitive<Self>,
        w: &Primitive<Self>,
        grad: &Primitive<Self>,
        epsilon: f32,
        needs: [bool; 2],
        at: &At,
    ) -> Grads<Self, 3> {
        layer_norm::backward::<Self>(x, w, grad, epsilon, needs, at)
    }

    /// See [`silu::silu`].
    fn noisy_silu(x: &Primitive<Self>, at: &At) -> Primitive<Self> {
        silu::forward::<Self>(x, at)
    }

    /// Gradient of [`NoisyBackend::noisy_silu`].
    fn noisy_silu_backward(x: &Primitive<Self>, grad: &Primitive<Self>, at: &At) -> Primitive<Self> {
        silu::backward::<Self>(x, grad, at)
    }

    /// See [`silu::silu_up`].
    fn noisy_silu_up(gate: &Primitive<Self>, up: &Primitive<Self>, at: &At) -> Primitive<Self> {
        silu::forward_up::<Self>(gate, up, at)
    }

    /// Gradients of [`NoisyBackend::noisy_silu_up`].
    fn noisy_silu_up_backward(
        gate: &Primitive<Self>,
        up: &Primitive<Self>,
        grad: &Primitive<Self>,
        at: &At,
    ) -> [Primitive<Self>; 2] {
        silu::backward_up::<Self>(gate, up, grad, at)
    }

    /// See [`gelu::gelu`].
    fn noisy_gelu(x: &Primitive<Self>, approximation: gelu::Approximation, at: &At) -> Primitive<Self> {
        gelu::forward::<Self>(x, approximation, at)
    }

    /// Gradient of [`NoisyBackend::noisy_gelu`].
    fn noisy_gelu_backward(
        x: &Primitive<Self>,
        grad: &Primitive<Self>,
        approximation: gelu::Approximation,
        at: &At,
    ) -> Primitive<Self> {
        gelu::backward::<Self>(x, grad, approximation, at)
    }

    /// See [`embedding::embedding`].
    fn noisy_embedding(w: &Primitive<Self>, ids: &Indices, at: &At) -> Primitive<Self> {
        embedding::forward::<Self>(w, ids, at)
    }

    /// See [`embedding::freeze`].
    fn freeze_table(w: &Primitive<Self>, errors: &Errors) -> Primitive<Self> {
        embedding::frozen_table::<Self>(w, errors)
    }

    /// Gradient of [`NoisyBackend::noisy_embedding`] with respect to the table.
    fn noisy_embedding_backward(
        w: &Primitive<Self>,
        ids: &Indices,
        grad: &Primitive<Self>,
        at: &At,
    ) -> Option<Primitive<Self>> {
        embedding::backward::<Self>(w, ids, grad, at)
    }

    /// See [`gather::gather_rows`].
    fn gather_rows(x: &Primitive<Self>, rows: &Indices) -> Primitive<Self> {
        gather::forward::<Self>(x, rows)
    }

    /// Gradient of [`NoisyBackend::gather_rows`] for an input of `height` rows.
    fn gather_rows_backward(grad: &Primitive<Self>, rows: &Indices, height: usize) -> Primitive<Self> {
        gather::backward::<Self>(grad, rows, height)
    }

    /// See [`experts::mix_experts`].
    fn mix_experts(
        outputs: &Primitive<Self>,
        probabilities: &Primitive<Self>,
        routes: &Routes,
    ) -> Primitive<Self> {
        experts::forward::<Self>(outputs, probabilities, routes)
    }

    /// Gradients of [`NoisyBackend::mix_experts`] with respect to outputs and probabilities.
    fn mix_experts_backward(
        outputs: &Primitive<Self>,
        probabilities: &Primitive<Self>,
        grad: &Primitive<Self>,
        routes: &Routes,
    ) -> [Primitive<Self>; 2] {
        experts::backward::<Self>(outputs, probabilities, grad, routes)
    }

    /// See [`row_gate::gate_rows`].
    fn gate_rows(x: &Primitive<Self>, gate: &Primitive<Self>) -> Primitive<Self> {
        row_gate::forward::<Self>(x, gate)
    }

    /// Gradients of [`NoisyBackend::gate_rows`].
    fn gate_rows_backward(
        x: &Primitive<Self>,
        gate: &Primitive<Self>,
        grad: &Primitive<Self>,
    ) -> [Primitive<Self>; 2] {
        row_gate::backward::<Self>(x, gate, grad)
    }

    /// See [`head::head`].
    fn noisy_head(
        x: &Primitive<Self>,
        w: &Primitive<Self>,
        targets: &Indices,
        temperature: f32,
        at: &At,
    ) -> Primitive<Self> {
        head::forward::<Self>(x, w, targets, temperature, at)
    }

    /// Gradients of [`NoisyBackend::noisy_head`] with respect to input and weight.
    fn noisy_head_backward(
        x: &Primitive<Self>,
        w: &Primitive<Self>,
        targets: (&Indices, f32),
        grad: &Primitive<Self>,
        needs: [bool; 2],
        at: &At,
    ) -> Grads<Self, 2> {
        head::backward::<Self>(x, w, targets, grad, needs, at)
    }

    /// See [`sample::sample`].
    fn sample(logits: &Primitive<Self>, rows: &[Row], how: &Sampler, key: NoiseKey) -> Vec<Option<Drawn>> {
        sample::draw::<Self>(logits, rows, how, key)
    }

    /// Whether tokens are drawn on a device.
    fn draws_there(_how: &Sampler) -> bool {
        false
    }

    /// The same, drawn on the device and not waited for; `None` where the host has to draw.
    fn sample_there(
        _logits: &Primitive<Self>,
        _rows: &[Row],
        _how: &Sampler,
        _key: NoiseKey,
    ) -> Option<Self::Underway> {
        None
    }

    /// What was drawn; waits for it.
    fn arrived(drawn: &Self::Underway) -> Vec<Option<Drawn>>;

    /// The rows of the table `w` that tokens name which were drawn: those of the rows `chosen`. A token that could not be drawn
    /// gives any row.
    fn rows_of_drawn(w: &Primitive<Self>, drawn: &Self::Underway, chosen: &[u32]) -> Primitive<Self>;

    /// See [`log_prob::log_prob`].
    fn log_prob(logits: &Primitive<Self>, targets: &[u32], temperature: f32) -> [Primitive<Self>; 2] {
        log_prob::forward::<Self>(logits, targets, temperature)
    }

    /// Gradient of the log-probabilities of [`NoisyBackend::log_prob`].
    fn log_prob_backward(
        logits: &Primitive<Self>,
        targets: &[u32],
        temperature: f32,
        grad: &Primitive<Self>,
    ) -> Primitive<Self> {
        log_prob::backward::<Self>(logits, targets, temperature, grad)
    }

    /// Gradient of the entropies of [`NoisyBackend::log_prob`].
    fn entropy_backward(
        logits: &Primitive<Self>,
        temperature: f32,
        grad: &Primitive<Self>,
    ) -> Primitive<Self> {
        log_prob::entropy_backward::<Self>(logits, temperature, grad)
    }
}
