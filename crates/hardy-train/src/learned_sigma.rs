//! The learned sigmas of a run (arXiv:2603.19470): ln σ of every layer under Adam (arXiv:1412.6980), as exact in a checkpoint as
//! in memory. `∂L/∂ln σ = σ·∂L/∂σ`, and the sum that gives it is the same for every split of an update.

use hardy_ops::BoundPlan;
use serde::{Deserialize, Serialize};

use crate::config::{AqnSection, Learning};

/// What Adam adds to the denominator.
const EPSILON: f64 = 1e-8;

/// The sigmas of a run's learned rules.
#[derive(Clone, Debug, PartialEq)]
pub struct LearnedSigma {
    how: Learning,
    /// β₁ and β₂.
    betas: [f64; 2],
    /// The places of the rules in the plan.
    rules: Vec<usize>,
    state: SigmaState,
}

/// What of it a checkpoint keeps; a value for every rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SigmaState {
    /// ln σ.
    log_sigma: Vec<f64>,
    /// Mean of the gradients in it.
    exp_avg: Vec<f64>,
    /// Mean of their squares.
    exp_avg_sq: Vec<f64>,
    /// Steps taken.
    steps: u64,
}

impl LearnedSigma {
    /// The sigmas that `aqn` starts from, for a plan with its rules; `None` where none is learned.
    pub fn new(aqn: Option<&AqnSection>, plan: &BoundPlan, betas: [f64; 2]) -> Option<Self> {
        let aqn = aqn?;
        let (how, rules) = (aqn.learning()?, plan.learned());
        let of = |x: f64| vec![x; rules.len()];
        let state = SigmaState {
            log_sigma: of(aqn.sigma_start.ln()),
            exp_avg: of(0.0),
            exp_avg_sq: of(0.0),
            steps: 0,
        };
        Some(Self { how, betas, rules, state })
    }

    /// One step against the loss's derivatives in the sigmas; the plan has the new ones from its next noise on.
    pub fn step(&mut self, gradients: &[f64], plan: &mut BoundPlan) {
        let (Learning { rate, bounds: [floor, ceiling] }, [b1, b2]) = (self.how, self.betas);
        let SigmaState { log_sigma, exp_avg, exp_avg_sq, steps } = &mut self.state;
        *steps += 1;
        let (correct_1, correct_2) = (1.0 - b1.powf(*steps as f64), 1.0 - b2.powf(*steps as f64));
        for (((log, m), v), gradient) in log_sigma.iter_mut().zip(exp_avg).zip(exp_avg_sq).zip(gradients) {
            let gradient = gradient * log.exp();
            *m = *m * b1 + gradient * (1.0 - b1);
            *v = *v * b2 + gradient * gradient * (1.0 - b2);
            let direction = (*m / correct_1) / ((*v / correct_2).sqrt() + EPSILON);
            *log = (*log - rate * direction).clamp(floor.ln(), ceiling.ln());
        }
        self.apply(plan);
    }

    /// Gives the plan these sigmas.
    pub fn apply(&self, plan: &mut BoundPlan) {
        for (&rule, log) in self.rules.iter().zip(&self.state.log_sigma) {
            plan.set_scale(rule, log.exp());
        }
    }

    /// What a checkpoint keeps.
    pub fn state(&self) -> &SigmaState {
        &self.state
    }

    /// Goes on from what a checkpoint kept; false where it is of another number of rules.
    #[must_use]
    pub fn restore(&mut self, state: SigmaState) -> bool {
        let fits = [&state.log_sigma, &state.exp_avg, &state.exp_avg_sq]
            .iter()
            .all(|values| values.len() == self.rules.len());
        if fits {
            self.state = state;
        }
        fits
    }
}
