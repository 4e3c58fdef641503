//! What an operator is handed of a step's noise: the injections of its own site, and the addresses of its rows.
//! A clean site carries nothing, and the operator without noise runs.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use hardy_numerics::{ErrorEnergy, NoiseKey, Perturbation, Row};

use crate::{
    receipt::Tally,
    site::{Point, SiteId},
};

/// The addresses of the rows of an activation, `[tokens]`.
pub type Rows = Arc<[Row]>;

/// The noise of one phase at one step, for every site of a model.
#[derive(Clone, Debug, Default)]
pub struct Noise {
    sites: Arc<[Option<Arc<SiteNoise>>]>,
    magnitudes: Option<Arc<[AtomicU32]>>,
}

impl Noise {
    /// No noise anywhere.
    pub fn clean() -> Self {
        Self::default()
    }

    pub(crate) fn new(sites: Vec<Option<Arc<SiteNoise>>>) -> Self {
        Self { sites: sites.into(), magnitudes: None }
    }

    /// The same noise, with the largest magnitude of every site's output kept; see [`Noise::magnitudes`].
    #[must_use]
    pub fn watched(self, sites: usize) -> Self {
        let magnitudes = (0..sites).map(|_| AtomicU32::new(0)).collect();
        Self { magnitudes: Some(magnitudes), ..self }
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
        At { noise, rows: Arc::clone(rows), watch, counted: true }
    }
}

/// The injections of one site, by point.
#[derive(Clone, Debug, Default)]
pub(crate) struct SiteNoise([Vec<Injection>; 5]);

impl SiteNoise {
    pub fn push(&mut self, point: Point, injection: Injection) {
        self.0[point as usize].push(injection);
    }
}

/// One perturbation with its keys (of the left and right operand) and its receipt.
#[derive(Clone, Debug)]
pub(crate) struct Injection {
    pub perturbation: Perturbation,
    pub keys: [NoiseKey; 2],
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
    counted: bool,
}

impl At {
    /// A site without errors.
    pub fn clean(rows: &Rows) -> Self {
        Self { noise: None, rows: Arc::clone(rows), watch: None, counted: true }
    }

    /// The same errors once more, as the backward pass needs to see what the forward pass saw: addressed noise comes
    /// out the same, and is not counted a second time.
    pub(crate) fn again(&self) -> Self {
        Self { counted: false, watch: None, ..self.clone() }
    }

    /// The addresses of the rows.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub(crate) fn injections(&self, point: Point) -> &[Injection] {
        self.noise.as_deref().map_or(&[], |noise| &noise.0[point as usize])
    }

    /// Injects the errors of `point` into an activation `[rows, width]`.
    pub(crate) fn perturb_rows(&self, point: Point, operand: Operand, width: usize, x: &mut [f32]) {
        for injection in self.injections(point) {
            let key = injection.keys[operand as usize];
            let energy = injection.perturbation.apply_rows(key, &self.rows, 0, width, x);
            self.count(injection, operand, x.len() as u64, energy);
        }
    }

    /// Injects the errors of `point` into a weight or its gradient.
    pub(crate) fn perturb_flat(&self, point: Point, x: &mut [f32]) {
        for injection in self.injections(point) {
            let energy = injection.perturbation.apply_flat(injection.keys[0], x);
            self.count(injection, Operand::Lhs, x.len() as u64, energy);
        }
    }

    /// Counts what was injected; a call with two operands is counted with the first.
    fn count(&self, injection: &Injection, operand: Operand, elements: u64, energy: ErrorEnergy) {
        if self.counted {
            let calls = match operand {
                Operand::Lhs => 1,
                Operand::Rhs => 0,
            };
            injection.tally.add(calls, elements, injection.perturbation.scale(), energy);
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

    /// The operator's view of its weight; the stored one stays as it is.
    pub(crate) fn weight<'a>(&self, w: &'a [f32]) -> Cow<'a, [f32]> {
        if self.injections(Point::Weight).is_empty() {
            return Cow::Borrowed(w);
        }
        let mut w = w.to_vec();
        self.perturb_flat(Point::Weight, &mut w);
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
        ByRow { at: self, injections: self.injections(point), operand }
    }
}

/// The errors of one point, row by row.
#[derive(Clone, Copy)]
pub(crate) struct ByRow<'a> {
    at: &'a At,
    injections: &'a [Injection],
    operand: Operand,
}

/// Elements and energy of what a [`ByRow`] injected, one entry an injection.
pub(crate) type Sums = Vec<(u64, ErrorEnergy)>;

impl ByRow<'_> {
    /// Injects into part of a row and adds to `sums`.
    pub fn apply(&self, row: Row, first_element: u64, x: &mut [f32], sums: &mut Sums) {
        sums.resize(self.injections.len(), (0, ErrorEnergy::default()));
        for (injection, sum) in self.injections.iter().zip(sums) {
            let key = injection.keys[self.operand as usize];
            sum.1 += injection.perturbation.apply(key, row, first_element, x);
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
            self.at.count(injection, self.operand, elements, energy);
        }
    }
}
