//! What is injected where: every point of every operator, forward and backward, against the same perturbation applied
//! by hand; and the receipts of it.

mod common;

use burn_tensor::Tensor;
use common::{
    MODULE, Tape, angles, at, bind, clean, distance, gradients, host, no_turn, rule, tensor, tokens, values,
    wide,
};
use hardy_numerics::{NoiseKey, Perturbation};
use hardy_ops::{
    At, BoundPlan, Op, Pass, Phase, Point, Receipt, Row, Rows, Rule,
    ops::{
        attention::{AttentionAt, Heads, Segments, attention},
        embedding::embedding,
        gelu::{Approximation, gelu},
        head::head,
        layer_norm::layer_norm,
        linear::linear,
        log_prob::log_prob,
        rms_norm::rms_norm,
        silu::{silu, silu_up},
        softmax::softmax,
    },
};

const BOTH: [Pass; 2] = [Pass::Forward, Pass::Backward];
const FIVE_PERCENT: Perturbation = Perturbation::RelativeGaussian { scale: 0.05 };

/// The key of the noise of [`at`], spelled out: the addresses are part of the record of a run and never change.
fn key(op: Op, point: Point, operand: &str, ordinal: usize) -> NoiseKey {
    let place = format!("{MODULE}/{}/{}/{operand}/{ordinal}", op.name(), point.name());
    NoiseKey::new(11, "train", 3, &place)
}

fn on_rows(key: NoiseKey, rows: &[Row], x: &[f32]) -> Vec<f32> {
    let mut x = x.to_vec();
    let width = x.len() / rows.len();
    FIVE_PERCENT.apply_rows(key, rows, 0, width, &mut x);
    x
}

fn on_weight(key: NoiseKey, w: &[f32]) -> Vec<f32> {
    let mut w = w.to_vec();
    FIVE_PERCENT.apply_flat(key, w.len(), &mut w);
    w
}

/// A linear layer's output, ∂x, ∂W and ∂b for a fixed ∂y.
struct LinearRun {
    y: Vec<f32>,
    dx: Vec<f32>,
    dw: Vec<f32>,
    db: Vec<f32>,
}

const TOKENS: usize = 23;
const INNER: usize = 18;
const OUTER: usize = 31;

fn x() -> Vec<f32> {
    values(TOKENS * INNER, 1)
}

fn w() -> Vec<f32> {
    values(OUTER * INNER, 2)
}

fn dy() -> Vec<f32> {
    values(TOKENS * OUTER, 4)
}

fn run_linear(at: &At) -> LinearRun {
    let [x, w, b] = [(x(), INNER), (w(), INNER), (values(OUTER, 3), OUTER)]
        .map(|(data, width)| tensor::<Tape>(&data, width).require_grad());
    let y = linear(x.clone(), w.clone(), Some(b.clone()), at);
    let [dx, dw, db] = gradients(&y, &dy(), &[&x, &w, &b]).try_into().unwrap();
    LinearRun { y: host(y), dx, dw, db }
}

/// `Σ_k a[i, k]·b[j, k]` in f64, with the strides of row and k.
fn contract(n: [usize; 3], a: (&[f32], usize, usize), b: (&[f32], usize, usize)) -> Vec<f64> {
    let [rows, cols, inner] = n;
    let term =
        |i: usize, j: usize, k: usize| f64::from(a.0[i * a.1 + k * a.2]) * f64::from(b.0[j * b.1 + k * b.2]);
    let dot = |i, j| (0..inner).map(|k| term(i, j, k)).sum::<f64>();
    (0..rows).flat_map(|i| (0..cols).map(move |j| (i, j))).map(|(i, j)| dot(i, j)).collect()
}

#[test]
fn ste_of_linear_uses_the_perturbed_weight_for_dx_and_the_perturbed_input_for_dw() {
    let rows = tokens(TOKENS);
    let plan =
        bind(vec![rule(Point::Input, &[Pass::Forward]), rule(Point::Weight, &[Pass::Forward])], Op::Linear);
    let got = run_linear(&at(&plan, &rows));
    let x_seen = on_rows(key(Op::Linear, Point::Input, "lhs", 0), &rows, &x());
    let w_seen = on_weight(key(Op::Linear, Point::Weight, "lhs", 0), &w());
    let dy = dy();
    let y = contract([TOKENS, OUTER, INNER], (&x_seen, INNER, 1), (&w_seen, INNER, 1));
    let bias = values(OUTER, 3);
    let y: Vec<f64> = y.iter().enumerate().map(|(i, y)| y + f64::from(bias[i % OUTER])).collect();
    assert!(distance(&got.y, &y) < 1e-6);
    let dx = contract([TOKENS, INNER, OUTER], (&dy, OUTER, 1), (&w_seen, 1, INNER));
    assert!(distance(&got.dx, &dx) < 1e-6);
    let dw = contract([OUTER, INNER, TOKENS], (&dy, 1, OUTER), (&x_seen, 1, INNER));
    assert!(distance(&got.dw, &dw) < 1e-6);
    let clean_dx = contract([TOKENS, INNER, OUTER], (&dy, OUTER, 1), (&w(), 1, INNER));
    assert!(distance(&got.dx, &clean_dx) > 0.01, "the perturbed weight differs from the stored one");
}

#[test]
fn ste_of_rms_norm_uses_what_the_forward_pass_saw() {
    let (rows, width) = (tokens(9), 24);
    let plan =
        bind(vec![rule(Point::Input, &[Pass::Forward]), rule(Point::Weight, &[Pass::Forward])], Op::RmsNorm);
    let (x, w, dy) = (values(9 * width, 1), values(width, 2), values(9 * width, 3));
    let (tx, tw) = (tensor::<Tape>(&x, width).require_grad(), tensor::<Tape>(&w, width).require_grad());
    let y = rms_norm(tx.clone(), tw.clone(), 1e-6, &at(&plan, &rows));
    let grads = gradients(&y, &dy, &[&tx, &tw]);
    let x = wide(&on_rows(key(Op::RmsNorm, Point::Input, "lhs", 0), &rows, &x));
    let w = wide(&on_weight(key(Op::RmsNorm, Point::Weight, "lhs", 0), &w));
    let (mut expected_y, mut dx, mut dw) = (Vec::new(), Vec::new(), vec![0.0; width]);
    for (x, dy) in x.chunks(width).zip(wide(&dy).chunks(width)) {
        let n = width as f64;
        let r = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / n + f64::from(1e-6_f32)).sqrt();
        let pull: f64 = (0..width).map(|i| dy[i] * w[i] * x[i]).sum::<f64>() * r.powi(3) / n;
        for i in 0..width {
            expected_y.push(x[i] * r * w[i]);
            dx.push(dy[i] * w[i] * r - x[i] * pull);
            dw[i] += dy[i] * x[i] * r;
        }
    }
    assert!(distance(&host(y), &expected_y) < 1e-6);
    assert!(distance(&grads[0], &dx) < 1e-6);
    assert!(distance(&grads[1], &dw) < 1e-6);
}

#[test]
fn backward_errors_of_linear_perturb_dx_and_dw_each_with_its_own_address() {
    let rows = tokens(TOKENS);
    let calm = run_linear(&clean(&rows));
    let got = run_linear(&at(&bind(vec![rule(Point::Output, &[Pass::Backward])], Op::Linear), &rows));
    assert_eq!(got.y, calm.y, "the forward pass is untouched");
    assert_eq!(got.dx, on_rows(key(Op::Linear, Point::GradInput, "lhs", 0), &rows, &calm.dx));
    assert_eq!(got.dw, on_weight(key(Op::Linear, Point::GradWeight, "lhs", 0), &calm.dw));
    assert_eq!(got.db, calm.db, "a sum is no product");
}

#[test]
fn one_gradient_alone_can_be_perturbed() {
    let rows = tokens(TOKENS);
    let calm = run_linear(&clean(&rows));
    for point in [Point::Weight, Point::GradWeight] {
        let got = run_linear(&at(&bind(vec![rule(point, &[Pass::Backward])], Op::Linear), &rows));
        assert_eq!((&got.y, &got.dx), (&calm.y, &calm.dx));
        assert_ne!(got.dw, calm.dw);
    }
    for point in [Point::Input, Point::GradInput] {
        let got = run_linear(&at(&bind(vec![rule(point, &[Pass::Backward])], Op::Linear), &rows));
        assert_eq!((&got.y, &got.dw), (&calm.y, &calm.dw));
        assert_ne!(got.dx, calm.dx);
    }
}

#[test]
fn forward_only_errors_leave_the_backward_products_alone() {
    let rows = tokens(TOKENS);
    let calm = run_linear(&clean(&rows));
    let got = run_linear(&at(&bind(vec![rule(Point::Output, &[Pass::Forward])], Op::Linear), &rows));
    assert_eq!(got.y, on_rows(key(Op::Linear, Point::Output, "lhs", 0), &rows, &calm.y));
    assert_eq!((got.dx, got.dw, got.db), (calm.dx, calm.dw, calm.db));
}

#[test]
fn errors_of_both_passes_are_those_of_each() {
    let rows = tokens(TOKENS);
    let run = |pass: &[Pass]| run_linear(&at(&bind(vec![rule(Point::Output, pass)], Op::Linear), &rows));
    let (both, forward, backward) = (run(&BOTH), run(&[Pass::Forward]), run(&[Pass::Backward]));
    assert_eq!((both.y, both.dx, both.dw), (forward.y, backward.dx, backward.dw));
}

#[test]
fn overlapping_rules_apply_in_order_with_independent_noise() {
    let rows = tokens(TOKENS);
    let calm = run_linear(&clean(&rows));
    let absolute = Perturbation::AbsoluteGaussian { scale: 0.3 };
    let second =
        Rule { error: absolute, ops: hardy_ops::Ops::Some(vec![Op::Linear]), ..rule(Point::Output, &BOTH) };
    let got = run_linear(&at(&bind(vec![rule(Point::Output, &BOTH), second], Op::Linear), &rows));
    let twice = |point, x: &[f32]| {
        let mut x = on_rows(key(Op::Linear, point, "lhs", 0), &rows, x);
        let width = x.len() / rows.len();
        absolute.apply_rows(key(Op::Linear, point, "lhs", 1), &rows, 0, width, &mut x);
        x
    };
    assert_eq!(got.y, twice(Point::Output, &calm.y));
    assert_eq!(got.dx, twice(Point::GradInput, &calm.dx));
}

const HEADS: Heads = Heads { query: 4, kv: 2, dim: 6 };
const LENGTHS: [usize; 4] = [3, 70, 1, 9];
const COUNT: usize = 83;
/// Pairs of a query and a key that it sees, in all heads.
const PAIRS: u64 = 4 * (6 + 35 * 71 + 1 + 45);

/// A forward and a backward pass of the operator, whatever it needs; gives output and gradients.
fn run(op: Op, at: &At) -> Vec<Vec<f32>> {
    let rows = tokens(COUNT);
    let input = |seed, height: usize, width: usize| {
        tensor::<Tape>(&values(height * width, seed), width).require_grad()
    };
    let done = |y: Tensor<Tape, 2>, inputs: &[&Tensor<Tape, 2>]| {
        let dy = values(y.dims()[0] * y.dims()[1], 9);
        let mut all = gradients(&y, &dy, inputs);
        all.push(host(y));
        all
    };
    let x = input(1, COUNT, 24);
    match op {
        Op::Linear => {
            let w = input(2, 10, 24);
            done(linear(x.clone(), w.clone(), None, at), &[&x, &w])
        }
        Op::Matmul | Op::Softmax => {
            let (k, v) = (input(2, COUNT, 12), input(3, COUNT, 12));
            let part = |of: Op| if op == of { at.clone() } else { clean(&rows) };
            let at =
                AttentionAt { scores: part(Op::Matmul), softmax: part(Op::Softmax), values: clean(&rows) };
            let (qkv, segments) = ([&x, &k, &v].map(Tensor::clone), Segments::from_lengths(LENGTHS));
            let y = attention(qkv, &angles(&rows, HEADS.dim), HEADS, &segments, &at);
            done(y, &[&x, &k, &v])
        }
        Op::RmsNorm => {
            let w = input(2, 1, 24);
            done(rms_norm(x.clone(), w.clone(), 1e-6, at), &[&x, &w])
        }
        Op::LayerNorm => {
            let (w, b) = (input(2, 1, 24), input(3, 1, 24));
            done(layer_norm(x.clone(), w.clone(), b.clone(), 1e-6, at), &[&x, &w, &b])
        }
        Op::Silu => done(silu(x.clone(), at), &[&x]),
        Op::Gelu => done(gelu(x.clone(), Approximation::Tanh, at), &[&x]),
        Op::Embedding => {
            let (w, ids) = (input(2, 13, 24), (0..COUNT as u32).map(|i| i % 13).collect::<Vec<_>>());
            done(embedding(w.clone(), &ids, at), &[&w])
        }
    }
}

/// Elements that pass `point` of the operator in [`run`].
fn elements(op: Op, point: Point) -> u64 {
    let activation = COUNT as u64 * 24;
    match (op, point) {
        (Op::Linear, Point::Output) => COUNT as u64 * 10,
        (Op::Linear, Point::Weight | Point::GradWeight) => 240,
        (Op::Embedding, Point::Weight | Point::GradWeight) => 13 * 24,
        (_, Point::Weight | Point::GradWeight) => 24,
        // Queries and keys; the gradients of keys for every query head.
        (Op::Matmul, Point::Input) => activation + activation / 2,
        (Op::Matmul, Point::GradInput) => 2 * activation,
        (Op::Matmul | Op::Softmax, _) => PAIRS,
        _ => activation,
    }
}

/// A call is a row; a weight and its gradient are perturbed once.
fn calls(point: Point, rows: usize) -> u64 {
    if matches!(point, Point::Weight | Point::GradWeight) { 1 } else { rows as u64 }
}

#[test]
fn every_point_of_every_operator_injects_and_counts_exactly() {
    for op in Op::ALL {
        for &point in op.points() {
            let plan = bind(vec![rule(point, &[point.pass()])], op);
            let (noisy, calm) = (run(op, &at(&plan, &tokens(COUNT))), run(op, &clean(&tokens(COUNT))));
            assert_ne!(noisy, calm, "{op:?} {point:?} changes nothing");
            if point.pass() == Pass::Backward {
                assert_eq!(noisy.last(), calm.last(), "{op:?} {point:?} changes the forward pass");
            }
            let fired: Vec<Receipt> =
                plan.receipts().into_iter().filter(|receipt| receipt.calls > 0).collect();
            assert_eq!(fired.len(), 1, "{op:?} {point:?}");
            let receipt = &fired[0];
            assert_eq!(
                (receipt.op, receipt.point, receipt.pass, receipt.phase),
                (op, point, point.pass(), Phase::Train)
            );
            let counts = (calls(point, COUNT), elements(op, point));
            assert_eq!((receipt.calls, receipt.elements), counts, "{op:?} {point:?}");
            assert_eq!(receipt.asked, Some(0.05));
            assert!(
                receipt.measured > 0.03 && receipt.measured < 0.08,
                "{op:?} {point:?}: {}",
                receipt.measured
            );
        }
    }
}

#[test]
fn the_values_of_attention_are_perturbed_at_both_factors_and_the_output() {
    let rows = tokens(COUNT);
    let part = |plan: &BoundPlan| AttentionAt {
        scores: clean(&rows),
        softmax: clean(&rows),
        values: at(plan, &rows),
    };
    let qkv =
        [24, 12, 12].map(|width| tensor::<Tape>(&values(COUNT * width, width as u64), width).require_grad());
    let (angles, segments) = (angles(&rows, HEADS.dim), Segments::from_lengths(LENGTHS));
    for (point, expected) in [
        (Point::Input, PAIRS + COUNT as u64 * 12),
        (Point::Output, COUNT as u64 * 24),
        (Point::GradInput, PAIRS + COUNT as u64 * 24),
    ] {
        let plan = bind(vec![rule(point, &[point.pass()])], Op::Matmul);
        let y = attention(qkv.clone(), &angles, HEADS, &segments, &part(&plan));
        gradients(&y, &values(COUNT * 24, 9), &qkv.each_ref());
        let receipts = plan.receipts();
        let receipt = receipts.iter().find(|receipt| receipt.phase == Phase::Train).unwrap();
        assert_eq!((receipt.calls, receipt.elements), (COUNT as u64, expected), "{point:?}");
    }
}

#[test]
fn dx_of_attention_uses_what_the_products_saw() {
    let rows = tokens(COUNT);
    let plan = bind(vec![rule(Point::Input, &[Pass::Forward])], Op::Matmul);
    let dirty = AttentionAt { scores: at(&plan, &rows), softmax: clean(&rows), values: clean(&rows) };
    let calm = AttentionAt { scores: clean(&rows), ..dirty.clone() };
    let data = [(24, 1), (12, 2), (12, 3)].map(|(width, seed)| values(COUNT * width, seed));
    let run = |data: [&[f32]; 3], at: &AttentionAt| {
        let qkv = [0, 1, 2].map(|i| tensor::<Tape>(data[i], [24, 12, 12][i]).require_grad());
        let (angles, segments) = (no_turn(&rows, HEADS.dim), Segments::from_lengths(LENGTHS));
        let y = attention(qkv.clone(), &angles, HEADS, &segments, at);
        let grads = gradients(&y, &values(COUNT * 24, 9), &qkv.each_ref());
        (host(y), grads)
    };
    let q = on_rows(key(Op::Matmul, Point::Input, "lhs", 0), &rows, &data[0]);
    let k = on_rows(key(Op::Matmul, Point::Input, "rhs", 0), &rows, &data[1]);
    assert_eq!(run([&data[0], &data[1], &data[2]], &dirty), run([&q, &k, &data[2]], &calm));
}

#[test]
fn five_percent_asked_is_five_percent_measured() {
    let (count, width) = (256, 256);
    let rows: Rows = tokens(count);
    for point in [Point::Input, Point::Output, Point::GradInput] {
        let plan = bind(vec![rule(point, &[point.pass()])], Op::Silu);
        let x = tensor::<Tape>(&values(count * width, 1), width).require_grad();
        let y = silu(x.clone(), &at(&plan, &rows));
        gradients(&y, &values(count * width, 2), &[&x]);
        let receipts = plan.receipts();
        let receipt = receipts.iter().find(|receipt| receipt.phase == Phase::Train).unwrap();
        assert!((0.049..=0.051).contains(&receipt.measured), "{point:?}: {}", receipt.measured);
    }
}

#[test]
fn the_recomputation_of_the_backward_pass_is_not_counted() {
    let plan =
        bind(vec![rule(Point::Input, &[Pass::Forward]), rule(Point::Weight, &[Pass::Forward])], Op::Linear);
    run_linear(&at(&plan, &tokens(TOKENS)));
    for receipt in plan.receipts().iter().filter(|receipt| receipt.phase == Phase::Train) {
        assert_eq!(receipt.calls, calls(receipt.point, TOKENS), "{receipt:?}");
    }
}

#[test]
fn a_gradient_that_nobody_needs_is_not_counted() {
    let plan = bind(vec![rule(Point::Output, &[Pass::Backward])], Op::Linear);
    let (x, w) = (tensor::<Tape>(&x(), INNER).require_grad(), tensor::<Tape>(&w(), INNER));
    let y = linear(x.clone(), w, None, &at(&plan, &tokens(TOKENS)));
    gradients(&y, &dy(), &[&x]);
    let calls = |point| plan.receipts().iter().find(|receipt| receipt.point == point).unwrap().calls;
    assert_eq!((calls(Point::GradInput), calls(Point::GradWeight)), (TOKENS as u64, 0));
}

#[test]
fn softmax_by_itself_is_perturbed_like_that_of_attention() {
    let rows = tokens(5);
    let plan = bind(vec![rule(Point::Output, &BOTH)], Op::Softmax);
    let x = tensor::<Tape>(&values(5 * 8, 1), 8).require_grad();
    let (y, calm) = (softmax(x.clone(), &at(&plan, &rows)), softmax(x.clone(), &clean(&rows)));
    let dy = values(5 * 8, 2);
    let (dx, calm_dx) = (gradients(&y, &dy, &[&x]), gradients(&calm, &dy, &[&x]));
    assert_eq!(host(y), on_rows(key(Op::Softmax, Point::Output, "lhs", 0), &rows, &host(calm)));
    assert_eq!(dx[0], on_rows(key(Op::Softmax, Point::GradInput, "lhs", 0), &rows, &calm_dx[0]));
}

#[test]
fn watched_noise_keeps_the_largest_magnitude_of_every_site() {
    let rows = tokens(2);
    let noise = hardy_ops::Noise::clean().watched(2);
    let run = |x: &[f32], site: usize| {
        silu(tensor::<burn_flex::Flex>(x, 2), &noise.at(hardy_ops::SiteId(site), &rows))
    };
    let y = host(run(&[1.0, -30.0, 20.0, 0.0], 0));
    run(&[1.0, f32::NAN, 0.0, 0.0], 1);
    assert_eq!(noise.magnitudes(), [y[2], f32::INFINITY]);
}

#[test]
fn the_head_injects_and_counts_as_the_linear_layer_that_it_is() {
    let (count, inner, vocab) = (700, 6, 40);
    let rows = tokens(count);
    let targets: Vec<u32> = (0..count).map(|row| (row * 7 % vocab) as u32).collect();
    let (x_host, w_host, c) = (values(count * inner, 1), values(vocab * inner, 2), values(2 * count, 3));
    let rules = [Point::Input, Point::Weight, Point::Output].map(|point| rule(point, &BOTH));
    let run = |fused: bool| {
        let plan = bind(rules.to_vec(), Op::Linear);
        let at = at(&plan, &rows);
        let [x, w] = [&x_host, &w_host].map(|x| tensor::<Tape>(x, inner).require_grad());
        let y = if fused {
            head(x.clone(), w.clone(), &targets, 0.7, &at)
        } else {
            Tensor::cat(log_prob(linear(x.clone(), w.clone(), None, &at), &targets, 0.7).to_vec(), 1)
        };
        let grads = gradients(&y, &c, &[&x, &w]);
        let counts: Vec<_> = plan.receipts().iter().map(|r| (r.calls, r.elements)).collect();
        (host(y), grads, counts, plan.receipts())
    };
    let ((y, grads, counts, receipts), (y_plain, grads_plain, counts_plain, plain)) = (run(true), run(false));
    assert_eq!(y, y_plain);
    assert_eq!(counts, counts_plain);
    for (ours, plain) in receipts.iter().zip(&plain) {
        assert!((ours.measured - plain.measured).abs() < 1e-6, "{ours:?} {plain:?}");
    }
    for (ours, plain) in grads.iter().zip(&grads_plain) {
        assert!(distance(ours, &wide(plain)) < 1e-5);
    }
}

#[test]
fn silu_that_gates_injects_and_counts_as_silu_alone() {
    let rows = tokens(TOKENS);
    let (gate, up, c) = (x(), values(TOKENS * INNER, 8), values(TOKENS * INNER, 9));
    let rules = [Point::Input, Point::Output].map(|point| rule(point, &BOTH));
    let run = |fused: bool| {
        let plan = bind(rules.to_vec(), Op::Silu);
        let at = at(&plan, &rows);
        let [gate, up] = [&gate, &up].map(|x| tensor::<Tape>(x, INNER).require_grad());
        let y =
            if fused { silu_up(gate.clone(), up.clone(), &at) } else { silu(gate.clone(), &at) * up.clone() };
        let grads = gradients(&y, &c, &[&gate, &up]);
        (host(y), grads[1].clone(), grads[0].clone(), plan.receipts())
    };
    let ((y, d_up, d_gate, receipts), (y_plain, d_up_plain, d_gate_plain, plain)) = (run(true), run(false));
    assert_eq!((y, d_up), (y_plain, d_up_plain));
    assert!(distance(&d_gate, &wide(&d_gate_plain)) < 1e-6);
    let counts =
        |receipts: &[Receipt]| -> Vec<_> { receipts.iter().map(|r| (r.calls, r.elements)).collect() };
    assert_eq!(counts(&receipts), counts(&plain));
}
