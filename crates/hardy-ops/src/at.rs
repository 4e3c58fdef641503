//! What an operator is handed of a step's noise: the injections of its own site, and the addresses of its rows.
//! A clean site carries nothing, and the operator without noise runs.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use burn::tensor::{Tensor, TensorPrimitive};
use hardy_numerics::{Accumulation, ErrorEnergy, Keys, Perturbation};

use crate::{
    backend::NoisyBackend,
    by_row::ByRow,
    clip::clips,
    observer::Observer,
    receipt::Tally,
    rows::Rows,
    site::{Pass, Point, SiteId},
    weight_sums::{self, WeightSums},
};

/// The noise of one phase at one step, for every site of a model.
#[derive(Clone, Debug, Default)]
pub struct Noise {
    sites: Arc<[Option<Arc<SiteNoise>>]>,
    magnitudes: Option<Arc<[AtomicU32]>>,
    recomputed: bool,
    observer: Option<Arc<Observer>>,
    gathering: Option<WeightSums>,
}

impl Noise {
    /// No noise anywhere.
    pub fn clean() -> Self {
        Self::default()
    }

    pub(crate) fn new(sites: Vec<Option<Arc<SiteNoise>>>) -> Self {
        Self { sites: sites.into(), ..Self::default() }
    }

    /// The same noise for a forward pass that is computed a second time: it is not counted again. That of the backward
    /// pass which follows it is.
    #[must_use]
    pub fn recomputed(&self) -> Self {
        Self { recomputed: true, ..self.clone() }
    }

    /// The same noise, with the largest magnitude of every site's output kept; see [`Noise::magnitudes`].
    #[must_use]
    pub fn watched(self, sites: usize) -> Self {
        let magnitudes = (0..sites).map(|_| AtomicU32::new(0)).collect();
        Self { magnitudes: Some(magnitudes), ..self }
    }

    /// The same noise, with the inputs of linear layers shown to `observer`.
    #[must_use]
    pub fn observed(self, observer: &Arc<Observer>) -> Self {
        Self { observer: Some(Arc::clone(observer)), ..self }
    }

    /// The same noise, under which the gradients of the weights and biases of `sites` sites are not handed to the tape
    /// but summed up, until [`Noise::gathered`] takes them: the error on ∂W then falls on the sum, once.
    #[must_use]
    pub fn gathering(self, sites: usize) -> Self {
        Self { gathering: Some(weight_sums::empty(sites)), ..self }
    }

    /// The gradients of the weight and of the bias of `site` summed up since [`Noise::gathering`]; `None` where nothing
    /// was added. `weight` is the weight as it is stored.
    ///
    /// # Panics
    /// If the noise does not gather.
    pub fn gathered<B: NoisyBackend>(
        &self,
        site: SiteId,
        weight: &Tensor<B, 2>,
    ) -> [Option<Tensor<B, 2>>; 2] {
        let sums = self.gathering.as_ref().expect("noise that gathers gradients");
        let weight = weight.clone().into_primitive().tensor();
        let gradients = self.at(site, &Rows::default()).gathered::<B>(sums, site, &weight);
        gradients.map(|gradient| gradient.map(|x| Tensor::from_primitive(TensorPrimitive::Float(x))))
    }

    /// Whether gradients of weights are summed up; see [`Noise::gathering`].
    pub fn gathers(&self) -> bool {
        self.gathering.is_some()
    }

    /// Whether a rule acts in the backward pass. The gradients of a prompt's rows are then another value for every
    /// response, and responses do not share them.
    pub fn acts_backward(&self) -> bool {
        self.sites.iter().flatten().any(|site| site.acts_backward())
    }

    /// The largest |output| of every site seen since [`Noise::watched`]; NaN counts as infinite.
    pub fn magnitudes(&self) -> Vec<f32> {
        let load = |bits: &AtomicU32| f32::from_bits(bits.load(Ordering::Relaxed));
        self.magnitudes.iter().flat_map(|all| all.iter().map(load)).collect()
    }

    /// The part of `site`, for an activation whose rows have the addresses `rows`.
    pub fn at(&self, site: SiteId, rows: &Rows) -> At {
        let noise = self.sites.get(site.0).cloned().flatten();
        let watch = self.magnitudes.as_ref().map(|all| (Arc::clone(all), site.0));
        let uncounted = self.recomputed.then_some(Pass::Forward);
        let observer = self.observer.as_ref().map(|observer| (Arc::clone(observer), site.0));
        let gathering = self.gathering.as_ref().map(|sums| (Arc::clone(sums), site.0));
        At { noise, rows: rows.clone(), watch, observer, gathering, counted: true, uncounted }
    }
}

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

    fn acts_backward(&self) -> bool {
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
    /// Whether it was counted; of a weight only the first time is, for its error stays the same through a phase of a
    /// step.
    pub counted: Arc<AtomicBool>,
}

/// Which factor of a product of two activations; everything else is the left one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operand {
    Lhs,
    Rhs,
}

/// What an operator needs to know of errors: its site's injections and the addresses of its rows.
#[derive(Clone, Debug)]
pub struct At {
    noise: Option<Arc<SiteNoise>>,
    rows: Rows,
    watch: Option<(Arc<[AtomicU32]>, usize)>,
    observer: Option<(Arc<Observer>, usize)>,
    pub(crate) gathering: Option<(WeightSums, usize)>,
    counted: bool,
    /// The pass whose injections were counted before.
    uncounted: Option<Pass>,
}

impl At {
    /// A site without errors.
    pub fn clean(rows: &Rows) -> Self {
        Noise::clean().at(SiteId(0), rows)
    }

    /// The same errors once more, as the backward pass needs to see what the forward pass saw: addressed noise comes
    /// out the same, and is not counted a second time.
    pub(crate) fn again(&self) -> Self {
        Self { counted: false, watch: None, observer: None, ..self.clone() }
    }

    /// Whether a rule touches what a fused operator does not keep: the sums of its product, or, to clip gradients, the
    /// values before the errors of its output.
    pub(crate) fn forbids_fusion(&self) -> bool {
        let sums = [Point::Output, Point::GradInput, Point::GradWeight];
        sums.into_iter().any(|point| self.accumulation(point).is_some())
            || [Point::Input, Point::Weight, Point::Output].into_iter().any(|point| clips(self, point))
    }

    /// Whether nothing is injected and nobody watches.
    pub(crate) fn is_clean(&self) -> bool {
        self.noise.is_none() && self.watch.is_none() && self.observer.is_none()
    }

    /// The same errors for rows with other addresses.
    pub(crate) fn for_rows(&self, rows: &Rows) -> Self {
        Self { rows: rows.clone(), ..self.clone() }
    }

    /// The same errors but for those of the output's values, not counted: what the output is before them.
    pub(crate) fn before_output(&self) -> Self {
        let mut noise = self.noise.as_deref().cloned().unwrap_or_default();
        noise.values[Point::Output as usize].clear();
        Self { noise: Some(Arc::new(noise)), ..self.again() }
    }

    /// The same errors but for those of the weight, which has them already.
    pub(crate) fn after_weight(&self) -> Self {
        if self.injections(Point::Weight).is_empty() {
            return self.clone();
        }
        let mut noise = self.noise.as_deref().cloned().unwrap_or_default();
        noise.values[Point::Weight as usize].clear();
        Self { noise: Some(Arc::new(noise)), ..self.clone() }
    }

    /// The addresses of the rows.
    pub fn rows(&self) -> &Rows {
        &self.rows
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

    /// Injects the errors of `point` into an activation `[rows, width]`.
    pub(crate) fn perturb_rows(&self, point: Point, operand: Operand, width: usize, x: &mut [f32]) {
        let errors = self.by_row(point, operand);
        let mut sums = Vec::new();
        errors.apply_rows(0..self.rows.len(), width, x, &mut sums);
        errors.count(std::iter::once(&sums));
    }

    /// Injects the errors of `point` into a weight or its gradient `[rows, width]`.
    pub(crate) fn perturb_flat(&self, point: Point, width: usize, x: &mut [f32]) {
        for injection in self.injections(point) {
            let energy = injection.perturbation.apply_flat(injection.keys[0], width, x);
            self.count(injection, point, 1, x.len() as u64, energy);
        }
    }

    /// How many rows count as calls at `point`; those of a second operand are counted with the first.
    pub(crate) fn calls(&self, point: Point, operand: Operand) -> u64 {
        match operand {
            Operand::Lhs => self.rows.counted(point.pass()),
            Operand::Rhs => 0,
        }
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
        if !self.counted || self.uncounted == Some(point.pass()) {
            return;
        }
        if point == Point::Weight && injection.counted.swap(true, Ordering::Relaxed) {
            return;
        }
        injection.tally.add(calls, elements, injection.perturbation.scale(), energy);
    }

    /// Shows a linear layer's input `[rows, width]`, before any error, to the observer.
    pub(crate) fn observe_input(&self, width: usize, x: &[f32]) {
        if let Some((observer, site)) = &self.observer {
            observer.observe(*site, width, x);
        }
    }

    /// The operator's view of its input `[rows, width]`.
    pub(crate) fn input<'a>(&self, operand: Operand, width: usize, x: &'a [f32]) -> Cow<'a, [f32]> {
        if self.injections(Point::Input).is_empty() {
            return Cow::Borrowed(x);
        }
        let mut x = x.to_vec();
        self.perturb_rows(Point::Input, operand, width, &mut x);
        Cow::Owned(x)
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

    /// Injects the errors of the output `[rows, width]` and notes its magnitude.
    pub(crate) fn output(&self, width: usize, y: &mut [f32]) {
        self.perturb_rows(Point::Output, Operand::Lhs, width, y);
        self.note_magnitude(y);
    }

    /// Keeps the largest |y| where the noise is watched.
    pub(crate) fn note_magnitude(&self, y: &[f32]) {
        if let Some((all, site)) = &self.watch {
            let largest =
                y.iter().fold(0.0_f32, |max, v| if v.is_nan() { f32::INFINITY } else { max.max(v.abs()) });
            // The bits of non-negative floats are ordered as the floats are.
            all[*site].fetch_max(largest.to_bits(), Ordering::Relaxed);
        }
    }

    /// The errors of `point` for a kernel that works row by row and counts for itself.
    pub(crate) fn by_row(&self, point: Point, operand: Operand) -> ByRow<'_> {
        ByRow::new(self, point, operand)
    }
}
