//! What an operator is handed of a step's noise: the errors of its own site, the addresses of its rows, and who watches.

use std::{
    borrow::Cow,
    ops::Deref,
    sync::{Arc, atomic::AtomicU32},
};

use burn_tensor::{Tensor, TensorPrimitive};
use hardy_numerics::Precision;

use crate::{
    backend::NoisyBackend,
    by_row::ByRow,
    errors::{Errors, SiteNoise},
    observer::Observer,
    rows::Rows,
    site::{Pass, Point, SiteId},
    tap::Tap,
    watch::{Watch, Watchers},
    weight_sums::{self, GradientSums, WeightSums},
};

/// The noise of one phase at one step, for every site of a model.
#[derive(Clone, Debug, Default)]
pub struct Noise {
    sites: Arc<[Option<Arc<SiteNoise>>]>,
    watchers: Watchers,
    recomputed: bool,
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

    /// The same noise, counted apart until [`Noise::count`] adds that up: so parts of a pass that run side by side give the
    /// same receipts whichever is first.
    #[must_use]
    pub fn counted_apart(&self) -> Self {
        let apart = |site: &Arc<SiteNoise>| Arc::new(site.counted_apart());
        Self { sites: self.sites.iter().map(|site| site.as_ref().map(apart)).collect(), ..self.clone() }
    }

    /// Adds what was counted apart.
    pub fn count(&self, apart: &Self) {
        let sites = self.sites.iter().flatten().zip(apart.sites.iter().flatten());
        sites.for_each(|(all, apart)| all.count(apart));
    }

    /// The same noise, with the largest magnitude of every site's output kept; see [`Noise::magnitudes`].
    #[must_use]
    pub fn watched(self, sites: usize) -> Self {
        let magnitudes = (0..sites).map(|_| AtomicU32::new(0)).collect();
        Self { watchers: Watchers { magnitudes: Some(magnitudes), ..self.watchers }, ..self }
    }

    /// The same noise, with the inputs of linear layers shown to `observer`.
    #[must_use]
    pub fn observed(self, observer: &Arc<Observer>) -> Self {
        let observer = Some(Arc::clone(observer));
        Self { watchers: Watchers { observer, ..self.watchers }, ..self }
    }

    /// The same noise, with what sites compute kept by `tap`.
    #[must_use]
    pub fn tapped(self, tap: &Arc<Tap>) -> Self {
        let tap = Some(Arc::clone(tap));
        Self { watchers: Watchers { tap, ..self.watchers }, ..self }
    }

    /// The same noise, under which the gradients of the weights and biases of `sites` sites are not handed to the tape
    /// but summed up, until [`Noise::gathered`] takes them: the error on ∂W then falls on the sum, once.
    #[must_use]
    pub fn gathering(self, sites: usize) -> Self {
        Self { gathering: Some(weight_sums::empty(sites)), ..self }
    }

    /// Takes what was summed up since [`Noise::gathering`], before the errors of ∂W.
    ///
    /// # Panics
    /// If the noise does not gather.
    pub fn take_sums(&self) -> GradientSums {
        weight_sums::take_all(self.gathering.as_ref().expect("noise that gathers gradients"))
    }

    /// Takes, for every site, what gradients have said since [`Noise::gathering`] of the scale of a learned rule at its
    /// output; before [`Noise::take_sums`].
    ///
    /// # Panics
    /// If the noise does not gather.
    pub fn take_scales(&self) -> Vec<f64> {
        self.gathering.as_ref().expect("noise that gathers gradients").take_scales()
    }

    /// The gradient of the weight of `site` that was gathered, before the errors of ∂W; empty where none was.
    pub(crate) fn with_gathered_weight<T>(&self, SiteId(site): SiteId, of: impl FnOnce(&[f32]) -> T) -> T {
        self.gathering.as_ref().expect("noise that gathers gradients").with_weight(site, of)
    }

    /// The errors of every site that has any.
    pub(crate) fn all_sites(&self) -> impl Iterator<Item = Errors> + '_ {
        (0..self.sites.len()).map(|site| self.errors(SiteId(site)))
    }

    /// The same noise, under which [`Noise::gathered`] finds `sums`.
    #[must_use]
    pub fn with_sums(self, sums: GradientSums) -> Self {
        Self { gathering: Some(weight_sums::from_taken(sums)), ..self }
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

    /// Whether a rule falls on the rows of activations in the forward pass, each of which it counts.
    pub fn acts_on_rows(&self) -> bool {
        self.sites.iter().flatten().any(|site| site.acts_on_rows())
    }

    /// Whether somebody watches.
    pub fn is_watched(&self) -> bool {
        self.watchers.are_active()
    }

    /// The largest |output| of every site seen since [`Noise::watched`]; NaN counts as infinite.
    pub fn magnitudes(&self) -> Vec<f32> {
        self.watchers.magnitudes()
    }

    /// The part of `site`, for an activation whose rows have the addresses `rows`.
    pub fn at(&self, site: SiteId, rows: &Rows) -> At {
        let watch = self.watchers.at(site.0);
        let gathering = self.gathering.clone().map(|sums| (sums, site.0));
        At { errors: self.errors(site), rows: rows.clone(), watch, gathering }
    }

    /// The errors of `site`.
    pub fn errors(&self, site: SiteId) -> Errors {
        let noise = self.sites.get(site.0).cloned().flatten();
        Errors::new(noise, self.recomputed.then_some(Pass::Forward))
    }
}

/// Which factor of a product of two activations; everything else is the left one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operand {
    Lhs,
    Rhs,
}

/// What an operator needs to know of errors: those of its site, and the addresses of its rows.
#[derive(Clone, Debug)]
pub struct At {
    errors: Errors,
    rows: Rows,
    watch: Watch,
    pub(crate) gathering: Option<(WeightSums, usize)>,
}

impl Deref for At {
    type Target = Errors;

    fn deref(&self) -> &Errors {
        &self.errors
    }
}

impl At {
    /// A site without errors.
    pub fn clean(rows: &Rows) -> Self {
        Noise::clean().at(SiteId(0), rows)
    }

    /// The same errors at products in `precision`.
    #[must_use]
    pub fn in_precision(self, precision: Precision) -> Self {
        Self { errors: self.errors.in_precision(precision), ..self }
    }

    /// The same errors once more, as the backward pass needs to see what the forward pass saw: addressed noise comes
    /// out the same, and is not counted a second time.
    pub(crate) fn again(&self) -> Self {
        Self { errors: self.errors.again(), watch: Watch::default(), ..self.clone() }
    }

    /// The same errors, and nobody watches.
    pub(crate) fn unwatched(&self) -> Self {
        Self { watch: Watch::default(), ..self.clone() }
    }

    /// The same errors, not counted, for a second look at what a kernel computed: a tap keeps only what heads see.
    pub(crate) fn second_look(&self) -> Self {
        Self { errors: self.errors.again(), watch: self.watch.within(), ..self.clone() }
    }

    /// Whether nothing is injected and nobody watches.
    pub(crate) fn is_clean(&self) -> bool {
        self.errors.is_empty() && !self.watch.is_active()
    }

    /// The same errors for rows with other addresses.
    pub(crate) fn for_rows(&self, rows: &Rows) -> Self {
        Self { rows: rows.clone(), ..self.clone() }
    }

    /// The same errors but for those of the output's values, not counted: what the output is before them.
    pub(crate) fn before_output(&self) -> Self {
        Self { errors: self.errors.again().without(Point::Output), ..self.again() }
    }

    /// The same errors but for those of the weight, which has them already.
    pub(crate) fn after_weight(&self) -> Self {
        Self { errors: self.errors.without(Point::Weight), ..self.clone() }
    }

    /// The addresses of the rows.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// Who watches.
    pub(crate) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Injects the errors of `point` into an activation `[rows, width]`.
    pub(crate) fn perturb_rows(&self, point: Point, operand: Operand, width: usize, x: &mut [f32]) {
        let errors = self.by_row(point, operand);
        let mut sums = Vec::new();
        errors.apply_rows(0..self.rows.len(), width, x, &mut sums);
        errors.count(std::iter::once(&sums));
        self.keep_rows(point, operand, 0, width, x);
    }

    /// How many rows count as calls at `point`; those of a second operand are counted with the first.
    pub(crate) fn calls(&self, point: Point, operand: Operand) -> u64 {
        match operand {
            Operand::Lhs => self.rows.counted(point.pass()),
            Operand::Rhs => 0,
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

    /// The operator's input `[rows, width]` as its product sees it.
    pub(crate) fn factor<'a>(&self, operand: Operand, width: usize, x: &'a [f32]) -> Cow<'a, [f32]> {
        self.precision().operands(self.input(operand, width, x))
    }

    /// Injects the errors of the output `[rows, width]` and notes its magnitude.
    pub(crate) fn output(&self, width: usize, y: &mut [f32]) {
        self.perturb_rows(Point::Output, Operand::Lhs, width, y);
        self.watch.output(y);
    }

    /// The errors of `point` for a kernel that works row by row and counts for itself.
    pub(crate) fn by_row(&self, point: Point, operand: Operand) -> ByRow<'_> {
        ByRow::new(self, point, operand)
    }
}
