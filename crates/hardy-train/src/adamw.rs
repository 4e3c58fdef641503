//! AdamW (arXiv:1711.05101), as PyTorch computes it: `p ← p·(1 − lr·λ) − lr·m̂/(√v̂ + ε)`.

use std::ops::Range;

use burn_tensor::{Tensor, TensorData, backend::Backend};
use hardy_numerics::simd::dispatch;
use hardy_ops::NoisyBackend;
use rayon::prelude::*;

/// What PyTorch adds to the denominator.
const EPSILON: f32 = 1e-8;
/// Elements that one task updates.
const CHUNK: usize = 16 * 1024;

/// The moments of every parameter and how many steps they have seen.
#[derive(Clone, Debug)]
pub struct AdamW<B: Backend> {
    /// β₁ and β₂.
    pub betas: [f64; 2],
    /// λ, the decoupled weight decay; not applied to vectors (norms and biases).
    pub weight_decay: f64,
    /// Steps taken.
    pub steps: u64,
    /// Mean of the gradients, and of their squares, in the order of the parameters.
    pub moments: Vec<[Tensor<B, 2>; 2]>,
}

impl<B: NoisyBackend> AdamW<B> {
    /// Moments of zero for `parameters`.
    pub fn new(parameters: &[Tensor<B, 2>], betas: [f64; 2], weight_decay: f64) -> Self {
        let moments = parameters.iter().map(|p| [p.zeros_like(), p.zeros_like()]).collect();
        Self { betas, weight_decay, steps: 0, moments }
    }

    /// One step on every parameter.
    pub fn step(
        &mut self,
        parameters: &mut [Tensor<B, 2>],
        gradients: Vec<Tensor<B, 2>>,
        learning_rate: f64,
    ) {
        let all = 0..parameters.len();
        self.step_some(parameters, gradients, learning_rate, all);
    }

    /// One step on the parameters at `places`, of which alone there need be moments.
    pub fn step_some(
        &mut self,
        parameters: &mut [Tensor<B, 2>],
        gradients: Vec<Tensor<B, 2>>,
        learning_rate: f64,
        places: Range<usize>,
    ) {
        self.steps += 1;
        let [b1, b2] = self.betas;
        let steps = self.steps as f64;
        let (correct_1, correct_2) = (1.0 - b1.powf(steps), 1.0 - b2.powf(steps));
        let update = |p: &Tensor<B, 2>| {
            let decay = if p.dims()[0] == 1 { 0.0 } else { self.weight_decay };
            Update {
                betas: [b1, b2].map(|b| b as f32),
                rest: [b1, b2].map(|b| (1.0 - b) as f32),
                corrections: [correct_1, correct_2].map(|c| c as f32),
                keep: (1.0 - learning_rate * decay) as f32,
                rate: learning_rate as f32,
            }
        };
        let all = parameters.iter_mut().zip(gradients).zip(&mut self.moments);
        let some = all.take(places.end).skip(places.start);
        let some = some.map(|((p, gradient), [m, v])| Due { update: update(p), state: [p, m, v], gradient });
        if B::ON_HOST {
            return on_host(some.collect());
        }
        some.for_each(|Due { update, state, gradient }| update.on_device(state, &gradient));
    }
}

/// A parameter and its moments, which are due an update.
struct Due<'a, B: Backend> {
    update: Update,
    state: [&'a mut Tensor<B, 2>; 3],
    gradient: Tensor<B, 2>,
}

/// All updates on all threads at once, for many parameters are small.
fn on_host<B: NoisyBackend>(mut all: Vec<Due<B>>) {
    let mut states: Vec<[Vec<f32>; 3]> =
        all.iter_mut().map(|due| due.state.each_mut().map(|x| take(x))).collect();
    let gradients: Vec<B::Host> =
        all.iter().map(|due| B::host(&due.gradient.clone().into_primitive().tensor())).collect();
    let parts = all.iter().zip(&mut states).zip(&gradients).flat_map(|((due, [p, m, v]), g)| {
        let moments = m.chunks_mut(CHUNK).zip(v.chunks_mut(CHUNK));
        let state = p.chunks_mut(CHUNK).zip(moments).map(|(p, (m, v))| [p, m, v]);
        state.zip(g.chunks(CHUNK)).map(|(state, g)| (&due.update, state, g))
    });
    parts.collect::<Vec<_>>().into_par_iter().for_each(|(update, state, g)| {
        dispatch(
            #[inline(always)]
            || update.chunk(state, g),
        );
    });
    for (due, state) in all.into_iter().zip(states) {
        for (tensor, data) in due.state.into_iter().zip(state) {
            *tensor = Tensor::from_data(TensorData::new(data, due.gradient.dims()), &tensor.device());
        }
    }
}

/// One step on one parameter.
struct Update {
    betas: [f32; 2],
    /// `1 − β`.
    rest: [f32; 2],
    /// `1 − βᵗ`.
    corrections: [f32; 2],
    /// What decay leaves of the parameter.
    keep: f32,
    rate: f32,
}

impl Update {
    /// As operations of the device, element by element.
    fn on_device<B: NoisyBackend>(&self, [p, m, v]: [&mut Tensor<B, 2>; 3], g: &Tensor<B, 2>) {
        let ([b1, b2], [rest_1, rest_2], [correct_1, correct_2]) = (self.betas, self.rest, self.corrections);
        *m = m.clone() * b1 + g.clone() * rest_1;
        *v = v.clone() * b2 + g.clone() * g.clone() * rest_2;
        let direction = (m.clone() / correct_1) / ((v.clone() / correct_2).sqrt() + EPSILON);
        *p = p.clone() * self.keep - direction * self.rate;
    }

    /// The same in one pass over some elements.
    #[inline(always)]
    fn chunk(&self, [p, m, v]: [&mut [f32]; 3], g: &[f32]) {
        let ([b1, b2], [rest_1, rest_2], [correct_1, correct_2]) = (self.betas, self.rest, self.corrections);
        for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            *m = *m * b1 + g * rest_1;
            *v = *v * b2 + g * g * rest_2;
            let direction = (*m / correct_1) / ((*v / correct_2).sqrt() + EPSILON);
            *p = *p * self.keep - direction * self.rate;
        }
    }
}

/// The elements of `x`, which is empty then: not copied where nobody else holds them.
fn take<B: NoisyBackend>(x: &mut Tensor<B, 2>) -> Vec<f32> {
    let empty = Tensor::zeros([1, 1], &x.device());
    let data = std::mem::replace(x, empty).into_data();
    data.into_vec().unwrap_or_else(|error| panic!("parameters and moments are f32: {error:?}"))
}

#[cfg(test)]
mod tests {
    use burn_flex::Flex;

    use super::*;

    #[test]
    fn two_steps_follow_the_definition_in_f64() {
        let device = Default::default();
        let mut parameters = [Tensor::<Flex, 2>::from_floats([[0.5, -1.0], [2.0, 0.0]], &device)];
        let mut adam = AdamW::new(&parameters, [0.9, 0.95], 0.1);
        let gradients = [[0.3_f64, -0.2, 0.0, 1.0], [0.1, 0.4, -0.5, 1.0]];
        let (mut p, mut m, mut v) = ([0.5_f64, -1.0, 2.0, 0.0], [0.0_f64; 4], [0.0_f64; 4]);
        for (step, g) in gradients.iter().enumerate() {
            let shaped = [[g[0] as f32, g[1] as f32], [g[2] as f32, g[3] as f32]];
            adam.step(&mut parameters, vec![Tensor::from_floats(shaped, &device)], 0.01);
            let t = step as i32 + 1;
            for i in 0..4 {
                m[i] = 0.9 * m[i] + 0.1 * g[i];
                v[i] = 0.95 * v[i] + 0.05 * g[i] * g[i];
                let (m_hat, v_hat) = (m[i] / (1.0 - 0.9_f64.powi(t)), v[i] / (1.0 - 0.95_f64.powi(t)));
                p[i] = p[i] * (1.0 - 0.01 * 0.1) - 0.01 * m_hat / (v_hat.sqrt() + 1e-8);
            }
        }
        let ours: Vec<f32> = parameters[0].to_data().to_vec().unwrap();
        assert!(ours.iter().zip(p).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-6), "{ours:?} {p:?}");
    }

    #[test]
    fn vectors_do_not_decay() {
        let device = Default::default();
        let mut parameters = [Tensor::<Flex, 2>::ones([1, 3], &device), Tensor::ones([2, 3], &device)];
        let zeros = parameters.iter().map(Tensor::zeros_like).collect();
        AdamW::new(&parameters, [0.9, 0.999], 0.5).step(&mut parameters, zeros, 0.1);
        let first = |p: &Tensor<Flex, 2>| p.to_data().to_vec::<f32>().unwrap()[0];
        assert_eq!(first(&parameters[0]), 1.0);
        assert!((first(&parameters[1]) - 0.95).abs() < 1e-6);
    }
}
