//! A cell: one error of one strength at one point of one operator of one layer, in one pass.

use std::fmt;

use hardy_numerics::{Options, Perturbation};
use hardy_ops::{Layers, Op, Ops, Pass, Plan, Point, Rule};
use serde::{Deserialize, Serialize};

use crate::format::significant;

/// Where and what a cell injects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The decoder layer; `None` outside of the layers.
    pub layer: Option<usize>,
    /// The operator.
    pub op: Op,
    /// The point. Backward an error at the output means both gradients, as in a rule.
    pub point: Point,
    /// The pass.
    pub pass: Pass,
    /// The modules, as a glob; outside of layers the module itself.
    pub modules: String,
    /// What is left out of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// The strength of the error: its scale, or the rate of flips; `None` for a kind that has but one strength.
    pub level: Option<f64>,
    /// The error.
    pub error: Perturbation,
}

impl Cell {
    /// The rule that injects it.
    #[must_use]
    pub fn rule(&self) -> Rule {
        Rule {
            ops: Ops::Some(vec![self.op]),
            at: self.point,
            layers: self.layer.map_or(Layers::All, |layer| Layers::List(vec![layer])),
            modules: self.modules.clone(),
            exclude: self.exclude.clone(),
            pass: vec![self.pass],
            error: self.error,
            ..Rule::noise(0.0)
        }
    }

    /// The plan that injects it and nothing else.
    #[must_use]
    pub fn plan(&self, seed: u64) -> Plan {
        Plan { rules: vec![self.rule()], seed, ..Plan::default() }
    }

    /// The same place with another strength.
    #[must_use]
    pub fn at_level(&self, level: f64) -> Self {
        Self { level: Some(level), error: with_level(self.error, level), ..self.clone() }
    }

    /// Whether both are at the same place, apart from the strength of the error.
    #[must_use]
    pub fn same_place(&self, other: &Self) -> bool {
        let place = |cell: &Self| (cell.layer, cell.op, cell.point, cell.pass);
        place(self) == place(other) && self.modules == other.modules && self.exclude == other.exclude
    }

    /// The place in words: `layer 3, linear output`.
    #[must_use]
    pub fn place(&self) -> String {
        let layer = self.layer.map_or_else(|| self.modules.clone(), |layer| format!("layer {layer}"));
        let pass = if self.pass == Pass::Backward { ", backward" } else { "" };
        format!("{layer}, {} {}{pass}", self.op.name(), self.point.name())
    }

    /// The error in words: `5 %` of relative noise, else its kind and its strength.
    #[must_use]
    pub fn strength(&self) -> String {
        match (self.level, self.error) {
            (Some(level), Perturbation::RelativeGaussian { .. }) => {
                format!("{} %", significant(100.0 * level, 3))
            }
            (Some(level), error) => format!("{} {}", error.kind_name(), significant(level, 3)),
            (None, error) => error.kind_name().to_owned(),
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.place(), self.strength())
    }
}

/// The strength of an error: its scale, or where it has none the rate of its flips; `None` for a format.
#[must_use]
pub fn level_of(error: Perturbation) -> Option<f64> {
    error.scale().or_else(|| Options::from(error).rate)
}

/// The error with another strength.
#[must_use]
pub fn with_level(error: Perturbation, level: f64) -> Perturbation {
    if error.scale().is_some() {
        return error.with_scale(level);
    }
    let options = Options::from(error);
    let rate = options.rate.map(|_| level);
    Options { rate, ..options }.perturbation().unwrap_or(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strength_of_an_error_is_its_scale_or_its_rate() {
        let flips = Options { kind: "bit_flip".into(), rate: Some(1e-6), ..Options::default() };
        let flips = flips.perturbation().unwrap();
        assert_eq!(level_of(flips), Some(1e-6));
        assert_eq!(level_of(with_level(flips, 1e-3)), Some(1e-3));
        let noise = Perturbation::RelativeGaussian { scale: 0.1 };
        assert_eq!(with_level(noise, 0.2), Perturbation::RelativeGaussian { scale: 0.2 });
        let format = Options { kind: "mxfp4".into(), ..Options::default() }.perturbation().unwrap();
        assert_eq!((level_of(format), with_level(format, 0.3)), (None, format));
    }
}
