//! The errors of one site, by the point at which they enter, and whether they are counted. Where the rows of an activation
//! lie is no part of them: see [`At`](crate::At).

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use hardy_numerics::{Accumulation, ErrorEnergy, Keys, Perturbation, Precision};

use crate::{
    clip::clips,
    receipt::Tally,
    site::{Pass, Point},
};

/// The injections of one site, by point: into values, and into the sums of products.
#[derive(Clone, Debug, Default)]
pub(crate) struct SiteNoise {
    values: [Vec<Injection>; 5],
    sums: [Vec<Injection>; 5],
}

impl SiteNoise {
    pub fn push(&mut self, point: Point, injection: Injection) {
        let of_sums = matches!(injection.perturbation, Perturbation::Accumulation(_));
        let points = if of_sums { &mut self.sums } else { &mut self.values };
        points[point as usize].push(injection);
    }

    /// The same, counted apart.
    pub fn counted_apart(&self) -> Self {
        let apart = |of: &Injection| Injection { tally: Arc::default(), ..of.clone() };
        let all = |points: &[Vec<Injection>; 5]| points.each_ref().map(|of| of.iter().map(apart).collect());
        Self { values: all(&self.values), sums: all(&self.sums) }
    }

    /// Adds what was counted apart.
    pub fn count(&self, apart: &Self) {
        let pairs = self.injections().zip(apart.injections());
        pairs.for_each(|(all, apart)| all.tally.count(&apart.tally.counts()));
    }

    fn injections(&self) -> impl Iterator<Item = &Injection> {
        self.values.iter().chain(&self.sums).flatten()
    }

    /// Whether something falls on the rows of activations in the forward pass.
    pub fn acts_on_rows(&self) -> bool {
        [Point::Input, Point::Output].into_iter().any(|point| {
            let [values, sums] = [&self.values, &self.sums].map(|points| &points[point as usize]);
            !values.is_empty() || !sums.is_empty()
        })
    }

    pub fn acts_backward(&self) -> bool {
        [Point::GradInput, Point::GradWeight].into_iter().any(|point| {
            let [values, sums] = [&self.values, &self.sums].map(|points| &points[point as usize]);
            !values.is_empty() || !sums.is_empty()
        })
    }
}

/// One perturbation with its keys (of the left and right operand) and its receipt.
#[derive(Clone, Debug)]
pub(crate) struct Injection {
    pub perturbation: Perturbation,
    pub keys: [Keys; 2],
    pub tally: Arc<Tally>,
    /// Whether its scale is learned.
    pub learned: bool,
    /// Whether it was counted; of a weight only the first time is, for its error stays the same through a phase of a
    /// step.
    pub counted: Arc<AtomicBool>,
}

/// The errors of one site, and the precision of its products. A clean site carries none, and the operator without noise runs.
#[derive(Clone, Debug)]
pub struct Errors {
    noise: Option<Arc<SiteNoise>>,
    counted: bool,
    /// The pass whose injections were counted before.
    uncounted: Option<Pass>,
    precision: Precision,
}

impl Errors {
    pub(crate) fn new(noise: Option<Arc<SiteNoise>>, uncounted: Option<Pass>) -> Self {
        Self { noise, counted: true, uncounted, precision: Precision::F32 }
    }

    /// The same for products in `precision`.
    #[must_use]
    pub fn in_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// What products see of their operands, after the errors of these.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The same, not counted a second time.
    pub(crate) fn again(&self) -> Self {
        Self { counted: false, ..self.clone() }
    }

    /// The same without those of the values at `point`.
    pub(crate) fn without(&self, point: Point) -> Self {
        if self.injections(point).is_empty() {
            return self.clone();
        }
        let mut noise = self.noise.as_deref().cloned().unwrap_or_default();
        noise.values[point as usize].clear();
        Self { noise: Some(Arc::new(noise)), ..self.clone() }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.noise.is_none()
    }

    /// Whether a rule touches what a fused operator does not keep: the sums of its product, or, to clip gradients, the
    /// values before the errors of its output.
    pub(crate) fn forbids_fusion(&self) -> bool {
        let sums = [Point::Output, Point::GradInput, Point::GradWeight];
        sums.into_iter().any(|point| self.accumulation(point).is_some())
            || [Point::Input, Point::Weight, Point::Output].into_iter().any(|point| clips(self, point))
    }

    pub(crate) fn injections(&self, point: Point) -> &[Injection] {
        self.noise.as_deref().map_or(&[], |noise| &noise.values[point as usize])
    }

    /// How the product of `point` sums, where a rule says so: the last such rule.
    pub(crate) fn accumulation(&self, point: Point) -> Option<(Accumulation, &Injection)> {
        let injection = self.noise.as_deref()?.sums[point as usize].last()?;
        match injection.perturbation {
            Perturbation::Accumulation(accumulation) => Some((accumulation, injection)),
            _ => None,
        }
    }

    /// Injects the errors of `point` into a weight or its gradient `[rows, width]`.
    pub(crate) fn perturb_flat(&self, point: Point, width: usize, x: &mut [f32]) {
        for injection in self.injections(point) {
            let energy = injection.perturbation.apply_flat(injection.keys[0], width, x);
            self.count(injection, point, 1, x.len() as u64, energy);
        }
    }

    /// The operator's view of its weight `[rows, width]`; the stored one stays as it is.
    pub(crate) fn weight<'a>(&self, width: usize, w: &'a [f32]) -> Cow<'a, [f32]> {
        if self.injections(Point::Weight).is_empty() {
            return Cow::Borrowed(w);
        }
        let mut w = w.to_vec();
        self.perturb_flat(Point::Weight, width, &mut w);
        Cow::Owned(w)
    }

    /// The operator's weight `[rows, width]` as its product sees it.
    pub(crate) fn weight_factor<'a>(&self, width: usize, w: &'a [f32]) -> Cow<'a, [f32]> {
        self.precision.operands(self.weight(width, w))
    }

    /// Counts what was injected in so many `calls`.
    pub(crate) fn count(
        &self,
        injection: &Injection,
        point: Point,
        calls: u64,
        elements: u64,
        energy: ErrorEnergy,
    ) {
        if self.counts(injection, point) {
            injection.tally.add(calls, elements, injection.perturbation.scale(), energy);
        }
    }

    /// Whether what is injected at `point` now is counted. Of a weight it is when this is first asked.
    pub(crate) fn counts(&self, injection: &Injection, point: Point) -> bool {
        self.counted
            && self.uncounted != Some(point.pass())
            && !(point == Point::Weight && injection.counted.swap(true, Ordering::Relaxed))
    }
}
