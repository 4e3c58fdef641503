//! Schedules of σ, the scale of adaptive quantisation noise (AQN), over the steps of a run.
//!
//! QeRL (arXiv:2510.11696 §3.3) lets the noise fall geometrically in stages, after a first stage without any; the
//! epoch-aware schedule does so anew in every epoch, each starting where the one before ended.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// σ at every step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// The same σ at every step.
    Constant {
        /// σ.
        sigma: f64,
        /// How many steps the run has.
        total_steps: usize,
    },
    /// `stages` equal intervals, the first without noise; `stages` − 1 values from start to end, geometric.
    Staged {
        /// σ of the second interval.
        sigma_start: f64,
        /// σ of the last interval.
        sigma_end: f64,
        /// How many intervals there are, at least 2.
        stages: usize,
        /// How many steps the run has.
        total_steps: usize,
    },
    /// Geometric boundaries between epochs; in each epoch `stages_per_epoch` + 1 equal intervals, the first without
    /// noise, the others geometric from the epoch's first boundary to its last.
    EpochAware {
        /// σ where the first epoch starts.
        sigma_start: f64,
        /// σ where the last epoch ends.
        sigma_end: f64,
        /// How many epochs there are.
        epochs: usize,
        /// How many steps an epoch has.
        steps_per_epoch: usize,
        /// How many intervals of an epoch have noise.
        stages_per_epoch: usize,
    },
}

/// Why a schedule makes no sense.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ScheduleError {
    /// A σ that is negative, not a number or, where a ratio of two is taken, zero.
    #[error("`{key}` is {value}; it should be {wanted}")]
    Sigma {
        /// Which σ.
        key: &'static str,
        /// What it is.
        value: f64,
        /// What would be right.
        wanted: &'static str,
    },
    /// Too few steps, stages or epochs.
    #[error("`{key}` is {value}; it should be at least {least}")]
    Count {
        /// Which number.
        key: &'static str,
        /// What it is.
        value: usize,
        /// The smallest that is right.
        least: usize,
    },
}

impl Schedule {
    /// Checks that σ is defined at every step.
    ///
    /// # Errors
    ///
    /// A σ that is not finite, negative, or zero in a geometric schedule; a number of steps, stages or epochs below 1
    /// (below 2 for `stages`).
    pub fn validate(&self) -> Result<(), ScheduleError> {
        match *self {
            Self::Constant { sigma, .. } => {
                if sigma.is_finite() && sigma >= 0.0 {
                    return Ok(());
                }
                Err(ScheduleError::Sigma { key: "sigma", value: sigma, wanted: "a finite number, 0 or more" })
            }
            Self::Staged { sigma_start, sigma_end, stages, total_steps } => {
                geometric(sigma_start, sigma_end)?;
                at_least("stages", stages, 2)?;
                at_least("total_steps", total_steps, 1)
            }
            Self::EpochAware { sigma_start, sigma_end, epochs, steps_per_epoch, stages_per_epoch } => {
                geometric(sigma_start, sigma_end)?;
                at_least("epochs", epochs, 1)?;
                at_least("steps_per_epoch", steps_per_epoch, 1)?;
                at_least("stages_per_epoch", stages_per_epoch, 1)
            }
        }
    }

    /// σ at `step`, counted from 0, of a valid schedule. Past the end the last interval goes on, in the epoch-aware
    /// schedule the last epoch.
    pub fn at(&self, step: usize) -> f64 {
        match *self {
            Self::Constant { sigma, .. } => sigma,
            Self::Staged { sigma_start, sigma_end, stages, total_steps } => {
                let interval = interval(step.min(total_steps), total_steps, stages);
                staged(interval, stages - 1, sigma_start, sigma_end)
            }
            Self::EpochAware { sigma_start, sigma_end, epochs, steps_per_epoch, stages_per_epoch } => {
                let epoch = (step / steps_per_epoch).min(epochs - 1);
                let boundary = |epoch| between(sigma_start, sigma_end, epoch, epochs);
                let interval = interval(step % steps_per_epoch, steps_per_epoch, stages_per_epoch + 1);
                staged(interval, stages_per_epoch, boundary(epoch), boundary(epoch + 1))
            }
        }
    }

    /// σ at every step from 0 of a valid schedule.
    ///
    /// The staged schedule has a value for step `total_steps` too, as in QeRL, where steps may be counted from 1.
    pub fn sigmas(&self) -> Vec<f64> {
        let steps = match *self {
            Self::Constant { total_steps, .. } => total_steps,
            Self::Staged { total_steps, .. } => total_steps + 1,
            Self::EpochAware { epochs, steps_per_epoch, .. } => epochs * steps_per_epoch,
        };
        (0..steps).map(|step| self.at(step)).collect()
    }
}

/// Which of `intervals` equal parts of `total` steps holds `step`: ⌊step / (total / intervals)⌋.
///
/// The width is rounded to f64 and the quotient is exact, as in the published code. Where a boundary falls on a step and
/// the width was rounded up, the step still belongs to the interval before.
fn interval(step: usize, total: usize, intervals: usize) -> usize {
    let step = step as f64;
    let width = total as f64 / intervals as f64;
    ((step - step % width) / width).round() as usize
}

/// σ in an interval: none in the first, then `values` values from `start` to `end`.
fn staged(interval: usize, values: usize, start: f64, end: f64) -> f64 {
    match interval {
        0 => 0.0,
        _ if values < 2 => start,
        _ => between(start, end, (interval - 1).min(values - 1), values - 1),
    }
}

/// The value `part` of `parts` of the way from `start` to `end`, geometrically.
fn between(start: f64, end: f64, part: usize, parts: usize) -> f64 {
    start * (end / start).powf(part as f64 / parts as f64)
}

fn geometric(sigma_start: f64, sigma_end: f64) -> Result<(), ScheduleError> {
    for (key, value) in [("sigma_start", sigma_start), ("sigma_end", sigma_end)] {
        if !(value.is_finite() && value > 0.0) {
            return Err(ScheduleError::Sigma { key, value, wanted: "a finite number above 0" });
        }
    }
    Ok(())
}

fn at_least(key: &'static str, value: usize, least: usize) -> Result<(), ScheduleError> {
    if value < least {
        return Err(ScheduleError::Count { key, value, least });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn staged_schedule(stages: usize, total_steps: usize) -> Schedule {
        Schedule::Staged { sigma_start: 0.05, sigma_end: 0.0005, stages, total_steps }
    }

    #[test]
    fn constant_is_constant() {
        assert_eq!(Schedule::Constant { sigma: 0.01, total_steps: 3 }.sigmas(), [0.01; 3]);
    }

    #[test]
    fn two_stages_are_a_quiet_half_and_the_start() {
        assert_eq!(staged_schedule(2, 4).sigmas(), [0.0, 0.0, 0.05, 0.05, 0.05]);
    }

    #[test]
    fn one_stage_an_epoch_is_that_epochs_start() {
        let schedule = Schedule::EpochAware {
            sigma_start: 0.25,
            sigma_end: 0.0625,
            epochs: 2,
            steps_per_epoch: 2,
            stages_per_epoch: 1,
        };
        assert_eq!(schedule.sigmas(), [0.0, 0.25, 0.0, 0.125]);
        assert_eq!(schedule.at(7), 0.125);
    }

    #[test]
    fn boundaries_fall_as_in_the_published_code() {
        // 16/10 rounds up, so that in floating point 8 // 1.6 is 4 and not 5.
        assert_eq!([interval(8, 16, 10), interval(9, 16, 10), interval(58, 116, 10)], [4, 5, 5]);
    }

    #[test]
    fn schedules_that_make_no_sense_are_refused() {
        let message = |schedule: Schedule| schedule.validate().unwrap_err().to_string();
        assert_eq!(
            message(Schedule::Constant { sigma: -1.0, total_steps: 1 }),
            "`sigma` is -1; it should be a finite number, 0 or more"
        );
        assert_eq!(message(staged_schedule(1, 9)), "`stages` is 1; it should be at least 2");
        assert_eq!(message(staged_schedule(2, 0)), "`total_steps` is 0; it should be at least 1");
        let geometric = Schedule::Staged { sigma_start: 0.1, sigma_end: 0.0, stages: 3, total_steps: 9 };
        assert_eq!(message(geometric), "`sigma_end` is 0; it should be a finite number above 0");
        let nan = Schedule::Staged { sigma_start: f64::NAN, sigma_end: 0.1, stages: 3, total_steps: 9 };
        assert_eq!(message(nan), "`sigma_start` is NaN; it should be a finite number above 0");
    }

    proptest! {
        #[test]
        fn staged_noise_starts_silent_and_falls_to_its_end(stages in 2usize..20, total_steps in 1usize..300) {
            let schedule = staged_schedule(stages, total_steps);
            prop_assert!(schedule.validate().is_ok());
            let sigmas = schedule.sigmas();
            prop_assert_eq!(sigmas[0], 0.0);
            let noisy: Vec<f64> = sigmas.into_iter().skip_while(|&sigma| sigma == 0.0).collect();
            prop_assert!(noisy.windows(2).all(|pair| pair[0] >= pair[1]));
            let last = if stages == 2 { 0.05 } else { 0.0005 };
            prop_assert!((noisy.last().unwrap() - last).abs() < 1e-12);
        }
    }
}
