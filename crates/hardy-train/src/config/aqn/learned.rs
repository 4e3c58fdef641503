//! Sigma that is learned: one for every layer, moved by its own gradient (adaptive layerwise perturbation, arXiv:2603.19470).
//! As there, the noise acts in updates alone, rollouts stay as they are, ln σ is what the optimizer steps on, and `hidden_states`
//! is what enters a layer, its residual with it.

use hardy_numerics::Perturbation;
use hardy_ops::{Layers, Op, Ops, Phase, Point, Rule};

use super::{AqnSchedule, AqnSection, AqnTarget};
use crate::error::{Error, Result};

/// The published learning rate of ln σ.
const LEARNING_RATE: f64 = 5e-4;
/// The published σ at the start, below which none falls here.
const FLOOR: f64 = 1e-6;
/// Above it the noise drowns what it is on.
const CEILING: f64 = 0.1;

/// How sigma is learned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Learning {
    /// The learning rate of ln σ.
    pub rate: f64,
    /// The smallest and the largest σ.
    pub bounds: [f64; 2],
}

impl AqnSection {
    /// How sigma is learned; `None` where it follows a schedule.
    pub fn learning(&self) -> Option<Learning> {
        (self.schedule == AqnSchedule::Learned).then(|| Learning {
            rate: self.learning_rate.unwrap_or(LEARNING_RATE),
            bounds: [self.sigma_min.unwrap_or(FLOOR), self.sigma_max.unwrap_or(CEILING)],
        })
    }

    /// The section with everything said that a learned sigma has defaults for.
    pub(in crate::config) fn resolved(&self) -> Self {
        let Some(Learning { rate, bounds: [min, max] }) = self.learning() else { return self.clone() };
        Self { learning_rate: Some(rate), sigma_min: Some(min), sigma_max: Some(max), ..self.clone() }
    }

    /// Refuses what belongs to another schedule, and a sigma that starts out of its bounds.
    pub(in crate::config) fn check(&self) -> Result<()> {
        let Some(Learning { bounds: [min, max], .. }) = self.learning() else {
            return self.check_scheduled();
        };
        let not_here = [
            ("sigma_end", self.sigma_end.is_some()),
            ("guide", self.guide.is_some()),
            ("scan", self.scan.is_some()),
        ];
        if let Some((key, _)) = not_here.into_iter().find(|(_, given)| *given) {
            return Err(Error::config(format!(
                "`aqn.{key}` is not for `aqn.schedule` = \"learned\", which finds a sigma for every layer by itself"
            )));
        }
        if !(min..=max).contains(&self.sigma_start) {
            return Err(Error::config(format!(
                "`aqn.sigma_start` is {}, but must be from `aqn.sigma_min`, {min}, to `aqn.sigma_max`, {max}",
                self.sigma_start
            )));
        }
        Ok(())
    }

    fn check_scheduled(&self) -> Result<()> {
        let of_learned = [
            ("learning_rate", self.learning_rate.is_some()),
            ("sigma_min", self.sigma_min.is_some()),
            ("sigma_max", self.sigma_max.is_some()),
        ];
        if let Some((key, _)) = of_learned.into_iter().find(|(_, given)| *given) {
            return Err(Error::config(format!("`aqn.{key}` is for `aqn.schedule` = \"learned\" alone")));
        }
        if self.target == AqnTarget::HiddenStates {
            return Err(Error::config(
                "`aqn.target` = \"hidden_states\" is for `aqn.schedule` = \"learned\" alone; a scheduled sigma is on weights",
            ));
        }
        Ok(())
    }

    /// A rule for every layer, and one for the norm after the last where norms are perturbed. They act in training: there a
    /// gradient tells how to move them.
    pub fn learned_rules(&self, layers: usize) -> Vec<Rule> {
        let learned = |rule: Rule| Rule {
            during: Some(vec![Phase::Train]),
            error: Perturbation::AbsoluteGaussian { scale: self.sigma_start },
            schedule: None,
            learned: true,
            ..rule
        };
        let of_layer = |layer: usize| match self.target {
            AqnTarget::HiddenStates => entering(layer),
            _ => Rule { layers: Layers::List(vec![layer]), ..self.rule(Vec::new()) },
        };
        let last = Rule { modules: "model.norm".to_owned(), ..self.rule(Vec::new()) };
        let last = (self.target == AqnTarget::RmsNorm).then_some(last);
        (0..layers).map(of_layer).chain(last).map(learned).collect()
    }
}

/// Noise on what enters a layer: what the one before it adds last, or the embedding.
fn entering(layer: usize) -> Rule {
    let (op, modules) = match layer.checked_sub(1) {
        None => (Op::Embedding, "model.embed_tokens".to_owned()),
        Some(before) => (Op::Linear, format!("model.layers.{before}.mlp.down_proj")),
    };
    Rule { ops: Ops::Some(vec![op]), at: Point::Output, modules, ..Rule::noise(0.0) }
}
