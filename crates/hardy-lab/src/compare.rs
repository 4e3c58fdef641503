//! Runs against each other: the first is the baseline, the others are held against it at every noise level that both
//! were evaluated at, on the same problems. Each difference becomes a sentence that says whether it is real.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::LabError;
use crate::format;
use crate::pairing::pair;
use crate::record::{EvalRecord, LevelRecord};
use crate::statistics::PairedTest;
use crate::text_table::{Align, TextTable, wrap};

/// Differences of runs to a baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The baseline's name.
    pub baseline: String,
    /// The others, in the order given.
    pub runs: Vec<RunComparison>,
}

/// One run against the baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunComparison {
    /// The run's name.
    pub name: String,
    /// One entry for every level that both have, in the baseline's order.
    pub levels: Vec<LevelComparison>,
    /// Labels of levels that only one of the two has, and that were left out.
    pub not_shared: Vec<String>,
}

/// One run against the baseline at one noise level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LevelComparison {
    /// The level's label.
    pub label: String,
    /// The level's scale, if it has one.
    pub noise: Option<f64>,
    /// The baseline's strict accuracy, in [0, 1].
    pub baseline_accuracy: f64,
    /// The run's strict accuracy, in [0, 1].
    pub accuracy: f64,
    /// Run minus baseline: b counts problems that only the run gets right, c those that only the baseline does.
    #[serde(flatten)]
    pub test: PairedTest,
    /// Whether the two evaluations bound different rules at this level.
    pub plans_differ: bool,
    /// The difference in words.
    pub sentence: String,
}

impl Comparison {
    /// Holds every record against the first.
    ///
    /// # Errors
    ///
    /// With fewer than two records, a record that fails [`EvalRecord::check`], two records that share no noise level
    /// or did not answer the same problems, or the same problem with different true answers.
    pub fn new(runs: &[(&str, &EvalRecord)]) -> Result<Self, LabError> {
        let [baseline, others @ ..] = runs else {
            return Err(LabError::TooFew { what: "a comparison", least: 2, got: 0 });
        };
        if others.is_empty() {
            return Err(LabError::TooFew { what: "a comparison", least: 2, got: 1 });
        }
        runs.iter().try_for_each(|(_, record)| record.check())?;
        let runs = others.iter().map(|run| RunComparison::new(*baseline, *run)).collect::<Result<_, _>>()?;
        Ok(Self { baseline: baseline.0.into(), runs })
    }

    /// The comparison as text for a terminal of `width` columns: a table per run where that fits, and the sentences.
    #[must_use]
    pub fn render(&self, width: usize) -> String {
        let parts: Vec<_> = self.runs.iter().map(|run| run.render(&self.baseline, width)).collect();
        parts.join("\n")
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(100))
    }
}

impl RunComparison {
    fn new(baseline: (&str, &EvalRecord), run: (&str, &EvalRecord)) -> Result<Self, LabError> {
        let (ours, theirs) = (&run.1.levels, &baseline.1.levels);
        let mut levels = vec![];
        for level in theirs {
            if let Some(counterpart) = ours.iter().find(|other| same_level(level, other)) {
                levels.push(LevelComparison::new(
                    (baseline.0, baseline.1, level),
                    (run.0, run.1, counterpart),
                )?);
            }
        }
        if levels.is_empty() {
            return Err(LabError::NoSharedLevel {
                first: baseline.0.into(),
                second: run.0.into(),
                levels_first: labels(theirs),
                levels_second: labels(ours),
            });
        }
        let missing = |from: &[LevelRecord], among: &[LevelRecord]| -> Vec<String> {
            let alone = from.iter().filter(|level| !among.iter().any(|other| same_level(level, other)));
            alone.map(|level| level.label.clone()).collect()
        };
        let not_shared = [missing(theirs, ours), missing(ours, theirs)].concat();
        Ok(Self { name: run.0.into(), levels, not_shared })
    }

    fn render(&self, baseline: &str, width: usize) -> String {
        let table = self.table(baseline);
        let mut out =
            wrap(&format!("{} against {baseline}, the same problems, 95 % intervals", self.name), width, 0);
        if table.width() <= width {
            let legend = "difference: in points. right in one only: problems that only the first, and only the second, gets \
                          right. p: exact McNemar. needed: problems to resolve the difference seen (5 %, power 0.8).";
            out += &format!("\n{}\n{}\n", table.render(), wrap(legend, width, 0));
        }
        for level in &self.levels {
            out += &wrap(&level.sentence, width, 0);
        }
        if !self.not_shared.is_empty() {
            out +=
                &wrap(&format!("Evaluated in one of them only: {}.", self.not_shared.join(", ")), width, 0);
        }
        out
    }

    fn table(&self, baseline: &str) -> TextTable {
        use Align::{Left, Right};
        let mut table = TextTable::new(&[
            ("level", Left),
            (baseline, Right),
            (&self.name, Right),
            ("difference", Left),
            ("right in one only", Right),
            ("p", Right),
            ("needed", Right),
        ]);
        for level in &self.levels {
            table.row([
                level.label.clone(),
                format::percent(level.baseline_accuracy),
                format::percent(level.accuracy),
                format::points_with_interval(level.test.difference_points, level.test.interval_points),
                format!("{} : {}", level.test.c, level.test.b),
                format::p_value(level.test.p),
                level.test.needed.map_or_else(|| "–".into(), format::count),
            ]);
        }
        table
    }
}

impl LevelComparison {
    fn new(
        baseline: (&str, &EvalRecord, &LevelRecord),
        run: (&str, &EvalRecord, &LevelRecord),
    ) -> Result<Self, LabError> {
        let named = |(name, record, level): (&str, &EvalRecord, &LevelRecord)| {
            format!("{name} ({} at {})", record.data, level.label)
        };
        let (level, other) = (baseline.2, run.2);
        let test = PairedTest::of(&pair((&named(run), other), (&named(baseline), level))?);
        let plans_differ = level.plan.trim() != other.plan.trim();
        Ok(Self {
            label: level.label.clone(),
            noise: level.noise,
            baseline_accuracy: level.right() as f64 / test.n as f64,
            accuracy: other.right() as f64 / test.n as f64,
            test,
            plans_differ,
            sentence: sentence(run.0, baseline.0, level, &test, plans_differ),
        })
    }
}

/// Whether two levels are the same condition: the same scale, or, where there is none, the same name.
fn same_level(one: &LevelRecord, other: &LevelRecord) -> bool {
    match (one.noise, other.noise) {
        (Some(a), Some(b)) => a == b,
        (None, None) => one.label == other.label,
        _ => false,
    }
}

fn labels(levels: &[LevelRecord]) -> String {
    levels.iter().map(|level| level.label.as_str()).collect::<Vec<_>>().join(", ")
}

/// "e5b is 4.0 points above e5 at 5 % (p = 0.03, n = 200): resolved"
fn sentence(run: &str, baseline: &str, level: &LevelRecord, test: &PairedTest, plans_differ: bool) -> String {
    let place = match level.noise {
        Some(0.0) => "without noise".to_owned(),
        Some(_) => format!("at {}", level.label),
        None => format!("under {}", level.label),
    };
    let evidence = format!("({}, n = {})", format::p_clause(test.p), format::count(test.n));
    let caution = if plans_differ { " (but the rules bound at this level differ)" } else { "" };
    let Some(needed) = test.needed else {
        return format!("{run} and {baseline} are equal {place} {evidence}: no difference seen{caution}");
    };
    let side = if test.difference_points > 0.0 { "above" } else { "below" };
    let outcome = if test.resolved {
        "resolved".to_owned()
    } else {
        format!("not resolved, {} problems would be needed", format::count(needed))
    };
    let magnitude = test.difference_points.abs();
    format!("{run} is {magnitude:.1} points {side} {baseline} {place} {evidence}: {outcome}{caution}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::made_up::{level, record};

    fn baseline() -> EvalRecord {
        record(vec![level(0.0, 200, |i| i < 140), level(0.05, 200, |i| i < 120)])
    }

    #[test]
    fn a_difference_becomes_a_sentence_that_says_whether_it_is_real() {
        let run = record(vec![level(0.0, 200, |i| i < 142), level(0.05, 200, |i| i < 128)]);
        let comparison = Comparison::new(&[("e5", &baseline()), ("e5b", &run)]).unwrap();
        let sentences: Vec<_> =
            comparison.runs[0].levels.iter().map(|level| level.sentence.as_str()).collect();
        assert_eq!(
            sentences,
            [
                "e5b is 1.0 points above e5 without noise (p = 0.5, n = 200): not resolved, 783 problems would be needed",
                "e5b is 4.0 points above e5 at 5 % (p = 0.0078, n = 200): resolved",
            ]
        );
    }

    #[test]
    fn a_run_is_equal_to_itself() {
        let comparison = Comparison::new(&[("a", &baseline()), ("b", &baseline())]).unwrap();
        for level in &comparison.runs[0].levels {
            assert!(
                level.sentence.contains("no difference seen") && level.test.p == 1.0 && !level.test.resolved
            );
        }
    }

    #[test]
    fn runs_on_different_problems_are_refused() {
        let fewer = record(vec![level(0.0, 100, |_| true)]);
        let message = Comparison::new(&[("a", &baseline()), ("b", &fewer)]).unwrap_err().to_string();
        assert!(message.contains("100 and 200, 100 in both"), "{message}");
        let mut other_data = baseline();
        other_data.levels[0].problems[3].truth = "9".into();
        let message = Comparison::new(&[("a", &baseline()), ("b", &other_data)]).unwrap_err().to_string();
        assert!(message.contains("problem 3"), "{message}");
    }

    #[test]
    fn levels_are_matched_by_scale_and_the_rest_is_named() {
        let mut run = record(vec![level(0.1, 200, |_| true), level(0.05, 200, |i| i < 120)]);
        run.levels[1].label = "five".into();
        run.levels[1].plan = "other".into();
        let comparison = Comparison::new(&[("a", &baseline()), ("b", &run)]).unwrap();
        let compared = &comparison.runs[0];
        assert_eq!(compared.levels.len(), 1);
        assert_eq!(compared.not_shared, ["clean", "10 %"]);
        assert!(compared.levels[0].sentence.ends_with("(but the rules bound at this level differ)"));
        let nothing = record(vec![level(0.2, 200, |_| true)]);
        let message = Comparison::new(&[("a", &baseline()), ("b", &nothing)]).unwrap_err().to_string();
        assert!(message.contains("share no noise level: clean, 5 % against 20 %"), "{message}");
    }

    #[test]
    fn one_run_is_not_a_comparison() {
        let message = Comparison::new(&[("a", &baseline())]).unwrap_err().to_string();
        assert_eq!(message, "a comparison needs at least 2, got 1");
    }

    #[test]
    fn text_fits_the_terminal() {
        let run = record(vec![level(0.0, 200, |i| i < 142), level(0.05, 200, |i| i % 2 == 0)]);
        let comparison = Comparison::new(&[("e5", &baseline()), ("e5b", &run)]).unwrap();
        for width in [40, 80, 120] {
            let text = comparison.render(width);
            assert!(text.lines().all(|line| line.chars().count() <= width), "{text}");
        }
    }
}
