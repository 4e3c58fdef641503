//! Relations that operators keep whatever their weights: products and norms give the opposite for the opposite, SiLU and GELU give
//! 0 for 0 and x more for x than for −x, and attention that asks nothing has no scores. Rounding to nearest keeps them too, to the bit or
//! nearly, so that what breaks them is an offset.

use std::sync::Arc;

use burn_tensor::{Tensor, TensorData};
use hardy_model::Decoder;
use hardy_numerics::{NoiseKey, Row, fill_gaussian};
use hardy_ops::{
    Noise, NoisyBackend, Op, Point, Rows, SiteId, Tap,
    ops::{
        attention::{Angles, AttentionAt, Heads, Segments, attention},
        gelu::{Approximation, gelu},
        linear::linear,
        rms_norm::rms_norm,
        silu::silu,
    },
};

use super::checks::Scores;

/// Rows of a question.
const ROWS: usize = 16;

/// How far every site's operator is from its relation, over the magnitude of what it gives.
pub(crate) fn asymmetries<B: NoisyBackend>(decoder: &Decoder<B>, noise: &Noise) -> Scores {
    let asker = Asker { decoder, noise, rows: rows() };
    let mut scores = Scores::new();
    let weights = decoder.blueprint.weights();
    for (index, site) in decoder.blueprint.sites.iter().enumerate() {
        let weight = weights.iter().find(|(id, ..)| id.0 == index);
        let score = match (site.op, weight) {
            (Op::Linear, Some(&(_, weight, bias))) => asker.linear(index, weight, bias),
            (Op::RmsNorm, Some(&(_, weight, _))) => asker.norm(index, weight),
            (Op::Silu, _) => asker.activation(index, silu),
            (Op::Gelu, _) => asker.activation(index, |x, at| gelu(x, Approximation::Exact, at)),
            _ => continue,
        };
        scores.put(index, score);
    }
    asker.attention(&mut scores);
    scores
}

struct Asker<'a, B: NoisyBackend> {
    decoder: &'a Decoder<B>,
    noise: &'a Noise,
    rows: Rows,
}

fn rows() -> Rows {
    (0..ROWS as u32).map(|position| Row { sequence: 1, position }).collect()
}

impl<B: NoisyBackend> Asker<'_, B> {
    /// Normal numbers `[ROWS, width]`.
    fn question(&self, width: usize, name: &str) -> Tensor<B, 2> {
        let mut data = vec![0.0; ROWS * width];
        fill_gaussian(NoiseKey::new(0, "find", 0, name), Row::WEIGHT, 0, &mut data);
        Tensor::from_data(TensorData::new(data, [ROWS, width]), &self.decoder.parameters[0].device())
    }

    fn linear(&self, site: usize, weight: usize, bias: Option<usize>) -> f64 {
        let weight = self.decoder.weight_at(SiteId(site), weight);
        let bias = bias.map(|bias| self.decoder.parameters[bias].clone());
        let at = || self.noise.at(SiteId(site), &self.rows);
        let x = self.question(weight.dims()[1], "linear");
        let y = |x: Tensor<B, 2>| linear(x, weight.clone(), bias.clone(), &at());
        let twice_the_bias = bias.clone().map(|bias| bias * 2.0);
        let sum = y(x.clone()) + y(-x.clone());
        let rest = match twice_the_bias {
            Some(bias) => sum - bias,
            None => sum,
        };
        relative(&rest, &y(x))
    }

    fn norm(&self, site: usize, weight: usize) -> f64 {
        let weight = self.decoder.weight_at(SiteId(site), weight);
        let epsilon = self.decoder.blueprint.config.rms_norm_eps;
        let x = self.question(weight.dims()[1], "norm");
        let y =
            |x: Tensor<B, 2>| rms_norm(x, weight.clone(), epsilon, &self.noise.at(SiteId(site), &self.rows));
        relative(&(y(x.clone()) + y(-x.clone())), &y(x))
    }

    fn activation(&self, site: usize, f: impl Fn(Tensor<B, 2>, &hardy_ops::At) -> Tensor<B, 2>) -> f64 {
        let x = self.question(self.decoder.blueprint.config.intermediate_size, "activation");
        let y = |x: Tensor<B, 2>| f(x, &self.noise.at(SiteId(site), &self.rows));
        // An offset falls out of the difference, but not at 0.
        let at_zero = relative(&y(x.zeros_like()), &x);
        relative(&(y(x.clone()) - y(-x.clone()) - x.clone()), &x).max(at_zero)
    }

    /// The scores of no query, and the values of opposite values, of every layer.
    fn attention(&self, scores: &mut Scores) {
        let config = &self.decoder.blueprint.config;
        let heads = Heads { query: config.heads, kv: config.kv_heads, dim: config.head_dim };
        for layer in 0..self.decoder.layers() {
            let [Some(at_scores), Some(at_softmax), Some(at_values)] =
                ["scores", "softmax", "values"].map(|name| self.site(layer, name))
            else {
                continue;
            };
            let tap = Arc::new(Tap::new(vec![[true, false]; self.decoder.blueprint.sites.len()]));
            let noise = self.noise.clone().tapped(&tap);
            let [k, v] = ["keys", "values"].map(|name| self.question(heads.kv * heads.dim, name));
            let q = self.question(heads.query * heads.dim, "queries") * 0.0;
            let attend = |v: Tensor<B, 2>| {
                let [scores, softmax, values] =
                    [at_scores, at_softmax, at_values].map(|site| noise.at(SiteId(site), &self.rows));
                let angles = Angles::still(ROWS, heads.dim / 2);
                let at = AttentionAt { scores, softmax, values };
                attention([q.clone(), k.clone(), v], &angles, heads, &Segments::from_lengths([ROWS]), &at)
            };
            let y = attend(v.clone());
            let kept = tap.take();
            let own = kept.iter().filter(|(key, _)| key.site.0 == at_scores && key.point == Point::Output);
            let largest = own.flat_map(|(_, kept)| &kept.values).fold(0.0_f32, |max, x| max.max(x.abs()));
            scores.put(at_scores, f64::from(largest));
            scores.put(at_values, relative(&(attend(-v) + y.clone()), &y));
        }
    }

    fn site(&self, layer: usize, name: &str) -> Option<usize> {
        let module = format!("model.layers.{layer}.self_attn.{name}");
        self.decoder.blueprint.sites.iter().position(|site| site.module == module)
    }
}

/// The largest |error| over the root mean square of `y`; ∞ of what is not finite.
fn relative<B: NoisyBackend>(error: &Tensor<B, 2>, y: &Tensor<B, 2>) -> f64 {
    let host = |x: &Tensor<B, 2>| B::host(&x.clone().into_primitive().tensor()).to_vec();
    let (error, y) = (host(error), host(y));
    let rms = (y.iter().map(|&y| f64::from(y).powi(2)).sum::<f64>() / y.len().max(1) as f64).sqrt();
    let largest = error
        .iter()
        .fold(0.0, |max: f64, &e| if e.is_finite() { max.max(f64::from(e.abs())) } else { f64::INFINITY });
    if largest == 0.0 { 0.0 } else { largest / rms }
}
