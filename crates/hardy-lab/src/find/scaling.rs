//! How operators must grow: a product of k·x is k times that of x, SiLU and GELU give x more for x than for −x however large it is,
//! and a norm gives all that it has to a single value. Asked beyond the largest values that the text brings forth, for a clamp
//! strikes there whatever it left alone in the text; and a power of two changes no rounding.

use burn_tensor::Tensor;
use hardy_ops::{NoisyBackend, Op};

use super::{
    asker::{Asker, Attending, Weighted, relative, relative_of, rms},
    checks::Scores,
    machine::{Snapshot, host},
};

/// How far beyond the largest value of the text a question is to reach, in root mean squares of the answer.
const BEYOND: f64 = 2.0;
/// What no healthy answer exceeds: half of what FP16 holds.
const MOST: f64 = 32_752.0;
/// Rows of a question to a norm, each with a single value.
const SINGLES: usize = 256;
/// That value; the ε of the norm is lost beside its square.
const SINGLE: f32 = 16.0;

/// How far every site's operator is from growing as it must, over the magnitude of what it should give; `seen` is a pass over
/// the text.
pub(super) fn misscaled<B: NoisyBackend>(asker: &Asker<'_, B>, seen: &Snapshot) -> Scores {
    let mut scores = Scores::new();
    for (index, site) in asker.decoder.blueprint.sites.iter().enumerate() {
        let score = match (site.op, asker.weighted(index)) {
            (Op::Linear, Some(layer)) => asker.linear_growth(&layer, seen.largest(index)),
            (Op::RmsNorm, Some(norm)) => asker.norm_of_singles(&norm),
            (Op::Silu | Op::Gelu, _) => asker.activation_growth(index, seen.largest(index)),
            _ => continue,
        };
        scores.put(index, score);
    }
    for attention in asker.attentions() {
        let largest = [attention.scores, attention.values].map(|site| seen.largest(site));
        let [of_scores, of_values] = asker.attention_growth(attention, largest);
        scores.put(attention.scores, of_scores);
        scores.put(attention.values, of_values);
    }
    scores
}

/// The power of two, 2 or more, that brings answers like `y` beyond `largest`, but not beyond [`MOST`].
fn factor(y: &[f32], largest: f64) -> f32 {
    let highest = y.iter().fold(0.0, |max: f64, &y| max.max(f64::from(y.abs())));
    let wanted = (BEYOND * largest / rms(y)).min(MOST / highest);
    if wanted.is_finite() { wanted.max(2.0).log2().ceil().exp2() as f32 } else { 2.0 }
}

impl<B: NoisyBackend> Asker<'_, B> {
    fn linear_growth(&self, layer: &Weighted<B>, largest: f64) -> f64 {
        let x = self.question(layer.weight.dims()[1], "linear");
        let y = self.product(layer, x.clone());
        let k = factor(&host(&y), largest);
        let expected = y * k;
        relative(&(self.product(layer, x * k) - expected.clone()), &expected)
    }

    fn activation_growth(&self, site: usize, largest: f64) -> f64 {
        let x = self.question(self.decoder.blueprint.config.intermediate_size, "activation");
        let k = factor(&host(&x), largest);
        let x = x * k;
        let y = |x| self.activation(site, x);
        relative(&(y(x.clone()) - y(-x.clone()) - x.clone()), &x)
    }

    /// A norm of width d gives a value that stands alone √d times its weight, the most that it can give there.
    fn norm_of_singles(&self, norm: &Weighted<B>) -> f64 {
        let weight = host(&norm.weight);
        let width = weight.len();
        let expected: Vec<f32> = weight.iter().map(|w| w * (width as f32).sqrt()).collect();
        let of_part = |first: usize| {
            let rows = SINGLES.min(width - first);
            let mut x = vec![0.0; rows * width];
            (0..rows).for_each(|row| x[row * width + first + row] = SINGLE);
            let y = host(&self.norm(norm, self.tensor(x, width)));
            (0..rows).map(move |row| y[row * width + first + row]).collect::<Vec<f32>>()
        };
        let given = (0..width).step_by(SINGLES).flat_map(of_part);
        let error: Vec<f32> = given.zip(&expected).map(|(given, expected)| given - expected).collect();
        relative_of(&error, &expected)
    }

    /// Scores grow with queries, and what attention gives with values.
    fn attention_growth(&self, at: Attending, largest: [f64; 2]) -> [f64; 2] {
        let [of_queries, width] = self.widths();
        let q = self.question(of_queries, "queries");
        let [k, v] = ["keys", "values"].map(|name| self.question(width, name));
        let (scores, _) = self.attend(at, [q.clone(), k.clone(), v.clone()]);
        let by = factor(&scores, largest[0]);
        let (grown, _) = self.attend(at, [q.clone() * by, k.clone(), v.clone()]);
        let expected: Vec<f32> = scores.iter().map(|score| by * score).collect();
        let error: Vec<f32> = grown.iter().zip(&expected).map(|(grown, expected)| grown - expected).collect();
        // Without a question the mean of the values so far, whatever the scores.
        let asked_nothing = |v: Tensor<B, 2>| self.attend(at, [q.clone() * 0.0, k.clone(), v]).1;
        let mean = asked_nothing(v.clone());
        let by = factor(&host(&mean), largest[1]);
        let expected_mean = mean * by;
        let off = asked_nothing(v * by) - expected_mean.clone();
        [relative_of(&error, &expected), relative(&off, &expected_mean)]
    }
}
