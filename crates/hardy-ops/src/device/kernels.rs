//! What a device computes by itself.

use burn_tensor::ops::{FloatTensor, IntTensor};
use hardy_numerics::{ErrorEnergy, Keys, NoiseKey, Perturbation, Precision};

use super::product::Ending;
use crate::{
    backend::{NoisyBackend, Primitive},
    ops::attention::{AttentionAt, Heads, HostCache, KvPass, Segments},
};

/// What an error falls on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The rows of an activation.
    Rows,
    /// A weight, or the gradient of one.
    Weight,
}

/// How the factors of a product lie: `c[m, n] = Σ a·b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `a[m, k]`, `b[k, n]`.
    Nn,
    /// `a[m, k]`, `b[n, k]`.
    Nt,
}

/// The primitives of a device. All floats are f32, `[rows, width]`; tables are of u32. Sums have a fixed order that does not
/// depend on what else shares the batch: products are chained as on the host.
pub trait Kernels: NoisyBackend {
    /// Whether errors of this kind have a kernel there.
    fn injects(what: &Perturbation, place: Place) -> bool;

    /// Injects an error into the rows of `x`; `rows` `[rows, 4]` holds of each its position, the low and the high half of
    /// its sequence, and whether it counts in the tally.
    fn perturb_rows(
        x: Primitive<Self>,
        rows: &IntTensor<Self>,
        error: (Perturbation, Keys),
        tally: Option<&Primitive<Self>>,
    ) -> Primitive<Self>;

    /// Injects an error into a weight or its gradient.
    fn perturb_flat(
        x: Primitive<Self>,
        error: (Perturbation, Keys),
        tally: Option<&Primitive<Self>>,
    ) -> Primitive<Self>;

    /// An empty tally.
    fn new_tally(device: &Self::Device) -> Primitive<Self>;

    /// What a tally holds; waits for the device.
    fn read_tally(tally: &Primitive<Self>) -> ErrorEnergy;

    /// Whether a product on the device of `on` injects errors of this kind as it is stored.
    fn fuses(what: &Perturbation, on: &Primitive<Self>) -> bool;

    /// Whether products in bfloat16 run on tensor cores of `device`; tried when it is first asked for.
    fn uses_tensor_cores(device: &Self::Device) -> bool;

    /// The product of two matrices and what `ending` makes of it, every element a chain of fused multiply-adds in links of
    /// 512, as on the host; in bfloat16 on tensor cores, the same links in another order within.
    fn matmul(
        a: &Primitive<Self>,
        b: &Primitive<Self>,
        layout: Layout,
        precision: Precision,
        ending: &Ending<Self>,
    ) -> Primitive<Self>;

    /// `aᵀ·b` of `a` `[rows, m]` and `b` `[rows, n]`, every run of rows a link; added to `sum` where there is one. `runs` are
    /// the first row of each and the end of the last.
    fn add_product(
        a: &Primitive<Self>,
        b: &Primitive<Self>,
        precision: Precision,
        runs: &IntTensor<Self>,
        sum: Option<Primitive<Self>>,
    ) -> Primitive<Self>;

    /// The sum of the rows of `x`, `[1, width]`, run by run; added to `sum` where there is one.
    fn add_columns(
        x: &Primitive<Self>,
        runs: &IntTensor<Self>,
        sum: Option<Primitive<Self>>,
    ) -> Primitive<Self>;

    /// Root-mean-square normalisation, head by head of the weight's width.
    fn norm(x: &Primitive<Self>, w: &Primitive<Self>, epsilon: f32) -> Primitive<Self>;

    /// Its gradient with respect to `x`, and what [`Kernels::norm_weight`] needs of every head.
    fn norm_backward(
        x: &Primitive<Self>,
        w: &Primitive<Self>,
        grad: &Primitive<Self>,
        epsilon: f32,
    ) -> [Primitive<Self>; 2];

    /// Its gradient with respect to the weight, `[1, width]`, run by run; added to `sum` where there is one.
    fn norm_weight(
        x: &Primitive<Self>,
        grad: &Primitive<Self>,
        heads: &Primitive<Self>,
        runs: &IntTensor<Self>,
        sum: Option<Primitive<Self>>,
    ) -> Primitive<Self>;

    /// Every head of `x` turned by the `angles` `[rows, half, 2]`, cosine and sine, of its row, or `back`.
    fn rotary(x: Primitive<Self>, angles: &FloatTensor<Self>, half: usize, back: bool) -> Primitive<Self>;

    /// Whether the attention kernels inject these errors.
    fn attends(at: &AttentionAt) -> bool;

    /// Attention of turned queries and keys over their sequences, with the errors of scores, softmax and probabilities;
    /// those of the output are not in it.
    fn attend(
        qkv: [&Primitive<Self>; 3],
        heads: Heads,
        segments: &Segments,
        at: &AttentionAt,
    ) -> Primitive<Self>;

    /// The same over what a cache holds; keys and values are added to it.
    fn attend_cached(
        qkv: [&Primitive<Self>; 3],
        cache: KvPass<Self::Cache>,
        heads: Heads,
        segments: &Segments,
        at: &AttentionAt,
    ) -> Primitive<Self>;

    /// The host's cache of a layer whose passes stay there: whose errors no kernel injects, or that somebody watches.
    fn host_cache(cache: KvPass<Self::Cache>) -> KvPass<HostCache>;

    /// The gradients of [`Kernels::attend`], with the errors of ∂p and of the softmax's ∂x; those of ∂q, ∂k and ∂v are
    /// not in it. Of keys and values every query head's, segment by segment, `[prefix and rows, heads·d]`.
    fn attend_backward(
        qkv: [&Primitive<Self>; 3],
        grad: &Primitive<Self>,
        heads: Heads,
        segments: &Segments,
        at: &AttentionAt,
    ) -> [Primitive<Self>; 3];

    /// Adds up the gradients of keys or values over the query heads that share one, and over segments that share a row.
    fn add_heads(
        x: &Primitive<Self>,
        heads: Heads,
        order: &IntTensor<Self>,
        tokens: usize,
    ) -> Primitive<Self>;

    /// `silu(x)`.
    fn silu(x: &Primitive<Self>) -> Primitive<Self>;

    /// `silu(gate)·up`.
    fn swiglu(gate: &Primitive<Self>, up: &Primitive<Self>) -> Primitive<Self>;

    /// Its gradients.
    fn swiglu_backward(
        gate: &Primitive<Self>,
        up: &Primitive<Self>,
        grad: &Primitive<Self>,
    ) -> [Primitive<Self>; 2];

    /// The log-probability of a target a row of `logits`, and the entropy of the row, `[rows, 2]`.
    fn log_probs(logits: &Primitive<Self>, targets: &IntTensor<Self>, temperature: f32) -> Primitive<Self>;

    /// The gradient of the logits, `grad` `[rows, 2]` being that of [`Kernels::log_probs`].
    fn log_probs_backward(
        logits: Primitive<Self>,
        targets: &IntTensor<Self>,
        temperature: f32,
        grad: &Primitive<Self>,
    ) -> Primitive<Self>;

    /// The rows of `x` that `indices` names.
    fn gather(x: &Primitive<Self>, indices: &IntTensor<Self>) -> Primitive<Self>;

    /// `[height, width]`: row `r` is the sum of the rows `entries[offsets[r]..offsets[r + 1]]` of `x`, `order` being the
    /// `height + 1` offsets, then the `entries`; added to `sum` where there is one.
    fn scatter(
        x: &Primitive<Self>,
        order: &IntTensor<Self>,
        height: usize,
        sum: Option<Primitive<Self>>,
    ) -> Primitive<Self>;

    /// The next token of every row: greedy at temperature 0, else for the uniform number of `key` at the row's address.
    fn draw(
        logits: &Primitive<Self>,
        rows: &IntTensor<Self>,
        temperature: f32,
        key: NoiseKey,
    ) -> Self::Underway;
}
