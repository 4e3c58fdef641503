//! Relations that operators keep whatever their weights: products and norms give the opposite for the opposite, SiLU and GELU give
//! 0 for 0 and x more for x than for −x, and attention that asks nothing has no scores. Rounding to nearest keeps them too, to the bit or
//! nearly, so that what breaks them is an offset.

use hardy_ops::{NoisyBackend, Op};

use super::{
    asker::{Asker, Attending, Weighted, relative},
    checks::Scores,
};

/// How far every site's operator is from its relation, over the magnitude of what it gives.
pub(super) fn asymmetries<B: NoisyBackend>(asker: &Asker<'_, B>) -> Scores {
    let mut scores = Scores::new();
    for (index, site) in asker.decoder.blueprint.sites.iter().enumerate() {
        let score = match (site.op, asker.weighted(index)) {
            (Op::Linear, Some(layer)) => asker.linear_asymmetry(&layer),
            (Op::RmsNorm, Some(norm)) => asker.norm_asymmetry(&norm),
            (Op::Silu | Op::Gelu, _) => asker.activation_asymmetry(index),
            _ => continue,
        };
        scores.put(index, score);
    }
    for attention in asker.attentions() {
        let [of_scores, of_values] = asker.attention_asymmetry(attention);
        scores.put(attention.scores, of_scores);
        scores.put(attention.values, of_values);
    }
    scores
}

impl<B: NoisyBackend> Asker<'_, B> {
    fn linear_asymmetry(&self, layer: &Weighted<B>) -> f64 {
        let x = self.question(layer.weight.dims()[1], "linear");
        let y = self.product(layer, x.clone());
        relative(&(self.product(layer, -x) + y.clone()), &y)
    }

    fn norm_asymmetry(&self, norm: &Weighted<B>) -> f64 {
        let x = self.question(norm.weight.dims()[1], "norm");
        let y = self.norm(norm, x.clone());
        relative(&(self.norm(norm, -x) + y.clone()), &y)
    }

    fn activation_asymmetry(&self, site: usize) -> f64 {
        let x = self.question(self.decoder.blueprint.config.intermediate_size, "activation");
        let y = |x| self.activation(site, x);
        // An offset falls out of the difference, but not at 0.
        let at_zero = relative(&y(x.zeros_like()), &x);
        relative(&(y(x.clone()) - y(-x.clone()) - x.clone()), &x).max(at_zero)
    }

    /// The scores of no query, and the values of opposite values.
    fn attention_asymmetry(&self, at: Attending) -> [f64; 2] {
        let [of_queries, width] = self.widths();
        let q = self.question(of_queries, "queries") * 0.0;
        let [k, v] = ["keys", "values"].map(|name| self.question(width, name));
        let (scores, y) = self.attend(at, [q.clone(), k.clone(), v.clone()]);
        let (_, opposite) = self.attend(at, [q, k, -v]);
        let largest = scores.into_iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        [f64::from(largest), relative(&(opposite + y.clone()), &y)]
    }
}
