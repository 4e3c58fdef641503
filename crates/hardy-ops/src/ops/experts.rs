//! A mixture of experts around its experts: which of them every token goes to, and the sum `y[t] = Σ w[t, e]·x[t, e]`
//! of what they make of it, weighted by the router's probabilities. No error enters here: it enters at the router's
//! linear layer and softmax, and in the experts themselves.
//!
//! A token's sum goes through its experts in the order of their index, so that it does not depend on what shares the
//! batch.

use std::sync::Arc;

use burn_tensor::Tensor;

use super::{parallel, primitive, rms_norm::dot, tensor};
use crate::backend::{NoisyBackend, Primitive};

/// Where every token goes. An entry is a token at one of its experts; entries are sorted by expert, then by token.
#[derive(Clone, Debug)]
pub struct Routes(Arc<Table>);

#[derive(Debug)]
struct Table {
    /// The token of every entry.
    rows: Vec<u32>,
    /// The experts that have tokens, and how many each has.
    loads: Vec<(usize, usize)>,
    /// The entries of every token and their experts, by expert, `[tokens, per_token]`.
    entries: Vec<(usize, usize)>,
    per_token: usize,
    normalised: bool,
}

impl Routes {
    /// Sends every token to the `per_token` experts that are most probable in its row of `probabilities`
    /// `[tokens, experts]`, the lower index first among equals. `normalised` weights are divided by their sum.
    ///
    /// # Panics
    /// If there are fewer experts.
    pub fn choose<B: NoisyBackend>(probabilities: &Tensor<B, 2>, per_token: usize, normalised: bool) -> Self {
        let [_, experts] = probabilities.dims();
        assert!((1..=experts).contains(&per_token), "{per_token} of {experts} experts");
        let host = B::host(&primitive(probabilities.clone()));
        let chosen: Vec<Vec<usize>> = host.chunks_exact(experts).map(|row| largest(row, per_token)).collect();
        let (mut rows, mut loads) = (Vec::new(), Vec::new());
        let mut entries = vec![Vec::with_capacity(per_token); chosen.len()];
        for expert in 0..experts {
            let first = rows.len();
            for (token, _) in chosen.iter().enumerate().filter(|(_, chosen)| chosen.contains(&expert)) {
                entries[token].push((rows.len(), expert));
                rows.push(token as u32);
            }
            if rows.len() > first {
                loads.push((expert, rows.len() - first));
            }
        }
        Self(Arc::new(Table { rows, loads, entries: entries.concat(), per_token, normalised }))
    }

    /// The token of every entry.
    pub fn rows(&self) -> &[u32] {
        &self.0.rows
    }

    /// The experts that have tokens, and how many each has, in the order of the entries.
    pub fn loads(&self) -> &[(usize, usize)] {
        &self.0.loads
    }

    /// The entries of every token and their experts.
    fn of_tokens(&self) -> impl Iterator<Item = &[(usize, usize)]> {
        self.0.entries.chunks_exact(self.0.per_token)
    }

    /// What the probabilities of a token's experts are divided by.
    fn divisor(&self, probabilities: &[f32], entries: &[(usize, usize)]) -> f32 {
        if self.0.normalised { entries.iter().map(|&(_, expert)| probabilities[expert]).sum() } else { 1.0 }
    }

    /// The weight of every entry.
    fn weights(&self, probabilities: &[f32], experts: usize) -> Vec<f32> {
        let mut weights = vec![0.0; self.0.rows.len()];
        for (row, entries) in probabilities.chunks_exact(experts).zip(self.of_tokens()) {
            let divisor = self.divisor(row, entries);
            entries.iter().for_each(|&(entry, expert)| weights[entry] = row[expert] / divisor);
        }
        weights
    }
}

/// The indices of the `count` largest elements; NaN is the smallest.
fn largest(row: &[f32], count: usize) -> Vec<usize> {
    let key = |index: usize| if row[index].is_nan() { f32::NEG_INFINITY } else { row[index] };
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| key(b).total_cmp(&key(a)).then(a.cmp(&b)));
    order.truncate(count);
    order
}

/// The weighted sum over every token's experts, `[tokens, width]`, of `outputs` `[entries, width]`, one row an entry of
/// `routes`, under `probabilities` `[tokens, experts]`.
pub fn mix_experts<B: NoisyBackend>(
    outputs: Tensor<B, 2>,
    probabilities: Tensor<B, 2>,
    routes: &Routes,
) -> Tensor<B, 2> {
    tensor(B::mix_experts(&primitive(outputs), &primitive(probabilities), routes))
}

/// The forward pass on host slices.
pub fn forward<B: NoisyBackend>(
    outputs: &Primitive<B>,
    probabilities: &Primitive<B>,
    routes: &Routes,
) -> Primitive<B> {
    let ([_, width], [tokens, experts]) = (B::shape(outputs), B::shape(probabilities));
    let (x, weights) = (B::host(outputs), routes.weights(&B::host(probabilities), experts));
    let (mut y, per_token) = (vec![0.0; tokens * width], routes.0.per_token);
    parallel::for_chunks(
        &mut y,
        width,
        #[inline(always)]
        |first, y| {
            let entries = routes.0.entries[first * per_token..].chunks_exact(per_token);
            for (y, entries) in y.chunks_exact_mut(width).zip(entries) {
                for &(entry, _) in entries {
                    let (x, weight) = (&x[entry * width..][..width], weights[entry]);
                    y.iter_mut().zip(x).for_each(|(y, x)| *y += weight * x);
                }
            }
        },
    );
    B::upload(y, [tokens, width], outputs)
}

/// `∂x[t, e] = w[t, e]·∂y[t]` and `∂w[t, e] = ∂y[t]·x[t, e]`; normalised, `∂p = (∂w − Σ ∂w·w)/Σ p`, else `∂p = ∂w`.
pub fn backward<B: NoisyBackend>(
    outputs: &Primitive<B>,
    probabilities: &Primitive<B>,
    grad: &Primitive<B>,
    routes: &Routes,
) -> [Primitive<B>; 2] {
    let ([_, width], [tokens, experts]) = (B::shape(outputs), B::shape(probabilities));
    let (x, p, dy) = (B::host(outputs), B::host(probabilities), B::host(grad));
    let weights = routes.weights(&p, experts);
    let mut dx = vec![0.0; x.len()];
    parallel::for_chunks(
        &mut dx,
        width,
        #[inline(always)]
        |first, dx| {
            for (entry, dx) in (first..).zip(dx.chunks_exact_mut(width)) {
                let dy = &dy[routes.0.rows[entry] as usize * width..][..width];
                dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = weights[entry] * dy);
            }
        },
    );
    let mut dp = vec![0.0; p.len()];
    let rows = dp.chunks_exact_mut(experts).zip(p.chunks_exact(experts)).zip(dy.chunks_exact(width));
    for (((dp, p), dy), entries) in rows.zip(routes.of_tokens()) {
        entries.iter().for_each(|&(entry, expert)| dp[expert] = dot(dy, &x[entry * width..][..width]));
        if routes.0.normalised {
            let (divisor, mut pull) = (routes.divisor(p, entries), 0.0);
            entries.iter().for_each(|&(entry, expert)| pull += dp[expert] * weights[entry]);
            entries.iter().for_each(|&(_, expert)| dp[expert] = (dp[expert] - pull) / divisor);
        }
    }
    [B::upload(dx, B::shape(outputs), outputs), B::upload(dp, [tokens, experts], probabilities)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_chosen_the_lower_index_among_equals_and_nan_last() {
        assert_eq!(largest(&[0.1, 0.4, 0.4, 0.1], 3), [1, 2, 0]);
        assert_eq!(largest(&[f32::NAN, 0.0, 0.2], 2), [2, 1]);
    }
}
