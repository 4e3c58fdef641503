//! The head of a language model down to what a loss needs: logits `x·Wᵀ`, the log-probability of one token a row, and
//! the entropy of the row's distribution. It works in chunks of rows and computes logits again for the backward pass,
//! so that a tensor `[tokens, vocab]` never exists.
//!
//! Errors enter as at any linear layer: at the input, the weight and the output; backward, at ∂x and at ∂W.

use std::ops::Range;

use burn_tensor::Tensor;

use super::{
    gemm::{Factor, Mat, add_chained},
    linear::linear,
    log_prob::{log_prob, row_gradient, row_log_prob},
    parallel, primitive, tensor,
    weight::{Layout, Weight},
};
use crate::{
    at::{At, Operand},
    backend::{Grads, NoisyBackend, Primitive},
    by_row::Sums,
    indices::Indices,
    site::Point,
};

/// Logits of a run, about.
const RUN: usize = 1 << 18;
/// Rows of a chunk, at least: enough that laying out the weight, which each chunk does anew, takes little of its time.
const CHUNK_ROWS: usize = 256;

/// Rows whose share of ∂W is added up together, at most.
pub(crate) fn run_rows(vocab: usize) -> usize {
    (RUN / vocab).clamp(64, 512)
}

/// From `x` `[tokens, hidden]` and the head's `weight` `[vocab, hidden]` to `[tokens, 2]`: the log-probability of
/// `targets` `[tokens]` at `temperature`, and the entropy of the row in nats.
///
/// # Panics
/// If a target is not below `vocab`.
pub fn head<B: NoisyBackend>(
    x: Tensor<B, 2>,
    weight: Tensor<B, 2>,
    targets: impl Into<Indices>,
    temperature: f32,
    at: &At,
) -> Tensor<B, 2> {
    let targets = targets.into();
    if at.forbids_fusion() {
        return Tensor::cat(log_prob(linear(x, weight, None, at), &targets, temperature).to_vec(), 1);
    }
    tensor(B::noisy_head(&primitive(x), &primitive(weight), &targets, temperature, at))
}

/// The operands of a head as its products see them.
struct Seen<'a, B: NoisyBackend> {
    x: &'a [f32],
    w: &'a Weight<'a, B>,
    inner: usize,
    vocab: usize,
    at: &'a At,
}

impl<B: NoisyBackend> Seen<'_, B> {
    /// Rows of a chunk.
    fn chunk(&self) -> usize {
        run_rows(self.vocab).max(CHUNK_ROWS)
    }

    fn rows(&self, first: usize, count: usize) -> Mat<'_> {
        Mat::new(&self.x[first * self.inner..], count, self.inner, self.inner)
    }

    fn weight(&self) -> Factor<'_> {
        self.w.factor(self.vocab, self.inner, Layout::Rows)
    }

    /// The logits of `count` rows, in the memory of those before.
    fn logits(&self, first: usize, count: usize, before: Vec<f32>, sums: &mut Sums) -> Vec<f32> {
        let w = self.w.factor(self.inner, self.vocab, Layout::Columns);
        let mut z = w.multiplied_in(before, self.rows(first, count));
        let output = self.at.by_row(Point::Output, Operand::Lhs);
        output.apply_rows(first..first + count, self.vocab, &mut z, sums);
        self.at.watch().output(&z);
        self.at.keep_rows(Point::Output, Operand::Lhs, first, self.vocab, &z);
        z
    }

    /// The gradients of the logits of `count` rows as products see them, `grad` `[tokens, 2]` being that of all log-probabilities and entropies.
    fn logit_gradients(
        &self,
        first: usize,
        count: usize,
        (targets, temperature): (&[u32], f32),
        grad: &[f32],
        before: Vec<f32>,
    ) -> Vec<f32> {
        let mut dz = self.logits(first, count, before, &mut Sums::new());
        parallel::for_chunks(
            &mut dz,
            self.vocab,
            #[inline(always)]
            |begin, dz| {
                let mut weights = vec![0.0; self.vocab];
                for (row, z) in (first + begin..).zip(dz.chunks_exact_mut(self.vocab)) {
                    let grad = [grad[2 * row], grad[2 * row + 1]];
                    row_gradient(z, targets[row] as usize, temperature, grad, &mut weights);
                }
            },
        );
        self.at.precision().round(&mut dz);
        dz
    }
}

/// The forward pass on host slices.
pub fn forward<B: NoisyBackend>(
    x: &Primitive<B>,
    w: &Primitive<B>,
    targets: &[u32],
    temperature: f32,
    at: &At,
) -> Primitive<B> {
    let ([tokens, inner], [vocab, _]) = (B::shape(x), B::shape(w));
    let x_host = B::host(x);
    at.watch().input(inner, &x_host);
    let (x_seen, w_seen) = (at.factor(Operand::Lhs, inner, &x_host), Weight::<B>::seen(w, at));
    let seen = Seen { x: &x_seen, w: &w_seen, inner, vocab, at };
    let (mut y, mut z, mut sums) = (vec![0.0; 2 * tokens], Vec::new(), Sums::new());
    for (index, y) in y.chunks_mut(2 * seen.chunk()).enumerate() {
        let first = index * seen.chunk();
        z = seen.logits(first, y.len() / 2, z, &mut sums);
        parallel::for_chunks_of(
            y,
            2 * parallel::chunk_rows(vocab),
            #[inline(always)]
            |begin, y| {
                for (row, y) in (begin / 2..).zip(y.chunks_exact_mut(2)) {
                    let target = targets[first + row] as usize;
                    (y[0], y[1]) = row_log_prob(&z[row * vocab..][..vocab], target, temperature);
                }
            },
        );
    }
    at.by_row(Point::Output, Operand::Lhs).count([&sums].into_iter());
    B::upload(y, [tokens, 2], x)
}

/// With `∂z` the gradient of the logits: `∂x = ∂z·W`, `∂W = ∂zᵀ·x`, each only where it is needed, and ∂W not gathered. A chunk holds whole
/// runs of rows, so that no sum depends on where chunks end.
pub fn backward<B: NoisyBackend>(
    x: &Primitive<B>,
    w: &Primitive<B>,
    (targets, temperature): (&Indices, f32),
    grad: &Primitive<B>,
    needs: [bool; 2],
    at: &At,
) -> Grads<B, 2> {
    let ([tokens, inner], [vocab, _]) = (B::shape(x), B::shape(w));
    let (x_host, grad_host, again) = (B::host(x), B::host(grad), at.again());
    let (x_seen, w_seen) = (again.factor(Operand::Lhs, inner, &x_host), Weight::<B>::seen(w, &again));
    let seen = Seen { x: &x_seen, w: &w_seen, inner, vocab, at: &again };
    let mut dx = Vec::with_capacity(if needs[0] { tokens * inner } else { 0 });
    let mut go_back = |mut dw: Option<&mut [f32]>| {
        let mut gradients = Vec::new();
        for runs in chunks(at.rows().runs(run_rows(vocab)), seen.chunk()) {
            let (first, count) = (runs[0].start, runs[runs.len() - 1].end - runs[0].start);
            gradients = seen.logit_gradients(first, count, (targets, temperature), &grad_host, gradients);
            let dz = Mat::new(&gradients, count, vocab, vocab);
            if needs[0] {
                dx.extend(seen.weight().multiplied_by(dz));
            }
            if let Some(dw) = &mut dw {
                let runs: Vec<_> = runs.iter().map(|run| run.start - first..run.end - first).collect();
                add_chained(dw, dz.t(), seen.rows(first, count), &runs);
            }
        }
    };
    let dw = if needs[1] {
        at.weight_gradient([vocab * inner, inner], |sum| go_back(Some(&mut sum.total)))
    } else {
        go_back(None);
        None
    };
    let dx = needs[0].then(|| {
        at.perturb_rows(Point::GradInput, Operand::Lhs, inner, &mut dx);
        B::upload(dx, [tokens, inner], x)
    });
    [dx, dw.map(|dw| B::upload(dw, [vocab, inner], x))]
}

/// Runs of rows, as many together as have up to `limit` rows.
pub(crate) fn chunks(runs: Vec<Range<usize>>, limit: usize) -> Vec<Vec<Range<usize>>> {
    let mut chunks: Vec<Vec<Range<usize>>> = Vec::new();
    for run in runs {
        match chunks.last_mut() {
            Some(chunk) if run.end - chunk[0].start <= limit => chunk.push(run),
            _ => chunks.push(vec![run]),
        }
    }
    chunks
}
