//! What noise does not depend on: how sequences are batched and in which order, the cache, the number of threads, how
//! often a plan is bound.

mod common;

use burn_flex::Flex;
use burn_tensor::Tensor;
use common::{Tape, angles, at, bind, clean, gradients, host, integers, rows, rule, tensor, values};
use hardy_numerics::{Bits, Fault, Format, Image, Perturbation, Quantization, Rounding};
use hardy_ops::{
    At, BoundPlan, Noise, NoisyBackend, Op, Pass, Phase, Plan, Point, Receipt, Rows, Rule, Site, SiteId,
    Streams,
    ops::{
        attention::{AttentionAt, Heads, KvBuffer, Places, Segments, attention, cached_attention},
        embedding::embedding,
        linear::{freeze, frozen_linear, linear},
        log_prob::log_prob,
        rms_norm::rms_norm,
        silu::silu,
    },
};
use proptest::{collection::vec, prelude::*, sample::Index};

const HEADS: Heads = Heads { query: 4, kv: 2, dim: 8 };
const BOTH: [Pass; 2] = [Pass::Forward, Pass::Backward];

/// The three sites of attention, then one site of every other kind that [`network`] has.
const OPS: [(&str, Op); 7] = [
    ("scores", Op::Matmul),
    ("softmax", Op::Softmax),
    ("values", Op::Matmul),
    ("embed", Op::Embedding),
    ("norm", Op::RmsNorm),
    ("proj", Op::Linear),
    ("act", Op::Silu),
];

fn sites() -> Vec<Site> {
    OPS.iter().map(|(module, op)| Site { module: (*module).to_owned(), op: *op, layer: Some(0) }).collect()
}

/// 5 % at every point of every operator, in both passes.
fn everywhere() -> BoundPlan {
    everywhere_with(rule(Point::Input, &BOTH).error)
}

/// An error at every point of every operator, in both passes.
fn everywhere_with(error: Perturbation) -> BoundPlan {
    let rules =
        [Point::Input, Point::Output, Point::Weight].map(|point| Rule { error, ..rule(point, &BOTH) });
    Plan { rules: rules.to_vec(), seed: 5, ..Plan::default() }.bind(&sites(), &Phase::ALL).unwrap()
}

/// Noise, formats that round by chance under a scale of the row, and faults of some channels.
fn kinds() -> [Perturbation; 5] {
    let stochastic = |format: Format| {
        Perturbation::Quantization(Quantization { rounding: Rounding::Stochastic, ..format.into() })
    };
    let (bits, image) = (Bits::Mantissa, Image::Bf16);
    [
        Perturbation::RelativeGaussian { scale: 0.05 },
        stochastic(Format::Nvfp4),
        stochastic(Format::Fp8E4m3),
        Perturbation::Fault { fault: Fault::Spike { scale: 0.5, rate: 0.1 }, sparsity: 0.4 },
        Perturbation::Fault { fault: Fault::BitFlip { rate: 0.02, bits, image }, sparsity: 0.7 },
    ]
}

fn attention_at(noise: &Noise, rows: &Rows) -> AttentionAt {
    AttentionAt {
        scores: noise.at(SiteId(0), rows),
        softmax: noise.at(SiteId(1), rows),
        values: noise.at(SiteId(2), rows),
    }
}

/// The rows `range` of `x` `[tokens, width]`.
fn part(x: &[f32], width: usize, range: std::ops::Range<usize>) -> Tensor<Flex, 2> {
    tensor(&x[range.start * width..range.end * width], width)
}

/// Places in one layer of [`HEADS`].
fn places(count: usize, tokens: usize) -> Places {
    Places { count, tokens, layers: 1, width: 16 }
}

/// Attention over a sequence in steps of the given sizes, with a cache.
fn by_steps(heads: Heads, qkv: &[Vec<f32>; 3], rows: &Rows, steps: &[usize], noise: &Noise) -> Vec<f32> {
    let width = heads.kv * heads.dim;
    let mut cache = KvBuffer::for_sequences(Places { width, ..places(1, steps.iter().sum()) });
    let widths = [heads.query * heads.dim, width, width];
    let (sequence, mut start, mut y) = ([cache.sample(None)], 0, Vec::new());
    for step in steps {
        let range = start..start + step;
        let qkv = [0, 1, 2].map(|i| part(&qkv[i], widths[i], range.clone()));
        let addresses: Rows = rows[range.clone()].into();
        let (at, turns) = (attention_at(noise, &addresses), angles(&addresses, heads.dim));
        let (cached, segments) = (cache.layer(0, &sequence), Segments::from_lengths([*step]));
        y.extend(host(cached_attention(qkv, cached, &turns, heads, &segments, &at)));
        start = range.end;
    }
    y
}

#[test]
fn cached_attention_is_full_attention_to_the_bit_clean_and_under_noise() {
    // Longer than a chain of the products.
    let length = 600;
    let qkv = [(32, 1), (16, 2), (16, 3)].map(|(width, seed)| values(length * width, seed));
    let rows = rows(&[(3, length)]);
    let plan = everywhere();
    for noise in [Noise::clean(), plan.noise(Phase::Eval, 2)] {
        let tensors = [0, 1, 2].map(|i| tensor::<Flex>(&qkv[i], [32, 16, 16][i]));
        let (segments, at) = (Segments::from_lengths([length]), attention_at(&noise, &rows));
        let full = host(attention(tensors, &angles(&rows, 8), HEADS, &segments, &at));
        let one_by_one = vec![1; length];
        let steps: [&[usize]; 4] = [&[600], &one_by_one, &[560, 1, 4, 5, 30], &[3, 64, 65, 8, 460]];
        for steps in steps {
            let cached = by_steps(HEADS, &qkv, &rows, steps, &noise);
            assert!(full == cached, "in steps {:?}", &steps[..steps.len().min(5)]);
        }
    }
}

/// NaN as NaN, everything else to the bit.
fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn cached_and_full_attention_agree_whatever_is_not_finite(
        length in 2..150_usize,
        step in 1..70_usize,
        noisy: bool,
        strikes in vec((0..3_usize, any::<Index>(), 0..3_usize), 1..6),
    ) {
        let mut qkv = [(32, 1), (16, 2), (16, 3)].map(|(width, seed)| values(length * width, seed));
        for (which, place, kind) in strikes {
            let place = place.index(qkv[which].len());
            qkv[which][place] = NOT_FINITE[kind];
        }
        let rows = rows(&[(3, length)]);
        let noise = if noisy { everywhere().noise(Phase::Eval, 2) } else { Noise::clean() };
        let tensors = [0, 1, 2].map(|i| tensor::<Flex>(&qkv[i], [32, 16, 16][i]));
        let (segments, at) = (Segments::from_lengths([length]), attention_at(&noise, &rows));
        let full = host(attention(tensors, &angles(&rows, 8), HEADS, &segments, &at));
        let steps = [vec![step; length / step], vec![1; length % step]].concat();
        prop_assert_eq!(bits(&full), bits(&by_steps(HEADS, &qkv, &rows, &steps, &noise)));
    }

    #[test]
    fn what_is_not_finite_reaches_no_gradient_that_it_has_no_part_in(
        length in 2..150_usize,
        strike in any::<Index>(),
        which in 0..4_usize,
        kind in 0..3_usize,
    ) {
        let clean: [Vec<f32>; 4] =
            [(32, 1), (16, 2), (16, 3), (32, 4)].map(|(width, seed)| values(length * width, seed));
        let token = strike.index(length);
        let mut struck = clean.clone();
        struck[which][token * [32, 16, 16, 32][which] + 3] = NOT_FINITE[kind];
        let ([dq, dk, dv], [clean_dq, clean_dk, clean_dv]) = (attention_grads(&struck), attention_grads(&clean));
        // A query has part in itself and the keys before it, a key in itself and the queries after it.
        if which == 0 || which == 3 {
            prop_assert_eq!(bits(&dq[..token * 32]), bits(&clean_dq[..token * 32]));
            let after = (token + 1) * 16;
            prop_assert_eq!(bits(&dk[after..]), bits(&clean_dk[after..]));
            prop_assert_eq!(bits(&dv[after..]), bits(&clean_dv[after..]));
            prop_assert_eq!(bits(&dq[(token + 1) * 32..]), bits(&clean_dq[(token + 1) * 32..]));
        } else {
            prop_assert_eq!(bits(&dq[..token * 32]), bits(&clean_dq[..token * 32]));
        }
    }
}

const NOT_FINITE: [f32; 3] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

/// ∂q, ∂k and ∂v of one sequence, from q, k, v and ∂y.
fn attention_grads(x: &[Vec<f32>; 4]) -> [Vec<f32>; 3] {
    let [_, grads @ ..] = attention_and_grads(x, HEADS, &Noise::clean());
    grads
}

/// The output, and ∂q, ∂k and ∂v, of one sequence.
fn attention_and_grads([q, k, v, dy]: &[Vec<f32>; 4], heads: Heads, noise: &Noise) -> [Vec<f32>; 4] {
    let [query, kv] = [heads.query, heads.kv].map(|heads| heads * 8);
    let rows = rows(&[(3, q.len() / query)]);
    let (segments, at) = (Segments::from_lengths([rows.len()]), attention_at(noise, &rows));
    let primitive = |x, width| tensor::<Flex>(x, width).into_primitive().tensor();
    let (qkv, dy) = ([primitive(q, query), primitive(k, kv), primitive(v, kv)], primitive(dy, query));
    let (qkv, angles) = (qkv.each_ref(), angles(&rows, 8));
    let y = Flex::noisy_attention(qkv, &angles, heads, &segments, &at);
    let [dq, dk, dv] = Flex::noisy_attention_backward(qkv, &dy, &angles, heads, &segments, &at);
    [y, dq, dk, dv].map(|x| Flex::host(&x).to_vec())
}

/// Tokens of a sequence whose heads are computed side by side.
const LONG: usize = 1500;

/// q, k, v and ∂y of such a sequence.
fn long() -> [Vec<f32>; 4] {
    [(32, 1), (16, 2), (16, 3), (32, 4)].map(|(width, seed)| values(LONG * width, seed))
}

#[test]
fn heads_of_a_long_sequence_are_to_the_bit_what_each_is_alone() {
    let column = |x: &[f32], width: usize, head: usize| -> Vec<f32> {
        x.chunks(width).flat_map(|row| &row[head * 8..][..8]).copied().collect()
    };
    let x = long();
    let [y, dq, dk, dv] = attention_and_grads(&x, HEADS, &Noise::clean());
    let alone = |head: usize| {
        let own =
            [0, 1, 2, 3].map(|i| column(&x[i], [32, 16, 16, 32][i], [head, head / 2, head / 2, head][i]));
        attention_and_grads(&own, Heads { query: 1, kv: 1, dim: 8 }, &Noise::clean())
    };
    let alone = [0, 1, 2, 3].map(alone);
    for (head, [own_y, own_dq, ..]) in alone.iter().enumerate() {
        assert!(column(&y, 32, head) == *own_y && column(&dq, 32, head) == *own_dq, "head {head}");
    }
    // Gradients of keys are turned back after their sum over heads, so that only those of values are the sum to the bit.
    for (kv, pair) in alone.chunks(2).enumerate() {
        let sum: Vec<f32> = pair[0][3].iter().zip(&pair[1][3]).map(|(a, b)| a + b).collect();
        assert!(column(&dv, 16, kv) == sum, "values {kv}");
        let near = |(sum, (a, b)): (&f32, (&f32, &f32))| (sum - (a + b)).abs() < 1e-4;
        assert!(column(&dk, 16, kv).iter().zip(pair[0][2].iter().zip(&pair[1][2])).all(near), "keys {kv}");
    }
}

#[test]
fn a_long_sequence_is_the_same_from_a_cache_and_on_any_number_of_threads() {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let plan = everywhere();
        let noise = plan.noise(Phase::Train, 4);
        let out = pool.install(|| attention_and_grads(&long(), HEADS, &noise));
        (out, plan.receipts())
    };
    let one = run(1);
    assert!(one.1.iter().any(|receipt| receipt.energy().signal > 0.0));
    assert!(run(2) == one && run(3) == one);
    let ([q, k, v, _], plan) = (long(), everywhere());
    // The first step is short enough that its heads follow each other.
    let cached =
        by_steps(HEADS, &[q, k, v], &rows(&[(3, LONG)]), &[1400, 60, 1, 39], &plan.noise(Phase::Train, 4));
    assert!(cached == one.0[0]);
}

#[test]
fn a_token_that_sees_many_keys_is_that_of_full_attention_on_any_number_of_threads() {
    // From 1,024 keys of this width on, the heads of a token are computed side by side.
    let (heads, length) = (Heads { query: 4, kv: 2, dim: 128 }, 1030);
    let qkv = [(512, 1), (256, 2), (256, 3)].map(|(width, seed)| values(length * width, seed));
    let (rows, steps) = (rows(&[(3, length)]), [1020, 1, 2, 1, 1, 1, 4]);
    let full = |noise: &Noise| {
        let tensors = [0, 1, 2].map(|i| tensor::<Flex>(&qkv[i], [512, 256, 256][i]));
        let (segments, at) = (Segments::from_lengths([length]), attention_at(noise, &rows));
        host(attention(tensors, &angles(&rows, 128), heads, &segments, &at))
    };
    let cached = |noise: &Noise, threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| by_steps(heads, &qkv, &rows, &steps, noise))
    };
    let noisy = |threads| {
        let plan = everywhere();
        (cached(&plan.noise(Phase::Train, 4), threads), plan.receipts())
    };
    let one = noisy(1);
    assert!(one.1.iter().any(|receipt| receipt.energy().signal > 0.0));
    assert!(
        one.0 == full(&everywhere().noise(Phase::Train, 4))
            && cached(&Noise::clean(), 2) == full(&Noise::clean())
    );
    assert!(noisy(2) == one && noisy(3) == one);
}

#[test]
fn responses_that_share_a_prompts_rows_are_what_they_are_alone() {
    let (prompt, responses) = (70, [5, 0, 66]);
    let shared = rows(&[(3, prompt), (4, 5), (6, 66)]);
    let segments = Segments::new([(prompt, None)].into_iter().chain(responses.map(|n| (n, Some(0)))));
    let qkv = [(32, 1), (16, 2), (16, 3)].map(|(width, seed)| values(141 * width, seed));
    let plan = everywhere();
    for noise in [Noise::clean(), plan.noise(Phase::Eval, 2)] {
        let tensors = [0, 1, 2].map(|i| tensor::<Flex>(&qkv[i], [32, 16, 16][i]));
        let at = attention_at(&noise, &shared);
        let together = host(attention(tensors, &angles(&shared, 8), HEADS, &segments, &at));
        for own in segments.ranges().skip(1) {
            let of = |i: usize| {
                let width = [32, 16, 16][i];
                [&qkv[i][..prompt * width], &qkv[i][own.start * width..own.end * width]].concat()
            };
            let tensors = [0, 1, 2].map(|i| tensor::<Flex>(&of(i), [32, 16, 16][i]));
            let addresses: Rows = shared[..prompt].iter().chain(&shared[own.clone()]).copied().collect();
            let (alone, at) = (Segments::from_lengths([addresses.len()]), attention_at(&noise, &addresses));
            let alone = host(attention(tensors, &angles(&addresses, 8), HEADS, &alone, &at));
            assert!(alone[prompt * 32..] == together[own.start * 32..own.end * 32]);
        }
    }
}

#[test]
fn a_row_of_a_linear_layer_is_the_same_to_the_bit_in_any_batch_and_with_a_frozen_weight() {
    let (inner, outer, most) = (704, 96, 200);
    let (x, w) = (values(most * inner, 1), values(outer * inner, 2));
    let all = rows(&[(1, most)]);
    let plan = everywhere();
    for noise in [Noise::clean(), plan.noise(Phase::Eval, 2)] {
        let weight = || tensor::<Flex>(&w, inner);
        let whole = host(linear(tensor(&x, inner), weight(), None, &noise.at(SiteId(5), &all)));
        for count in [1, 2, 3, 7, 64, 130] {
            let addresses: Rows = all[..count].into();
            let (at, x) = (noise.at(SiteId(5), &addresses), part(&x, inner, 0..count));
            let frozen = freeze(weight(), &at);
            assert!(host(linear(x.clone(), weight(), None, &at)) == whole[..count * outer], "{count} rows");
            assert!(
                host(frozen_linear(x, frozen, None, &at)) == whole[..count * outer],
                "{count} rows, frozen"
            );
        }
    }
}

#[test]
fn cached_sequences_of_a_batch_do_not_see_each_other() {
    let plan = everywhere();
    let noise = plan.noise(Phase::Eval, 2);
    let lengths = [5, 1, 66];
    let together = rows(&[(1, 5), (2, 1), (3, 66)]);
    let qkv = [(32, 1), (16, 2), (16, 3)].map(|(width, seed)| values(72 * width, seed));
    let mut cache = KvBuffer::for_sequences(places(3, 66));
    let sequences = [0; 3].map(|_| cache.sample(None));
    let tensors = [0, 1, 2].map(|i| tensor::<Flex>(&qkv[i], [32, 16, 16][i]));
    let (segments, at) = (Segments::from_lengths(lengths), attention_at(&noise, &together));
    let (cached, turns) = (cache.layer(0, &sequences), angles(&together, 8));
    let y = host(cached_attention(tensors, cached, &turns, HEADS, &segments, &at));
    for range in segments.ranges() {
        let alone = [0, 1, 2].map(|i| {
            let width = [32, 16, 16][i];
            qkv[i][range.start * width..range.end * width].to_vec()
        });
        let addresses: Rows = together[range.clone()].into();
        assert_eq!(
            by_steps(HEADS, &alone, &addresses, &[range.len()], &noise),
            y[range.start * 32..range.end * 32]
        );
    }
}

/// A sequence: its id and its inputs to [`per_token`], by position.
type Batch<'a> = &'a [(u64, usize)];

fn inputs(batch: Batch, width: usize) -> Vec<f32> {
    batch.iter().flat_map(|&(id, length)| integers(length * width, id)).collect()
}

/// Operators on a batch, whose clean values are exact or computed row by row.
fn per_token(batch: Batch, noise: &Noise) -> Vec<Vec<f32>> {
    let rows = rows(batch);
    let x = || tensor::<Flex>(&inputs(batch, 32), 32);
    let output = {
        let outputs = Plan { rules: vec![rule(Point::Output, &BOTH)], seed: 5, ..Plan::default() };
        outputs.bind(&sites(), &Phase::ALL).unwrap().noise(Phase::Eval, 1)
    };
    let w = tensor::<Flex>(&integers(24 * 32, 1), 32);
    let (k, v) = (tensor::<Flex>(&inputs(batch, 16), 16), tensor::<Flex>(&inputs(batch, 16), 16));
    let segments = Segments::from_lengths(batch.iter().map(|(_, length)| *length));
    let ids: Vec<u32> = inputs(batch, 1).iter().map(|x| (x + 4.0) as u32).collect();
    vec![
        host(linear(x(), w, None, &output.at(SiteId(5), &rows))),
        host(rms_norm(x(), tensor(&values(32, 2), 32), 1e-6, &noise.at(SiteId(4), &rows))),
        host(silu(x(), &noise.at(SiteId(6), &rows))),
        host(embedding(tensor::<Flex>(&values(9 * 32, 3), 32), &ids, &noise.at(SiteId(3), &rows))),
        host(attention([x(), k, v], &angles(&rows, 8), HEADS, &segments, &attention_at(noise, &rows))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn values_do_not_depend_on_how_sequences_are_batched(
        lengths in vec(1_usize..80, 2..6),
        turn in 0_usize..5,
        kind in prop::sample::select(kinds().to_vec()),
    ) {
        let batch: Vec<(u64, usize)> = lengths.iter().enumerate().map(|(i, &length)| (100 + i as u64, length)).collect();
        let mut turned = batch.clone();
        turned.rotate_left(turn % batch.len());
        turned.reverse();
        let plan = everywhere_with(kind);
        let noise = plan.noise(Phase::Eval, 1);
        let (first, second) = (per_token(&batch, &noise), per_token(&turned, &noise));
        let start_in = |batch: Batch, id: u64| {
            batch.iter().take_while(|(other, _)| *other != id).map(|(_, length)| length).sum::<usize>()
        };
        for &(id, length) in &batch {
            let alone = per_token(&[(id, length)], &noise);
            for ((first, second), alone) in first.iter().zip(&second).zip(alone) {
                let width = alone.len() / length;
                for (whole, batch) in [(first, &batch), (second, &turned)] {
                    let start = start_in(batch, id) * width;
                    prop_assert_eq!(&whole[start..start + alone.len()], &alone[..]);
                }
            }
        }
    }
}

/// Everything that [`network`] computes.
#[derive(Debug, PartialEq)]
struct Outcome {
    log_probs: Vec<f32>,
    entropy: Vec<f32>,
    gradients: Vec<Vec<f32>>,
    receipts: Vec<Receipt>,
}

/// A small decoder, forward and backward, under noise everywhere; large enough that every kernel has several chunks.
fn network(error: Perturbation) -> Outcome {
    let plan = everywhere_with(error);
    let noise = plan.noise(Phase::Train, 4);
    let batch = [(1, 200), (2, 1), (3, 333), (4, 64), (5, 500)];
    let (count, width) = (1098, 64);
    let rows = rows(&batch);
    let at = |site: usize| noise.at(SiteId(site), &rows);
    let heads = Heads { query: 8, kv: 4, dim: 8 };
    let ids: Vec<u32> = (0..count as u32).map(|i| i.wrapping_mul(2_654_435_761) % 50).collect();
    let parameter = |height: usize, width: usize, seed| {
        tensor::<Tape>(&values(height * width, seed), width).require_grad()
    };
    let parameters = [
        parameter(50, width, 1),
        parameter(1, width, 2),
        parameter(width, width, 3),
        parameter(32, width, 4),
        parameter(32, width, 5),
        parameter(50, width, 6),
        parameter(1, 50, 7),
    ];
    let [table, norm, q, k, v, head, bias] = &parameters;
    let x = rms_norm(embedding(table.clone(), &ids, &at(3)), norm.clone(), 1e-6, &at(4));
    let qkv = [q, k, v].map(|w| linear(x.clone(), w.clone(), None, &at(5)));
    let segments = Segments::from_lengths(batch.iter().map(|(_, length)| *length));
    let mixed = attention(qkv, &angles(&rows, 8), heads, &segments, &attention_at(&noise, &rows));
    let x = silu(mixed, &at(6));
    let logits = linear(x, head.clone(), Some(bias.clone()), &at(5));
    let [y, entropy] = log_prob(logits, &ids, 0.9);
    let gradients =
        gradients(&(y.clone() + entropy.clone()), &values(count, 8), &parameters.iter().collect::<Vec<_>>());
    Outcome { log_probs: host(y), entropy: host(entropy), gradients, receipts: plan.receipts() }
}

#[test]
fn outputs_gradients_and_receipts_do_not_depend_on_the_number_of_threads() {
    for kind in kinds() {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| network(kind))
        };
        let one = run(1);
        assert!(one.gradients.iter().flatten().all(|x| x.is_finite()), "{kind:?}");
        assert!(one.receipts.iter().any(|receipt| receipt.calls > 1));
        assert_eq!(run(2), one);
        assert_eq!(run(3), one);
        assert_eq!(run(2), one, "nor on chance");
    }
}

#[test]
fn faulty_channels_stay_where_they_are_and_noise_does_not() {
    let stuck = Perturbation::Fault { fault: Fault::Stuck { value: 9.0 }, sparsity: 0.3 };
    let plan = bind(vec![Rule { error: stuck, ..rule(Point::Output, &BOTH) }], Op::Silu);
    let first = seen(&plan, Phase::Train, 1);
    assert_eq!(first, seen(&plan, Phase::Train, 2));
    assert_eq!(first, seen(&plan, Phase::Rollout, 7));
    let channels = |y: &[f32]| y.iter().map(|&y| y == 9.0).collect::<Vec<_>>();
    let faulty = channels(&first[..10]);
    assert!(faulty.contains(&true) && faulty.contains(&false));
    assert!(first.chunks(10).all(|row| channels(row) == faulty), "the same in every row");
    let seed = Plan { seed: 12, ..plan.plan().clone() }.bind(&[common::site(Op::Silu)], &Phase::ALL).unwrap();
    assert_ne!(first, seen(&seed, Phase::Train, 1));
}

/// Silu under `plan`, in `phase` at `step`.
fn seen(plan: &BoundPlan, phase: Phase, step: u64) -> Vec<f32> {
    let rows = rows(&[(1, 6)]);
    host(silu(tensor::<Flex>(&values(60, 1), 10), &plan.noise(phase, step).at(SiteId(0), &rows)))
}

#[test]
fn a_plan_bound_twice_or_asked_twice_gives_the_same_values() {
    let (a, b) =
        (bind(vec![rule(Point::Output, &BOTH)], Op::Silu), bind(vec![rule(Point::Output, &BOTH)], Op::Silu));
    assert_eq!(seen(&a, Phase::Train, 1), seen(&b, Phase::Train, 1));
    assert_eq!(seen(&a, Phase::Train, 1), seen(&a, Phase::Train, 1));
}

#[test]
fn a_step_a_phase_and_a_seed_change_the_noise() {
    let plan = bind(vec![rule(Point::Output, &BOTH)], Op::Silu);
    let base = seen(&plan, Phase::Train, 1);
    assert_ne!(base, seen(&plan, Phase::Train, 2));
    assert_ne!(base, seen(&plan, Phase::Rollout, 1));
    let seed = Plan { seed: 12, ..plan.plan().clone() }.bind(&[common::site(Op::Silu)], &Phase::ALL).unwrap();
    assert_ne!(base, seen(&seed, Phase::Train, 1));
}

#[test]
fn shared_streams_give_every_phase_the_same_noise() {
    let shared =
        Plan { rules: vec![rule(Point::Output, &BOTH)], streams: Streams::Shared, ..Plan::default() };
    let plan = shared.bind(&[common::site(Op::Silu)], &Phase::ALL).unwrap();
    assert_eq!(seen(&plan, Phase::Train, 1), seen(&plan, Phase::Rollout, 1));
    assert_ne!(seen(&plan, Phase::Train, 1), seen(&plan, Phase::Train, 2));
}

#[test]
fn shared_noise_of_a_rule_does_not_depend_on_rules_of_other_phases() {
    let only_rollout = Rule {
        during: Some(vec![Phase::Rollout]),
        error: Perturbation::Truncation { scale: 1e-30 },
        ..rule(Point::Output, &[Pass::Forward])
    };
    let shared = Plan {
        rules: vec![only_rollout, rule(Point::Output, &[Pass::Forward])],
        streams: Streams::Shared,
        ..Plan::default()
    };
    let plan = shared.bind(&[common::site(Op::Silu)], &Phase::ALL).unwrap();
    assert_eq!(seen(&plan, Phase::Train, 1), seen(&plan, Phase::Rollout, 1));
}

#[test]
fn adaptive_noise_follows_its_schedule_and_leaves_the_weights_alone() {
    let site = Site { module: "model.norm".to_owned(), op: Op::RmsNorm, layer: None };
    let plan = Plan { rules: vec![Rule::aqn(vec![0.1, 0.0, 0.2])], ..Plan::default() };
    let plan = plan.bind(&[site], &[]).unwrap();
    let (width, rows) = (20_000, rows(&[(1, 1)]));
    let (x, w) = (tensor::<Flex>(&vec![1.0; width], width), tensor::<Flex>(&vec![0.5; width], width));
    let run = |phase, step| {
        host(rms_norm(x.clone(), w.clone(), 0.0, &plan.noise(phase, step).at(SiteId(0), &rows)))
    };
    let calm = host(rms_norm(x.clone(), w.clone(), 0.0, &clean(&rows)));
    let deviation = |y: &[f32]| {
        let sum: f64 = y.iter().zip(&calm).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        (sum / width as f64).sqrt()
    };
    assert!((deviation(&run(Phase::Rollout, 0)) - 0.1).abs() < 0.002);
    assert_eq!(run(Phase::Rollout, 1), calm, "silent at 0");
    assert!((deviation(&run(Phase::Rollout, 2)) - 0.2).abs() < 0.004);
    assert_eq!(run(Phase::Rollout, 3), calm, "silent after its end");
    assert_eq!(run(Phase::Train, 0), calm);
    assert_eq!(run(Phase::Eval, 0), calm);
    assert_eq!(host(w), vec![0.5; width]);
    let receipt = &plan.receipts()[0];
    assert_eq!((receipt.calls, receipt.elements), (2, 40_000));
    assert!((receipt.asked.unwrap() - 0.15).abs() < 1e-12);
}

#[test]
fn a_clean_part_is_the_operator_without_errors() {
    let rows = rows(&[(1, 6)]);
    let later =
        Rule { schedule: Some((0..100).map(|step| f64::from(step / 99)).collect()), ..Rule::noise(0.1) };
    let nothing = bind(vec![later], Op::Linear);
    let x = || tensor::<Flex>(&values(60, 1), 10);
    let run = |at: &At| host(linear(x(), x(), None, at));
    assert_eq!(run(&at(&nothing, &rows)), run(&At::clean(&rows)));
    assert!(nothing.receipts().is_empty() && nothing.unfired().is_empty());
}
