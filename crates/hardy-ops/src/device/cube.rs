//! The backends of CubeCL, CUDA and Vulkan among them: their primitives are the kernels of hardy-cube.

mod attention;
mod cache;

use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, IntElement,
    cubecl::{
        client::ComputeClient,
        server::{ComputeServer, Handle},
    },
    kernel::into_contiguous,
    tensor::CubeTensor,
};
use burn_tensor::{
    DType, Shape,
    backend::{DeviceOps, ExecutionError},
    ops::FloatTensorOps,
};
use hardy_cube::{
    device::arithmetic,
    log_prob, matmul, norm, perturb, rotary, rows,
    rule::{self, Error},
    sample, swiglu, tally,
};
use hardy_numerics::{ErrorEnergy, Keys, NoiseKey, Perturbation, Precision, Row};

use super::{
    Ending, Kernels, Layout, Place, embedding, head, inject, linear, norm as norms, silu, tables::table,
};
use crate::{
    at::At,
    backend::{Grads, NoisyBackend},
    errors::Errors,
    indices::Indices,
    ops::{
        attention::{Angles, AttentionAt, Heads, HostCache, KvPass, Places, Segments},
        sample::{Drawn, Sampler, draw},
    },
    rows::Rows,
    site::{Pass, Point},
};
pub use cache::CubeCache;

/// A tensor of numbers or words.
type X<'a, R> = &'a CubeTensor<R>;

/// The memory of a tensor, row by row.
fn handle<R: CubeRuntime>(x: X<R>) -> Handle {
    into_contiguous(x.clone()).handle
}

/// The same of a tensor that nobody needs any more, to be changed in place.
fn owned<R: CubeRuntime>(x: CubeTensor<R>) -> Handle {
    into_contiguous(x).handle
}

fn dims<R: CubeRuntime>(x: X<R>) -> [usize; 2] {
    x.meta.shape().dims::<2>()
}

/// The runs whose table a tensor is.
fn runs_of<'a, R: CubeRuntime>(of: X<R>, table: &'a Handle) -> rows::Runs<'a> {
    rows::Runs { table, count: of.meta.shape().num_elements() - 1 }
}

/// A tensor `[rows, width]` in memory of `like`'s device.
fn tensor<R: CubeRuntime>(data: Handle, shape: [usize; 2], like: X<R>) -> CubeTensor<R> {
    CubeTensor::new_contiguous(like.client.clone(), like.device.clone(), Shape::new(shape), data, DType::F32)
}

/// The composed operators, for one backend: so they are compiled here, and not again in every crate that uses them.
macro_rules! composed {
    ($($method:ident($($argument:ident: $type:ty),*) -> $out:ty = $module:ident::$operator:ident;)*) => {
        $(fn $method($($argument: $type),*) -> $out {
            $module::$operator::<Self>($($argument),*)
        })*
    };
}

use super::attention as attentions;

impl<R, I, BT> NoisyBackend for CubeBackend<R, f32, I, BT>
where
    R: CubeRuntime,
    R::Server: ComputeServer,
    R::Device: DeviceOps,
    I: IntElement,
    BT: BoolElement,
{
    type Host = Vec<f32>;
    type Cache = CubeCache;
    type Underway = CubeDrawn<R>;

    fn host(x: X<R>) -> Vec<f32> {
        let read = burn_tensor::try_read_sync(Self::float_into_data(x.clone()));
        let data = read.expect("reading waits").unwrap_or_else(|lost: ExecutionError| panic!("{lost:?}"));
        data.to_vec().expect("numbers in f32")
    }

    fn weight_gradient_errors(dw: CubeTensor<R>, errors: &Errors) -> CubeTensor<R> {
        inject::flat::<Self>(errors, Point::GradWeight, dw)
    }

    fn new_cache(places: [Places; 2], _: X<R>) -> CubeCache {
        CubeCache::new(places)
    }

    fn sample(logits: X<R>, rows: &[Row], how: &Sampler, key: NoiseKey) -> Vec<Option<Drawn>> {
        match Self::sample_there(logits, rows, how, key) {
            Some(drawn) => Self::arrived(&drawn),
            None => draw::<Self>(logits, rows, how, key),
        }
    }

    fn draws_there(how: &Sampler) -> bool {
        how.temperature == 0.0 || (how.top_k == 0 && how.top_p >= 1.0)
    }

    fn sample_there(logits: X<R>, rows: &[Row], how: &Sampler, key: NoiseKey) -> Option<CubeDrawn<R>> {
        Self::draws_there(how).then(|| {
            let rows: Rows = rows.into();
            let rows = rows.table::<Self>(Pass::Forward, &logits.device);
            Self::draw(logits, &rows, how.temperature, key)
        })
    }

    fn arrived(drawn: &CubeDrawn<R>) -> Vec<Option<Drawn>> {
        drawn.read()
    }

    fn rows_of_drawn(w: X<R>, drawn: &CubeDrawn<R>, chosen: &[u32]) -> CubeTensor<R> {
        let (table, [height, width]) = (table::<Self>(chosen.to_vec(), &w.device), dims(w));
        let sizes = [height, width, drawn.rows, chosen.len()];
        let found = rows::gather_by(&w.client, &handle(w), &drawn.ids, &handle(&table), sizes);
        tensor(found, [chosen.len(), width], w)
    }

    composed! {
        noisy_linear(x: X<R>, w: X<R>, b: Option<X<R>>, at: &At) -> CubeTensor<R> = linear::forward;
        noisy_linear_backward(x: X<R>, w: X<R>, grad: X<R>, needs: [bool; 3], at: &At) -> Grads<Self, 3>
            = linear::backward;
        freeze_weight(w: X<R>, errors: &Errors) -> CubeTensor<R> = linear::frozen_weight;
        noisy_frozen_linear(x: X<R>, frozen: X<R>, b: Option<X<R>>, at: &At) -> CubeTensor<R>
            = linear::forward_frozen;
        noisy_attention(qkv: [X<R>; 3], angles: &Angles, heads: Heads, segments: &Segments, at: &AttentionAt)
            -> CubeTensor<R> = attentions::forward;
        noisy_attention_backward(
            qkv: [X<R>; 3], grad: X<R>, angles: &Angles, heads: Heads, segments: &Segments, at: &AttentionAt
        ) -> [CubeTensor<R>; 3] = attentions::backward;
        noisy_cached_attention(
            qkv: [X<R>; 3], cache: KvPass<CubeCache>, angles: &Angles, heads: Heads, segments: &Segments,
            at: &AttentionAt
        ) -> CubeTensor<R> = attentions::forward_cached;
        noisy_rms_norm(x: X<R>, w: X<R>, epsilon: f32, at: &At) -> CubeTensor<R> = norms::forward;
        noisy_rms_norm_backward(x: X<R>, w: X<R>, grad: X<R>, epsilon: f32, needs_weight: bool, at: &At)
            -> Grads<Self, 2> = norms::backward;
        noisy_silu_up(gate: X<R>, up: X<R>, at: &At) -> CubeTensor<R> = silu::forward;
        noisy_silu_up_backward(gate: X<R>, up: X<R>, grad: X<R>, at: &At) -> [CubeTensor<R>; 2] = silu::backward;
        noisy_embedding(w: X<R>, ids: &Indices, at: &At) -> CubeTensor<R> = embedding::forward;
        noisy_embedding_backward(w: X<R>, ids: &Indices, grad: X<R>, at: &At) -> Option<CubeTensor<R>>
            = embedding::backward;
        freeze_table(w: X<R>, errors: &Errors) -> CubeTensor<R> = embedding::frozen_table;
        gather_rows(x: X<R>, rows: &Indices) -> CubeTensor<R> = embedding::gather;
        gather_rows_backward(grad: X<R>, rows: &Indices, height: usize) -> CubeTensor<R> = embedding::scatter;
        noisy_head(x: X<R>, w: X<R>, targets: &Indices, temperature: f32, at: &At) -> CubeTensor<R> = head::forward;
        noisy_head_backward(x: X<R>, w: X<R>, targets: (&Indices, f32), grad: X<R>, needs: [bool; 2], at: &At)
            -> Grads<Self, 2> = head::backward;
    }
}

impl<R, I, BT> Kernels for CubeBackend<R, f32, I, BT>
where
    R: CubeRuntime,
    R::Server: ComputeServer,
    R::Device: DeviceOps,
    I: IntElement,
    BT: BoolElement,
{
    fn injects(what: &Perturbation, place: Place) -> bool {
        let place = match place {
            Place::Rows => rule::Place::Rows,
            Place::Weight => rule::Place::Weight,
        };
        rule::supports(what, place)
    }

    fn perturb_rows(
        x: CubeTensor<R>,
        rows: X<R>,
        (what, keys): (Perturbation, Keys),
        tally: Option<X<R>>,
    ) -> CubeTensor<R> {
        let (client, shape, like) = (x.client.clone(), dims(&x), Like::of(&x));
        let (error, tally) = (Error { what, keys }, tally.map(handle));
        like.tensor(
            perturb::perturb_rows(&client, owned(x), shape, &handle(rows), &error, tally.as_ref()),
            shape,
        )
    }

    fn perturb_flat(
        x: CubeTensor<R>,
        (what, keys): (Perturbation, Keys),
        tally: Option<X<R>>,
    ) -> CubeTensor<R> {
        let (client, shape, like) = (x.client.clone(), dims(&x), Like::of(&x));
        let (error, tally) = (Error { what, keys }, tally.map(handle));
        like.tensor(perturb::perturb_flat(&client, owned(x), shape, &error, tally.as_ref()), shape)
    }

    fn new_tally(device: &R::Device) -> CubeTensor<R> {
        let client = R::client(device);
        let empty = tally::new(&client);
        CubeTensor::new_contiguous(client, device.clone(), Shape::new([tally::WORDS]), empty, DType::F32)
    }

    fn read_tally(tally: X<R>) -> ErrorEnergy {
        tally::read(&tally.client, tally.handle.clone())
    }

    /// Where a fused multiply-add is made of parts (llvmpipe), such a kernel takes minutes to compile.
    fn fuses(what: &Perturbation, on: X<R>) -> bool {
        matmul::fuses(what) && arithmetic(&on.client).fused
    }

    fn uses_tensor_cores(device: &R::Device) -> bool {
        matmul::uses_tensor_cores(&R::client(device))
    }

    fn matmul(
        a: X<R>,
        b: X<R>,
        layout: Layout,
        precision: Precision,
        ending: &Ending<Self>,
    ) -> CubeTensor<R> {
        let ([m, k], [b0, b1]) = (dims(a), dims(b));
        let (layout, n) = match layout {
            Layout::Nn => (matmul::Layout::NN, b1),
            Layout::Nt => (matmul::Layout::NT, b0),
        };
        let bias = ending.bias.map(handle);
        let noise = ending.noise.as_ref().map(|noise| {
            let (what, keys) = noise.error;
            (Error { what, keys }, handle(&noise.rows), noise.tally.as_ref().map(handle))
        });
        let noise =
            noise.as_ref().map(|(error, rows, tally)| matmul::Noise { error, rows, tally: tally.as_ref() });
        let (factors, ends) = ([a, b].map(handle), matmul::Epilogue { bias: bias.as_ref(), noise });
        let y = matmul::matmul(&a.client, factors.each_ref(), [m, k, n], layout, precision, ends);
        tensor(y, [m, n], a)
    }

    fn add_product(
        a: X<R>,
        b: X<R>,
        precision: Precision,
        runs: X<R>,
        sum: Option<CubeTensor<R>>,
    ) -> CubeTensor<R> {
        let ([k, m], [_, n], table) = (dims(a), dims(b), handle(runs));
        let (sizes, sum) = ([m, k, n], sum.map(owned));
        let (factors, runs) = ([a, b].map(handle), runs_of(runs, &table));
        let sum = matmul::add_product(&a.client, factors.each_ref(), sizes, precision, runs, sum);
        tensor(sum, [m, n], a)
    }

    fn add_columns(x: X<R>, runs: X<R>, sum: Option<CubeTensor<R>>) -> CubeTensor<R> {
        let (table, sum) = (handle(runs), sum.map(owned));
        let sum = rows::add_columns(&x.client, &handle(x), dims(x), runs_of(runs, &table), sum);
        tensor(sum, [1, dims(x)[1]], x)
    }

    fn norm(x: X<R>, w: X<R>, epsilon: f32) -> CubeTensor<R> {
        tensor(norm::norm(&x.client, &handle(x), &handle(w), dims(x), dims(w)[1], epsilon), dims(x), x)
    }

    fn norm_backward(x: X<R>, w: X<R>, grad: X<R>, epsilon: f32) -> [CubeTensor<R>; 2] {
        let ([x_data, w_data, grad_data], [height, width]) = ([x, w, grad].map(handle), dims(x));
        let head = dims(w)[1];
        let (dx, r) = norm::norm_backward(&x.client, &x_data, &w_data, &grad_data, dims(x), head, epsilon);
        [tensor(dx, dims(x), x), tensor(r, [height, width / head], x)]
    }

    fn norm_weight(
        x: X<R>,
        grad: X<R>,
        heads: X<R>,
        runs: X<R>,
        sum: Option<CubeTensor<R>>,
    ) -> CubeTensor<R> {
        let (data, table) = ([x, grad, heads].map(handle), handle(runs));
        let (shape @ [_, width], sum) = (dims(x), sum.map(owned));
        let head = width / dims(heads)[1];
        let runs = runs_of(runs, &table);
        tensor(norm::norm_weight(&x.client, data.each_ref(), shape, head, runs, sum), [1, head], x)
    }

    fn rotary(x: CubeTensor<R>, angles: X<R>, half: usize, back: bool) -> CubeTensor<R> {
        let (client, shape, like) = (x.client.clone(), dims(&x), Like::of(&x));
        like.tensor(rotary::rotary(&client, owned(x), shape, half, &handle(angles), back), shape)
    }

    fn attends(at: &AttentionAt) -> bool {
        attention::attends(at)
    }

    fn attend(qkv: [X<R>; 3], heads: Heads, segments: &Segments, at: &AttentionAt) -> CubeTensor<R> {
        attention::forward::<R, Self>(qkv, heads, segments, at)
    }

    fn attend_cached(
        qkv: [X<R>; 3],
        cache: KvPass<CubeCache>,
        heads: Heads,
        segments: &Segments,
        at: &AttentionAt,
    ) -> CubeTensor<R> {
        cache::attention::<R, Self>(qkv, cache, heads, segments, at)
    }

    fn host_cache(cache: KvPass<CubeCache>) -> KvPass<HostCache> {
        cache::host_cache(cache)
    }

    fn attend_backward(
        qkv: [X<R>; 3],
        grad: X<R>,
        heads: Heads,
        segments: &Segments,
        at: &AttentionAt,
    ) -> [CubeTensor<R>; 3] {
        attention::backward::<R, Self>(qkv, grad, heads, segments, at)
    }

    fn add_heads(x: X<R>, heads: Heads, order: X<R>, tokens: usize) -> CubeTensor<R> {
        attention::add_heads(x, heads, order, tokens)
    }

    fn silu(x: X<R>) -> CubeTensor<R> {
        let [height, width] = dims(x);
        tensor(swiglu::silu(&x.client, &handle(x), height * width), dims(x), x)
    }

    fn swiglu(gate: X<R>, up: X<R>) -> CubeTensor<R> {
        let [height, width] = dims(gate);
        tensor(swiglu::swiglu(&gate.client, &handle(gate), &handle(up), height * width), dims(gate), gate)
    }

    fn swiglu_backward(gate: X<R>, up: X<R>, grad: X<R>) -> [CubeTensor<R>; 2] {
        let ([height, width], [x, u, dy]) = (dims(gate), [gate, up, grad].map(handle));
        let (d_gate, d_up) = swiglu::swiglu_backward(&gate.client, &x, &u, &dy, height * width);
        [d_gate, d_up].map(|x| tensor(x, dims(gate), gate))
    }

    fn log_probs(logits: X<R>, targets: X<R>, temperature: f32) -> CubeTensor<R> {
        let shape = dims(logits);
        let scores =
            log_prob::log_probs(&logits.client, &handle(logits), shape, &handle(targets), temperature);
        tensor(scores, [shape[0], 2], logits)
    }

    fn log_probs_backward(
        logits: CubeTensor<R>,
        targets: X<R>,
        temperature: f32,
        grad: X<R>,
    ) -> CubeTensor<R> {
        let (client, shape, like) = (logits.client.clone(), dims(&logits), Like::of(&logits));
        let (targets, grad) = (handle(targets), handle(grad));
        let dz = log_prob::log_probs_backward(&client, owned(logits), shape, &targets, temperature, &grad);
        like.tensor(dz, shape)
    }

    fn gather(x: X<R>, indices: X<R>) -> CubeTensor<R> {
        let ([height, width], count) = (dims(x), indices.meta.shape().num_elements());
        let found = rows::gather(&x.client, &handle(x), &handle(indices), [height, width, count]);
        tensor(found, [count, width], x)
    }

    fn scatter(x: X<R>, order: X<R>, height: usize, sum: Option<CubeTensor<R>>) -> CubeTensor<R> {
        let ([count, width], words) = (dims(x), order.meta.shape().num_elements());
        let (sizes, entries, sum) = ([height, width, count], words - height - 1, sum.map(owned));
        let sums = rows::scatter(&x.client, &handle(x), &handle(order), sizes, entries, sum);
        tensor(sums, [height, width], x)
    }

    fn draw(logits: X<R>, rows: X<R>, temperature: f32, key: NoiseKey) -> CubeDrawn<R> {
        let (client, shape) = (logits.client.clone(), dims(logits));
        let (ids, scores) = sample::sample(&client, &handle(logits), shape, &handle(rows), key, temperature);
        CubeDrawn { ids, scores, rows: shape[0], client }
    }
}

/// Tokens that a device has drawn, and their log-probabilities.
pub struct CubeDrawn<R: CubeRuntime> {
    ids: Handle,
    scores: Handle,
    rows: usize,
    client: ComputeClient<R>,
}

impl<R: CubeRuntime> CubeDrawn<R> {
    /// The one wait for a token.
    fn read(&self) -> Vec<Option<Drawn>> {
        let read = self.client.read(vec![self.ids.clone(), self.scores.clone()]);
        let word =
            |bytes: &[u8], i: usize| bytes[4 * i..].first_chunk().map_or(0, |word| u32::from_le_bytes(*word));
        let one = |row| {
            let id = word(&read[0], row);
            (id != u32::MAX).then(|| (id, f32::from_bits(word(&read[1], 2 * row))))
        };
        (0..self.rows).map(one).collect()
    }
}

/// Where a tensor was that is changed in place.
struct Like<R: CubeRuntime> {
    client: ComputeClient<R>,
    device: R::Device,
}

impl<R: CubeRuntime> Like<R> {
    fn of(x: X<R>) -> Self {
        Self { client: x.client.clone(), device: x.device.clone() }
    }

    fn tensor(self, data: Handle, shape: [usize; 2]) -> CubeTensor<R> {
        CubeTensor::new_contiguous(self.client, self.device, Shape::new(shape), data, DType::F32)
    }
}
