//! Receipts: what was really injected, counted and measured where it happened. A plan that asks for noise and
//! whose receipt shows none did not do what its name says.

use std::sync::{Mutex, PoisonError};

use hardy_numerics::ErrorEnergy;
use serde::{Deserialize, Serialize};

use crate::site::{Op, Pass, Phase, Point};

/// What one rule injected at one point of one site in one phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// The module path of the site, or a group of sites.
    pub site: String,
    /// Its operator.
    pub op: Op,
    /// The point.
    pub point: Point,
    /// The phase.
    pub phase: Phase,
    /// The pass.
    pub pass: Pass,
    /// The number of the rule in its plan, from 1.
    pub rule: usize,
    /// The kind of perturbation.
    pub kind: String,
    /// Rows (tokens) at which the operator injected the error, each counted once a pass however often it was computed; of
    /// a weight, how often it was perturbed anew, once a phase of a step; of a weight's gradient, once an update.
    pub calls: u64,
    /// Elements of these that it was injected into.
    pub elements: u64,
    /// The scale that was asked for, on average over the elements; `None` for a kind without one, such as a format.
    pub asked: Option<f64>,
    /// ‖err‖₂/‖x‖₂ over everything injected.
    pub measured: f64,
    /// Σ err², from which groups of receipts are measured.
    pub error_energy: f64,
    /// Σ x² of the values before the injection.
    pub signal_energy: f64,
}

impl Receipt {
    /// Adds the counts of `other` and measures anew.
    fn absorb(&mut self, other: &Self) {
        self.elements += other.elements;
        self.asked = mean_with(self.asked, other.asked, other.elements, self.elements);
        self.calls += other.calls;
        self.error_energy += other.error_energy;
        self.signal_energy += other.signal_energy;
        self.measured = ErrorEnergy { error: self.error_energy, signal: self.signal_energy }.relative();
    }
}

/// The mean over `total` elements, of which `new` ask for `scale` and the others on average for `mean`. Where all
/// ask for the same it is that to the bit.
fn mean_with(mean: Option<f64>, scale: Option<f64>, new: u64, total: u64) -> Option<f64> {
    let (Some(from), Some(scale)) = (mean, scale) else { return mean.or(scale) };
    Some(if new == 0 { from } else { from + (scale - from) * (new as f64 / total as f64) })
}

/// Sums receipts over the sites that share operator, point, phase, pass and rule; the group's name says how many.
pub fn group_receipts(receipts: &[Receipt]) -> Vec<Receipt> {
    let mut groups: Vec<(usize, Receipt)> = Vec::new();
    for receipt in receipts {
        let same = |group: &Receipt| {
            (group.phase, group.pass, group.op, group.point, group.rule)
                == (receipt.phase, receipt.pass, receipt.op, receipt.point, receipt.rule)
        };
        match groups.iter_mut().find(|(_, group)| same(group)) {
            Some((sites, group)) => {
                *sites += 1;
                group.absorb(receipt);
            }
            None => groups.push((1, receipt.clone())),
        }
    }
    let name = |(sites, mut group): (usize, Receipt)| {
        if sites > 1 {
            group.site = format!("{sites} sites");
        }
        group
    };
    groups.into_iter().map(name).collect()
}

/// The running counts behind a receipt.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<Counts>);

/// What a tally holds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub armed: bool,
    pub calls: u64,
    pub elements: u64,
    /// The mean over elements of the scale asked for.
    pub asked: Option<f64>,
    pub energy: ErrorEnergy,
}

impl Tally {
    /// Counts `calls` in which `elements` were perturbed.
    pub fn add(&self, calls: u64, elements: u64, scale: Option<f64>, energy: ErrorEnergy) {
        self.update(|counts| {
            counts.calls += calls;
            counts.elements += elements;
            counts.asked = mean_with(counts.asked, scale, elements, counts.elements);
            counts.energy += energy;
        });
    }

    /// Notes that noise was asked for.
    pub fn arm(&self) {
        self.update(|counts| counts.armed = true);
    }

    pub fn update(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub fn counts(&self) -> Counts {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
