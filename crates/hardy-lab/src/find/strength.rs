//! Faults of known kinds and strengths at sites drawn at random. Strengths are relative to what a site gives, as the reports of the
//! method give theirs.

use hardy_numerics::{Options, Perturbation};
use hardy_ops::{NoisyBackend, Ops, Point, Rule, Site};
use hardy_train::error::Error;

use super::{Fault, Find, machine::Machine};
use crate::error::LabError;

/// A kind and a strength.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strength {
    kind: &'static str,
    /// Its scale or value over the largest output of the site; of spikes too.
    of_largest: f64,
    /// The probability, of kinds that have one.
    rate: Option<f64>,
    /// The share of channels.
    sparsity: f64,
    /// Whether the reports of the method give this strength.
    pub published: bool,
}

/// What is planted. Reports of the method (SRDD) use a dead zone of 0.3 and saturation at 0.7 of the largest value, dense and in a
/// tenth of the values; they find dense ones and sparse dead zones, and miss sparse saturation and bias.
pub(super) const STRENGTHS: &[Strength] = &[
    of("dead_zone", 0.3, None, 1.0, true),
    of("dead_zone", 0.3, None, 0.1, true),
    of("dead_zone", 0.02, None, 0.25, false),
    of("saturation", 0.7, None, 1.0, true),
    of("saturation", 0.7, None, 0.1, false),
    of("saturation", 0.3, None, 0.1, false),
    of("bias", 0.05, None, 1.0, false),
    of("bias", 0.05, None, 0.1, false),
    of("stuck", 0.1, None, 0.05, false),
    of("spike", 1.0, Some(1e-3), 1.0, false),
    of("bit_flip", 0.0, Some(1e-5), 1.0, false),
    of("burst_flip", 0.0, Some(1e-2), 1.0, false),
    of("burst_flip", 0.0, Some(1e-3), 1.0, false),
    of("burst_flip", 0.0, Some(1e-4), 1.0, false),
];

const fn of(
    kind: &'static str,
    of_largest: f64,
    rate: Option<f64>,
    sparsity: f64,
    published: bool,
) -> Strength {
    Strength { kind, of_largest, rate, sparsity, published }
}

impl Strength {
    fn error(&self, largest: f64) -> Result<Perturbation, LabError> {
        let magnitude = self.of_largest * largest;
        let takes = Options::taken_by(self.kind).unwrap_or_default();
        let options = Options {
            kind: self.kind.to_owned(),
            scale: (takes.contains(&"scale") && self.kind != "stuck").then_some(magnitude),
            value: (self.kind == "stuck").then_some(magnitude),
            rate: self.rate,
            sparsity: Some(self.sparsity),
            ..Options::default()
        };
        options.perturbation().map_err(|wrong| Error::config(wrong.to_string()).into())
    }

    /// The kind and strength in words.
    pub fn words(&self) -> String {
        let strength = match self.rate {
            Some(rate) if self.of_largest == 0.0 => format!("rate {rate:e}"),
            Some(rate) => format!("{} of the largest, rate {rate:e}", self.of_largest),
            None => format!("{} of the largest", self.of_largest),
        };
        format!("{} {strength}, {} % of channels", self.kind, 100.0 * self.sparsity)
    }
}

impl<B: NoisyBackend> Find<'_, B> {
    /// A fault at a site of a layer drawn by `drawn`.
    pub(super) fn plant(&self, strength: &Strength, drawn: u64) -> Result<Fault, LabError> {
        let decoder = &self.setting.policy.decoder;
        let sites: Vec<(usize, &Site)> =
            decoder.blueprint.sites.iter().enumerate().filter(|(_, site)| site.layer.is_some()).collect();
        let (index, site) = sites[(drawn % sites.len() as u64) as usize];
        let healthy = Machine::new(decoder, &self.setting.worked()?).pass(&hardy_ops::Noise::clean(), None);
        let error = strength.error(healthy.largest(index))?;
        let rule = Rule {
            ops: Ops::Some(vec![site.op]),
            at: Point::Output,
            modules: site.module.clone(),
            error,
            ..Rule::noise(0.0)
        };
        Ok(Fault { written: format!("{} at {}", strength.words(), site.module), rule })
    }
}
