//! The host's backend: the kernels of [`crate::ops`] on its own memory.

use std::{convert::Infallible, ops::Deref, sync::Arc};

use burn_flex::{Flex, FlexDevice, FlexTensor, Layout};
use burn_tensor::{Bytes, DType, Shape, TensorData, bf16};
use hardy_numerics::{NoiseKey, Row};

use super::{Grads, NoisyBackend};
use crate::{
    at::At,
    errors::Errors,
    indices::Indices,
    narrow,
    ops::{
        attention::{self, Angles, AttentionAt, Heads, HostCache, KvPass, Places, Segments},
        embedding, gather, gelu, head, linear, log_prob, residual, rms_norm,
        sample::{self, Drawn, Sampler},
        scale, silu,
    },
    site::Point,
};

/// A Flex tensor's own memory, made contiguous where it is a view, or widened where it is stored in 16 bits.
#[derive(Debug)]
pub enum FlexHost {
    /// The memory.
    Shared(Arc<Bytes>),
    /// A copy in f32.
    Widened(Vec<f32>),
}

impl FlexHost {
    /// That of a tensor in f32. One that is all of its memory is not cloned: that would clone its layout too.
    fn of(x: &FlexTensor) -> Self {
        let (layout, data) = (x.layout(), x.data_arc());
        let whole = layout.is_contiguous() && layout.num_elements() * size_of::<f32>() == data.len();
        if whole { Self::Shared(data) } else { Self::Shared(x.to_contiguous().data_arc()) }
    }
}

impl Deref for FlexHost {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Shared(x) => bytemuck::cast_slice(x),
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
    type Underway = Infallible;

    fn host(x: &FlexTensor) -> FlexHost {
        narrow::widened(x).map_or_else(|| FlexHost::of(x), FlexHost::Widened)
    }

    fn shape(x: &FlexTensor) -> [usize; 2] {
        x.layout().shape().dims()
    }

    fn upload(data: Vec<f32>, [rows, width]: [usize; 2], _: &FlexTensor) -> FlexTensor {
        assert_eq!(data.len(), rows * width, "elements of a tensor");
        let layout = Layout::new(Shape::new([rows, width]), vec![width as isize, 1], 0);
        FlexTensor::new(Bytes::from_elems(data), layout, DType::F32)
    }

    fn host_rows(x: &FlexTensor, rows: &[u32]) -> Vec<f32> {
        narrow::rows(x, rows)
    }

    fn narrowed(x: FlexTensor) -> FlexTensor {
        narrow::narrowed(&x).unwrap_or(x)
    }

    fn narrow(x: &FlexTensor) -> Option<&[bf16]> {
        narrow::stored(x)
    }

    fn upload_narrow(data: Bytes, shape: [usize; 2], _: &FlexDevice) -> FlexTensor {
        FlexTensor::from_data(TensorData::from_bytes(data, shape, DType::BF16))
    }

    fn freeze_weight(w: X, errors: &Errors) -> FlexTensor {
        let clean = errors.injections(Point::Weight).is_empty();
        match clean.then(|| narrow::frozen(w)).flatten() {
            Some(narrow) => narrow,
            None => Self::narrowed(linear::frozen_weight::<Self>(w, errors)),
        }
    }

    fn new_cache(places: [Places; 2], _: &FlexTensor) -> HostCache {
        HostCache::new(places)
    }

    fn arrived(drawn: &Infallible) -> Vec<Option<Drawn>> {
        match *drawn {}
    }

    fn rows_of_drawn(_: &FlexTensor, drawn: &Infallible, _: &[u32]) -> FlexTensor {
        match *drawn {}
    }

    fn accumulate(x: FlexTensor, y: FlexTensor) -> FlexTensor {
        residual::accumulate(x, y)
    }

    fn scaled(x: FlexTensor, factor: f64) -> FlexTensor {
        scale::scaled(x, factor)
    }

    fn masked(x: FlexTensor, mask: X) -> FlexTensor {
        scale::times(x, mask)
    }

    host_kernels! {
        noisy_linear(x: X, w: X, b: Option<X>, at: &At) -> FlexTensor = linear::forward;
        noisy_linear_backward(x: X, w: X, grad: X, needs: [bool; 3], at: &At) -> Grads<Self, 3> = linear::backward;
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
        noisy_embedding(w: X, ids: &Indices, at: &At) -> FlexTensor = embedding::forward;
        noisy_embedding_backward(w: X, ids: &Indices, grad: X, at: &At) -> Option<FlexTensor> = embedding::backward;
        freeze_table(w: X, errors: &Errors) -> FlexTensor = embedding::frozen_table;
        gather_rows(x: X, rows: &Indices) -> FlexTensor = gather::forward;
        gather_rows_backward(grad: X, rows: &Indices, height: usize) -> FlexTensor = gather::backward;
        noisy_head(x: X, w: X, targets: &Indices, temperature: f32, at: &At) -> FlexTensor = head::forward;
        noisy_head_backward(x: X, w: X, targets: (&Indices, f32), grad: X, needs: [bool; 2], at: &At)
            -> Grads<Self, 2> = head::backward;
        sample(logits: X, rows: &[Row], how: &Sampler, key: NoiseKey) -> Vec<Option<Drawn>> = sample::draw;
        log_prob(logits: X, targets: &[u32], temperature: f32) -> [FlexTensor; 2] = log_prob::forward;
        log_prob_backward(logits: X, targets: &[u32], temperature: f32, grad: X) -> FlexTensor = log_prob::backward;
        entropy_backward(logits: X, temperature: f32, grad: X) -> FlexTensor = log_prob::entropy_backward;
    }
}
