//! Watching a site while it computes: how large its output becomes, what a linear layer reads, and all values. The pass goes on
//! undisturbed.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use crate::{observer::Observer, tap::Tap};

/// Who watches the sites of a pass.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watchers {
    pub magnitudes: Option<Arc<[AtomicU32]>>,
    pub observer: Option<Arc<Observer>>,
    pub tap: Option<Arc<Tap>>,
}

/// Who watches one site.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch {
    watchers: Watchers,
    site: usize,
    /// A tap keeps only what heads see.
    within: bool,
}

impl Watchers {
    /// The same for one site.
    pub fn at(&self, site: usize) -> Watch {
        Watch { watchers: self.clone(), site, within: false }
    }

    /// Whether somebody watches.
    pub fn are_active(&self) -> bool {
        let Self { magnitudes, observer, tap } = self;
        magnitudes.is_some() || observer.is_some() || tap.is_some()
    }

    /// The largest magnitude of every site's output so far.
    pub fn magnitudes(&self) -> Vec<f32> {
        let load = |bits: &AtomicU32| f32::from_bits(bits.load(Ordering::Relaxed));
        self.magnitudes.iter().flat_map(|all| all.iter().map(load)).collect()
    }
}

impl Watch {
    /// Whether somebody watches.
    pub fn is_active(&self) -> bool {
        self.watchers.are_active()
    }

    /// Whether somebody watches what the host's operators alone show. A tap reads what a device computes.
    pub fn is_of_host(&self) -> bool {
        self.watchers.magnitudes.is_some() || self.watchers.observer.is_some()
    }

    /// The same, but that a tap keeps only what heads see.
    pub fn within(&self) -> Self {
        Self { within: true, ..self.clone() }
    }

    /// Whether a tap keeps only what heads see.
    pub fn is_within(&self) -> bool {
        self.within
    }

    /// Who keeps the site's values, and the site.
    pub fn tap(&self) -> Option<(&Tap, usize)> {
        Some((self.watchers.tap.as_deref()?, self.site))
    }

    /// Shows a linear layer's input `[rows, width]`, before any error, to the observer.
    pub fn input(&self, width: usize, x: &[f32]) {
        if let Some(observer) = &self.watchers.observer {
            observer.observe(self.site, width, x);
        }
    }

    /// Keeps the largest |y| where magnitudes are watched; NaN counts as infinite.
    pub fn output(&self, y: &[f32]) {
        if let Some(all) = &self.watchers.magnitudes {
            let largest =
                y.iter().fold(0.0_f32, |max, v| if v.is_nan() { f32::INFINITY } else { max.max(v.abs()) });
            // The bits of non-negative floats are ordered as the floats are.
            all[self.site].fetch_max(largest.to_bits(), Ordering::Relaxed);
        }
    }
}
