//! Scales that are learned. What a rule perturbs is x̃ = x + σ·ε, and ε comes out of its address once more, so that the loss has
//! the derivative ∂L/∂σ = Σ ⟨∂L/∂x̃, ε⟩ (reparametrisation, arXiv:1312.6114 §2.4), summed over what the rule perturbs. It is
//! learned where the gradient of x̃ is at hand: of a weight it is the one that is gathered, of an output the one that arrives.

use burn_tensor::Tensor;
use hardy_numerics::{Keys, Perturbation, Row};
use rayon::prelude::*;

use crate::{
    at::{At, Noise},
    backend::{NoisyBackend, Primitive},
    errors::Injection,
    plan::BoundPlan,
    rows::Rows,
    site::{Pass, Phase, Point, SiteId},
};

/// ε itself.
const UNIT: Perturbation = Perturbation::AbsoluteGaussian { scale: 1.0 };
/// Rows, and elements of a weight, that one task multiplies.
const ROWS: usize = 32;

impl At {
    /// Adds what `grad`, the gradient that arrives at the output `[rows, width]`, says of the scale of a learned rule there.
    pub(crate) fn gather_scale<B: NoisyBackend>(&self, grad: &Primitive<B>) {
        let (Some((sums, site)), Some(injection)) =
            (&self.gathering, learned(self.injections(Point::Output)))
        else {
            return;
        };
        let [_, width] = B::shape(grad);
        let along = along_rows(injection.keys[0], self.rows().of(Pass::Forward), width, &B::host(grad));
        sums.add_scale(*site, along);
    }
}

impl Noise {
    /// Whether the scale of a rule is learned whose gradient arrives at outputs.
    pub fn learns_at_outputs(&self) -> bool {
        self.all_sites().any(|errors| learned(errors.injections(Point::Output)).is_some())
    }

    /// Says that `grad` `[rows, width]` arrives at the output of `site`, to which the tape does not reach because nothing below
    /// it is trained.
    pub fn arrives<B: NoisyBackend>(&self, site: SiteId, rows: &Rows, grad: &Tensor<B, 2>) {
        self.at(site, rows).gather_scale::<B>(&grad.clone().into_primitive().tensor());
    }

    /// Σ⟨∂L/∂W̃, ε⟩ at a site whose weight a learned rule perturbs, of the gradient of the weight that was gathered.
    fn along_weight(&self, site: SiteId) -> f64 {
        let errors = self.errors(site);
        let Some(injection) = learned(errors.injections(Point::Weight)) else { return 0.0 };
        self.with_gathered_weight(site, |gradient| {
            let mut unit = vec![0.0; gradient.len()];
            UNIT.apply_flat(injection.keys[0], gradient.len().max(1), &mut unit);
            unit.iter().zip(gradient).map(|(e, g)| f64::from(*e) * f64::from(*g)).sum()
        })
    }
}

impl BoundPlan {
    /// The places of the rules whose scale is learned, in their order.
    pub fn learned(&self) -> Vec<usize> {
        let rules = self.plan().rules.iter().enumerate();
        rules.filter(|(_, rule)| rule.learned).map(|(place, _)| place).collect()
    }

    /// ∂L/∂scale of each learned rule. `noise` holds the gradients of weights of a whole update (see [`Noise::with_sums`]),
    /// `outputs` for every site what [`Noise::take_scales`] gave, summed over it.
    ///
    /// # Panics
    /// If `noise` does not gather.
    pub fn scale_gradients(&self, noise: &Noise, outputs: &[f64]) -> Vec<f64> {
        let at = |(site, point): (SiteId, Point)| match point {
            Point::Output => outputs.get(site.0).copied().unwrap_or_default(),
            _ => noise.along_weight(site),
        };
        self.learned().into_iter().map(|rule| self.places(rule, Phase::Train).map(at).sum()).collect()
    }
}

fn learned(injections: &[Injection]) -> Option<&Injection> {
    injections.iter().find(|injection| injection.learned)
}

/// Σ⟨∂L/∂x̃, ε⟩ over rows with these addresses; each run of rows by itself in f64, so that threads change nothing.
fn along_rows(key: Keys, rows: &[Row], width: usize, grad: &[f32]) -> f64 {
    let run = |(rows, grad): (&[Row], &[f32])| {
        let mut unit = vec![0.0; grad.len()];
        UNIT.apply_rows(key, rows, 0, width, &mut unit);
        unit.iter().zip(grad).map(|(e, g)| f64::from(*e) * f64::from(*g)).sum::<f64>()
    };
    let runs = rows.par_chunks(ROWS).zip(grad.par_chunks(ROWS * width));
    runs.map(run).collect::<Vec<f64>>().into_iter().sum()
}
