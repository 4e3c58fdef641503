//! The one table of a suite: for every preset the means over seeds, and at every noise level its difference from the
//! baseline, tested on the same problems and seeds, with Holm's correction over all tests of the table.

use serde::{Deserialize, Serialize};

use super::{
    criterion::{Judgement, judge},
    definition::Suite,
    spread::{Spread, mean, union},
};
use crate::{
    error::LabError,
    pairing::pair,
    record::LevelRecord,
    run_records::RunRecords,
    statistics::{ALPHA, CONFIDENCE, Interval, PairedTest, holm, sign_flip_exact, student},
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
    /// The best strict accuracy of an evaluation at the clean level, in [0, 1].
    pub peak: Spread,
    /// Its last evaluation, level by level.
    pub levels: Vec<LevelCell>,
}

/// One preset at one noise level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LevelCell {
    /// The level's label.
    pub label: String,
    /// The level's scale.
    pub noise: Option<f64>,
    /// Strict accuracy at the last step, in [0, 1].
    pub accuracy: Spread,
    /// That over the clean level's, seed by seed; `None` at the clean level, or where a seed has nothing to retain.
    pub retention: Option<Spread>,
    /// The difference from the baseline; `None` for the baseline itself.
    pub against_baseline: Option<Against>,
}

/// A difference in accuracy, this preset minus the other, on the same problems and seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Against {
    /// The mean difference in points.
    pub difference_points: f64,
    /// Its 95 % interval in points, in doubt of seeds and of problems.
    pub interval_points: Interval,
    /// The exact two-sided p-value, with the problem as the unit.
    pub p: f64,
    /// The same after Holm's correction; equal to `p` where only one test is made.
    pub p_holm: f64,
    /// Whether `p_holm` is below 5 % and the interval excludes 0.
    pub resolved: bool,
}

impl SuiteTable {
    /// Judges `runs`, for every preset its runs in the order of the seeds; `baseline` is the place of the baseline.
    ///
    /// # Errors
    /// Runs that were not evaluated on the same problems, or evaluations that are no measurement.
    pub(super) fn new(
        suite: &Suite,
        runs: &[(String, Vec<RunRecords>)],
        baseline: usize,
    ) -> Result<Self, LabError> {
        for (_, record) in runs.iter().flat_map(|(_, runs)| runs).map(RunRecords::last) {
            record.check()?;
        }
        let row = |(at, (name, own)): (usize, &(String, Vec<RunRecords>))| {
            let others = (at != baseline).then_some(&runs[baseline]);
            PresetRow::new(name, own, others.map(|(name, runs)| (name.as_str(), runs.as_slice())))
        };
        let mut presets = runs.iter().enumerate().map(row).collect::<Result<Vec<_>, _>>()?;
        correct(&mut presets);
        let hypotheses =
            suite.hypothesis.iter().map(|hypothesis| judge(hypothesis, runs)).collect::<Result<_, _>>()?;
        let n = runs[baseline].1.first().map_or(0, |run| run.last().1.n);
        let (name, seeds, baseline) = (suite.name.clone(), suite.seeds.clone(), runs[baseline].0.clone());
        Ok(Self { name, baseline, seeds, n, presets, hypotheses })
    }
}

impl PresetRow {
    fn new(
        name: &str,
        runs: &[RunRecords],
        baseline: Option<(&str, &[RunRecords])>,
    ) -> Result<Self, LabError> {
        let cell = |level: &LevelRecord| LevelCell::new(name, runs, level, baseline);
        let levels = runs[0].last().1.levels.iter().map(cell).collect::<Result<Vec<_>, _>>()?;
        let n = runs[0].last().1.n as u64;
        Ok(Self {
            name: name.to_owned(),
            peak: Spread::of_accuracies(runs.iter().map(peak).collect(), n),
            levels,
        })
    }
}

/// The best clean accuracy of a run's evaluations.
fn peak(run: &RunRecords) -> f64 {
    let clean = run.evaluations.values().filter_map(|record| record.clean_level());
    clean.map(|level| level.accuracy).fold(0.0, f64::max)
}

impl LevelCell {
    fn new(
        name: &str,
        runs: &[RunRecords],
        level: &LevelRecord,
        baseline: Option<(&str, &[RunRecords])>,
    ) -> Result<Self, LabError> {
        let own = at_level(name, runs, level)?;
        let accuracies: Vec<f64> = own.iter().map(|level| level.accuracy).collect();
        let against_baseline = match baseline {
            Some((other, runs)) => Some(Against::new((name, &own), (other, &at_level(other, runs, level)?))?),
            None => None,
        };
        Ok(Self {
            label: level.label.clone(),
            noise: level.noise,
            retention: if level.noise == Some(0.0) { None } else { retention(runs, &accuracies) },
            accuracy: Spread::of_accuracies(accuracies, level.problems.len() as u64),
            against_baseline,
        })
    }
}

/// The same level of every run's last evaluation.
pub(super) fn at_level<'a>(
    name: &str,
    runs: &'a [RunRecords],
    wanted: &LevelRecord,
) -> Result<Vec<&'a LevelRecord>, LabError> {
    let find = |run: &'a RunRecords| {
        let levels = &run.last().1.levels;
        let same = |level: &&LevelRecord| match wanted.noise {
            Some(_) => level.noise == wanted.noise,
            None => level.noise.is_none() && level.label == wanted.label,
        };
        levels.iter().find(same).ok_or_else(|| LabError::NoSuchLevel {
            run: name.to_owned(),
            level: wanted.label.clone(),
            levels: levels.iter().map(|level| level.label.as_str()).collect::<Vec<_>>().join(", "),
        })
    };
    runs.iter().map(find).collect()
}

/// Noisy over clean accuracy, seed by seed.
fn retention(runs: &[RunRecords], accuracies: &[f64]) -> Option<Spread> {
    let share = |(run, noisy): (&RunRecords, &f64)| {
        let clean = run.last().1.levels.iter().find(|level| level.noise == Some(0.0))?.accuracy;
        (clean > 0.0).then_some(noisy / clean)
    };
    runs.iter().zip(accuracies).map(share).collect::<Option<_>>().map(Spread::of_seeds)
}

impl Against {
    /// Judges one side against the other, seed by seed on the same problems; the names appear in errors.
    pub(super) fn new(
        one: (&str, &[&LevelRecord]),
        other: (&str, &[&LevelRecord]),
    ) -> Result<Self, LabError> {
        let (mut by_seed, mut by_problem) = (Vec::new(), vec![0_i64; one.1[0].problems.len()]);
        let mut over_problems: Option<Interval> = None;
        for (a, b) in one.1.iter().zip(other.1) {
            let test = PairedTest::of(&pair((one.0, a), (other.0, b))?);
            by_seed.push(test.difference_points);
            over_problems =
                Some(over_problems.map_or(test.interval_points, |sum| add(sum, test.interval_points)));
            if by_problem.len() != a.problems.len() {
                return Err(different_problems(one.0, one.1[0], a));
            }
            for (sum, (a, b)) in by_problem.iter_mut().zip(a.problems.iter().zip(&b.problems)) {
                *sum += i64::from(a.strict) - i64::from(b.strict);
            }
        }
        // Of several seeds the problems are the same, so their intervals are averaged and not narrowed.
        let over_problems = over_problems.unwrap_or(Interval { low: -100.0, high: 100.0 });
        let over_problems = over_problems.scaled(1.0 / by_seed.len().max(1) as f64);
        let interval_points = union(student(&by_seed, CONFIDENCE).unwrap_or(over_problems), over_problems);
        let p = sign_flip_exact(&by_problem);
        Ok(Self { difference_points: mean(&by_seed), interval_points, p, p_holm: p, resolved: false }
            .decided())
    }

    fn decided(self) -> Self {
        let resolved = self.p_holm < ALPHA && !self.interval_points.contains(0.0);
        Self { resolved, ..self }
    }
}

fn add(a: Interval, b: Interval) -> Interval {
    Interval { low: a.low + b.low, high: a.high + b.high }
}

/// Seeds of one preset that were judged by other problems.
fn different_problems(name: &str, first: &LevelRecord, other: &LevelRecord) -> LabError {
    LabError::DifferentProblems {
        first: format!("{name}'s first seed"),
        second: format!("{name}'s others"),
        in_first: first.problems.len(),
        in_second: other.problems.len(),
        shared: first.problems.len().min(other.problems.len()),
    }
}

/// Holm's correction over every test of the table.
fn correct(presets: &mut [PresetRow]) {
    let cells = |row: &'_ PresetRow| {
        row.levels.iter().filter_map(|cell| Some(cell.against_baseline.as_ref()?.p)).collect::<Vec<_>>()
    };
    let adjusted = holm(&presets.iter().flat_map(cells).collect::<Vec<f64>>());
    let tests =
        presets.iter_mut().flat_map(|row| &mut row.levels).filter_map(|cell| cell.against_baseline.as_mut());
    for (test, p_holm) in tests.zip(adjusted) {
        *test = Against { p_holm, ..test.clone() }.decided();
    }
}
