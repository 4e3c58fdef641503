//! Forward and backward of every operator against its formula in f64: values directly, gradients by central
//! differences.

mod common;

use burn_tensor::Tensor;
use common::{Tape, clean, distance, frequencies, gradients, host, tensor, tokens, values, wide};
use hardy_ops::ops::{
    attention::{Angles, AttentionAt, Heads, Segments, attention},
    embedding::embedding,
    gather::gather_rows,
    gelu::{Approximation, gelu},
    head::head,
    layer_norm::layer_norm,
    linear::linear,
    log_prob::log_prob,
    rms_norm::rms_norm,
    silu::{silu, silu_up},
    softmax::softmax,
};

/// Checks `op` on inputs given as (values, width) against `reference`, forward to 1e-5 and backward to 1e-4 of the
/// norm; of long inputs only some elements.
fn check(
    inputs: &[(Vec<f32>, usize)],
    op: impl Fn(&[Tensor<Tape, 2>]) -> Tensor<Tape, 2>,
    reference: impl Fn(&[Vec<f64>]) -> Vec<f64>,
) {
    let tensors: Vec<_> = inputs.iter().map(|(x, width)| tensor::<Tape>(x, *width).require_grad()).collect();
    let mut wide: Vec<Vec<f64>> = inputs.iter().map(|(x, _)| wide(x)).collect();
    let y = op(&tensors);
    let y_host = host(y.clone());
    let forward = distance(&y_host, &reference(&wide));
    assert!(forward < 1e-5, "forward is off by {forward}");
    let c = values(y_host.len(), 99);
    let grads = gradients(&y, &c, &tensors.iter().collect::<Vec<_>>());
    for (index, grad) in grads.iter().enumerate() {
        let chosen: Vec<usize> = (0..grad.len()).step_by(grad.len().div_ceil(150)).collect();
        let mut loss = |element: usize, step: f64| -> f64 {
            wide[index][element] += step;
            let y = reference(&wide);
            wide[index][element] -= step;
            y.iter().zip(&c).map(|(y, c)| y * f64::from(*c)).sum()
        };
        let expected: Vec<f64> = chosen.iter().map(|&e| (loss(e, 1e-4) - loss(e, -1e-4)) / 2e-4).collect();
        let got: Vec<f32> = chosen.iter().map(|&e| grad[e]).collect();
        let backward = distance(&got, &expected);
        assert!(backward < 1e-4, "gradient of input {index} is off by {backward}");
    }
}

fn product(x: &[f64], w: &[f64], inner: usize) -> Vec<f64> {
    let dot = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
    x.chunks(inner).flat_map(|x| w.chunks(inner).map(move |w| dot(x, w))).collect()
}

fn softmax_row(x: &[f64]) -> Vec<f64> {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = x.iter().map(|x| (x - max).exp()).sum();
    x.iter().map(|x| (x - max).exp() / sum).collect()
}

#[test]
fn linear_without_bias_is_the_product_and_its_derivative() {
    for (count, inner, outer) in [(1, 7, 5), (33, 20, 9), (70, 48, 130)] {
        check(
            &[(values(count * inner, 1), inner), (values(outer * inner, 2), inner)],
            |x| linear(x[0].clone(), x[1].clone(), None, &clean(&tokens(count))),
            |x| product(&x[0], &x[1], inner),
        );
    }
}

#[test]
fn linear_of_no_rows_has_no_rows_and_the_width_of_the_weight() {
    let x = tensor::<Tape>(&[], 7).require_grad();
    let weight = tensor::<Tape>(&values(5 * 7, 2), 7).require_grad();
    let y = linear(x, weight.clone(), Some(tensor(&values(5, 3), 5)), &clean(&tokens(0)));
    assert_eq!(y.dims(), [0, 5]);
    let grads = y.sum().backward();
    assert!(host(weight.grad(&grads).expect("a gradient")).iter().all(|&g| g == 0.0));
}

#[test]
fn linear_with_bias_adds_it_to_every_row() {
    let (count, inner, outer) = (19, 12, 21);
    check(
        &[(values(count * inner, 1), inner), (values(outer * inner, 2), inner), (values(outer, 3), outer)],
        |x| linear(x[0].clone(), x[1].clone(), Some(x[2].clone()), &clean(&tokens(count))),
        |x| {
            product(&x[0], &x[1], inner)
                .chunks(outer)
                .flat_map(|y| y.iter().zip(&x[2]).map(|(y, b)| y + b))
                .collect()
        },
    );
}

/// Every head of `dim` in rows of `width` turned by its position's angles.
fn turned(x: &[f64], positions: &[u32], dim: usize, width: usize) -> Vec<f64> {
    let (half, frequencies, mut y) = (dim / 2, frequencies(dim), x.to_vec());
    for (row, &position) in y.chunks_mut(width).zip(positions) {
        for head in row.chunks_mut(dim) {
            for i in 0..half {
                let (sin, cos) = f64::from(position as f32 * frequencies[i]).sin_cos();
                let (a, b) = (head[i], head[i + half]);
                (head[i], head[i + half]) = (a * cos - b * sin, b * cos + a * sin);
            }
        }
    }
    y
}

fn attention_reference(x: &[Vec<f64>], positions: &[u32], heads: Heads, lengths: &[usize]) -> Vec<f64> {
    let (qw, kw, d) = (heads.query * heads.dim, heads.kv * heads.dim, heads.dim);
    let x = [turned(&x[0], positions, d, qw), turned(&x[1], positions, d, kw), x[2].clone()];
    let mut y = vec![0.0; x[0].len()];
    let mut start = 0;
    for &length in lengths {
        for head in 0..heads.query {
            let kv = head / (heads.query / heads.kv);
            for i in start..start + length {
                let q = &x[0][i * qw + head * d..][..d];
                let key = |j: usize| &x[1][j * kw + kv * d..][..d];
                let score =
                    |j: usize| q.iter().zip(key(j)).map(|(q, k)| q * k).sum::<f64>() / (d as f64).sqrt();
                let p = softmax_row(&(start..=i).map(score).collect::<Vec<_>>());
                for (j, p) in (start..).zip(p) {
                    for e in 0..d {
                        y[i * qw + head * d + e] += p * x[2][j * kw + kv * d + e];
                    }
                }
            }
        }
        start += length;
    }
    y
}

fn check_attention(heads: Heads, lengths: &[usize]) {
    let count: usize = lengths.iter().sum();
    let (qw, kw) = (heads.query * heads.dim, heads.kv * heads.dim);
    let scaled = |n, seed| values(n, seed).into_iter().map(|x| 2.0 * x).collect();
    let part = clean(&tokens(count));
    let at = AttentionAt { scores: part.clone(), softmax: part.clone(), values: part };
    let segments = Segments::from_lengths(lengths.iter().copied());
    // The sequences do not begin at position 0.
    let positions: Vec<u32> = lengths.iter().flat_map(|&length| 2..2 + length as u32).collect();
    let angles = Angles::new(positions.iter().copied(), &frequencies(heads.dim));
    check(
        &[(scaled(count * qw, 1), qw), (scaled(count * kw, 2), kw), (values(count * kw, 3), kw)],
        |x| attention([0, 1, 2].map(|i| x[i].clone()), &angles, heads, &segments, &at),
        |x| attention_reference(x, &positions, heads, lengths),
    );
}

#[test]
fn attention_is_causal_within_every_sequence() {
    check_attention(Heads { query: 2, kv: 2, dim: 4 }, &[5, 1, 3, 9, 2, 4]);
}

#[test]
fn attention_sums_the_gradients_of_shared_key_value_heads() {
    check_attention(Heads { query: 6, kv: 2, dim: 6 }, &[1, 6, 11]);
}

#[test]
fn attention_crosses_the_edges_of_blocks() {
    check_attention(Heads { query: 2, kv: 1, dim: 10 }, &[64, 65, 1]);
    check_attention(Heads { query: 2, kv: 1, dim: 4 }, &[131]);
}

#[test]
fn softmax_of_a_row_sums_to_one_and_has_its_derivative() {
    for width in [1, 7, 40] {
        check(
            &[(values(9 * width, 1).into_iter().map(|x| 3.0 * x).collect(), width)],
            |x| softmax(x[0].clone(), &clean(&tokens(9))),
            |x| x[0].chunks(width).flat_map(softmax_row).collect(),
        );
    }
}

fn rms_reference(x: &[f64], w: &[f64], epsilon: f64) -> Vec<f64> {
    let row = |x: &[f64]| -> Vec<f64> {
        let r = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + epsilon).sqrt();
        x.iter().zip(w).map(|(x, w)| x * r * w).collect()
    };
    x.chunks(w.len()).flat_map(row).collect()
}

#[test]
fn rms_norm_normalises_rows() {
    check(
        &[(values(13 * 37, 1), 37), (values(37, 2), 37)],
        |x| rms_norm(x[0].clone(), x[1].clone(), 1e-3, &clean(&tokens(13))),
        |x| rms_reference(&x[0], &x[1], f64::from(1e-3_f32)),
    );
}

#[test]
fn rms_norm_normalises_heads_by_themselves() {
    check(
        &[(values(5 * 24, 1), 24), (values(8, 2), 8)],
        |x| rms_norm(x[0].clone(), x[1].clone(), 1e-5, &clean(&tokens(5))),
        |x| rms_reference(&x[0], &x[1], f64::from(1e-5_f32)),
    );
}

#[test]
fn layer_norm_takes_away_the_mean() {
    let width = 35;
    let reference = |x: &[Vec<f64>]| -> Vec<f64> {
        let row = |row: &[f64]| -> Vec<f64> {
            let n = width as f64;
            let mean = row.iter().sum::<f64>() / n;
            let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            let r = 1.0 / (var + f64::from(1e-5_f32)).sqrt();
            row.iter().zip(&x[1]).zip(&x[2]).map(|((v, w), b)| (v - mean) * r * w + b).collect()
        };
        x[0].chunks(width).flat_map(row).collect()
    };
    check(
        &[(values(11 * width, 1), width), (values(width, 2), width), (values(width, 3), width)],
        |x| layer_norm(x[0].clone(), x[1].clone(), x[2].clone(), 1e-5, &clean(&tokens(11))),
        reference,
    );
}

/// From -6 to 6.
fn broad() -> Vec<f32> {
    values(7 * 21, 1).into_iter().map(|x| 6.0 * x).collect()
}

#[test]
fn silu_is_x_times_its_sigmoid() {
    check(
        &[(broad(), 21)],
        |x| silu(x[0].clone(), &clean(&tokens(7))),
        |x| x[0].iter().map(|x| x / (1.0 + (-x).exp())).collect(),
    );
}

#[test]
fn silu_up_is_the_product_of_silu_and_its_second_input() {
    check(
        &[(broad(), 21), (values(147, 5), 21)],
        |x| silu_up(x[0].clone(), x[1].clone(), &clean(&tokens(7))),
        |x| x[0].iter().zip(&x[1]).map(|(x, up)| up * x / (1.0 + (-x).exp())).collect(),
    );
}

/// The error function by its Taylor series, good to 1e-12 below 5.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..120 {
        let n = f64::from(n);
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

#[test]
fn gelu_is_x_times_the_normal_distribution() {
    check(
        &[(broad(), 21)],
        |x| gelu(x[0].clone(), Approximation::Exact, &clean(&tokens(7))),
        |x| x[0].iter().map(|x| 0.5 * x * (1.0 + erf(x / 2.0_f64.sqrt()))).collect(),
    );
}

#[test]
fn gelu_by_tanh_is_its_own_function() {
    let tanh_form = |x: &f64| {
        let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
        0.5 * x * (1.0 + inner.tanh())
    };
    check(
        &[(broad(), 21)],
        |x| gelu(x[0].clone(), Approximation::Tanh, &clean(&tokens(7))),
        |x| x[0].iter().map(tanh_form).collect(),
    );
}

fn rows_of(x: &[f64], rows: &[u32], width: usize) -> Vec<f64> {
    rows.iter().flat_map(|&row| x[row as usize * width..][..width].to_vec()).collect()
}

#[test]
fn embedding_sums_the_gradients_of_a_token_that_occurs_twice() {
    let ids = [3, 0, 3, 5, 3];
    check(
        &[(values(6 * 10, 1), 10)],
        |x| embedding(x[0].clone(), &ids, &clean(&tokens(5))),
        |x| rows_of(&x[0], &ids, 10),
    );
}

#[test]
fn gathered_rows_send_their_gradients_back() {
    let chosen = [4, 1, 4];
    check(&[(values(6 * 9, 1), 9)], |x| gather_rows(x[0].clone(), &chosen), |x| rows_of(&x[0], &chosen, 9));
}

#[test]
fn log_prob_and_entropy_are_those_of_the_tempered_softmax() {
    let (targets, width) = ([2_u32, 0, 16, 5], 17);
    for temperature in [1.0_f32, 0.7, 2.5] {
        let tempered =
            |z: &[f64]| softmax_row(&z.iter().map(|z| z / f64::from(temperature)).collect::<Vec<_>>());
        let logits: Vec<f32> = values(4 * width, 1).into_iter().map(|x| 8.0 * x).collect();
        check(
            &[(logits.clone(), width)],
            |x| log_prob(x[0].clone(), &targets, temperature)[0].clone(),
            |x| x[0].chunks(width).zip(targets).map(|(z, t)| tempered(z)[t as usize].ln()).collect(),
        );
        check(
            &[(logits, width)],
            |x| log_prob(x[0].clone(), &targets, temperature)[1].clone(),
            |x| x[0].chunks(width).map(|z| tempered(z).into_iter().map(|p| -p * p.ln()).sum()).collect(),
        );
    }
}

#[test]
fn tokens_that_can_not_occur_have_no_part_in_the_entropy() {
    let logits = [0.0, f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY];
    let z = tensor::<Tape>(&logits, 4).require_grad();
    let [log_probs, entropy] = log_prob(z.clone(), &[1], 1.0);
    assert_eq!(host(log_probs), [f32::NEG_INFINITY]);
    assert!((host(entropy.clone())[0] - 2.0_f32.ln()).abs() < 1e-6);
    assert_eq!(gradients(&entropy, &[1.0], &[&z]), [[0.0; 4]], "even odds have the largest entropy");
}

#[test]
fn head_is_a_linear_layer_with_log_prob_and_entropy_over_several_chunks() {
    let (count, inner, vocab, temperature) = (530, 5, 9, 0.7_f32);
    let targets: Vec<u32> = (0..count).map(|row| (row * 7 % vocab) as u32).collect();
    check(
        &[(values(count * inner, 1), inner), (values(vocab * inner, 2), inner)],
        |x| head(x[0].clone(), x[1].clone(), &targets, temperature, &clean(&tokens(count))),
        |x| {
            let logits: Vec<f64> =
                product(&x[0], &x[1], inner).iter().map(|z| z / f64::from(temperature)).collect();
            let row = |(z, target): (&[f64], &u32)| {
                let p = softmax_row(z);
                [p[*target as usize].ln(), p.iter().map(|p| -p * p.ln()).sum()]
            };
            logits.chunks(vocab).zip(&targets).flat_map(row).collect()
        },
    );
}

#[test]
fn segments_that_share_a_prefix_have_the_gradients_of_whole_sequences() {
    let heads = Heads { query: 4, kv: 2, dim: 6 };
    let (prompt, responses) = (70, [5_usize, 66]);
    let shared = Segments::new([(prompt, None), (5, Some(0)), (66, Some(0))]);
    let total = prompt + responses.iter().sum::<usize>();
    let inputs = [(24, 1), (12, 2), (12, 3)].map(|(width, seed)| (values(total * width, seed), width));
    let clean_at = |count: usize| {
        let site = clean(&tokens(count));
        AttentionAt { scores: site.clone(), softmax: site.clone(), values: site }
    };
    let angles = |positions: &mut dyn Iterator<Item = usize>| {
        Angles::new(positions.map(|position| position as u32), &frequencies(heads.dim))
    };
    let c = values(total * 24, 9);
    let tensors = inputs.clone().map(|(x, width)| tensor::<Tape>(&x, width).require_grad());
    let continued = responses.into_iter().flat_map(|length| prompt..prompt + length);
    let turns = angles(&mut (0..prompt).chain(continued));
    let y = attention(tensors.clone(), &turns, heads, &shared, &clean_at(total));
    let ours = gradients(&y, &c, &tensors.each_ref());
    // Every response with a copy of the prompt, whose own outputs count once.
    let mut expected = inputs.clone().map(|(x, _)| vec![0.0_f64; x.len()]);
    let mut start = prompt;
    for (index, length) in responses.into_iter().enumerate() {
        let rows: Vec<usize> = (0..prompt).chain(start..start + length).collect();
        start += length;
        let pick = |x: &[f32], width: usize| -> Vec<f32> {
            rows.iter().flat_map(|row| x[row * width..][..width].to_vec()).collect()
        };
        let tensors = inputs.clone().map(|(x, width)| tensor::<Tape>(&pick(&x, width), width).require_grad());
        let (turns, whole) = (angles(&mut (0..rows.len())), Segments::from_lengths([rows.len()]));
        let y = attention(tensors.clone(), &turns, heads, &whole, &clean_at(rows.len()));
        let mut c = pick(&c, 24);
        if index > 0 {
            c[..prompt * 24].fill(0.0);
        }
        let alone = gradients(&y, &c, &tensors.each_ref());
        for ((sum, grad), (_, width)) in expected.iter_mut().zip(alone).zip(&inputs) {
            for (row, grad) in rows.iter().zip(grad.chunks(*width)) {
                sum[row * width..][..*width].iter_mut().zip(grad).for_each(|(s, g)| *s += f64::from(*g));
            }
        }
    }
    for (ours, expected) in ours.iter().zip(&expected) {
        assert!(distance(ours, expected) < 1e-6, "off by {}", distance(ours, expected));
    }
}
