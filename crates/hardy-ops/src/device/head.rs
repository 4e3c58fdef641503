//! The head of a language model down to log-probabilities, in chunks of rows.

use std::ops::Range;

use burn_tensor::{Int, Tensor, TensorPrimitive, ops::IntTensor};

use super::{
    inject, is_for_host,
    kernels::{Kernels, Layout},
    product::{Ending, product},
};
use crate::{
    at::{At, Operand},
    backend::{Grads, Primitive},
    indices::Indices,
    ops::head::{self, run_rows},
    rows::Rows,
    site::Point,
    weight_sums::Of,
};

/// Logits of a chunk, at most: 256 MiB.
const CHUNK: usize = 1 << 26;

/// The operands of a head as its products see them.
struct Seen<'a, B: Kernels> {
    x: Primitive<B>,
    w: Primitive<B>,
    targets: &'a Indices,
    temperature: f32,
}

impl<'a, B: Kernels> Seen<'a, B> {
    fn new(x: &Primitive<B>, w: &Primitive<B>, (targets, temperature): (&'a Indices, f32), at: &At) -> Self {
        let vocab = B::shape(w)[0];
        assert!(targets.iter().all(|&target| (target as usize) < vocab), "a target below {vocab}");
        let x = inject::rows::<B>(at, Point::Input, Operand::Lhs, x.clone());
        Self { x, w: inject::flat::<B>(at, Point::Weight, w.clone()), targets, temperature }
    }

    /// The rows in chunks of whole runs, so that no sum depends on where chunks end.
    fn chunks(&self, at: &At) -> impl Iterator<Item = Range<usize>> + use<B> {
        let vocab = B::shape(&self.w)[0];
        let (run, most) = (run_rows(vocab), (CHUNK / vocab).max(run_rows(vocab)));
        let chunks = head::chunks(at.rows().runs(run), most);
        chunks.into_iter().map(|runs| runs[0].start..runs[runs.len() - 1].end)
    }

    /// The rows `range` of the input, their logits, and their addresses.
    fn logits(&self, range: &Range<usize>, at: &At) -> ([Primitive<B>; 2], Rows) {
        let x = slice::<B>(&self.x, range);
        let rows = at.rows().part(range.clone());
        let z = product::<B>(&at.for_rows(&rows), Point::Output, [&x, &self.w], Layout::Nt, None);
        ([x, z], rows)
    }

    fn targets(&self, range: &Range<usize>) -> IntTensor<B> {
        let all = self.targets.table::<B>(&B::float_device(&self.x));
        if *range == (0..self.targets.len()) {
            return all;
        }
        Tensor::<B, 1, Int>::from_primitive(all).slice([range.clone()]).into_primitive()
    }
}

/// See [`head::head`].
pub fn forward<B: Kernels>(
    x: &Primitive<B>,
    w: &Primitive<B>,
    targets: &Indices,
    temperature: f32,
    at: &At,
) -> Primitive<B> {
    if is_for_host(at) {
        return head::forward::<B>(x, w, targets, temperature, at);
    }
    let seen = Seen::<B>::new(x, w, (targets, temperature), at);
    let part = |range: Range<usize>| {
        let ([_, z], _) = seen.logits(&range, at);
        B::log_probs(&z, &seen.targets(&range), temperature)
    };
    join::<B>(seen.chunks(at).map(part).collect())
}

/// Gradients with respect to input and weight.
///
/// # Panics
/// If the weight's gradient is wanted of no rows.
pub fn backward<B: Kernels>(
    x: &Primitive<B>,
    w: &Primitive<B>,
    targets: (&Indices, f32),
    grad: &Primitive<B>,
    needs: [bool; 2],
    at: &At,
) -> Grads<B, 2> {
    if is_for_host(at) {
        return head::backward::<B>(x, w, targets, grad, needs, at);
    }
    let again = at.again();
    let seen = Seen::<B>::new(x, w, targets, &again);
    let mut dx = Vec::new();
    let mut go_back = |mut dw: Option<Primitive<B>>| {
        for range in seen.chunks(at) {
            let ([x, z], rows) = seen.logits(&range, &again);
            let grad = slice::<B>(grad, &range);
            let dz = B::log_probs_backward(z, &seen.targets(&range), seen.temperature, &grad);
            if needs[0] {
                dx.push(B::matmul(&dz, &seen.w, Layout::Nn, at.precision(), &Ending::NOTHING));
            }
            if needs[1] {
                let runs = rows.runs_on::<B>(run_rows(B::shape(w)[0]), &B::float_device(&dz));
                dw = Some(B::add_product(&dz, &x, at.precision(), &runs, dw.take()));
            }
        }
        dw
    };
    let dw = if needs[1] {
        at.gradient_there::<B>(Of::Weight, |sum| go_back(sum).expect("rows of a head"))
    } else {
        go_back(None)
    };
    let dx = needs[0].then(|| inject::rows::<B>(at, Point::GradInput, Operand::Lhs, join::<B>(dx)));
    [dx, dw]
}

/// The rows `range` of `x`.
fn slice<B: Kernels>(x: &Primitive<B>, range: &Range<usize>) -> Primitive<B> {
    let [rows, width] = B::shape(x);
    if *range == (0..rows) {
        return x.clone();
    }
    let x = Tensor::<B, 2>::from_primitive(TensorPrimitive::Float(x.clone()));
    x.slice([range.clone(), 0..width]).into_primitive().tensor()
}

/// Rows one after another.
fn join<B: Kernels>(mut parts: Vec<Primitive<B>>) -> Primitive<B> {
    if parts.len() == 1 {
        return parts.remove(0);
    }
    let parts = parts.into_iter().map(|x| Tensor::<B, 2>::from_primitive(TensorPrimitive::Float(x)));
    Tensor::cat(parts.collect(), 0).into_primitive().tensor()
}
