//! Keeping what sites compute: the values of outputs and gradients, row by row under their addresses, while a pass goes
//! on undisturbed. What a machine makes of a site can so be held against what another makes of it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use hardy_numerics::Row;

use crate::{
    at::{At, Operand},
    site::{Point, SiteId},
};

/// A place whose values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TapKey {
    /// The site.
    pub site: SiteId,
    /// The point: `output`, or `grad_input`.
    pub point: Point,
    /// Whether it is of the second factor of a product of two activations.
    pub rhs: bool,
}

/// One row of a place, or what one head of it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapRow {
    /// The address of its token.
    pub row: Row,
    /// Within attention: the head, and the first key that its query sees.
    pub head: Option<(usize, usize)>,
    /// How many values it has.
    pub width: usize,
}

/// What one place computed in all passes, in whatever order.
#[derive(Clone, Debug, Default)]
pub struct TapValues {
    /// The rows.
    pub rows: Vec<TapRow>,
    /// Their values, one row after another.
    pub values: Vec<f32>,
}

/// Keeps the values of some places of a model.
#[derive(Debug)]
pub struct Tap {
    /// By site: whether its outputs, and whether its gradients are wanted.
    wanted: Vec<[bool; 2]>,
    kept: Mutex<BTreeMap<TapKey, TapValues>>,
}

impl Tap {
    /// A tap that keeps the outputs of sites whose first entry in `wanted` is set, and the gradients, ∂x, of those whose
    /// second is.
    pub fn new(wanted: Vec<[bool; 2]>) -> Self {
        Self { wanted, kept: Mutex::default() }
    }

    /// Takes everything that was kept, in the order of sites.
    pub fn take(&self) -> BTreeMap<TapKey, TapValues> {
        std::mem::take(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn wants(&self, site: usize, point: Point) -> bool {
        let [output, gradient] = self.wanted.get(site).copied().unwrap_or_default();
        match point {
            Point::Output => output,
            Point::GradInput => gradient,
            Point::Input | Point::Weight | Point::GradWeight => false,
        }
    }

    fn add<'a>(&self, key: TapKey, rows: impl Iterator<Item = (TapRow, &'a [f32])>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = kept.entry(key).or_default();
        for (row, values) in rows {
            kept.rows.push(row);
            kept.values.extend_from_slice(values);
        }
    }
}

impl At {
    /// Keeps the rows `x` of an activation, `[rows, width]`, from row `first` on, where a tap wants them.
    pub(crate) fn keep_rows(&self, point: Point, operand: Operand, first: usize, width: usize, x: &[f32]) {
        let Some((tap, key)) = self.tapped(point, operand).filter(|_| !self.watch().is_within()) else {
            return;
        };
        let addresses = &self.rows().of(point.pass())[first..];
        let row = |&row: &Row| TapRow { row, head: None, width };
        tap.add(key, addresses.iter().map(row).zip(x.chunks_exact(width.max(1))));
    }

    /// Keeps what one head's queries see, one slice a query: of every query its row, its first key and its values.
    pub(crate) fn keep_seen<'a>(
        &self,
        point: Point,
        head: usize,
        seen: impl Iterator<Item = (usize, usize, &'a [f32])>,
    ) {
        let Some((tap, key)) = self.tapped(point, Operand::Lhs) else { return };
        let addresses = self.rows().of(point.pass());
        let rows = seen.map(|(row, first, x)| {
            (TapRow { row: addresses[row], head: Some((head, first)), width: x.len() }, x)
        });
        tap.add(key, rows);
    }

    /// Whether a tap wants the rows of an activation.
    pub(crate) fn keeps_rows(&self, point: Point, operand: Operand) -> bool {
        self.tapped(point, operand).is_some()
    }

    fn tapped(&self, point: Point, operand: Operand) -> Option<(&Tap, TapKey)> {
        let (tap, site) = self.watch().tap()?;
        let key = TapKey { site: SiteId(site), point, rhs: matches!(operand, Operand::Rhs) };
        tap.wants(site, point).then_some((tap, key))
    }
}
