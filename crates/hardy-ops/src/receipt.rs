//! Receipts: what was really injected, counted and measured where it happened. A plan that asks for noise and
//! whose receipt shows none did not do what its name says.

use std::{
    any::Any,
    fmt,
    sync::{Mutex, PoisonError},
};

use hardy_numerics::ErrorEnergy;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    backend::Primitive,
    device::Kernels,
    site::{Op, Pass, Phase, Point},
};

/// What one rule injected at one point of one site in one phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// The module path of the site, or a group of sites.
    #[serde(alias = "group")]
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
    #[serde(default)]
    pub rule: usize,
    /// The kind of perturbation.
    #[serde(default)]
    pub kind: String,
    /// Rows (tokens) at which the operator injected the error, each counted once a pass however often it was computed; of
    /// a weight, how often it was perturbed anew, once a phase of a step; of a weight's gradient, once an update.
    pub calls: u64,
    /// Elements of these that it was injected into.
    pub elements: u64,
    /// Those of them at which the value, its image or the error is not finite; they are in no energy.
    #[serde(default)]
    pub non_finite: u64,
    /// The scale that was asked for, on average over the elements; `None` for a kind without one, such as a format.
    #[serde(default)]
    pub asked: Option<f64>,
    /// ‖err‖₂/‖x‖₂ over everything injected that is finite; ∞, which JSON writes as null, for errors on nothing but zeros.
    #[serde(default = "infinite", deserialize_with = "null_as_infinite")]
    pub measured: f64,
    /// Σ err², from which groups of receipts are measured. Versions that counted what is not finite in it wrote null; it
    /// is read as 0, like [`Receipt::signal_energy`].
    #[serde(default, deserialize_with = "null_as_zero")]
    pub error_energy: f64,
    /// Σ x² of the values before the injection.
    #[serde(default, deserialize_with = "null_as_zero")]
    pub signal_energy: f64,
}

fn infinite() -> f64 {
    f64::INFINITY
}

fn null_as_infinite<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::INFINITY))
}

fn null_as_zero<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Receipt {
    /// The energies that it was measured from.
    pub fn energy(&self) -> ErrorEnergy {
        ErrorEnergy { error: self.error_energy, signal: self.signal_energy, non_finite: self.non_finite }
    }

    /// Sets its counts to 0.
    pub fn clear(&mut self) {
        (self.calls, self.elements, self.non_finite) = (0, 0, 0);
        (self.error_energy, self.signal_energy, self.measured) = (0.0, 0.0, 0.0);
    }

    /// Adds the counts of `other` and measures anew.
    fn absorb(&mut self, other: &Self) {
        self.elements += other.elements;
        self.asked = mean_with(self.asked, other.asked, other.elements, self.elements);
        self.calls += other.calls;
        let energy = self.energy() + other.energy();
        (self.error_energy, self.signal_energy) = (energy.error, energy.signal);
        (self.non_finite, self.measured) = (energy.non_finite, energy.relative());
    }
}

/// The receipts of several workers, each of its share of the rows, as one. Weights and their gradients have the same errors
/// everywhere, and count once.
///
/// # Panics
/// If the receipts are not those of one plan.
pub fn sum_of_workers(all: Vec<Vec<Receipt>>) -> Vec<Receipt> {
    let mut all = all.into_iter();
    let mut sum = all.next().unwrap_or_default();
    for other in all {
        assert_eq!(sum.len(), other.len(), "receipts of one plan");
        let of_rows = |receipt: &Receipt| !matches!(receipt.point, Point::Weight | Point::GradWeight);
        for (sum, other) in sum.iter_mut().zip(other).filter(|(sum, _)| of_rows(sum)) {
            sum.absorb(&other);
        }
    }
    sum
}

/// The mean over `total` elements, of which `new` ask for `scale` and the others on average for `mean`. Where all
/// ask for the same it is that to the bit.
fn mean_with(mean: Option<f64>, scale: Option<f64>, new: u64, total: u64) -> Option<f64> {
    let (Some(from), Some(scale)) = (mean, scale) else { return mean.or(scale) };
    Some(if new == 0 { from } else { from + (scale - from) * (new as f64 / total as f64) })
}

/// Receipts of sites that share operator, point, phase, pass and rule, as one.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceiptGroup {
    /// Their sum, measured anew; its site is the only one's, or says how many there are.
    pub sum: Receipt,
    /// How many sites there are.
    pub sites: usize,
    /// The smallest and largest error measured at one of them.
    pub range: (f64, f64),
}

/// Groups receipts, in the order in which their first sites come: what every table of receipts shows.
pub fn group_receipts(receipts: &[Receipt]) -> Vec<ReceiptGroup> {
    let key = |of: &Receipt| (of.phase, of.pass, of.op, of.point, of.rule);
    let mut groups: Vec<ReceiptGroup> = Vec::new();
    for receipt in receipts {
        match groups.iter_mut().find(|group| key(&group.sum) == key(receipt)) {
            Some(group) => group.add(receipt),
            None => {
                let range = (receipt.measured, receipt.measured);
                groups.push(ReceiptGroup { sum: receipt.clone(), sites: 1, range });
            }
        }
    }
    groups
}

impl ReceiptGroup {
    fn add(&mut self, receipt: &Receipt) {
        self.sites += 1;
        self.sum.absorb(receipt);
        self.sum.site = format!("{} sites", self.sites);
        self.range = (self.range.0.min(receipt.measured), self.range.1.max(receipt.measured));
    }
}

/// The running counts behind a receipt. Energies of a device stay there until the counts are read.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    counts: Mutex<Counts>,
    on_device: Mutex<Option<DeviceTally>>,
}

/// Energies that are added up on a device.
struct DeviceTally {
    /// The tensor, a backend's own.
    tensor: Box<dyn Any + Send>,
    read: fn(&dyn Any) -> ErrorEnergy,
}

impl DeviceTally {
    fn new<B: Kernels>(device: &B::Device) -> Self {
        let read = |tensor: &dyn Any| tensor.downcast_ref().map_or_else(ErrorEnergy::default, B::read_tally);
        Self { tensor: Box::new(B::new_tally(device)), read }
    }
}

impl fmt::Debug for DeviceTally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("on the device")
    }
}

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
        self.count(&Counts { armed: false, calls, elements, asked: scale, energy });
    }

    /// Adds what was counted elsewhere.
    pub fn count(&self, other: &Counts) {
        self.update(|counts| {
            counts.calls += other.calls;
            counts.elements += other.elements;
            counts.asked = mean_with(counts.asked, other.asked, other.elements, counts.elements);
            counts.energy += other.energy;
        });
    }

    /// Notes that noise was asked for.
    pub fn arm(&self) {
        self.update(|counts| counts.armed = true);
    }

    pub fn update(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The counts, with what a device has added up so far; waits for it.
    pub fn counts(&self) -> Counts {
        let on_device = self.on_device.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(DeviceTally { tensor, read }) = on_device {
            self.update(|counts| counts.energy += read(&*tensor));
        }
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where energies are added up on `device`.
    pub fn on_device<B: Kernels>(&self, device: &B::Device) -> Primitive<B> {
        let mut kept = self.on_device.lock().unwrap_or_else(PoisonError::into_inner);
        let current = kept.as_ref().and_then(|kept| kept.tensor.downcast_ref::<Primitive<B>>());
        if let Some(tensor) = current.filter(|tensor| B::float_device(tensor) == *device) {
            return tensor.clone();
        }
        let before = kept.replace(DeviceTally::new::<B>(device));
        if let Some(DeviceTally { tensor, read }) = before {
            self.update(|counts| counts.energy += read(&*tensor));
        }
        let fresh = kept.as_ref().and_then(|kept| kept.tensor.downcast_ref::<Primitive<B>>());
        fresh.expect("it was made for this backend").clone()
    }
}
