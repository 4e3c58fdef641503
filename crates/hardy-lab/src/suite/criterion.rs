//! Hypotheses that a suite decides: each is a list of criteria on one difference, every criterion with a direction. A
//! criterion is decided where the interval lies wholly on one side of its bound and its claim is resolved among all that
//! the table claims (Holm). All met verifies, one failed falsifies, anything else is not resolved.

use serde::{Deserialize, Serialize};

use crate::{
    format,
    statistics::{Claim, PairedTest},
};

/// A claim and what would decide it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hypothesis {
    /// The claim in words.
    pub claim: String,
    /// What must hold for it.
    pub criterion: Vec<Criterion>,
}

/// One difference in accuracy, `preset` minus `against` in points, and what it must be: exactly one of `at_least`,
/// `at_most` and `within`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Criterion {
    /// The one side.
    pub preset: String,
    /// The other.
    pub against: String,
    /// The scale of the noise that the level adds to the hardware that either side stands on.
    pub level: f64,
    /// The difference is at least this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f64>,
    /// The difference is at most this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<f64>,
    /// The difference, of either sign, is at most this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<f64>,
    /// What earlier versions took for a difference of either sign; refused.
    #[serde(default, skip_serializing)]
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
    /// Whether the difference as seen would meet it, were it exact.
    pub as_seen: bool,
    /// That the difference is on the side of the criterion's bound on which it was seen.
    pub decided: Claim,
    /// The difference.
    pub measured: PairedTest,
}

impl Hypothesis {
    /// Checks that every criterion says what must hold.
    ///
    /// # Errors
    /// No criterion, or one with none or several of `at_least`, `at_most` and `within`, or with what no longer has a
    /// meaning.
    pub(super) fn check(&self) -> Result<(), String> {
        let claim = &self.claim;
        if self.criterion.iter().any(|criterion| criterion.apart_by.is_some()) {
            return Err(format!(
                "hypothesis \"{claim}\": `apart_by` was met by a difference of either sign and is no longer read; write \
                 `at_least` where `preset` must be above `against`, with the two exchanged where it must be below, or \
                 `within` for what must not differ"
            ));
        }
        let said = |criterion: &Criterion| {
            [criterion.at_least, criterion.at_most, criterion.within].iter().flatten().count()
        };
        if self.criterion.is_empty() || self.criterion.iter().any(|criterion| said(criterion) != 1) {
            return Err(format!(
                "hypothesis \"{claim}\": every criterion needs exactly one of `at_least`, `at_most`, `within`"
            ));
        }
        Ok(())
    }
}

impl Criterion {
    /// Whether a difference in points meets the criterion.
    fn holds(&self, points: f64) -> bool {
        self.at_least.is_none_or(|least| points >= least)
            && self.at_most.is_none_or(|most| points <= most)
            && self.within.is_none_or(|within| points.abs() <= within)
    }

    /// The ends of what meets the criterion.
    fn bounds(&self) -> Vec<f64> {
        let within = self.within.map(|within| [-within, within]);
        self.at_least.into_iter().chain(self.at_most).chain(within.into_iter().flatten()).collect()
    }

    /// Judges a difference whose test against other values, in points, is `p_against`. Not yet corrected for what else is
    /// claimed.
    pub(super) fn judged(
        &self,
        place: &str,
        measured: PairedTest,
        p_against: impl Fn(f64) -> f64,
    ) -> JudgedCriterion {
        let (seen, interval) = (measured.difference_points, measured.interval_points);
        let as_seen = self.holds(seen);
        // Outside of `within` only the nearer end must be excluded, inside both.
        let nearest = self.bounds().into_iter().min_by(|a, b| (a - seen).abs().total_cmp(&(b - seen).abs()));
        let ends = if as_seen { self.bounds() } else { nearest.into_iter().collect() };
        let mut p = ends.iter().map(|&end| p_against(end)).fold(0.0, f64::max);
        let mut excluded = ends.iter().all(|&end| !interval.contains(end));
        // What puts the difference to one side of 0 claims that there is one, and needs what that needs.
        if as_seen != self.holds(0.0) || ends.contains(&0.0) {
            p = p.max(measured.claim.p);
            excluded &= !interval.contains(0.0);
        }
        let decided = Claim::alone(p, excluded);
        let criterion = self.words(place);
        JudgedCriterion { criterion, outcome: Outcome::NotResolved, as_seen, decided, measured }.settled()
    }

    fn words(&self, place: &str) -> String {
        let Self { preset, against, .. } = self;
        match (self.at_least, self.at_most) {
            (Some(least), _) => format!("{preset} is at least {least} points above {against} {place}"),
            (_, Some(most)) => format!("{preset} is at most {most} points above {against} {place}"),
            _ => {
                let within = self.within.unwrap_or(0.0);
                format!("{preset} and {against} are within {within} points {place}")
            }
        }
    }

    /// The level as errors name it.
    pub(super) fn level_name(&self) -> String {
        format!("{} %", (100.0 * self.level * 1e10).round() / 1e10)
    }
}

impl JudgedCriterion {
    /// Gives the outcome after the claim was decided.
    #[must_use]
    pub(super) fn settled(self) -> Self {
        let outcome = match (self.decided.resolved, self.as_seen) {
            (false, _) => Outcome::NotResolved,
            (true, true) => Outcome::Verified,
            (true, false) => Outcome::Falsified,
        };
        Self { outcome, ..self }
    }

    /// The criterion, what was measured, and the outcome, in one line.
    #[must_use]
    pub fn sentence(&self) -> String {
        let PairedTest { difference_points, interval_points, .. } = &self.measured;
        let seen = format::points_with_interval(*difference_points, *interval_points);
        let p = format::claim_clause(&self.decided);
        format!("{}: {seen} points, {p}: {}", self.criterion, self.outcome.name())
    }
}

impl Judgement {
    /// The verdict on `claim` from its criteria.
    pub(super) fn of(claim: String, criteria: Vec<JudgedCriterion>) -> Self {
        let outcome = if criteria.iter().any(|one| one.outcome == Outcome::Falsified) {
            Outcome::Falsified
        } else if criteria.iter().all(|one| one.outcome == Outcome::Verified) {
            Outcome::Verified
        } else {
            Outcome::NotResolved
        };
        Self { claim, outcome, criteria }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::{Answers, p_against, scores};

    fn criterion() -> Criterion {
        let (preset, against) = ("a".to_owned(), "b".to_owned());
        Criterion {
            preset,
            against,
            level: 0.05,
            at_least: None,
            at_most: None,
            within: None,
            apart_by: None,
        }
    }

    /// One seed of 1,000 problems in which the first side gets `gained` more right and `lost` fewer.
    fn sides(gained: usize, lost: usize) -> [Answers; 2] {
        let right = |from: usize, to: usize| {
            vec![vec![(0..1000).map(|i| f64::from(u8::from(from <= i && i < to))).collect()]]
        };
        [right(lost, 500 + gained), right(0, 500)]
    }

    fn outcome(criterion: &Criterion, gained: usize, lost: usize) -> Outcome {
        let [one, other] = sides(gained, lost);
        let test = PairedTest::of(&one, &other);
        let (a, b) = (scores(&one), scores(&other));
        criterion.judged("clean", test, |points| p_against(&a, &b, points / 100.0)).outcome
    }

    #[test]
    fn every_criterion_can_be_met_failed_or_open() {
        use Outcome::{Falsified, NotResolved, Verified};
        let least = Criterion { at_least: Some(5.0), ..criterion() };
        let most = Criterion { at_most: Some(2.0), ..criterion() };
        let within = Criterion { within: Some(2.0), ..criterion() };
        let cases = [
            (&least, 100, 0, Verified),
            (&least, 60, 0, NotResolved),
            (&least, 10, 0, Falsified),
            (&least, 0, 100, Falsified),
            (&most, 0, 30, Verified),
            (&most, 25, 5, NotResolved),
            (&most, 60, 0, Falsified),
            (&within, 2, 2, Verified),
            (&within, 20, 0, NotResolved),
            (&within, 60, 0, Falsified),
            (&within, 0, 60, Falsified),
        ];
        for (criterion, gained, lost, right) in cases {
            assert_eq!(
                outcome(criterion, gained, lost),
                right,
                "{}, +{gained} −{lost}",
                criterion.words("clean")
            );
        }
    }

    #[test]
    fn a_noise_that_hurts_never_verifies_that_it_helps() {
        let helps = Criterion { at_least: Some(1.0), ..criterion() };
        for lost in [15, 50, 200] {
            assert_ne!(outcome(&helps, 0, lost), Outcome::Verified);
        }
    }

    #[test]
    fn what_is_seen_is_not_enough_without_its_interval() {
        // 7 points seen, and an interval from about 2 to 12: at least 5 is open.
        let least = Criterion { at_least: Some(5.0), ..criterion() };
        let (first, second): (Answers, Answers) = (
            vec![vec![(0..200).map(|i| f64::from(u8::from(!(114..=190).contains(&i)))).collect()]],
            vec![vec![(0..200).map(|i| f64::from(u8::from(i < 109))).collect()]],
        );
        let test = PairedTest::of(&first, &second);
        assert!(test.difference_points >= 5.0 && test.claim.p < 0.05);
        let (a, b) = (scores(&first), scores(&second));
        let judged = least.judged("clean", test, |points| p_against(&a, &b, points / 100.0));
        assert_eq!((judged.outcome, judged.as_seen), (Outcome::NotResolved, true));
    }

    #[test]
    fn a_criterion_that_says_nothing_or_two_things_is_refused() {
        let both = Criterion { at_least: Some(1.0), at_most: Some(2.0), ..criterion() };
        for criterion in [vec![], vec![criterion()], vec![both]] {
            let hypothesis = Hypothesis { claim: "c".into(), criterion };
            assert!(hypothesis.check().unwrap_err().contains("exactly one"));
        }
        let old = Criterion { apart_by: Some(1.0), ..criterion() };
        let hypothesis = Hypothesis { claim: "c".into(), criterion: vec![old] };
        assert!(
            hypothesis.check().unwrap_err().contains("`apart_by` was met by a difference of either sign")
        );
    }
}
