//! Hypotheses that a suite decides: each is a list of criteria on one difference, and every criterion is met, failed or
//! open as the difference's interval says. All met verifies, one failed falsifies, anything else is not resolved.

use serde::{Deserialize, Serialize};

use super::table::{Against, at_level};
use crate::{error::LabError, format, run_records::RunRecords, statistics::ALPHA};

/// A claim and what would decide it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hypothesis {
    /// The claim in words.
    pub claim: String,
    /// What must hold for it.
    pub criterion: Vec<Criterion>,
}

/// One difference in strict accuracy, `preset` minus `against` in points, and what it must be: exactly one of
/// `at_least`, `at_most` and `apart_by`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Criterion {
    /// The one side.
    pub preset: String,
    /// The other.
    pub against: String,
    /// The noise level.
    pub level: f64,
    /// Met by a difference of at least this with p < 0.05; failed where the interval is below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f64>,
    /// Met where the interval is at most this; failed where it is above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<f64>,
    /// Met where the interval is at least this far from 0 on either side; failed where it is nearer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apart_by: Option<f64>,
}

/// What the data say of a criterion or a hypothesis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It holds.
    Verified,
    /// It does not hold.
    Falsified,
    /// The data do not decide.
    NotResolved,
}

impl Outcome {
    /// As people read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Verified => "VERIFIED",
            Self::Falsified => "FALSIFIED",
            Self::NotResolved => "NOT RESOLVED",
        }
    }

    fn of(met: bool, failed: bool) -> Self {
        match (met, failed) {
            (_, true) => Self::Falsified,
            (true, false) => Self::Verified,
            (false, false) => Self::NotResolved,
        }
    }
}

/// A hypothesis and what the data say of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// The claim.
    pub claim: String,
    /// The verdict.
    pub outcome: Outcome,
    /// Its criteria in words, each with what was measured.
    pub criteria: Vec<JudgedCriterion>,
}

/// A criterion and what was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgedCriterion {
    /// The criterion in words.
    pub criterion: String,
    /// Whether it holds.
    pub outcome: Outcome,
    /// The difference, not corrected for several tests: it is the one that was asked for beforehand.
    pub measured: Against,
}

impl Hypothesis {
    /// Checks that every criterion says what must hold.
    ///
    /// # Errors
    /// No criterion, or one with none or several of `at_least`, `at_most` and `apart_by`.
    pub(super) fn check(&self) -> Result<(), String> {
        let said = |criterion: &Criterion| {
            [criterion.at_least, criterion.at_most, criterion.apart_by].iter().flatten().count()
        };
        if self.criterion.is_empty() || self.criterion.iter().any(|criterion| said(criterion) != 1) {
            let claim = &self.claim;
            return Err(format!(
                "hypothesis \"{claim}\": every criterion needs exactly one of `at_least`, `at_most`, `apart_by`"
            ));
        }
        Ok(())
    }
}

impl Criterion {
    /// What a difference says of the criterion.
    fn decide(&self, measured: &Against) -> Outcome {
        let (seen, interval) = (measured.difference_points, measured.interval_points);
        if let Some(least) = self.at_least {
            return Outcome::of(seen >= least && measured.p < ALPHA, interval.high < least);
        }
        if let Some(most) = self.at_most {
            return Outcome::of(interval.high <= most, interval.low > most);
        }
        let apart = self.apart_by.unwrap_or(0.0);
        let met = interval.low >= apart || interval.high <= -apart;
        Outcome::of(met, interval.low > -apart && interval.high < apart)
    }

    fn words(&self) -> String {
        let Self { preset, against, .. } = self;
        let place = if self.level == 0.0 {
            "without noise".to_owned()
        } else {
            format!("at {} %", round(self.level))
        };
        match (self.at_least, self.at_most) {
            (Some(least), _) => {
                format!("{preset} is at least {least} points above {against} {place}, p < {ALPHA}")
            }
            (_, Some(most)) => format!("{preset} is at most {most} points above {against} {place}"),
            _ => {
                let apart = self.apart_by.unwrap_or(0.0);
                format!("{preset} and {against} are at least {apart} points apart {place}")
            }
        }
    }
}

/// Per cent, with 100·0.07 as 7.
fn round(level: f64) -> f64 {
    (100.0 * level * 1e10).round() / 1e10
}

/// Judges a hypothesis by the runs of a suite.
///
/// # Errors
/// A preset or level that the suite does not have.
pub(super) fn judge(
    hypothesis: &Hypothesis,
    runs: &[(String, Vec<RunRecords>)],
) -> Result<Judgement, LabError> {
    let criteria = hypothesis.criterion.iter().map(|one| judged(one, runs)).collect::<Result<Vec<_>, _>>()?;
    let all = |outcome| criteria.iter().all(|one: &JudgedCriterion| one.outcome == outcome);
    let failed = criteria.iter().any(|one| one.outcome == Outcome::Falsified);
    let outcome = Outcome::of(all(Outcome::Verified), failed);
    Ok(Judgement { claim: hypothesis.claim.clone(), outcome, criteria })
}

fn judged(criterion: &Criterion, runs: &[(String, Vec<RunRecords>)]) -> Result<JudgedCriterion, LabError> {
    let side = |name: &str| {
        let found = runs.iter().find(|(preset, _)| preset == name);
        found.ok_or_else(|| {
            let known = runs.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
            LabError::NoSuchPreset { preset: name.to_owned(), known }
        })
    };
    let ((one, ours), (other, theirs)) = (side(&criterion.preset)?, side(&criterion.against)?);
    let no_level = || LabError::NoSuchLevel {
        run: one.clone(),
        level: format!("{} %", round(criterion.level)),
        levels: ours[0].last().1.levels.iter().map(|l| l.label.as_str()).collect::<Vec<_>>().join(", "),
    };
    let levels = &ours[0].last().1.levels;
    let level = levels.iter().find(|level| level.noise == Some(criterion.level)).ok_or_else(no_level)?;
    let measured =
        Against::new((one, &at_level(one, ours, level)?), (other, &at_level(other, theirs, level)?))?;
    let outcome = criterion.decide(&measured);
    Ok(JudgedCriterion { criterion: criterion.words(), outcome, measured })
}

impl JudgedCriterion {
    /// The criterion, what was measured, and the outcome, in one line.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Against { difference_points, interval_points, p, .. } = &self.measured;
        let seen = format::points_with_interval(*difference_points, *interval_points);
        format!("{}: {seen} points, {}: {}", self.criterion, format::p_clause(*p), self.outcome.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Interval;

    fn measured(low: f64, high: f64, p: f64) -> Against {
        let (difference_points, interval_points) = ((low + high) / 2.0, Interval { low, high });
        Against { difference_points, interval_points, p, p_holm: p, resolved: false }
    }

    fn criterion() -> Criterion {
        let (preset, against) = ("a".to_owned(), "b".to_owned());
        Criterion { preset, against, level: 0.05, at_least: None, at_most: None, apart_by: None }
    }

    #[test]
    fn every_criterion_can_be_met_failed_or_open() {
        use Outcome::{Falsified, NotResolved, Verified};
        let least = Criterion { at_least: Some(5.0), ..criterion() };
        let most = Criterion { at_most: Some(2.0), ..criterion() };
        let apart = Criterion { apart_by: Some(1.0), ..criterion() };
        let cases = [
            (&least, measured(2.0, 10.0, 0.01), Verified),
            (&least, measured(2.0, 10.0, 0.2), NotResolved),
            (&least, measured(-3.0, 4.0, 0.9), Falsified),
            (&most, measured(-3.0, 2.0, 0.9), Verified),
            (&most, measured(-3.0, 3.0, 0.9), NotResolved),
            (&most, measured(2.5, 6.0, 0.01), Falsified),
            (&apart, measured(-4.0, -1.5, 0.01), Verified),
            (&apart, measured(-4.0, 1.5, 0.5), NotResolved),
            (&apart, measured(-0.5, 0.5, 0.9), Falsified),
        ];
        for (criterion, measured, right) in cases {
            assert_eq!(criterion.decide(&measured), right, "{}, {measured:?}", criterion.words());
        }
    }

    #[test]
    fn a_criterion_that_says_nothing_or_two_things_is_refused() {
        let both = Criterion { at_least: Some(1.0), at_most: Some(2.0), ..criterion() };
        for criterion in [vec![], vec![criterion()], vec![both]] {
            let hypothesis = Hypothesis { claim: "c".into(), criterion };
            assert!(hypothesis.check().unwrap_err().contains("exactly one"));
        }
    }
}
