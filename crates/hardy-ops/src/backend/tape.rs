//! Operators on a tape: [`Autodiff`] records each with what its gradient needs, and calls the inner backend's gradient,
//! which is how backward errors come to be injected on the device.

use std::sync::Arc;

use burn_autodiff::{
    Autodiff,
    checkpoint::{
        base::Checkpointer,
        strategy::{CheckpointStrategy, NoCheckpointing},
    },
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn_tensor::{TensorMetadata, backend::AutodiffBackend};
use hardy_numerics::{NoiseKey, Row};

use super::{Grads, NoisyBackend, Primitive};
use crate::{
    at::At,
    clip,
    indices::Indices,
    ops::{
        attention::{Angles, AttentionAt, Heads, KvPass, Places, Segments},
        experts::Routes,
        gelu,
        sample::{Drawn, Sampler},
    },
    site::Point,
};

/// A tensor on a tape, and its node there.
type Tracked<B, C = NoCheckpointing> = Primitive<Autodiff<B, C>>;

impl<B: NoisyBackend, C: CheckpointStrategy> NoisyBackend for Autodiff<B, C> {
    const ON_HOST: bool = B::ON_HOST;

    type Host = B::Host;
    type Cache = B::Cache;
    type Underway = B::Underway;

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

    fn draws_there(how: &Sampler) -> bool {
        B::draws_there(how)
    }

    fn sample_there(
        logits: &Primitive<Self>,
        rows: &[Row],
        how: &Sampler,
        key: NoiseKey,
    ) -> Option<B::Underway> {
        B::sample_there(&logits.primitive, rows, how, key)
    }

    fn arrived(drawn: &B::Underway) -> Vec<Option<Drawn>> {
        B::arrived(drawn)
    }

    fn rows_of_drawn(w: &Primitive<Self>, drawn: &B::Underway, chosen: &[u32]) -> Primitive<Self> {
        Self::from_inner(B::rows_of_drawn(&w.primitive, drawn, chosen))
    }

    fn accumulate(x: Primitive<Self>, y: Primitive<Self>) -> Primitive<Self> {
        let nodes = [(x.node, x.rc), (y.node, y.rc)];
        let sum = B::accumulate(x.primitive, y.primitive);
        let [x, y] = nodes.map(|(node, rc)| Tracked::<B, C> { primitive: sum.clone(), node, rc });
        record::<B, C, _, 2>([&x, &y], sum, (), |(), grad, _| [Some(grad.clone()), Some(grad)])
    }

    fn scaled(x: Primitive<Self>, factor: f64) -> Primitive<Self> {
        let y = B::scaled(x.primitive.clone(), factor);
        record::<B, C, _, 1>([&x], y, factor, |factor, grad, _| [Some(B::scaled(grad, *factor))])
    }

    fn masked(x: Primitive<Self>, mask: &Primitive<Self>) -> Primitive<Self> {
        let y = B::masked(x.primitive.clone(), &mask.primitive);
        record::<B, C, _, 1>([&x], y, mask.primitive.clone(), |mask, grad, _| [Some(B::masked(grad, mask))])
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
            let nothing = || B::upload(vec![0.0; B::shape(w)[1]], B::shape(w), w);
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

    fn noisy_embedding(w: &Primitive<Self>, ids: &Indices, at: &At) -> Primitive<Self> {
        let y = B::noisy_embedding(&w.primitive, ids, at);
        let exact = clip::before_output::<B>(at, |at| B::noisy_embedding(&w.primitive, ids, at));
        let state = (w.primitive.clone(), ids.clone(), at.clone(), exact);
        record::<B, C, _, 1>([w], y, state, |(w, ids, at, exact), grad, _| {
            let grad = clip::output::<B>(at, exact.as_ref(), grad);
            at.gather_scale::<B>(&grad);
            let dw = B::noisy_embedding_backward(w, ids, &grad, at);
            [dw.map(|dw| clip::gradient::<B>(at, Point::Weight, w, dw))]
        })
    }

    fn gather_rows(x: &Primitive<Self>, rows: &Indices) -> Primitive<Self> {
        let y = B::gather_rows(&x.primitive, rows);
        let state = (rows.clone(), x.shape().dims::<2>()[0]);
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
        targets: &Indices,
        temperature: f32,
        at: &At,
    ) -> Primitive<Self> {
        let y = B::noisy_head(&x.primitive, &w.primitive, targets, temperature, at);
        let state = (x.primitive.clone(), w.primitive.clone(), (targets.clone(), temperature), at.clone());
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

/// A loss whose derivative in `y` is `derivative`.
pub(crate) fn known_by_derivative<B: NoisyBackend>(y: &Tracked<B>, derivative: Primitive<B>) -> Tracked<B> {
    let loss = B::upload(vec![0.0], [1, 1], &y.primitive);
    record::<B, NoCheckpointing, _, 1>([y], loss, derivative, |derivative, _, _| [Some(derivative.clone())])
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
