//! Accumulation error: partial sums in BF16 or FP16 in linear layers and in attention, forward and backward, against the
//! definition; the same whatever the batch, the cache and the number of threads.

mod common;

use burn_flex::Flex;
use common::{Tape, angles, at, bind, clean, distance, gradients, host, rows, tensor, tokens, values, wide};
use hardy_numerics::{Accumulation, Partial, Perturbation};
use hardy_ops::{
    Op, Ops, Pass, Phase, Plan, Point, Row, Rows, Rule, Site, SiteId,
    ops::{
        attention::{AttentionAt, Heads, KvBuffer, Places, Segments, attention, cached_attention},
        linear::linear,
    },
};

fn rule(partial: Partial, chunk: usize, pass: &[Pass]) -> Rule {
    Rule {
        ops: Ops::Some(vec![Op::Linear, Op::Matmul]),
        pass: pass.to_vec(),
        error: Perturbation::Accumulation(Accumulation { partial, chunk }),
        ..Rule::noise(0.0)
    }
}

/// `Σ_k a(i, k)·b(k, j)` with a rounded partial sum.
fn rounded(
    [rows, cols, inner]: [usize; 3],
    rule: Accumulation,
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
) -> Vec<f32> {
    let element = |i: usize, j: usize| {
        let mut sum = [0.0];
        for chunk in (0..inner).step_by(rule.chunk) {
            let mut part = 0.0;
            for k in chunk..inner.min(chunk + rule.chunk) {
                part += a(i, k) * b(k, j);
            }
            sum[0] += part;
            rule.round(&mut sum);
        }
        sum[0]
    };
    (0..rows).flat_map(|i| (0..cols).map(move |j| (i, j))).map(|(i, j)| element(i, j)).collect()
}

const BOTH: [Pass; 2] = [Pass::Forward, Pass::Backward];

#[test]
fn linear_layers_round_their_partial_sums_in_both_passes() {
    let (count, inner, outer) = (37, 100, 70);
    let (x, w, c) = (values(count * inner, 1), values(outer * inner, 2), values(count * outer, 3));
    for (partial, chunk) in [(Partial::Bf16, 32), (Partial::Fp16, 7), (Partial::Bf16, 1000)] {
        let plan = bind(vec![rule(partial, chunk, &BOTH)], Op::Linear);
        let (tx, tw) = (tensor::<Tape>(&x, inner).require_grad(), tensor::<Tape>(&w, inner).require_grad());
        let y = linear(tx.clone(), tw.clone(), None, &at(&plan, &tokens(count)));
        let [dx, dw] = gradients(&y, &c, &[&tx, &tw]).try_into().unwrap();
        let by = Accumulation { partial, chunk };
        let expected = rounded([count, outer, inner], by, |i, k| x[i * inner + k], |k, j| w[j * inner + k]);
        assert_eq!(host(y), expected);
        let expected = rounded([count, inner, outer], by, |i, k| c[i * outer + k], |k, j| w[k * inner + j]);
        assert_eq!(dx, expected);
        let expected = rounded([outer, inner, count], by, |i, k| c[k * outer + i], |k, j| x[k * inner + j]);
        assert_eq!(dw, expected);
        for receipt in plan.receipts() {
            let calls = if receipt.point == Point::GradWeight { 1 } else { count as u64 };
            assert_eq!((receipt.calls, receipt.asked), (calls, None), "{receipt:?}");
            assert!((1e-5..1e-2).contains(&receipt.measured), "{receipt:?}");
        }
        assert!(plan.unfired().is_empty());
    }
}

const HEADS: Heads = Heads { query: 4, kv: 2, dim: 8 };

fn attention_at(plan: &hardy_ops::BoundPlan, rows: &Rows) -> AttentionAt {
    let noise = plan.noise(Phase::Train, 0);
    AttentionAt { scores: noise.at(SiteId(0), rows), softmax: clean(rows), values: noise.at(SiteId(1), rows) }
}

fn attention_plan(rule: Rule) -> hardy_ops::BoundPlan {
    let site = |module: &str| Site { module: module.to_owned(), op: Op::Matmul, layer: Some(0) };
    let plan = Plan { rules: vec![rule], ..Plan::default() };
    plan.bind(&[site("scores"), site("values")], &Phase::ALL).unwrap()
}

fn qkv(length: usize) -> [Vec<f32>; 3] {
    [(32, 1), (16, 2), (16, 3)].map(|(width, seed)| values(length * width, seed))
}

#[test]
fn attention_with_a_cache_is_full_attention_to_the_bit() {
    let (length, all) = (140, rows(&[(3, 140)]));
    let plan = attention_plan(rule(Partial::Bf16, 3, &BOTH));
    let data = qkv(length);
    let part = |i: usize, from: usize, to: usize| {
        let width = [32, 16, 16][i];
        tensor::<Flex>(&data[i][from * width..to * width], width)
    };
    let segments = Segments::from_lengths([length]);
    let qkv = [0, 1, 2].map(|i| part(i, 0, length));
    let full = host(attention(qkv, &angles(&all, 8), HEADS, &segments, &attention_at(&plan, &all)));
    let mut cache = KvBuffer::for_sequences(Places { count: 1, tokens: length, layers: 1, width: 16 });
    let sequence = [cache.sample(None)];
    let (mut start, mut stepwise) = (0, Vec::new());
    for step in [1, 70, 1, 4, 5, 59] {
        let addresses: Rows = all[start..start + step].into();
        let (qkv, angles) = ([0, 1, 2].map(|i| part(i, start, start + step)), angles(&addresses, 8));
        let (at, segments) = (attention_at(&plan, &addresses), Segments::from_lengths([step]));
        stepwise.extend(host(cached_attention(
            qkv,
            cache.layer(0, &sequence),
            &angles,
            HEADS,
            &segments,
            &at,
        )));
        start += step;
    }
    assert_eq!(full, stepwise);
    let on_grid = |x: &f32| x.to_bits() & 0xFFFF == 0;
    assert!(full.iter().all(on_grid), "the last rounding is to BF16");
}

#[test]
fn attention_rounds_its_products_a_little_and_the_same_on_every_number_of_threads() {
    let lengths = [70, 3, 130];
    let count = lengths.iter().sum();
    let addresses: Rows = (0..count).map(|i| Row { sequence: i as u64 / 70, position: i as u32 }).collect();
    let data = qkv(count);
    let run = |plan: Option<&hardy_ops::BoundPlan>| {
        let qkv = [0, 1, 2].map(|i| tensor::<Tape>(&data[i], [32, 16, 16][i]).require_grad());
        let part = clean(&addresses);
        let calm = AttentionAt { scores: part.clone(), softmax: part.clone(), values: part };
        let at = plan.map_or(calm, |plan| attention_at(plan, &addresses));
        let segments = Segments::from_lengths(lengths);
        let y = attention(qkv.clone(), &angles(&addresses, 8), HEADS, &segments, &at);
        let mut all = gradients(&y, &values(count * 32, 9), &qkv.each_ref());
        all.push(host(y));
        all
    };
    let calm = run(None);
    let on = |threads: usize| {
        let plan = attention_plan(rule(Partial::Bf16, 16, &BOTH));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let values = pool.install(|| run(Some(&plan)));
        assert!(plan.unfired().is_empty());
        (values, plan.receipts())
    };
    let (noisy, receipts) = on(1);
    assert_eq!((noisy.clone(), receipts.clone()), on(3));
    for (noisy, calm) in noisy.iter().zip(&calm) {
        let off = distance(noisy, &wide(calm));
        assert!((1e-4..2e-2).contains(&off), "{off}");
    }
    assert_eq!(receipts.len(), 4, "two sites, forward and backward");
    let pairs: u64 = lengths.iter().map(|n| n * (n + 1) / 2).sum::<usize>() as u64 * 4;
    let width = count as u64 * 32;
    let elements: Vec<u64> = receipts.iter().map(|receipt| receipt.elements).collect();
    assert_eq!(elements, [pairs, 2 * width, width, pairs + width]);
    assert!(
        receipts.iter().all(|r| r.calls == count as u64 && (1e-4..1e-2).contains(&r.measured)),
        "{receipts:?}"
    );
    let forward = run(Some(&attention_plan(rule(Partial::Bf16, 16, &[Pass::Forward]))));
    assert_eq!(forward[3], noisy[3]);
    assert_ne!(forward[..3], noisy[..3]);
}
