//! What a grid found: for every cell the loss, its interval, whether it is resolved among all that the grid claims, and what was
//! really injected.

use std::path::Path;

use hardy_numerics::{ErrorEnergy, Precision};
use hardy_ops::{NoisyBackend, Pass, Receipt};
use hardy_train::reward::Extraction;
use serde::{Deserialize, Serialize};

use super::{Cell, Grid, gradient::Direction};
use crate::{
    error::LabError,
    nll::{differences, finite},
    statistics::{
        CONFIDENCE, Claim, Interval, PairedTest, Scores, accuracy, decide, mean_claim, mean_interval,
    },
};

/// What is measured of the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GridMetric {
    /// The mean negative log-likelihood of the worked answers' tokens, in nats.
    Nll,
    /// The share of greedy answers that are right.
    Accuracy(Extraction),
}

impl GridMetric {
    /// Its name in records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nll => "nll",
            Self::Accuracy(_) => "accuracy",
        }
    }
}

/// What was measured in one cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CellRecord {
    /// Where and what.
    #[serde(flatten)]
    pub cell: Cell,
    /// The measure under the error: mean negative log-likelihood in nats, accuracy in [0, 1], or of the backward pass the
    /// cosine of the gradient with the one without error.
    pub value: f64,
    /// How much worse that is than without error, ≥ 0 where it is worse: nats, a difference of accuracies, 1 − cosine.
    pub degradation: f64,
    /// Its 95 % interval, in doubt of problems (backward: of groups of problems) and draws.
    pub interval: Interval,
    /// That it is not 0.
    #[serde(flatten)]
    pub claim: Claim,
    /// Of the backward pass: the gradient's length over that without error; NaN, in JSON null, of one that is not finite.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "null_as_nan")]
    pub norm_ratio: Option<f64>,
    /// ‖err‖₂/‖x‖₂ as measured where it was injected; ∞, in JSON null, for errors on nothing but zeros.
    #[serde(default = "infinite", deserialize_with = "null_as_infinite")]
    pub measured: f64,
    /// Elements that the error was injected into, over all draws.
    pub elements: u64,
    /// Draws of the error.
    pub draws: usize,
}

fn infinite() -> f64 {
    f64::INFINITY
}

fn null_as_infinite<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::INFINITY))
}

fn null_as_nan<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    Ok(Some(Option::deserialize(deserializer)?.unwrap_or(f64::NAN)))
}

/// A grid with all its cells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GridRecord {
    /// `nll` or `accuracy`.
    pub metric: String,
    /// The model, as it was named.
    pub model: String,
    /// The data, as it was named.
    pub data: String,
    /// The arithmetic of every product.
    #[serde(default)]
    pub precision: Precision,
    /// Problems.
    pub n: usize,
    /// Draws of every random error.
    pub draws: usize,
    /// The seed of the noise.
    pub seed: u64,
    /// The measure without error.
    pub clean: f64,
    /// Its 95 % interval over problems.
    pub clean_interval: Interval,
    /// The cells, in the order in which they were asked for.
    pub cells: Vec<CellRecord>,
}

/// A cell's measure before it has its place.
#[derive(Clone, Debug)]
pub(crate) struct Scored {
    value: f64,
    degradation: f64,
    interval: Interval,
    claim: Claim,
    norm_ratio: Option<f64>,
    energy: ErrorEnergy,
    elements: u64,
    draws: usize,
}

impl Scored {
    /// From the negative log-likelihoods of the problems, without error and under every draw.
    pub fn likelihood(clean: &[f64], draws: Vec<Vec<f64>>, receipts: &[Receipt]) -> Self {
        let draws: Vec<Vec<f64>> =
            draws.into_iter().map(|draw| draw.into_iter().map(finite).collect()).collect();
        let lost = Scores::of(&differences(&draws, &[clean.to_vec()]));
        Self::real(Scores::of(&draws).mean(), &lost, draws.len(), receipts)
    }

    /// From the directions of the groups' gradients under every draw.
    pub fn direction(draws: &[Vec<Direction>], receipts: &[Receipt]) -> Self {
        let table = |of: fn(&Direction) -> f64| -> Vec<Vec<f64>> {
            draws.iter().map(|draw| draw.iter().map(of).collect()).collect()
        };
        // A gradient that is not finite has no direction.
        let lost = table(|d| if d.cosine.is_finite() { 1.0 - d.cosine } else { 1.0 });
        let lost = Scores::of(&lost);
        let norm = Scores::of(&table(|d| d.norm_ratio)).mean();
        Self { norm_ratio: Some(norm), ..Self::real(1.0 - lost.mean(), &lost, draws.len(), receipts) }
    }

    fn real(value: f64, lost: &Scores, draws: usize, receipts: &[Receipt]) -> Self {
        let (degradation, interval) = (lost.mean(), mean_interval(lost, CONFIDENCE));
        let (energy, elements) = injected(receipts);
        Self {
            value,
            degradation,
            interval,
            claim: mean_claim(lost),
            norm_ratio: None,
            energy,
            elements,
            draws,
        }
    }

    /// From which answers are right, without error and under every draw.
    pub fn accuracy(clean: &[bool], draws: &[Vec<bool>], receipts: &[Receipt]) -> Self {
        let count = draws.len();
        let right = draws.iter().flatten().filter(|right| **right).count();
        let value = right as f64 / (clean.len() * count) as f64;
        let worth = |answers: &[bool]| answers.iter().map(|&right| f64::from(u8::from(right))).collect();
        let noisy = draws.iter().map(|draw| worth(draw)).collect();
        let test = PairedTest::of(&vec![vec![worth(clean)]], &vec![noisy]);
        let (energy, elements) = injected(receipts);
        Self {
            value,
            degradation: test.difference_points / 100.0,
            interval: test.interval_points.scaled(0.01),
            claim: test.claim,
            norm_ratio: None,
            energy,
            elements,
            draws: count,
        }
    }
}

/// What was injected, over all of `receipts`.
fn injected(receipts: &[Receipt]) -> (ErrorEnergy, u64) {
    (receipts.iter().map(Receipt::energy).sum(), receipts.iter().map(|receipt| receipt.elements).sum())
}

impl GridRecord {
    pub(crate) fn new<B: NoisyBackend>(
        grid: &Grid<'_, B>,
        clean: Vec<f64>,
        cells: &[Cell],
        scored: Vec<Scored>,
    ) -> Self {
        let clean = Scores::of(&[clean]);
        let clean_interval = match grid.metric {
            GridMetric::Nll => mean_interval(&clean, CONFIDENCE),
            GridMetric::Accuracy(_) => accuracy(&clean, CONFIDENCE),
        };
        let cell = |(cell, scored): (&Cell, Scored)| CellRecord {
            cell: cell.clone(),
            value: scored.value,
            degradation: scored.degradation,
            interval: scored.interval,
            claim: scored.claim,
            norm_ratio: scored.norm_ratio,
            measured: scored.energy.relative(),
            elements: scored.elements,
            draws: scored.draws,
        };
        let mut record = Self {
            metric: grid.metric.name().to_owned(),
            model: String::new(),
            data: String::new(),
            precision: grid.setting.policy.decoder.blueprint.precision,
            n: grid.setting.problems.len(),
            draws: grid.draws,
            seed: grid.seed,
            clean: clean.mean(),
            clean_interval,
            cells: cells.iter().zip(scored).map(cell).collect(),
        };
        record.decide();
        record
    }

    /// Decides the claims of all cells together, also of such as were read from files.
    pub fn decide(&mut self) {
        for cell in &mut self.cells {
            cell.claim = Claim::alone(cell.claim.p, !cell.interval.contains(0.0));
        }
        decide(self.cells.iter_mut().map(|cell| &mut cell.claim));
    }

    /// The cells from the one that hurts most; those of the backward pass, which have another measure, apart.
    #[must_use]
    pub fn ranked(&self, pass: Pass) -> Vec<&CellRecord> {
        let mut cells: Vec<&CellRecord> = self.cells.iter().filter(|cell| cell.cell.pass == pass).collect();
        cells.sort_by(|a, b| b.degradation.total_cmp(&a.degradation));
        cells
    }

    /// Reads a grid that was kept in a file.
    ///
    /// # Errors
    /// A file that can not be read, or holds something else.
    pub fn read(path: &Path) -> Result<Self, LabError> {
        let text = std::fs::read_to_string(path).map_err(LabError::file(path))?;
        serde_json::from_str(&text).map_err(|error| LabError::json(path, error.line(), &error))
    }
}

#[cfg(test)]
pub(crate) mod made_up {
    //! A grid for tests.

    use hardy_numerics::Perturbation;
    use hardy_ops::{Op, Point};

    use super::*;

    /// Two layers and two operators; only linear in layer 1 loses anything.
    pub fn grid() -> GridRecord {
        let cell = |layer: usize, op| {
            let lost = if (layer, op) == (1, Op::Linear) { 0.5 } else { 0.0 };
            let interval = Interval { low: lost - 0.1, high: lost + 0.1 };
            CellRecord {
                cell: Cell {
                    layer: Some(layer),
                    op,
                    point: Point::Output,
                    pass: Pass::Forward,
                    modules: "*".to_owned(),
                    exclude: Vec::new(),
                    level: Some(0.05),
                    error: Perturbation::RelativeGaussian { scale: 0.05 },
                },
                value: 1.0 + lost,
                degradation: lost,
                interval,
                claim: Claim::alone(if lost > 0.0 { 1e-9 } else { 0.5 }, lost > 0.0),
                norm_ratio: None,
                measured: 0.05,
                elements: 100,
                draws: 1,
            }
        };
        let mut grid = GridRecord {
            metric: "nll".to_owned(),
            model: "made up".to_owned(),
            data: "nothing".to_owned(),
            precision: Precision::F32,
            n: 10,
            draws: 1,
            seed: 0,
            clean: 1.0,
            clean_interval: Interval { low: 0.9, high: 1.1 },
            cells: [(0, Op::Linear), (0, Op::Silu), (1, Op::Linear), (1, Op::Silu)]
                .map(|(l, op)| cell(l, op))
                .to_vec(),
        };
        grid.decide();
        grid
    }
}

#[cfg(test)]
mod tests {
    use super::{made_up::grid, *};

    #[test]
    fn a_grid_survives_json_and_decides_the_same_again() {
        let written = grid();
        let mut read: GridRecord = serde_json::from_str(&serde_json::to_string(&written).unwrap()).unwrap();
        read.decide();
        assert_eq!(serde_json::to_string(&read).unwrap(), serde_json::to_string(&written).unwrap());
        let resolved: Vec<bool> = read.cells.iter().map(|cell| cell.claim.resolved).collect();
        assert_eq!(resolved, [false, false, true, false]);
        assert_eq!(read.ranked(Pass::Forward)[0].cell.layer, Some(1));
    }

    #[test]
    fn a_model_that_gives_no_likelihood_has_lost_much_and_not_nothing() {
        let broken = Scored::likelihood(&[1.0, 2.0], vec![vec![f64::NAN, f64::INFINITY]], &[]);
        assert!(broken.degradation > 100.0 && broken.value.is_finite());
    }
}
