//! The instrumented operators as an extension of burn's backends: one method an operator, one for its gradient.
//!
//! The default methods run the kernels of [`crate::ops`] on host slices, so that every device runs everything; a
//! device with kernels of its own overrides them one by one. [`Autodiff`] records an operator and calls the inner
//! backend's gradient, which is how backward errors come to be injected on the device.

use std::{ops::Deref, sync::Arc};

use burn_autodiff::{
    Autodiff,
    checkpoint::{
        base::Checkpointer,
        strategy::{CheckpointStrategy, NoCheckpointing},
    },
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn_flex::{Flex, FlexTensor};
use burn_tensor::{
    TensorData, TensorMetadata,
    backend::{AutodiffBackend, Backend},
    ops::FloatTensor,
};
use hardy_numerics::{NoiseKey, Row};

use crate::{
    at::At,
    clip,
    errors::Errors,
    narrow,
    ops::{
        attention::{self, Angles, AttentionAt, Heads, HostCache, KvPass, Places, Segments},
        embedding,
        experts::{self, Routes},
        gather, gelu, head, layer_norm, linear, log_prob, residual, rms_norm, row_gate,
        sample::{self, Drawn, Sampler},
        silu, softmax,
    },
    site::Point,
};

/// A float tensor as a backend holds it; all here are `[rows, width]`, vectors `[1, width]`.
pub type Primitive<B> = FloatTensor<B>;

/// A tensor on a tape, and its node there.
type Tracked<B, C = NoCheckpointing> = Primitive<Autodiff<B, C>>;

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

    /// The elements of `x`, row by row.
    fn host(x: &Primitive<Self>) -> Self::Host;

    /// Some rows of `x` `[height, width]`, one after another; no others are read.
    fn host_rows(x: &Primitive<Self>, rows: &[u32]) -> Vec<f32> {
        let ([_, width], host) = (shape_of::<Self>(x), Self::host(x));
        rows.iter().flat_map(|&row| &host[row as usize * width..][..width]).copied().collect()
    }

    /// `x` in 16 bits where each of its elements is a bfloat16: half the memory, and every kernel reads the same of it, to
    /// the bit. Else, and on a device that has no such storage, `x` itself.
    fn narrowed(x: Primitive<Self>) -> Primitive<Self> {
        x
    }

    /// A tensor `[rows, width]` on the device of `like`.
    fn upload(data: Vec<f32>, shape: [usize; 2], like: &Primitive<Self>) -> Primitive<Self> {
        Self::float_from_data(TensorData::new(data, shape), &Self::float_device(like))
    }

    /// `x + y`, of one shape, in the memory of one of them where nobody else reads it.
    fn accumulate(x: Primitive<Self>, y: Primitive<Self>) -> Primitive<Self> {
        Self::float_add(x, y)
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
        let (shape @ [_, width], mut host) = (shape_of::<Self>(&dw), Self::host(&dw).to_vec());
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
    fn noisy_embedding(w: &Primitive<Self>, ids: &[u32], at: &At) -> Primitive<Self> {
        embedding::forward::<Self>(w, ids, at)
    }

    /// See [`embedding::freeze`].
    fn freeze_table(w: &Primitive<Self>, errors: &Errors) -> Primitive<Self> {
        embedding::frozen_table::<Self>(w, errors)
    }

    /// Gradient of [`NoisyBackend::noisy_embedding`] with respect to the table.
    fn noisy_embedding_backward(
        w: &Primitive<Self>,
        ids: &[u32],
        grad: &Primitive<Self>,
        at: &At,
    ) -> Option<Primitive<Self>> {
        embedding::backward::<Self>(w, ids, grad, at)
    }

    /// See [`gather::gather_rows`].
    fn gather_rows(x: &Primitive<Self>, rows: &[u32]) -> Primitive<Self> {
        gather::forward::<Self>(x, rows)
    }

    /// Gradient of [`NoisyBackend::gather_rows`] for an input of `height` rows.
    fn gather_rows_backward(grad: &Primitive<Self>, rows: &[u32], height: usize) -> Primitive<Self> {
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
        targets: &[u32],
        temperature: f32,
        at: &At,
    ) -> Primitive<Self> {
        head::forward::<Self>(x, w, targets, temperature, at)
    }

    /// Gradients of [`NoisyBackend::noisy_head`] with respect to input and weight.
    fn noisy_head_backward(
        x: &Primitive<Self>,
        w: &Primitive<Self>,
        targets: (&[u32], f32),
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

/// A Flex tensor's own memory, made contiguous where it is a view, or widened where it is stored in 16 bits.
#[derive(Debug)]
pub enum FlexHost {
    /// The memory.
    Shared(FlexTensor),
    /// A copy in f32.
    Widened(Vec<f32>),
}

impl Deref for FlexHost {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Shared(x) => &x.storage::<f32>()[..x.layout().num_elements()],
            Self::Widened(x) => x,
        }
    }
}

/// A tensor that a kernel reads.
type X<'a> = &'a FlexTensor;

/// The default methods once more, for one backend: so the kernels are compiled here, and not again in every crate that
/// uses them, which takes minutes.
macro_rules! host_kernels {
    ($($method:ident($($argument:ident: $type:ty),*) -> $out:ty = $module:ident::$kernel:ident;)*) => {
        $(fn $method($($argument: $type),*) -> $out {
            $module::$kernel::<Self>($($argument),*)
        })*
    };
}

impl NoisyBackend for Flex {
    const ON_HOST: bool = true;

    type Host = FlexHost;
    type Cache = HostCache;

    fn host(x: &FlexTensor) -> FlexHost {
        narrow::widened(x).map_or_else(|| FlexHost::Shared(x.to_contiguous()), FlexHost::Widened)
    }

    fn host_rows(x: &FlexTensor, rows: &[u32]) -> Vec<f32> {
        narrow::rows(x, rows)
    }

    fn narrowed(x: FlexTensor) -> FlexTensor {
        narrow::narrowed(&x).unwrap_or(x)
    }

    fn new_cache(places: [Places; 2], _: &FlexTensor) -> HostCache {
        HostCache::new(places)
    }

    fn accumulate(x: FlexTensor, y: FlexTensor) -> FlexTensor {
        residual::accumulate(x, y)
    }

    host_kernels! {
        noisy_linear(x: X, w: X, b: Option<X>, at: &At) -> FlexTensor = linear::forward;
        noisy_linear_backward(x: X, w: X, grad: X, needs: [bool; 3], at: &At) -> Grads<Self, 3> = linear::backward;
        freeze_weight(w: X, errors: &Errors) -> FlexTensor = linear::frozen_weight;
        noisy_frozen_linear(x: X, frozen: X, b: Option<X>, at: &At) -> FlexTensor = linear::forward_frozen;
        noisy_attention(qkv: [X; 3], angles: &Angles, heads: Heads, segments: &Segments, at: &AttentionAt)
            -> FlexTensor = attention::forward;
        noisy_attention_backward(
            qkv: [X; 3], grad: X, angles: &Angles, heads: Heads, segments: &Segments, at: &AttentionAt
        ) -> [FlexTensor; 3] = attention::backward;
        noisy_cached_attention(
            qkv: [X; 3], cache: KvPass<HostCache>, angles: &Angles, heads: Heads, segments: &Segments, at: &AttentionAt
        ) -> FlexTensor = attention::forward_cached;
        noisy_rms_norm(x: X, w: X, epsilon: f32, at: &At) -> FlexTensor = rms_norm::forward;
        noisy_rms_norm_backward(x: X, w: X, grad: X, epsilon: f32, needs_weight: bool, at: &At)
            -> Grads<Self, 2> = rms_norm::backward;
        noisy_silu_up(gate: X, up: X, at: &At) -> FlexTensor = silu::forward_up;
        noisy_silu_up_backward(gate: X, up: X, grad: X, at: &At) -> [FlexTensor; 2] = silu::backward_up;
        noisy_gelu(x: X, approximation: gelu::Approximation, at: &At) -> FlexTensor = gelu::forward;
        noisy_gelu_backward(x: X, grad: X, approximation: gelu::Approximation, at: &At) -> FlexTensor = gelu::backward;
        noisy_embedding(w: X, ids: &[u32], at: &At) -> FlexTensor = embedding::forward;
        noisy_embedding_backward(w: X, ids: &[u32], grad: X, at: &At) -> Option<FlexTensor> = embedding::backward;
        freeze_table(w: X, errors: &Errors) -> FlexTensor = embedding::frozen_table;
        gather_rows(x: X, rows: &[u32]) -> FlexTensor = gather::forward;
        gather_rows_backward(grad: X, rows: &[u32], height: usize) -> FlexTensor = gather::backward;
        noisy_head(x: X, w: X, targets: &[u32], temperature: f32, at: &At) -> FlexTensor = head::forward;
        noisy_head_backward(x: X, w: X, targets: (&[u32], f32), grad: X, needs: [bool; 2], at: &At)
            -> Grads<Self, 2> = head::backward;
        sample(logits: X, rows: &[Row], how: &Sampler, key: NoiseKey) -> Vec<Option<Drawn>> = sample::draw;
        log_prob(logits: X, targets: &[u32], temperature: f32) -> [FlexTensor; 2] = log_prob::forward;
        log_prob_backward(logits: X, targets: &[u32], temperature: f32, grad: X) -> FlexTensor = log_prob::backward;
        entropy_backward(logits: X, temperature: f32, grad: X) -> FlexTensor = log_prob::entropy_backward;
    }
}

impl<B: NoisyBackend, C: CheckpointStrategy> NoisyBackend for Autodiff<B, C> {
    const ON_HOST: bool = B::ON_HOST;

    type Host = B::Host;
    type Cache = B::Cache;

    fn host(x: &Primitive<Self>) -> B::Host {
        B::host(&x.primitive)
    }

    fn new_cache(places: [Places; 2], like: &Primitive<Self>) -> B::Cache {
        B::new_cache(places, &like.primitive)
    }

    fn noisy_cached_attention(
        [q, k, v]: [&Primitive<Self>; 3],
        cache: KvPass<B::Cache>,
        angles: &Angles,
        heads: Heads,
        segments: &Segments,
        at: &AttentionAt,
    ) -> Primitive<Self> {
        let qkv = [&q.primitive, &k.primitive, &v.primitive];
        Self::from_inner(B::noisy_cached_attention(qkv, cache, angles, heads, segments, at))
    }

    fn sample(logits: &Primitive<Self>, rows: &[Row], how: &Sampler, key: NoiseKey) -> Vec<Option<Drawn>> {
        B::sample(&logits.primitive, rows, how, key)
    }

    fn accumulate(x: Primitive<Self>, y: Primitive<Self>) -> Primitive<Self> {
        let nodes = [(x.node, x.rc), (y.node, y.rc)];
        let sum = B::accumulate(x.primitive, y.primitive);
        let [x, y] = nodes.map(|(node, rc)| Tracked::<B, C> { primitive: sum.clone(), node, rc });
        record::<B, C, _, 2>([&x, &y], sum, (), |(), grad, _| [Some(grad.clone()), Some(grad)])
    }

    fn noisy_linear(
        x: &Primitive<Self>,
        w: &Primitive<Self>,
        b: Option<&Primitive<Self>>,
        at: &At,
    ) -> Primitive<Self> {
        let y = B::noisy_linear(&x.primitive, &w.primitive, b.map(|b| &b.primitive), at);
        // Without a bias the weight stands in its place, and no gradient is asked for there.
        let exact = clip::before_output::<B>(at, |at| {
            B::noisy_linear(&x.primitive, &w.primitive, b.map(|b| &b.primitive), at)
        });
        let state = (x.primitive.clone(), w.primitive.clone(), b.is_some(), at.clone(), exact);
        record::<B, C, _, 3>([x, w, b.unwrap_or(w)], y, state, |(x, w, has_bias, at, exact), grad, needs| {
            let grad = clip::output::<B>(at, exact.as_ref(), grad);
            at.gather_scale::<B>(&grad);
            let needs = [needs[0], needs[1], needs[2] && *has_bias];
            let [dx, dw, db] = B::noisy_linear_backward(x, w, &grad, needs, at);
            let dx = dx.map(|dx| clip::gradient::<B>(at, Point::Input, x, dx));
            [dx, dw.map(|dw| clip::gradient::<B>(at, Point::Weight, w, dw)), db]
        })
    }

    fn noisy_attention(
        [q, k, v]: [&Primitive<Self>; 3],
        angles: &Angles,
        heads: Heads,
        segments: &Segments,
        at: &AttentionAt,
    ) -> Primitive<Self> {
        let y = B::noisy_attention([&q.primitive, &k.primitive, &v.primitive], angles, heads, segments, at);
        let qkv = [q, k, v].map(|x| x.primitive.clone());
        let state = (qkv, angles.clone(), heads, segments.clone(), at.clone());
        record::<B, C, _, 3>([q, k, v], y, state, |([q, k, v], angles, heads, segments, at), grad, _| {
            B::noisy_attention_backward([q, k, v], &grad, angles, *heads, segments, at).map(Some)
        })
    }

    fn noisy_softmax(x: &Primitive<Self>, at: &At) -> Primitive<Self> {
        let y = B::noisy_softmax(&x.primitive, at);
        record::<B, C, _, 1>([x], y, (x.primitive.clone(), at.clone()), |(x, at), grad, _| {
            [Some(B::noisy_softmax_backward(x, &grad, at))]
        })
    }

    fn noisy_rms_norm(x: &Primitive<Self>, w: &Primitive<Self>, epsilon: f32, at: &At) -> Primitive<Self> {
        let y = B::noisy_rms_norm(&x.primitive, &w.primitive, epsilon, at);
        let exact =
            clip::before_output::<B>(at, |at| B::noisy_rms_norm(&x.primitive, &w.primitive, epsilon, at));
        let state = (x.primitive.clone(), w.primitive.clone(), epsilon, at.clone(), exact);
        record::<B, C, _, 2>([x, w], y, state, |(x, w, epsilon, at, exact), grad, needs| {
            let grad = clip::output::<B>(at, exact.as_ref(), grad);
            let [dx, dw] = B::noisy_rms_norm_backward(x, w, &grad, *epsilon, needs[1], at);
            let dx = dx.map(|dx| clip::gradient::<B>(at, Point::Input, x, dx));
            let dw = dw.map(|dw| clip::gradient::<B>(at, Point::Weight, w, dw));
            // The weight may come from an operation on the tape, which wants a gradient also where it is gathered.
            let nothing = || B::upload(vec![0.0; shape_of::<B>(w)[1]], shape_of::<B>(w), w);
            [dx, dw.or_else(|| needs[1].then(nothing))]
        })
    }

    fn noisy_layer_norm(
        x: &Primitive<Self>,
        w: &Primitive<Self>,
        b: &Primitive<Self>,
        epsilon: f32,
        at: &At,
    ) -> Primitive<Self> {
        let y = B::noisy_layer_norm(&x.primitive, &w.primitive, &b.primitive, epsilon, at);
        let exact = clip::before_output::<B>(at, |at| {
            B::noisy_layer_norm(&x.primitive, &w.primitive, &b.primitive, epsilon, at)
        });
        let state = (x.primitive.clone(), w.primitive.clone(), epsilon, at.clone(), exact);
        record::<B, C, _, 3>([x, w, b], y, state, |(x, w, epsilon, at, exact), grad, needs| {
            let grad = clip::output::<B>(at, exact.as_ref(), grad);
            let [_, weight, bias] = needs;
            let [dx, dw, db] = B::noisy_layer_norm_backward(x, w, &grad, *epsilon, [weight, bias], at);
            let dx = dx.map(|dx| clip::gradient::<B>(at, Point::Input, x, dx));
            [dx, dw.map(|dw| clip::gradient::<B>(at, Point::Weight, w, dw)), db]
        })
    }

    fn noisy_silu(x: &Primitive<Self>, at: &At) -> Primitive<Self> {
        let y = B::noisy_silu(&x.primitive, at);
        let exact = clip::before_output::<B>(at, |at| B::noisy_silu(&x.primitive, at));
        record::<B, C, _, 1>([x], y, (x.primitive.clone(), at.clone(), exact), |(x, at, exact), grad, _| {
            let grad = clip::output::<B>(at, exact.as_ref(), grad);
            [Some(clip::gradient::<B>(at, Point::Input, x, B::noisy_silu_backward(x, &grad, at)))]
        })
    }

    fn noisy_silu_up(gate: &Primitive<Self>, up: &Primitive<Self>, at: &At) -> Primitive<Self> {
        let y = B::noisy_silu_up(&gate.primitive, &up.primitive, at);
        let state = (gate.primitive.clone(), up.primitive.clone(), at.clone());
        record::<B, C, _, 2>([gate, up], y, state, |(gate, up, at), grad, _| {
            B::noisy_silu_up_backward(gate, up, &grad, at).map(Some)
        })
    }

    fn noisy_gelu(x: &Primitive<Self>, approximation: gelu::Approximation, at: &At) -> Primitive<Self> {
        let y = B::noisy_gelu(&x.primitive, approximation, at);
        let exact = clip::before_output::<B>(at, |at| B::noisy_gelu(&x.primitive, approximation, at));
        let state = (x.primitive.clone(), approximation, at.clone(), exact);
        record::<B, C, _, 1>([x], y, state, |(x, approximation, at, exact), grad, _| {
            let grad = clip::output::<B>(at, exact.as_ref(), grad);
            let dx = B::noisy_gelu_backward(x, &grad, *approximation, at);
            [Some(clip::gradient::<B>(at, Point::Input, x, dx))]
        })
    }

    fn noisy_embedding(w: &Primitive<Self>, ids: &[u32], at: &At) -> Primitive<Self> {
        let y = B::noisy_embedding(&w.primitive, ids, at);
        let exact = clip::before_output::<B>(at, |at| B::noisy_embedding(&w.primitive, ids, at));
        let state = (w.primitive.clone(), ids.to_vec(), at.clone(), exact);
        record::<B, C, _, 1>([w], y, state, |(w, ids, at, exact), grad, _| {
            let grad = clip::output::<B>(at, exact.as_ref(), grad);
            at.gather_scale::<B>(&grad);
            let dw = B::noisy_embedding_backward(w, ids, &grad, at);
            [dw.map(|dw| clip::gradient::<B>(at, Point::Weight, w, dw))]
        })
    }

    fn gather_rows(x: &Primitive<Self>, rows: &[u32]) -> Primitive<Self> {
        let y = B::gather_rows(&x.primitive, rows);
        let state = (rows.to_vec(), x.shape().dims::<2>()[0]);
        record::<B, C, _, 1>([x], y, state, |(rows, height), grad, _| {
            [Some(B::gather_rows_backward(&grad, rows, *height))]
        })
    }

    fn mix_experts(
        outputs: &Primitive<Self>,
        probabilities: &Primitive<Self>,
        routes: &Routes,
    ) -> Primitive<Self> {
        let y = B::mix_experts(&outputs.primitive, &probabilities.primitive, routes);
        let state = (outputs.primitive.clone(), probabilities.primitive.clone(), routes.clone());
        record::<B, C, _, 2>(
            [outputs, probabilities],
            y,
            state,
            |(outputs, probabilities, routes), grad, _| {
                B::mix_experts_backward(outputs, probabilities, &grad, routes).map(Some)
            },
        )
    }

    fn gate_rows(x: &Primitive<Self>, gate: &Primitive<Self>) -> Primitive<Self> {
        let y = B::gate_rows(&x.primitive, &gate.primitive);
        let state = (x.primitive.clone(), gate.primitive.clone());
        record::<B, C, _, 2>([x, gate], y, state, |(x, gate), grad, _| {
            B::gate_rows_backward(x, gate, &grad).map(Some)
        })
    }

    fn noisy_head(
        x: &Primitive<Self>,
        w: &Primitive<Self>,
        targets: &[u32],
        temperature: f32,
        at: &At,
    ) -> Primitive<Self> {
        let y = B::noisy_head(&x.primitive, &w.primitive, targets, temperature, at);
        let state = (x.primitive.clone(), w.primitive.clone(), (targets.to_vec(), temperature), at.clone());
        record::<B, C, _, 2>([x, w], y, state, |(x, w, (targets, temperature), at), grad, needs| {
            B::noisy_head_backward(x, w, (targets, *temperature), &grad, needs, at)
        })
    }

    fn log_prob(logits: &Primitive<Self>, targets: &[u32], temperature: f32) -> [Primitive<Self>; 2] {
        let [y, entropy] = B::log_prob(&logits.primitive, targets, temperature);
        let state = (logits.primitive.clone(), targets.to_vec(), temperature);
        let y = record::<B, C, _, 1>([logits], y, state, |(logits, targets, temperature), grad, _| {
            [Some(B::log_prob_backward(logits, targets, *temperature, &grad))]
        });
        // A node of its own: where nobody asks for the gradient of the entropy, none is computed.
        let state = (logits.primitive.clone(), temperature);
        let entropy = record::<B, C, _, 1>([logits], entropy, state, |(logits, temperature), grad, _| {
            [Some(B::entropy_backward(logits, *temperature, &grad))]
        });
        [y, entropy]
    }
}

/// The gradient of a recorded operator: from its state, the gradient of its output, and which inputs need one.
type BackwardFn<B, S, const N: usize> = fn(&S, Primitive<B>, [bool; N]) -> Grads<B, N>;

/// A recorded operator; everything it needs is in its state.
#[derive(Debug)]
struct Recorded<S>(std::marker::PhantomData<fn() -> S>);

impl<B, S, const N: usize> Backward<B, N> for Recorded<S>
where
    B: NoisyBackend,
    S: Clone + Send + std::fmt::Debug + 'static,
{
    type State = (S, BackwardFn<B, S, N>);

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (state, backward) = ops.state;
        let needs = std::array::from_fn(|i| ops.parents[i].is_some());
        for (node, grad) in ops.parents.into_iter().zip(backward(&state, grad, needs)) {
            if let (Some(node), Some(grad)) = (node, grad) {
                let id = node.id;
                // What burn's own `register` does, but by the backend's sum.
                let new = Tracked::<B> { primitive: grad, node, rc: Arc::new(id) };
                let sum = match grads.remove::<B>(&new) {
                    Some(old) => B::accumulate(new.primitive, old),
                    None => new.primitive,
                };
                grads.register::<B>(id, sum);
            }
        }
    }
}

/// Puts an operator with `N` differentiable inputs on the tape.
fn record<B, C, S, const N: usize>(
    inputs: [&Primitive<Autodiff<B, C>>; N],
    output: Primitive<B>,
    state: S,
    backward: BackwardFn<B, S, N>,
) -> Primitive<Autodiff<B, C>>
where
    B: NoisyBackend,
    C: CheckpointStrategy,
    S: Clone + Send + std::fmt::Debug + 'static,
{
    let nodes = inputs.map(|x| x.node.clone());
    match Recorded::<S>(std::marker::PhantomData).prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((state, backward), output),
        OpsKind::UnTracked(prep) => prep.finish(output),
    }
}

/// Rows and width of a tensor.
pub(crate) fn shape_of<B: Backend>(x: &Primitive<B>) -> [usize; 2] {
    x.shape().dims::<2>()
}
