//! Products in bfloat16 against plain Rust, to the bit: operands are rounded after the errors at their site, sums are chains of
//! fused multiply-adds in f32, and the gradient ignores the rounding.

mod common;

use common::{Tape, at, bind, clean, gradients, host, no_turn, rule, tensor, tokens, values};
use hardy_numerics::{Precision, math};
use hardy_ops::{
    At, Op, Pass, Point, Rule,
    ops::{
        attention::{AttentionAt, Heads, Segments, attention},
        head::head,
        linear::linear,
        log_prob::log_prob,
    },
};

/// The nearest bfloat16, ties to even, by looking at what is cut off.
fn round(x: f32) -> f32 {
    let bits = x.to_bits();
    let (kept, cut) = (bits & 0xffff_0000, bits & 0xffff);
    let up = cut > 0x8000 || (cut == 0x8000 && kept & 0x1_0000 != 0);
    if x.is_nan() { x } else { f32::from_bits(if up { kept + 0x1_0000 } else { kept }) }
}

fn rounded(x: &[f32]) -> Vec<f32> {
    x.iter().map(|&x| round(x)).collect()
}

/// Links of 512 terms, added in their order.
fn chain(terms: impl Iterator<Item = (f32, f32)>) -> f32 {
    let terms: Vec<(f32, f32)> = terms.collect();
    let links = terms.chunks(512).map(|link| link.iter().fold(0.0_f32, |sum, (a, b)| a.mul_add(*b, sum)));
    links.reduce(|sum, link| sum + link).unwrap_or_default()
}

#[track_caller]
fn assert_bits(ours: &[f32], theirs: &[f32], what: &str) {
    let bits = |x: &[f32]| x.iter().map(|x| (x + 0.0).to_bits()).collect::<Vec<_>>();
    assert!(ours.len() == theirs.len() && bits(ours) == bits(theirs), "{what}");
}

const COUNT: usize = 37;
const INNER: usize = 700;
const OUTER: usize = 50;

/// What a linear layer gives, and its gradients, for the coefficients `c`.
fn layer(x: &[f32], w: &[f32], c: &[f32], at: &At) -> [Vec<f32>; 4] {
    let [x, w] = [x, w].map(|x| tensor::<Tape>(x, INNER).require_grad());
    let b = tensor::<Tape>(&values(OUTER, 3), OUTER).require_grad();
    let y = linear(x.clone(), w.clone(), Some(b.clone()), at);
    let [dx, dw, db] = gradients(&y, c, &[&x, &w, &b]).try_into().unwrap();
    [host(y), dx, dw, db]
}

fn inputs() -> [Vec<f32>; 3] {
    [values(COUNT * INNER, 1), values(OUTER * INNER, 2), values(COUNT * OUTER, 4)]
}

#[test]
fn a_linear_layer_rounds_the_operands_of_its_three_products_and_sums_in_f32() {
    let [x, w, c] = inputs();
    let found = layer(&x, &w, &c, &clean(&tokens(COUNT)).in_precision(Precision::Bf16));
    let bias = values(OUTER, 3);
    let [x, w, dy] = [&x, &w, &c].map(|x| rounded(x));
    let y = |i: usize| {
        let (row, column) = (i / OUTER, i % OUTER);
        chain((0..INNER).map(|k| (x[row * INNER + k], w[column * INNER + k]))) + bias[column]
    };
    let dx = |i: usize| {
        let (row, k) = (i / INNER, i % INNER);
        chain((0..OUTER).map(|column| (dy[row * OUTER + column], w[column * INNER + k])))
    };
    let dw = |i: usize| {
        let (column, k) = (i / INNER, i % INNER);
        chain((0..COUNT).map(|row| (dy[row * OUTER + column], x[row * INNER + k])))
    };
    // The bias is no operand of a product.
    let db = |column: usize| c.chunks(OUTER).fold(0.0, |sum, row| sum + row[column]);
    assert_bits(&found[0], &(0..COUNT * OUTER).map(y).collect::<Vec<_>>(), "y");
    assert_bits(&found[1], &(0..COUNT * INNER).map(dx).collect::<Vec<_>>(), "∂x");
    assert_bits(&found[2], &(0..OUTER * INNER).map(dw).collect::<Vec<_>>(), "∂W");
    assert_bits(&found[3], &(0..OUTER).map(db).collect::<Vec<_>>(), "∂b");
}

#[test]
fn errors_at_inputs_come_before_the_rounding_and_those_of_outputs_after_the_product() {
    let [x, w, c] = inputs();
    let rows = tokens(COUNT);
    let both = [Pass::Forward, Pass::Backward];
    // Under errors at inputs and weights an f32 layer with a unit matrix in place of the other factor shows what is seen.
    let unit: Vec<f32> = (0..INNER * INNER).map(|i| f32::from(u8::from(i % (INNER + 1) == 0))).collect();
    let shown = |x: &[f32], w: &[f32], point| {
        let [x, w] = [x, w].map(|x| tensor::<Tape>(x, INNER));
        let count = x.dims()[0];
        host(linear(x, w, None, &at(&bind(vec![rule(point, &[Pass::Forward])], Op::Linear), &tokens(count))))
    };
    let x_seen = shown(&x, &unit, Point::Input);
    let w_seen: Vec<f32> = {
        let columns = shown(&unit, &w, Point::Weight);
        (0..OUTER * INNER).map(|i| columns[i % INNER * OUTER + i / INNER]).collect()
    };
    let exact = |x: &[f32], w: &[f32], rules: Vec<Rule>| {
        layer(&rounded(x), &rounded(w), &rounded(&c), &at(&bind(rules, Op::Linear), &rows))
    };
    let narrow = |rules: Vec<Rule>| {
        layer(&x, &w, &rounded(&c), &at(&bind(rules, Op::Linear), &rows).in_precision(Precision::Bf16))
    };
    for (point, x_seen, w_seen) in [(Point::Input, &x_seen, &w), (Point::Weight, &x, &w_seen)] {
        let ours = narrow(vec![rule(point, &[Pass::Forward])]);
        for (ours, theirs) in ours.iter().zip(&exact(x_seen, w_seen, vec![])) {
            assert_bits(ours, theirs, point.name());
        }
    }
    for point in [Point::Output, Point::GradInput, Point::GradWeight] {
        let rules = || vec![rule(point, &both)];
        for (ours, theirs) in narrow(rules()).iter().zip(&exact(&x, &w, rules())) {
            assert_bits(ours, theirs, point.name());
        }
    }
}

#[test]
fn threads_change_no_bit_and_neither_do_rows_that_share_a_product() {
    let [x, w, c] = inputs();
    let run = |threads: usize, count: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let at = clean(&tokens(count)).in_precision(Precision::Bf16);
        pool.install(|| layer(&x[..count * INNER], &w, &c[..count * OUTER], &at))
    };
    let whole = run(1, COUNT);
    assert!(whole == run(3, COUNT));
    let part = run(2, 5);
    assert_eq!(part[0], whole[0][..5 * OUTER]);
    assert_eq!(part[1], whole[1][..5 * INNER]);
}

#[test]
fn a_head_is_its_linear_layer_and_its_log_probabilities_also_in_bfloat16() {
    let (count, vocab, inner) = (30, 90, 20);
    let targets: Vec<u32> = (0..count as u32).map(|row| row * 7 % vocab as u32).collect();
    let c = values(2 * count, 5);
    let at = clean(&tokens(count)).in_precision(Precision::Bf16);
    let operands = || {
        [(count, 6), (vocab, 7)]
            .map(|(rows, seed)| tensor::<Tape>(&values(rows * inner, seed), inner).require_grad())
    };
    let [x, w] = operands();
    let fused = head(x.clone(), w.clone(), &targets, 0.8, &at);
    let ours = [host(fused.clone()), gradients(&fused, &c, &[&x, &w]).concat()];
    let [x, w] = operands();
    let parts = log_prob(linear(x.clone(), w.clone(), None, &at), &targets, 0.8);
    let apart = burn_tensor::Tensor::cat(parts.to_vec(), 1);
    let theirs = [host(apart.clone()), gradients(&apart, &c, &[&x, &w]).concat()];
    assert_bits(&ours[0], &theirs[0], "log-probabilities");
    let largest = theirs[1].iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    // Both gradients of a logit are added before or after they are scaled, which may turn an operand to its neighbour.
    assert!(ours[1].iter().zip(&theirs[1]).all(|(a, b)| (a - b).abs() <= largest / 256.0));
    let wide = head(x.clone(), w.clone(), &targets, 0.8, &clean(&tokens(count)));
    assert!(host(wide) != ours[0], "the rounding shows");
}

/// A sum in sixteen lanes and what is left over.
fn lanes(x: impl Iterator<Item = f32>) -> f32 {
    let x: Vec<f32> = x.collect();
    let mut lanes = [0.0_f32; 16];
    let (whole, rest) = x.as_chunks::<16>();
    whole.iter().for_each(|block| (0..16).for_each(|lane| lanes[lane] += block[lane]));
    for half in [8, 4, 2, 1] {
        (0..half).for_each(|lane| lanes[lane] += lanes[lane + half]);
    }
    lanes[0] + rest.iter().sum::<f32>()
}

const HEADS: Heads = Heads { query: 2, kv: 1, dim: 6 };
const TOKENS: usize = 150;

/// Attention of one sequence and its gradients, written down plainly: `y`, `∂q`, `∂k`, `∂v`.
fn attended([q, k, v, dy]: [&[f32]; 4]) -> [Vec<f32>; 4] {
    let Heads { query, dim, .. } = HEADS;
    let width = query * dim;
    let [qs, ks, vs, dys] = [q, k, v, dy].map(rounded);
    let (mut y, mut dq) = (vec![0.0; TOKENS * width], vec![0.0; TOKENS * width]);
    let [mut dk, mut dv] = [0; 2].map(|_| vec![0.0_f32; TOKENS * dim]);
    let scale = 1.0 / (dim as f32).sqrt();
    for head in 0..query {
        let [mut part_k, mut part_v] = [0; 2].map(|_| vec![0.0_f32; TOKENS * dim]);
        for block in (0..TOKENS).step_by(64) {
            let [mut link_k, mut link_v] = [0; 2].map(|_| vec![0.0_f32; TOKENS * dim]);
            for i in block..TOKENS.min(block + 64) {
                let of = i * width + head * dim;
                let product =
                    |a: &[f32], b: &[f32], j: usize| chain((0..dim).map(|c| (a[of + c], b[j * dim + c])));
                let mut p: Vec<f32> = (0..=i).map(|j| product(&qs, &ks, j) * scale).collect();
                let max = p.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                p.iter_mut().for_each(|p| *p = math::exp(*p - max));
                let whole = 1.0 / lanes(p.iter().copied());
                p.iter_mut().for_each(|p| *p *= whole);
                let dp: Vec<f32> = (0..=i).map(|j| product(&dys, &vs, j)).collect();
                let mean = lanes(dp.iter().zip(&p).map(|(dp, p)| dp * p));
                let ds: Vec<f32> = dp.iter().zip(&p).map(|(dp, p)| round(p * (dp - mean) * scale)).collect();
                let p = rounded(&p);
                for c in 0..dim {
                    y[of + c] = chain((0..=i).map(|j| (p[j], vs[j * dim + c])));
                    dq[of + c] = chain((0..=i).map(|j| (ds[j], ks[j * dim + c])));
                    for j in 0..=i {
                        let to = j * dim + c;
                        link_v[to] = p[j].mul_add(dys[of + c], link_v[to]);
                        link_k[to] = ds[j].mul_add(qs[of + c], link_k[to]);
                    }
                }
            }
            part_k.iter_mut().zip(link_k).for_each(|(sum, link)| *sum += link);
            part_v.iter_mut().zip(link_v).for_each(|(sum, link)| *sum += link);
        }
        dk.iter_mut().zip(part_k).for_each(|(sum, part)| *sum += part);
        dv.iter_mut().zip(part_v).for_each(|(sum, part)| *sum += part);
    }
    [y, dq, dk, dv]
}

#[test]
fn attention_rounds_queries_keys_probabilities_values_and_gradients_where_they_are_multiplied() {
    let rows = tokens(TOKENS);
    let widths = [HEADS.query * HEADS.dim, HEADS.dim, HEADS.dim];
    let data: Vec<Vec<f32>> =
        widths.iter().enumerate().map(|(i, width)| values(TOKENS * width, i as u64)).collect();
    let c = values(TOKENS * widths[0], 9);
    let site = clean(&rows).in_precision(Precision::Bf16);
    let at = AttentionAt { scores: site.clone(), softmax: site.clone(), values: site };
    let qkv = [0, 1, 2].map(|i| tensor::<Tape>(&data[i], widths[i]).require_grad());
    let segments = Segments::from_lengths([TOKENS]);
    let y = attention(qkv.clone(), &no_turn(&rows, HEADS.dim), HEADS, &segments, &at);
    let grads = gradients(&y, &c, &qkv.each_ref());
    let [y_plain, dq, dk, dv] = attended([&data[0], &data[1], &data[2], &c]);
    assert_bits(&host(y), &y_plain, "y");
    for (name, (ours, theirs)) in ["∂q", "∂k", "∂v"].iter().zip(grads.iter().zip([dq, dk, dv])) {
        assert_bits(ours, &theirs, name);
    }
}
