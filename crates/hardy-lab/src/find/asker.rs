//! One operator of the machine asked by itself, with the model's own weights and an input of our choosing.

use std::sync::Arc;

use burn_tensor::{Tensor, TensorData};
use hardy_model::Decoder;
use hardy_numerics::{NoiseKey, Row, fill_gaussian};
use hardy_ops::{
    At, Noise, NoisyBackend, Op, Point, Rows, SiteId, Tap,
    ops::{
        attention::{Angles, AttentionAt, Heads, Segments, attention},
        gelu::{Approximation, gelu},
        linear::linear,
        rms_norm::rms_norm,
        silu::silu,
    },
};

use super::machine::host;

/// Rows of a question.
pub(super) const ROWS: usize = 16;

/// Asks the operators of a decoder under the machine's errors.
pub(super) struct Asker<'a, B: NoisyBackend> {
    pub decoder: &'a Decoder<B>,
    noise: &'a Noise,
}

/// A linear layer or a norm.
pub(super) struct Weighted<B: NoisyBackend> {
    pub site: usize,
    /// `[out, in]`, of a norm `[1, in]`.
    pub weight: Tensor<B, 2>,
    /// `[1, out]`.
    bias: Option<Tensor<B, 2>>,
}

/// The sites of a layer's attention.
#[derive(Clone, Copy)]
pub(super) struct Attending {
    pub scores: usize,
    softmax: usize,
    pub values: usize,
}

impl<'a, B: NoisyBackend> Asker<'a, B> {
    pub fn new(decoder: &'a Decoder<B>, noise: &'a Noise) -> Self {
        Self { decoder, noise }
    }

    /// The layer or norm at `site`; `None` where there is no weight.
    pub fn weighted(&self, site: usize) -> Option<Weighted<B>> {
        let weights = self.decoder.blueprint.weights();
        let (_, weight, bias) = weights.into_iter().find(|(id, ..)| id.0 == site)?;
        let weight = self.decoder.weight_at(SiteId(site), weight);
        Some(Weighted { site, weight, bias: bias.map(|bias| self.decoder.parameters[bias].clone()) })
    }

    /// Normal numbers `[ROWS, width]`.
    pub fn question(&self, width: usize, name: &str) -> Tensor<B, 2> {
        let mut data = vec![0.0; ROWS * width];
        fill_gaussian(NoiseKey::new(0, "find", 0, name), Row::WEIGHT, 0, &mut data);
        self.tensor(data, width)
    }

    /// `data` in rows of `width`.
    pub fn tensor(&self, data: Vec<f32>, width: usize) -> Tensor<B, 2> {
        let shape = [data.len() / width, width];
        Tensor::from_data(TensorData::new(data, shape), &self.decoder.parameters[0].device())
    }

    /// What a linear layer makes of `x`, less its bias.
    pub fn product(&self, layer: &Weighted<B>, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let at = self.at(layer.site, x.dims()[0]);
        let y = linear(x, layer.weight.clone(), layer.bias.clone(), &at);
        match &layer.bias {
            Some(bias) => y - bias.clone(),
            None => y,
        }
    }

    /// What a norm makes of `x`.
    pub fn norm(&self, norm: &Weighted<B>, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let at = self.at(norm.site, x.dims()[0]);
        rms_norm(x, norm.weight.clone(), self.decoder.blueprint.config.rms_norm_eps, &at)
    }

    /// What SiLU or GELU makes of `x`.
    pub fn activation(&self, site: usize, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let at = self.at(site, x.dims()[0]);
        match self.decoder.blueprint.sites[site].op {
            Op::Gelu => gelu(x, Approximation::Exact, &at),
            _ => silu(x, &at),
        }
    }

    /// The width of a layer's queries, and of its keys and values.
    pub fn widths(&self) -> [usize; 2] {
        let heads = self.heads();
        [heads.query * heads.dim, heads.kv * heads.dim]
    }

    /// The scores, and what attention gives of them, for queries, keys and values of [`ROWS`] tokens without rotation.
    pub fn attend(&self, at: Attending, qkv: [Tensor<B, 2>; 3]) -> (Vec<f32>, Tensor<B, 2>) {
        let tap = Arc::new(Tap::new(vec![[true, false]; self.decoder.blueprint.sites.len()]));
        let tapped = Asker { decoder: self.decoder, noise: &self.noise.clone().tapped(&tap) };
        let [scores, softmax, values] = [at.scores, at.softmax, at.values].map(|site| tapped.at(site, ROWS));
        let sites = AttentionAt { scores, softmax, values };
        let (heads, segments) = (self.heads(), Segments::from_lengths([ROWS]));
        let y = attention(qkv, &Angles::still(ROWS, heads.dim / 2), heads, &segments, &sites);
        let kept = tap.take();
        let own = kept.into_iter().filter(|(key, _)| key.site.0 == at.scores && key.point == Point::Output);
        (own.flat_map(|(_, kept)| kept.values).collect(), y)
    }

    /// Every layer's attention.
    pub fn attentions(&self) -> impl Iterator<Item = Attending> + '_ {
        let site = |layer: usize, name: &str| {
            let module = format!("model.layers.{layer}.self_attn.{name}");
            self.decoder.blueprint.sites.iter().position(|site| site.module == module)
        };
        (0..self.decoder.layers()).filter_map(move |layer| {
            let [scores, softmax, values] = ["scores", "softmax", "values"].map(|name| site(layer, name));
            Some(Attending { scores: scores?, softmax: softmax?, values: values? })
        })
    }

    fn heads(&self) -> Heads {
        let config = &self.decoder.blueprint.config;
        Heads { query: config.heads, kv: config.kv_heads, dim: config.head_dim }
    }

    /// `rows` rows at `site`, as far as errors are concerned.
    fn at(&self, site: usize, rows: usize) -> At {
        let rows: Rows = (0..rows as u32).map(|position| Row { sequence: 1, position }).collect();
        self.decoder.at(self.noise, SiteId(site), &rows)
    }
}

/// The largest |error| over the root mean square of `y`; ∞ of what is not finite.
pub(super) fn relative<B: NoisyBackend>(error: &Tensor<B, 2>, y: &Tensor<B, 2>) -> f64 {
    relative_of(&host(error), &host(y))
}

/// The same of slices.
pub(super) fn relative_of(error: &[f32], y: &[f32]) -> f64 {
    let largest = error
        .iter()
        .fold(0.0, |max: f64, &e| if e.is_finite() { max.max(f64::from(e.abs())) } else { f64::INFINITY });
    if largest == 0.0 { 0.0 } else { largest / rms(y) }
}

/// The root mean square.
pub(super) fn rms(y: &[f32]) -> f64 {
    (y.iter().map(|&y| f64::from(y).powi(2)).sum::<f64>() / y.len().max(1) as f64).sqrt()
}
