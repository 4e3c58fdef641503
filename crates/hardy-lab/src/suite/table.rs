//! The one table of a suite: for every preset the means over seeds, and at every level its difference from the baseline on
//! the same problems and seeds. What it claims, these differences and the criteria of its hypotheses, is decided together.

use std::{collections::BTreeSet, path::Path};

use hardy_model::files::{write_atomically, write_json};
use hardy_train::error::Error;
use serde::{Deserialize, Serialize};

use super::{
    criterion::{Criterion, JudgedCriterion, Judgement},
    definition::Suite,
    spread::{Peak, Spread},
};
use crate::{
    compare::same_level,
    error::LabError,
    pairing::{Side, answers, pair},
    record::{LevelRecord, Metric},
    robustness::is_zero,
    run_records::RunRecords,
    statistics::{PairedTest, Scores, decide, p_against, scores},
};

/// What a finished suite says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SuiteTable {
    /// The suite.
    pub name: String,
    /// The preset that the others are held against.
    pub baseline: String,
    /// The seeds of every preset.
    pub seeds: Vec<u64>,
    /// Problems of an evaluation.
    pub n: usize,
    /// What answers are judged by.
    pub metric: Metric,
    /// One row a preset.
    pub presets: Vec<PresetRow>,
    /// What the suite decides.
    pub hypotheses: Vec<Judgement>,
}

/// One preset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PresetRow {
    /// The name of its configuration.
    pub name: String,
    /// Its best evaluation without added noise: of the means over seeds.
    pub peak: Option<Peak>,
    /// Its last evaluation, level by level.
    pub levels: Vec<LevelCell>,
}

/// One preset at one level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LevelCell {
    /// The level's label, after its whole plan.
    pub label: String,
    /// The scale that it adds.
    pub noise: Option<f64>,
    /// Accuracy at the last step, in [0, 1].
    pub accuracy: Spread,
    /// The same in the other form of accuracy; a score has none.
    pub other_accuracy: Option<f64>,
    /// The share of answers that were cut off and are not right; `None` where a record does not say.
    pub cut_off: Option<f64>,
    /// The share of answers that ended because the next token's logits were not finite.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub non_finite: f64,
    /// That over the level's without added noise; `None` there, or where a seed has nothing to retain.
    pub retention: Option<Spread>,
    /// What the baseline was judged under, where that is another whole plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline_label: Option<String>,
    /// The difference from the baseline; `None` for the baseline itself, and where that lacks the level.
    pub against_baseline: Option<PairedTest>,
}

/// A preset and its runs, in the order of the seeds.
pub(super) type Runs = (String, Vec<RunRecords>);

impl SuiteTable {
    /// Judges `runs`; `baseline` is the place of the baseline.
    ///
    /// # Errors
    /// Runs that were not evaluated on the same problems under the same conditions, or evaluations that are no
    /// measurement.
    pub(super) fn new(suite: &Suite, runs: &[Runs], baseline: usize) -> Result<Self, LabError> {
        for (_, record) in runs.iter().flat_map(|(_, runs)| runs).map(RunRecords::last) {
            record.check()?;
        }
        let first = runs[baseline].1[0].last().1;
        let metric = first.metric.clone();
        let row = |(at, own): (usize, &Runs)| {
            PresetRow::new(own, (at != baseline).then_some(&runs[baseline]), &metric)
        };
        let presets = runs.iter().enumerate().map(row).collect::<Result<Vec<_>, _>>()?;
        let judge = |criterion: &Criterion| judged(criterion, runs, &metric);
        let criteria =
            suite.hypothesis.iter().map(|one| one.criterion.iter().map(judge).collect::<Result<_, _>>());
        let criteria = criteria.collect::<Result<Vec<Vec<JudgedCriterion>>, LabError>>()?;
        let hypotheses = suite.hypothesis.iter().zip(criteria);
        let hypotheses =
            hypotheses.map(|(one, criteria)| Judgement::of(one.claim.clone(), criteria)).collect();
        let (name, seeds, baseline) = (suite.name.clone(), suite.seeds.clone(), runs[baseline].0.clone());
        Ok(Self { name, baseline, seeds, n: first.n, metric, presets, hypotheses }.decided())
    }

    /// Writes it into a suite's directory: `table.json` and `table.md`.
    ///
    /// # Errors
    /// A file that can not be written.
    pub fn keep(&self, directory: &Path) -> Result<(), LabError> {
        let json = serde_json::to_value(self).unwrap_or_default();
        write_json(&directory.join("table.json"), &json).map_err(Error::from)?;
        let markdown = self.markdown();
        Ok(write_atomically(&directory.join("table.md"), markdown.as_bytes()).map_err(Error::from)?)
    }

    /// The table with everything that it claims decided together.
    fn decided(mut self) -> Self {
        let cells = self.presets.iter_mut().flat_map(|row| &mut row.levels);
        let differences = cells.filter_map(|cell| Some(&mut cell.against_baseline.as_mut()?.claim));
        let criteria =
            self.hypotheses.iter_mut().flat_map(|one| &mut one.criteria).map(|one| &mut one.decided);
        decide(differences.chain(criteria));
        let settled = |one: Judgement| {
            Judgement::of(one.claim, one.criteria.into_iter().map(JudgedCriterion::settled).collect())
        };
        self.hypotheses = self.hypotheses.into_iter().map(settled).collect();
        self
    }
}

impl PresetRow {
    fn new(own: &Runs, baseline: Option<&Runs>, metric: &Metric) -> Result<Self, LabError> {
        let levels = own.1[0].last().1.levels.iter();
        let levels =
            levels.map(|level| LevelCell::new(own, level, baseline, metric)).collect::<Result<_, _>>()?;
        Ok(Self { name: own.0.clone(), peak: peak(&own.1, metric), levels })
    }
}

/// The best of the steps at which every seed was evaluated.
fn peak(runs: &[RunRecords], metric: &Metric) -> Option<Peak> {
    let steps = runs.iter().map(|run| run.evaluations.keys().copied().collect::<BTreeSet<u64>>());
    let shared = steps.reduce(|a, b| &a & &b)?;
    let at = |step: u64| {
        let clean = runs.iter().map(|run| run.evaluations[&step].clean_level());
        let right = clean.map(|level| Some(level?.values(metric))).collect::<Option<Vec<_>>>()?;
        let seeds = right.iter().map(|seed| scores(&vec![seed.clone()]).mean()).collect();
        Some((step, scores(&right), seeds))
    };
    Peak::of(shared.into_iter().filter_map(at).collect())
}

impl LevelCell {
    fn new(
        (name, runs): &Runs,
        level: &LevelRecord,
        baseline: Option<&Runs>,
        metric: &Metric,
    ) -> Result<Self, LabError> {
        let own = sides(name, runs, level)?;
        let (all, seeds) = (scores(&answers(&own, metric)), accuracies(&own, metric));
        let mean_of = |what: fn(&LevelRecord) -> f64| {
            own.iter().map(|side| what(side.level)).sum::<f64>() / own.len() as f64
        };
        let other_accuracy = metric.other().map(|other| match other {
            Metric::Flexible => mean_of(|level| level.flexible_accuracy),
            _ => mean_of(|level| level.accuracy),
        });
        let cut = own.iter().map(|side| side.level.cut_off(metric)).sum::<Option<f64>>();
        let clean = if level.noise == Some(0.0) { None } else { clean_sides(name, runs) };
        let retention = clean.and_then(|clean| {
            let shares = seeds.iter().zip(accuracies(&clean, metric)).map(|(noisy, clean)| noisy / clean);
            Spread::of_retention(&all, &scores(&answers(&clean, metric)), shares.collect())
        });
        let theirs = baseline.filter(|(_, runs)| has(runs, level));
        let theirs = theirs.map(|(name, runs)| sides(name, runs, level)).transpose()?;
        let against_baseline = theirs.as_ref().map(|theirs| pair(&own, theirs, metric, &[])).transpose()?;
        let other_plan = theirs.filter(|theirs| theirs[0].level.whole() != level.whole());
        Ok(Self {
            label: level.label.clone(),
            noise: level.noise,
            accuracy: Spread::of_accuracy(&all, seeds),
            other_accuracy,
            cut_off: cut.map(|sum| sum / own.len() as f64),
            non_finite: mean_of(|level| level.share(|answer| answer.non_finite).unwrap_or_default()),
            retention,
            baseline_label: other_plan.map(|theirs| theirs[0].level.label.clone()),
            against_baseline,
        })
    }
}

/// Whether the last evaluation adds what `wanted` adds.
fn has(runs: &[RunRecords], wanted: &LevelRecord) -> bool {
    runs.iter().all(|run| run.last().1.levels.iter().any(|level| same_level(level, wanted)))
}

/// The level of every run's last evaluation that adds what `wanted` adds.
fn sides<'a>(name: &'a str, runs: &'a [RunRecords], wanted: &LevelRecord) -> Result<Vec<Side<'a>>, LabError> {
    let find = |run: &'a RunRecords| {
        let record = run.last().1;
        let level = record.levels.iter().find(|level| same_level(level, wanted));
        level.map(|level| Side { name, record, level }).ok_or_else(|| LabError::NoSuchLevel {
            run: name.to_owned(),
            level: wanted.label.clone(),
            levels: record.levels.iter().map(|level| level.label.as_str()).collect::<Vec<_>>().join(", "),
        })
    };
    runs.iter().map(find).collect()
}

/// The level without added noise of every run's last evaluation; `None` where one lacks it.
fn clean_sides<'a>(name: &'a str, runs: &'a [RunRecords]) -> Option<Vec<Side<'a>>> {
    let clean = |run: &'a RunRecords| {
        let record = run.last().1;
        let level = record.levels.iter().find(|level| level.noise == Some(0.0))?;
        Some(Side { name, record, level })
    };
    runs.iter().map(clean).collect()
}

/// The accuracy of every seed.
fn accuracies(sides: &[Side<'_>], metric: &Metric) -> Vec<f64> {
    sides.iter().map(|side| scores(&vec![side.level.values(metric)]).mean()).collect()
}

/// Judges a criterion by the runs of a suite, by itself.
fn judged(criterion: &Criterion, runs: &[Runs], metric: &Metric) -> Result<JudgedCriterion, LabError> {
    let side = |name: &String| {
        let (name, runs) = runs.iter().find(|(preset, _)| preset == name).ok_or_else(|| {
            let known = runs.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
            LabError::NoSuchPreset { preset: name.clone(), known }
        })?;
        let levels = &runs[0].last().1.levels;
        let wanted = levels.iter().find(|level| level.noise == Some(criterion.level));
        let wanted = wanted.ok_or_else(|| LabError::NoSuchLevel {
            run: name.clone(),
            level: criterion.level_name(),
            levels: levels.iter().map(|level| level.label.as_str()).collect::<Vec<_>>().join(", "),
        })?;
        sides(name, runs, wanted)
    };
    let (one, other) = (side(&criterion.preset)?, side(&criterion.against)?);
    let test = pair(&one, &other, metric, &[])?;
    let columns = test.columns as usize;
    let [a, b]: [Scores; 2] = [&one, &other].map(|side| scores(&answers(side, metric)).spread_over(columns));
    Ok(criterion.judged(&place(&one, &other), test, |points| p_against(&a, &b, points / 100.0)))
}

/// Under what the two sides of a criterion were judged.
fn place(one: &[Side<'_>], other: &[Side<'_>]) -> String {
    let [ours, theirs] = [one[0].level, other[0].level];
    if ours.whole() == theirs.whole() {
        return if ours.is_clean() { "without noise".to_owned() } else { format!("at {}", ours.label) };
    }
    format!("({} judged at {}, {} at {})", one[0].name, ours.label, other[0].name, theirs.label)
}
