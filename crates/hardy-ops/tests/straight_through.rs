//! Straight-through gradients under number formats, against the surrogate in f64: what a quantised tensor is replaced by
//! is the tensor plus a constant, or where it saturates and the gradient is clipped, the constant alone. The surrogate is
//! differentiated by central differences.

mod common;

use burn_tensor::Tensor;
use common::{Tape, at, bind, distance, gradients, host, tensor, tokens, values};
use hardy_numerics::{Blocks, Format, Perturbation, Quantization};
use hardy_ops::{
    At, Op, Ops, Pass, Point, Rule,
    ops::{
        embedding::embedding,
        gelu::{Approximation, gelu},
        layer_norm::layer_norm,
        linear::linear,
        rms_norm::rms_norm,
        silu::silu,
    },
};

/// A format at a point of an operator, forward.
fn quantised(point: Point, op: Op, quantization: Quantization) -> Rule {
    let error = Perturbation::Quantization(quantization);
    Rule { ops: Ops::Some(vec![op]), at: point, pass: vec![Pass::Forward], error, ..Rule::noise(0.0) }
}

/// What stands for a tensor in the surrogate: `x + offset`, or `offset` alone where `clipped`.
struct Surrogate {
    offset: Vec<f64>,
    clipped: Vec<bool>,
}

impl Surrogate {
    /// That of `x` `[rows, width]`, a weight or an activation, under a format; of `None` the tensor itself.
    fn new(quantization: Option<Quantization>, x: &[f32], width: usize, is_weight: bool) -> Self {
        let (mut image, mut passed) = (x.to_vec(), vec![1.0_f32; x.len()]);
        if let Some(quantization) = quantization {
            let format = quantization.format;
            let square = quantization.blocks == Blocks::TwoD;
            match (is_weight, square) {
                (true, true) => format.fake_quantize_2d(&mut image, width),
                (true, false) => format.fake_quantize(&mut image, width),
                _ => image.chunks_mut(width).for_each(|row| format.fake_quantize_row(row)),
            }
            match (quantization.clip_gradient, is_weight, square) {
                (false, ..) => {}
                (true, true, true) => format.clip_saturated_2d(x, width, &mut passed),
                (true, true, false) => format.clip_saturated(x, width, &mut passed),
                _ => x
                    .chunks(width)
                    .zip(passed.chunks_mut(width))
                    .for_each(|(row, passed)| format.clip_saturated(row, width, passed)),
            }
        }
        let clipped: Vec<bool> = passed.iter().map(|&passed| passed == 0.0).collect();
        let offset = |i: usize| f64::from(image[i]) - if clipped[i] { 0.0 } else { f64::from(x[i]) };
        Self { offset: (0..x.len()).map(offset).collect(), clipped }
    }

    fn of(&self, x: &[f64]) -> Vec<f64> {
        let one = |i: usize| self.offset[i] + if self.clipped[i] { 0.0 } else { x[i] };
        (0..x.len()).map(one).collect()
    }

    fn clips(&self) -> bool {
        self.clipped.contains(&true)
    }
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Checks the gradients of `Σ c·op(inputs)` against the surrogate, where `formats` are those of the inputs and of the
/// output, and `is_weight` says which inputs are weights. Gives whether anything was clipped.
fn check(
    inputs: &[(Vec<f32>, usize)],
    is_weight: &[bool],
    formats: &[Option<Quantization>],
    noise: &At,
    op: impl Fn(&[Tensor<Tape, 2>], &At) -> Tensor<Tape, 2>,
    reference: impl Fn(&[Vec<f64>]) -> Vec<f64>,
) -> bool {
    let tensors: Vec<_> = inputs.iter().map(|(x, width)| tensor::<Tape>(x, *width).require_grad()).collect();
    let y = op(&tensors, noise);
    let width = y.dims()[1];
    let surrogates: Vec<Surrogate> = inputs
        .iter()
        .enumerate()
        .map(|(i, (x, width))| Surrogate::new(formats[i], x, *width, is_weight[i]))
        .collect();
    let seen = |inputs: &[Vec<f64>]| -> Vec<f64> {
        let seen: Vec<Vec<f64>> = inputs.iter().zip(&surrogates).map(|(x, s)| s.of(x)).collect();
        reference(&seen)
    };
    let mut wide: Vec<Vec<f64>> = inputs.iter().map(|(x, _)| wide(x)).collect();
    // What the output quantiser saw is what the operator makes in f32, without the rule at its output.
    let before: Vec<f32> = seen(&wide).iter().map(|&y| y as f32).collect();
    let output = Surrogate::new(formats[inputs.len()], &before, width, false);
    let y_host = host(y.clone());
    assert!(distance(&y_host, &output.of(&seen(&wide))) < 2e-5, "forward");
    let c = values(y_host.len(), 99);
    let loss = |y: &[f64]| y.iter().zip(&c).map(|(y, c)| y * f64::from(*c)).sum::<f64>();
    let grads = gradients(&y, &c, &tensors.iter().collect::<Vec<_>>());
    for (index, grad) in grads.iter().enumerate() {
        let expected: Vec<f64> = (0..grad.len())
            .map(|element| {
                let mut at = |step: f64| {
                    wide[index][element] += step;
                    let value = loss(&output.of(&seen(&wide)));
                    wide[index][element] -= step;
                    value
                };
                (at(1e-4) - at(-1e-4)) / 2e-4
            })
            .collect();
        let off = distance(grad, &expected);
        assert!(off < 1e-4, "gradient of input {index} is off by {off}");
    }
    surrogates.iter().any(Surrogate::clips) || output.clips()
}

const TOKENS: usize = 5;
const INNER: usize = 40;
const OUTER: usize = 20;

fn product(x: &[Vec<f64>]) -> Vec<f64> {
    let dot = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
    let row = |x: &[f64]| x.to_vec();
    let rows = x[0].chunks(INNER).map(row);
    rows.flat_map(|r| x[1].chunks(INNER).zip(&x[2]).map(|(w, b)| dot(&r, w) + b).collect::<Vec<_>>())
        .collect()
}

/// A linear layer with formats at its input, weight and output; gives whether anything was clipped.
fn check_linear(
    input: Option<Quantization>,
    weight: Option<Quantization>,
    output: Option<Quantization>,
) -> bool {
    let points = [(Point::Input, input), (Point::Weight, weight), (Point::Output, output)];
    let rules = points.into_iter().filter_map(|(point, q)| q.map(|q| quantised(point, Op::Linear, q)));
    let plan = bind(rules.collect(), Op::Linear);
    let inputs =
        [(values(TOKENS * INNER, 1), INNER), (values(OUTER * INNER, 2), INNER), (values(OUTER, 3), OUTER)];
    check(
        &inputs,
        &[false, true, false],
        &[input, weight, None, output],
        &at(&plan, &tokens(TOKENS)),
        |x, at| linear(x[0].clone(), x[1].clone(), Some(x[2].clone()), at),
        product,
    )
}

/// Formats that saturate, and one that does not.
const FORMATS: [Format; 5] = [Format::Mxfp4, Format::Nvfp4, Format::Hif4, Format::Mxfp8E5m2, Format::Int4G32];

fn with_clip(format: Format, clip_gradient: bool) -> Option<Quantization> {
    Some(Quantization { clip_gradient, ..format.into() })
}

#[test]
fn gradients_under_w4a16_are_those_of_the_surrogate() {
    for format in FORMATS {
        for clip in [false, true] {
            let clipped = check_linear(None, with_clip(format, clip), None);
            assert_eq!(clipped, clip && format != Format::Int4G32, "{}", format.name());
        }
    }
    let square = Quantization { blocks: Blocks::TwoD, clip_gradient: true, ..Format::Mxfp4.into() };
    assert!(check_linear(None, Some(square), None));
}

#[test]
fn gradients_under_w4a4_are_those_of_the_surrogate() {
    for format in FORMATS {
        for clip in [false, true] {
            let quantization = with_clip(format, clip);
            let clipped = check_linear(quantization, quantization, None);
            assert_eq!(clipped, clip && format != Format::Int4G32, "{}", format.name());
        }
    }
}

#[test]
fn gradients_under_quantised_outputs_are_those_of_the_surrogate() {
    for (format, clip) in [(Format::Fp16, false), (Format::Fp16, true), (Format::Mxfp8E4m3, true)] {
        check_linear(None, None, with_clip(format, clip));
    }
    assert!(check_linear(None, None, with_clip(Format::Mxfp4, true)), "something saturates");
}

/// A format that saturates often, with clipped gradients.
fn clipping() -> Option<Quantization> {
    with_clip(Format::Mxfp4, true)
}

#[test]
fn pointwise_operators_clip_at_their_input() {
    let x = [(values(7 * 40, 1).into_iter().map(|x| 4.0 * x).collect(), 40)];
    let rows = tokens(7);
    let noise = |op| at(&bind(vec![quantised(Point::Input, op, clipping().unwrap())], op), &rows);
    let silu_reference = |x: &[Vec<f64>]| x[0].iter().map(|x| x / (1.0 + (-x).exp())).collect();
    let formats = [clipping(), None];
    let run = |x: &[Tensor<Tape, 2>], at: &At| silu(x[0].clone(), at);
    assert!(check(&x, &[false], &formats, &noise(Op::Silu), run, silu_reference));
    let tanh_form = |x: &f64| {
        let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
        0.5 * x * (1.0 + inner.tanh())
    };
    let run = |x: &[Tensor<Tape, 2>], at: &At| gelu(x[0].clone(), Approximation::Tanh, at);
    let reference = |x: &[Vec<f64>]| x[0].iter().map(tanh_form).collect();
    assert!(check(&x, &[false], &formats, &noise(Op::Gelu), run, reference));
}

#[test]
fn norms_clip_at_input_and_weight() {
    let width = 40;
    let norm_rules = |op| {
        let rules = [Point::Input, Point::Weight].map(|point| quantised(point, op, clipping().unwrap()));
        at(&bind(rules.to_vec(), op), &tokens(6))
    };
    let rms = |x: &[Vec<f64>]| -> Vec<f64> {
        let row = |row: &[f64]| -> Vec<f64> {
            let square = row.iter().map(|v| v * v).sum::<f64>() / width as f64;
            let r = 1.0 / (square + f64::from(1e-3_f32)).sqrt();
            row.iter().zip(&x[1]).map(|(v, w)| v * r * w).collect()
        };
        x[0].chunks(width).flat_map(row).collect()
    };
    let inputs = [(values(6 * width, 1), width), (values(width, 2), width)];
    let run = |x: &[Tensor<Tape, 2>], at: &At| rms_norm(x[0].clone(), x[1].clone(), 1e-3, at);
    assert!(check(
        &inputs,
        &[false, true],
        &[clipping(), clipping(), None],
        &norm_rules(Op::RmsNorm),
        run,
        rms
    ));
    let layer = |x: &[Vec<f64>]| -> Vec<f64> {
        let row = |row: &[f64]| -> Vec<f64> {
            let n = width as f64;
            let mean = row.iter().sum::<f64>() / n;
            let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            let r = 1.0 / (var + f64::from(1e-3_f32)).sqrt();
            row.iter().zip(&x[1]).zip(&x[2]).map(|((v, w), b)| (v - mean) * r * w + b).collect()
        };
        x[0].chunks(width).flat_map(row).collect()
    };
    let inputs = [(values(6 * width, 1), width), (values(width, 2), width), (values(width, 3), width)];
    let run = |x: &[Tensor<Tape, 2>], at: &At| layer_norm(x[0].clone(), x[1].clone(), x[2].clone(), 1e-3, at);
    let formats = [clipping(), clipping(), None, None];
    assert!(check(&inputs, &[false, true, false], &formats, &norm_rules(Op::LayerNorm), run, layer));
}

#[test]
fn an_embedding_clips_at_its_table_and_its_output() {
    let (ids, width) = ([3, 0, 3, 5, 3], 40);
    let reference = |x: &[Vec<f64>]| -> Vec<f64> {
        ids.iter().flat_map(|&id| x[0][id as usize * width..][..width].to_vec()).collect()
    };
    for (point, formats) in [(Point::Weight, [clipping(), None]), (Point::Output, [None, clipping()])] {
        let plan = bind(vec![quantised(point, Op::Embedding, clipping().unwrap())], Op::Embedding);
        let run = |x: &[Tensor<Tape, 2>], at: &At| embedding(x[0].clone(), &ids, at);
        let inputs = [(values(6 * width, 1), width)];
        assert!(check(&inputs, &[true], &formats, &at(&plan, &tokens(5)), run, reference), "{point:?}");
    }
}
