//! The outcome at one level: under which rules, what was injected, and every problem's answer, draw by draw.

use std::collections::BTreeMap;

use hardy_ops::{Plan, Receipt, Rule};
use hardy_train::plan_file::parse_plan;
use serde::{Deserialize, Serialize};

use super::{Metric, ProblemRecord, SampleRecord};
use crate::{error::LabError, evaluate::rules_toml};

/// The outcome at one level. Its identity is its whole plan; two runs that stand on hardware of their own are held against
/// each other where the level adds the same to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LevelRecord {
    /// What the level is called in tables, after its whole plan: `clean`, `5 %`, `mxfp4`, `mxfp4 + 5 %`, a plan's name.
    pub label: String,
    /// The relative scale of the noise that the level adds, 0 for none; `None` when it adds a plan without one scale.
    #[serde(default)]
    pub noise: Option<f64>,
    /// All rules that were bound, as TOML; empty when there were none.
    pub plan: String,
    /// Those of them that the level adds to the hardware that the run stands on; records of schema 1 lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added: Option<String>,
    /// The share of answers that are right in the rewarded form, in [0, 1].
    pub accuracy: f64,
    /// The share of answers that are right in any form, in [0, 1].
    pub flexible_accuracy: f64,
    /// Answers that ended because the next token's logits were not finite.
    #[serde(default)]
    pub non_finite: usize,
    /// The answers under the first draw of the error, in order of `id`.
    pub problems: Vec<ProblemRecord>,
    /// What was really injected in the first draw.
    #[serde(default)]
    pub receipts: Vec<Receipt>,
    /// Further draws of the error.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub draws: Vec<DrawRecord>,
}

/// The outcome under one more draw of the error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrawRecord {
    /// Its number; the level's own is 0.
    pub draw: usize,
    /// The seed that it is.
    pub seed: u64,
    /// The answers, in order of `id`.
    pub problems: Vec<ProblemRecord>,
    /// What was really injected.
    pub receipts: Vec<Receipt>,
}

impl LevelRecord {
    /// A level of one draw with its accuracies counted from `problems`, which are put in order of `id`.
    #[must_use]
    pub fn new(
        label: String,
        noise: Option<f64>,
        plan: String,
        problems: Vec<ProblemRecord>,
        receipts: Vec<Receipt>,
    ) -> Self {
        let added = Some(plan.clone());
        let (accuracy, flexible_accuracy, non_finite, draws) = (0.0, 0.0, 0, Vec::new());
        Self { label, noise, plan, added, accuracy, flexible_accuracy, non_finite, problems, receipts, draws }
            .counted()
    }

    /// The level with its answers in order and its accuracies counted from them.
    #[must_use]
    pub fn counted(mut self) -> Self {
        self.problems.sort_by_key(|problem| problem.id);
        self.draws.iter_mut().for_each(|draw| draw.problems.sort_by_key(|problem| problem.id));
        self.accuracy = self.share(|answer| answer.strict).unwrap_or(0.0);
        self.flexible_accuracy = self.share(|answer| answer.flexible).unwrap_or(0.0);
        self.non_finite = self.all().filter(|answer| answer.non_finite).count();
        self
    }

    /// The answers of every draw, the first first.
    pub fn columns(&self) -> impl Iterator<Item = &[ProblemRecord]> {
        std::iter::once(&self.problems[..]).chain(self.draws.iter().map(|draw| &draw.problems[..]))
    }

    /// What the answers to every problem are worth on average, draw by draw in order of `id`.
    #[must_use]
    pub fn values(&self, metric: &Metric) -> Vec<Vec<f64>> {
        let column = |problems: &[ProblemRecord]| {
            let by_id: BTreeMap<u64, f64> = problems.iter().map(|p| (p.id, p.value(metric))).collect();
            by_id.into_values().collect()
        };
        self.columns().map(column).collect()
    }

    /// Every answer, of every draw.
    fn all(&self) -> impl Iterator<Item = &SampleRecord> {
        self.columns().flatten().flat_map(ProblemRecord::answers)
    }

    /// The share of all answers, of every draw, of which `what` holds; `None` where there is none.
    pub fn share(&self, what: impl Fn(&SampleRecord) -> bool) -> Option<f64> {
        let total = self.all().count();
        let found = self.all().filter(|answer| what(answer)).count();
        (total > 0).then(|| found as f64 / total as f64)
    }

    /// The share of answers that were cut off by the limit of tokens and are not right; `None` where the record does not say.
    #[must_use]
    pub fn cut_off(&self, metric: &Metric) -> Option<f64> {
        let known = self.all().all(|answer| answer.truncated.is_some());
        let cut = |answer: &SampleRecord| {
            answer.truncated == Some(true) && !answer.non_finite && !answer.right(metric)
        };
        if known { self.share(cut) } else { None }
    }

    /// Where problems were answered several times, the mean chance that one of `k` answers is right, for 1, 2, 4, … and all
    /// of them; see [`ProblemRecord::pass_at`].
    #[must_use]
    pub fn pass_at(&self, metric: &Metric) -> Vec<(usize, f64)> {
        let most = self.columns().flatten().map(|problem| problem.answers().count()).min().unwrap_or(0);
        let powers = (0..usize::BITS).map(|power| 1 << power).take_while(|&k| k < most);
        let at = |k: usize| {
            let problems = self.columns().flatten();
            let chances: Vec<f64> = problems.filter_map(|problem| problem.pass_at(k, metric)).collect();
            (k, chances.iter().sum::<f64>() / chances.len() as f64)
        };
        if most < 2 { Vec::new() } else { powers.chain([most]).map(at).collect() }
    }

    /// What the level adds to the hardware that the run stands on, in one form for equal rules.
    #[must_use]
    pub fn added(&self) -> String {
        match (&self.added, self.noise) {
            (Some(added), _) => normalised(added),
            (None, Some(scale)) => rules_toml(&[Rule::noise(scale)][..usize::from(scale != 0.0)]),
            (None, None) => normalised(&self.plan),
        }
    }

    /// The whole plan, in one form for equal rules.
    #[must_use]
    pub fn whole(&self) -> String {
        normalised(&self.plan)
    }

    /// Whether the level has no rule at all.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.plan.trim().is_empty() && self.noise.is_none_or(|noise| noise == 0.0)
    }

    pub(super) fn check(&self) -> Result<(), LabError> {
        let what = || format!("level {}", self.label);
        for problems in self.columns() {
            if problems.is_empty() {
                return Err(LabError::Empty { what: what() });
            }
            let mut ids: Vec<u64> = problems.iter().map(|problem| problem.id).collect();
            ids.sort_unstable();
            if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
                return Err(LabError::RepeatedProblem { what: what(), id: pair[0] });
            }
            if problems.len() != self.problems.len() {
                return Err(LabError::Empty { what: format!("a draw of {} that lacks problems", what()) });
            }
        }
        let asked = self.noise.unwrap_or(0.0);
        let receipts = std::iter::once(&self.receipts).chain(self.draws.iter().map(|draw| &draw.receipts));
        for receipts in receipts.filter(|_| asked > 0.0) {
            if !receipts.iter().any(|receipt| receipt.elements > 0) {
                return Err(LabError::NoReceipt { level: self.label.clone(), asked });
            }
        }
        Ok(())
    }
}

/// Rules as this version writes them; text that it can not read stays as it is.
fn normalised(rules: &str) -> String {
    let text = rules.trim();
    parse_plan(text, "").map_or_else(|_| text.to_owned(), |file| rules_toml(&file.noise))
}

/// Draw `k` of a plan's error: draw 0 is the plan's own seed, any other a seed derived from it by hashing, so that noise,
/// weight noise and faulty channels are all new.
#[must_use]
pub fn draw_of(plan: &Plan, k: usize) -> Plan {
    let seed = if k == 0 { plan.seed } else { hardy_train::splitmix::hash(&[plan.seed, k as u64]) };
    Plan { seed, ..plan.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_rules_are_one_level_however_they_are_written() {
        let level = |plan: &str| LevelRecord::new("x".into(), None, plan.into(), vec![], vec![]);
        let short =
            level("[[noise]]\nops = [\"linear\"]\nerror = { kind = \"relative_gaussian\", scale = 0.05 }");
        let long = level(
            "[[noise]]\nerror = { kind = \"relative_gaussian\", scale = 5e-2 }\nat = \"output\"\nlayers = \"all\"\nops = [\"linear\"]\n",
        );
        assert_eq!(short.whole(), long.whole());
        assert_ne!(short.whole(), level("").whole());
        let old = LevelRecord { added: None, noise: Some(0.05), ..level("anything") };
        assert_eq!(old.added(), rules_toml(&[Rule::noise(0.05)]));
    }

    #[test]
    fn draws_are_seeds_of_their_own_and_the_first_is_the_plans() {
        let plan = Plan { seed: 7, ..Plan::default() };
        let seeds: Vec<u64> = (0..4).map(|k| draw_of(&plan, k).seed).collect();
        assert_eq!(seeds[0], 7);
        assert!((1..4).all(|k| !seeds[..k].contains(&seeds[k])), "{seeds:?}");
    }
}
