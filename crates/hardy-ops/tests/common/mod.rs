//! What the tests share: tensors of reproducible values, addresses, and plans bound to a handful of sites.
// Every test binary compiles this file by itself, and none uses all of it.
#![allow(dead_code)]

use burn_autodiff::Autodiff;
use burn_flex::Flex;
use burn_tensor::{Tensor, TensorData};
use hardy_ops::{
    At, BoundPlan, Noise, NoisyBackend, Op, Ops, Pass, Phase, Plan, Point, Row, Rows, Rule, Site, SiteId,
    ops::attention::Angles,
};

/// The CPU with a tape.
pub type Tape = Autodiff<Flex>;

/// `n` values spread over [-1, 1].
pub fn values(n: usize, seed: u64) -> Vec<f32> {
    let value = |i: usize| {
        let mut z =
            (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ seed.wrapping_mul(0xD1B5_4A32_D192_ED03);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z >> 40) as f32) / 8_388_608.0 - 1.0
    };
    (0..n).map(value).collect()
}

/// Small integers, whose products and sums are exact in f32 in whatever order.
pub fn integers(n: usize, seed: u64) -> Vec<f32> {
    values(n, seed).into_iter().map(|x| (x * 4.0).round()).collect()
}

pub fn tensor<B: NoisyBackend>(data: &[f32], width: usize) -> Tensor<B, 2> {
    Tensor::from_data(TensorData::new(data.to_vec(), [data.len() / width, width]), &B::Device::default())
}

pub fn host<B: NoisyBackend>(x: Tensor<B, 2>) -> Vec<f32> {
    B::host(&x.into_primitive().tensor()).to_vec()
}

/// The gradients of `Σ c·y` with respect to `inputs`.
pub fn gradients(y: &Tensor<Tape, 2>, c: &[f32], inputs: &[&Tensor<Tape, 2>]) -> Vec<Vec<f32>> {
    let width = y.dims()[1];
    let grads = (y.clone() * tensor::<Tape>(c, width)).sum().backward();
    inputs.iter().map(|x| host(x.grad(&grads).expect("a gradient"))).collect()
}

/// The addresses of packed sequences with these ids and lengths.
pub fn rows(sequences: &[(u64, usize)]) -> Rows {
    let of = |&(sequence, length): &(u64, usize)| {
        (0..length as u32).map(move |position| Row { sequence, position })
    };
    sequences.iter().flat_map(of).collect()
}

/// The addresses of `tokens` tokens of one sequence.
pub fn tokens(tokens: usize) -> Rows {
    rows(&[(7, tokens)])
}

/// The angles of `rows` in heads of `dim`.
pub fn angles(rows: &Rows, dim: usize) -> Angles {
    Angles::new(rows.iter().map(|row| row.position), &frequencies(dim))
}

/// No turn anywhere.
pub fn no_turn(rows: &Rows, dim: usize) -> Angles {
    Angles::new(rows.iter().map(|_| 0), &frequencies(dim))
}

/// The frequencies of a head, in radians a position.
pub fn frequencies(dim: usize) -> Vec<f32> {
    (0..dim / 2).map(|i| 0.3_f32.powi(i as i32)).collect()
}

pub const MODULE: &str = "model.layers.0.part";

/// One site with `op`.
pub fn site(op: Op) -> Site {
    Site { module: MODULE.to_owned(), op, layer: Some(0) }
}

/// 5 % relative Gaussian error at `at` of every operator, in these passes.
pub fn rule(at: Point, pass: &[Pass]) -> Rule {
    Rule { ops: Ops::All, at, pass: pass.to_vec(), ..Rule::noise(0.05) }
}

/// The rules bound to one site with `op`, acting in every phase.
pub fn bind(rules: Vec<Rule>, op: Op) -> BoundPlan {
    Plan { rules, seed: 11, ..Plan::default() }
        .bind(&[site(op)], &Phase::ALL)
        .expect("the rules match the site")
}

/// The part of the only site in training at step 3.
pub fn at(plan: &BoundPlan, rows: &Rows) -> At {
    plan.noise(Phase::Train, 3).at(SiteId(0), rows)
}

/// No errors.
pub fn clean(rows: &Rows) -> At {
    Noise::clean().at(SiteId(0), rows)
}

/// ‖a − b‖/‖b‖.
pub fn distance(a: &[f32], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let error: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
    let norm: f64 = b.iter().map(|b| b * b).sum();
    (error / norm.max(1e-30)).sqrt()
}

pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}
