//! A fault that is planted, so that the method is judged on known truth.

use hardy_ops::{BoundPlan, Rule, Site};
use serde::{Deserialize, Serialize};

/// A fault as it was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// How it was written.
    pub written: String,
    /// The rule that plants it.
    pub rule: Rule,
}

/// A fault as it was planted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Injected {
    /// How it was written.
    pub fault: String,
    /// The layers in which it changed something; `None` outside of the layers.
    pub layers: Vec<Option<usize>>,
    /// The sites at which it did.
    pub sites: Vec<String>,
    /// Elements that it could have changed.
    pub elements: u64,
    /// ‖err‖₂/‖x‖₂ of what it did; 0 where it changed nothing, ∞, in JSON null, on nothing but zeros.
    #[serde(default, deserialize_with = "null_as_infinite")]
    pub measured: f64,
}

fn null_as_infinite<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::INFINITY))
}

impl Injected {
    /// Whether it changed anything.
    #[must_use]
    pub fn took_effect(&self) -> bool {
        !self.sites.is_empty()
    }
}

impl Fault {
    /// What the receipts say of it.
    pub(super) fn injected(&self, bound: &BoundPlan, sites: &[Site]) -> Injected {
        let receipts = bound.receipts();
        let struck = receipts.iter().filter(|receipt| receipt.error_energy > 0.0 || receipt.non_finite > 0);
        let struck: Vec<&str> = struck.map(|receipt| receipt.site.as_str()).collect();
        let own: Vec<&Site> = sites.iter().filter(|site| struck.contains(&site.module.as_str())).collect();
        let mut layers: Vec<Option<usize>> = own.iter().map(|site| site.layer).collect();
        layers.dedup();
        Injected {
            fault: self.written.clone(),
            layers,
            sites: own.iter().map(|site| site.module.clone()).collect(),
            elements: receipts.iter().map(|receipt| receipt.elements).sum(),
            measured: receipts
                .iter()
                .map(hardy_ops::Receipt::energy)
                .sum::<hardy_numerics::ErrorEnergy>()
                .relative(),
        }
    }
}
