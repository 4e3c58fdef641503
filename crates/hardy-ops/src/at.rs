//! What an operator is handed of a step's noise: the injections of its own site, and the addresses of its rows.
//! A clean site carries nothing, and the operator without noise runs.

use std::{
    borrow::Cow,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use hardy_numerics::{Accumulation, ErrorEnergy, Keys, Perturbation, Row};

use crate::{
    clip::clips,
    observer::Observer,
    receipt::Tally,
    site::{Pass, Point, SiteId},
};

/// The addresses of the rows of an activation, `[tokens]`.
pub type Rows = Arc<[Row]>;

/// The noise of one phase at one step, for every site of a model.
#[derive(Clone, Debug, Default)]
pub struct Noise {
    sites: Arc<[Option<Arc<SiteNoise>>]>,
    magnitudes: Option<Arc<[AtomicU32]>>,
    recomputed: bool,
    observer: Option<Arc<Observer>>,
}

impl Noise {
    /// No noise anywhere.
    pub fn clean() -> Self {
        Self::default()
    }

    pub(crate) fn new(sites: Vec<Option<Arc<SiteNoise>>>) -> Self {
        Self { sites: sites.into(), magnitudes: None, observer: None, recomputed: false }
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
        At { noise, rows: Arc::clone(rows), watch, observer, counted: true, uncounted }
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
}

/// One perturbation with its keys (of the left and right operand) and its receipt.
#[derive(Clone, Debug)]
pub(crate) struct Injection {
    pub perturbation: Perturbation,
    pub keys: [Keys; 2],
    pub tally: Arc<Tally>,
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
    counted: bool,
    /// The pass whose injections were counted before.
    uncounted: Option<Pass>,
}

impl At {
    /// A site without errors.
    pub fn clean(rows: &Rows) -> Self {
        let rows = Arc::clone(rows);
        Self { noise: None, rows, watch: None, observer: None, counted: true, uncounted: None }
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
        Self { rows: Arc::clone(rows), ..self.clone() }
    }

    /// The same errors but for those of the output's values, not counted: what the output is before them.
    pub(crate) fn before_output(&self) -> Self {
        let mut noise = self.noise.as_deref().cloned().unwrap_or_default();
        noise.values[Point::Output as usize].clear();
        Self { noise: Some(Arc::new(noise)), ..self.again() }
    }

    /// The addresses of the rows.
    pub fn rows(&self) -> &[Row] {
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
        for injection in self.injections(point) {
            let key = injection.keys[operand as usize];
            let energy = injection.perturbation.apply_rows(key, &self.rows, 0, width, x);
            self.count(injection, point, operand, x.len() as u64, energy);
        }
    }

    /// Injects the errors of `point` into a weight or its gradient `[rows, width]`.
    pub(crate) fn perturb_flat(&self, point: Point, width: usize, x: &mut [f32]) {
        for injection in self.injections(point) {
            let energy = injection.perturbation.apply_flat(injection.keys[0], width, x);
            self.count(injection, point, Operand::Lhs, x.len() as u64, energy);
        }
    }

    /// Counts what was injected; a call with two operands is counted with the first.
    pub(crate) fn count(
        &self,
        injection: &Injection,
        point: Point,
        operand: Operand,
        elements: u64,
        energy: ErrorEnergy,
    ) {
        if self.counted && self.uncounted != Some(point.pass()) {
            let calls = match operand {
                Operand::Lhs => 1,
                Operand::Rhs => 0,
            };
            injection.tally.add(calls, elements, injection.perturbation.scale(), energy);
        }
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
        ByRow { at: self, injections: self.injections(point), point, operand }
    }
}

/// The errors of one point, row by row.
#[derive(Clone, Copy)]
pub(crate) struct ByRow<'a> {
    at: &'a At,
    injections: &'a [Injection],
    point: Point,
    operand: Operand,
}

/// Elements and energy of what a [`ByRow`] injected, one entry an injection.
pub(crate) type Sums = Vec<(u64, ErrorEnergy)>;

impl ByRow<'_> {
    /// Injects into the beginning of every row of `x` `[rows, stride]`: `part` tells the address and the length of row
    /// `i`'s. Adds to `sums`.
    pub fn apply_parts(
        &self,
        stride: usize,
        x: &mut [f32],
        part: impl Fn(usize) -> (Row, u64, usize),
        sums: &mut Sums,
    ) {
        sums.resize(self.injections.len(), (0, ErrorEnergy::default()));
        for (injection, sum) in self.injections.iter().zip(sums) {
            let key = injection.keys[self.operand as usize];
            let mut elements = 0;
            let parts = x.chunks_exact_mut(stride).enumerate().map(|(i, x)| {
                let (row, first_element, length) = part(i);
                elements += length as u64;
                (row, first_element, &mut x[..length])
            });
            sum.1 += injection.perturbation.apply_parts(key, parts);
            sum.0 += elements;
        }
    }

    /// Injects into the rows `range` of the activation, `x` `[range.len(), width]`, and adds to `sums`.
    pub fn apply_rows(&self, range: Range<usize>, width: usize, x: &mut [f32], sums: &mut Sums) {
        sums.resize(self.injections.len(), (0, ErrorEnergy::default()));
        for (injection, sum) in self.injections.iter().zip(sums) {
            let (key, rows) = (injection.keys[self.operand as usize], &self.at.rows[range.clone()]);
            sum.1 += injection.perturbation.apply_rows(key, rows, 0, width, x);
            sum.0 += x.len() as u64;
        }
    }

    /// Counts one call, made of several parts in this order.
    pub fn count<'s>(&self, parts: impl Iterator<Item = &'s Sums>) {
        if self.injections.is_empty() {
            return;
        }
        let mut totals: Sums = vec![(0, ErrorEnergy::default()); self.injections.len()];
        for part in parts {
            for (total, sum) in totals.iter_mut().zip(part) {
                total.0 += sum.0;
                total.1 += sum.1;
            }
        }
        for (injection, (elements, energy)) in self.injections.iter().zip(totals) {
            self.at.count(injection, self.point, self.operand, elements, energy);
        }
    }
}
