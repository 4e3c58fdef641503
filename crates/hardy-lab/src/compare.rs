//! Runs against each other: the first is the baseline, the others are held against it at every noise level that both
//! were evaluated at, on the same problems. Each difference becomes a sentence that says whether it is real.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::LabError;
use crate::format;
use crate::page::decide_together;
use crate::pairing::{Side, answers, pair};
use crate::record::{EvalRecord, LevelRecord, Metric};
use crate::statistics::{PairedTest, scores};
use crate::text_table::{Align, TextTable, wrap};

/// Differences of runs to a baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The baseline's name.
    pub baseline: String,
    /// Which answers count as right.
    pub metric: Metric,
    /// The others, in the order given.
    pub runs: Vec<RunComparison>,
    /// Runs whose records do not say under which conditions they answered.
    pub conditions_unknown: Vec<String>,
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
    /// What the run was judged under.
    pub label: String,
    /// What the baseline was judged under: the same addition, on the hardware that it stands on.
    pub baseline_label: String,
    /// The scale of what the level adds, if it has one.
    pub noise: Option<f64>,
    /// The baseline's accuracy, in [0, 1].
    pub baseline_accuracy: f64,
    /// The run's accuracy, in [0, 1].
    pub accuracy: f64,
    /// Run minus baseline: b counts problems that only the run gets right, c those that only the baseline does.
    #[serde(flatten)]
    pub test: PairedTest,
    /// Whether the two were judged under different rules: they stand on different hardware.
    pub plans_differ: bool,
    /// The difference in words.
    pub sentence: String,
}

impl Comparison {
    /// Holds every record against the first, at every level at which both add the same errors to the hardware that they
    /// stand on. `allowed` names conditions that may differ.
    ///
    /// # Errors
    ///
    /// With fewer than two records, a record that fails [`EvalRecord::check`], records that count different answers as
    /// right, two records that share no level, or did not answer the same problems under the same conditions.
    pub fn new(runs: &[(&str, &EvalRecord)], allowed: &[String]) -> Result<Self, LabError> {
        let [baseline, others @ ..] = runs else {
            return Err(LabError::TooFew { what: "a comparison", least: 2, got: 0 });
        };
        if others.is_empty() {
            return Err(LabError::TooFew { what: "a comparison", least: 2, got: 1 });
        }
        runs.iter().try_for_each(|(_, record)| record.check())?;
        let compared = |run: &(&str, &EvalRecord)| RunComparison::new(*baseline, *run, allowed);
        let runs_compared = others.iter().map(compared).collect::<Result<_, _>>()?;
        let unknown = runs.iter().filter(|(_, record)| record.conditions.is_none());
        let mut comparison = Self {
            baseline: baseline.0.into(),
            metric: baseline.1.metric.clone(),
            runs: runs_compared,
            conditions_unknown: unknown.map(|(name, _)| (*name).to_owned()).collect(),
        };
        decide_together([], [&mut comparison]);
        Ok(comparison)
    }

    /// Every difference that is claimed.
    pub(crate) fn levels(&mut self) -> impl Iterator<Item = &mut LevelComparison> {
        self.runs.iter_mut().flat_map(|run| &mut run.levels)
    }

    /// Says every difference in words after the claims were decided.
    pub(crate) fn settle(&mut self) {
        let baseline = self.baseline.clone();
        for run in &mut self.runs {
            let name = run.name.clone();
            run.levels.iter_mut().for_each(|level| level.sentence = level.sentence(&name, &baseline));
        }
    }

    /// What is to be said of conditions that are not known; empty where all are.
    #[must_use]
    pub fn caution(&self) -> String {
        match &self.conditions_unknown[..] {
            [] => String::new(),
            names => format!(
                "The records of {} do not say how questions were asked and when answers were cut off; whether that was alike \
                 is not known.",
                names.join(", ")
            ),
        }
    }

    /// The comparison as text for a terminal of `width` columns: a table per run where that fits, and the sentences.
    #[must_use]
    pub fn render(&self, width: usize) -> String {
        let mut parts: Vec<_> =
            self.runs.iter().map(|run| run.render(&self.baseline, &self.metric, width)).collect();
        if !self.conditions_unknown.is_empty() {
            parts.push(wrap(&self.caution(), width, 0));
        }
        parts.join("\n")
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(100))
    }
}

impl RunComparison {
    fn new(
        baseline: (&str, &EvalRecord),
        run: (&str, &EvalRecord),
        allowed: &[String],
    ) -> Result<Self, LabError> {
        check_metric(baseline, run, allowed)?;
        let (ours, theirs) = (&run.1.levels, &baseline.1.levels);
        let mut levels = vec![];
        for level in theirs {
            if let Some(counterpart) = ours.iter().find(|other| same_level(level, other)) {
                let sides = ((baseline.0, baseline.1, level), (run.0, run.1, counterpart));
                levels.push(LevelComparison::new(sides.0, sides.1, allowed)?);
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

    fn render(&self, baseline: &str, metric: &Metric, width: usize) -> String {
        let table = self.table(baseline);
        let name = &self.name;
        let title = format!("{name} against {baseline}, {metric}, the same problems, 95 % intervals");
        let mut out = wrap(&title, width, 0);
        if table.width() <= width {
            let legend = "difference: in points. right in one only: problems that only the first, and only the second, gets \
                          right. p: exact McNemar (of scores the permutation test, of several draws that of the interval). Holm: corrected for all \
                          differences shown. needed: problems to resolve the difference seen (5 %, power 0.8).";
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
            ("p (Holm)", Right),
            ("needed", Right),
        ]);
        for level in &self.levels {
            table.row([
                level.name(),
                format::percent(level.baseline_accuracy),
                format::percent(level.accuracy),
                format::points_with_interval(level.test.difference_points, level.test.interval_points),
                format!("{} : {}", level.test.c, level.test.b),
                format::p_value(level.test.claim.p),
                format::p_value(level.test.claim.p_holm),
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
        allowed: &[String],
    ) -> Result<Self, LabError> {
        let named = |(name, record, level): (&str, &EvalRecord, &LevelRecord)| {
            format!("{name} ({} at {})", record.data, level.label)
        };
        let names = [named(run), named(baseline)];
        let sides = [(&names[0], run), (&names[1], baseline)]
            .map(|(name, (_, record, level))| [Side { name, record, level }]);
        let metric = &baseline.1.metric;
        let test = pair(&sides[0], &sides[1], metric, allowed)?;
        let mean = |side: &[Side<'_>]| scores(&answers(side, metric)).mean();
        Ok(Self {
            label: run.2.label.clone(),
            baseline_label: baseline.2.label.clone(),
            noise: run.2.noise,
            baseline_accuracy: mean(&sides[1]),
            accuracy: mean(&sides[0]),
            test,
            plans_differ: run.2.whole() != baseline.2.whole(),
            sentence: String::new(),
        })
    }

    /// What the level is called: its label, or both where the two stand on different hardware.
    #[must_use]
    pub fn name(&self) -> String {
        if self.label == self.baseline_label {
            self.label.clone()
        } else {
            format!("{} / {}", self.baseline_label, self.label)
        }
    }

    /// "e5b is 4.0 points above e5 at 5 % (p = 0.03, n = 200): resolved"
    fn sentence(&self, run: &str, baseline: &str) -> String {
        let test = &self.test;
        let place = self.place(run, baseline);
        let evidence = format!("({}, n = {})", format::claim_clause(&test.claim), format::count(test.n));
        if test.difference_points == 0.0 {
            return format!("{run} and {baseline} are equal {place} {evidence}: no difference seen");
        }
        let side = if test.difference_points > 0.0 { "above" } else { "below" };
        let outcome = match test.needed {
            _ if test.claim.resolved => "resolved".to_owned(),
            Some(needed) if needed > test.n => {
                format!("not resolved, {} problems would be needed", format::count(needed))
            }
            _ => "not resolved".to_owned(),
        };
        let magnitude = test.difference_points.abs();
        format!("{run} is {magnitude:.1} points {side} {baseline} {place} {evidence}: {outcome}")
    }

    fn place(&self, run: &str, baseline: &str) -> String {
        match (self.plans_differ, self.label.as_str()) {
            (true, label) if label == self.baseline_label => {
                format!("at {label} (whose rules differ between the two)")
            }
            (true, label) => format!("({run} judged at {label}, {baseline} at {})", self.baseline_label),
            (false, "clean") => "without noise".to_owned(),
            (false, label) => format!("at {label}"),
        }
    }
}

/// Two runs that count different answers as right are not compared unless that is allowed.
fn check_metric(
    baseline: (&str, &EvalRecord),
    run: (&str, &EvalRecord),
    allowed: &[String],
) -> Result<(), LabError> {
    if baseline.1.metric == run.1.metric || allowed.iter().any(|name| name == "metric") {
        return Ok(());
    }
    Err(LabError::DifferentConditions {
        first: baseline.0.to_owned(),
        second: run.0.to_owned(),
        what: "metric".to_owned(),
        in_first: baseline.1.metric.name().to_owned(),
        in_second: run.1.metric.name().to_owned(),
    })
}

/// Whether two levels add the same errors to the hardware that their runs stand on.
pub(crate) fn same_level(one: &LevelRecord, other: &LevelRecord) -> bool {
    one.added() == other.added()
}

fn labels(levels: &[LevelRecord]) -> String {
    levels.iter().map(|level| level.label.as_str()).collect::<Vec<_>>().join(", ")
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
        let comparison = Comparison::new(&[("e5", &baseline()), ("e5b", &run)], &[]).unwrap();
        let sentences: Vec<_> =
            comparison.runs[0].levels.iter().map(|level| level.sentence.as_str()).collect();
        assert_eq!(
            sentences,
            [
                "e5b is 1.0 points above e5 without noise (p = 0.5, n = 200): not resolved, 783 problems would be needed",
                "e5b is 4.0 points above e5 at 5 % (p = 0.0078, with Holm 0.016, n = 200): resolved",
            ]
        );
    }

    #[test]
    fn a_run_is_equal_to_itself() {
        let comparison = Comparison::new(&[("a", &baseline()), ("b", &baseline())], &[]).unwrap();
        for level in &comparison.runs[0].levels {
            assert!(
                level.sentence.contains("no difference seen")
                    && level.test.claim.p == 1.0
                    && !level.test.claim.resolved
            );
        }
    }

    #[test]
    fn runs_on_different_problems_are_refused() {
        let fewer = record(vec![level(0.0, 100, |_| true)]);
        let message = Comparison::new(&[("a", &baseline()), ("b", &fewer)], &[]).unwrap_err().to_string();
        assert!(message.contains("100 and 200, 100 in both"), "{message}");
        let mut other_data = baseline();
        other_data.levels[0].problems[3].truth = "9".into();
        let message =
            Comparison::new(&[("a", &baseline()), ("b", &other_data)], &[]).unwrap_err().to_string();
        assert!(message.contains("problem 3"), "{message}");
    }

    #[test]
    fn levels_are_matched_by_what_they_add_and_the_rest_is_named() {
        let mut run = record(vec![level(0.1, 200, |_| true), level(0.05, 200, |i| i < 120)]);
        run.levels[1].label = "five".into();
        let comparison = Comparison::new(&[("a", &baseline()), ("b", &run)], &[]).unwrap();
        let compared = &comparison.runs[0];
        assert_eq!(compared.levels.len(), 1);
        assert_eq!(compared.not_shared, ["clean", "10 %"]);
        let nothing = record(vec![level(0.2, 200, |_| true)]);
        let message = Comparison::new(&[("a", &baseline()), ("b", &nothing)], &[]).unwrap_err().to_string();
        assert!(message.contains("share no noise level: clean, 5 % against 20 %"), "{message}");
    }

    #[test]
    fn a_run_judged_in_a_format_is_never_called_without_noise() {
        let mut run = record(vec![level(0.0, 200, |i| i < 100)]);
        run.levels[0].label = "mxfp4".into();
        run.levels[0].plan = "[[noise]]\nat = \"weight\"\nerror = { kind = \"mxfp4\" }\n".into();
        let against = |first: &EvalRecord| {
            let comparison = Comparison::new(&[("a", first), ("b", &run)], &[]).unwrap();
            comparison.runs[0].levels[0].sentence.clone()
        };
        assert!(against(&baseline()).contains("(b judged at mxfp4, a at clean)"), "{}", against(&baseline()));
        assert!(against(&run).contains("equal at mxfp4"), "{}", against(&run));
    }

    #[test]
    fn what_one_page_claims_is_corrected_together_and_never_against_its_interval() {
        let half = |right: u64| record(vec![level(0.0, 200, move |i| i < right)]);
        let (first, second) = (half(100), half(107));
        let alone = Comparison::new(&[("a", &first), ("b", &second)], &[]).unwrap();
        assert!(alone.runs[0].levels[0].test.claim.resolved, "{:?}", alone.runs[0].levels[0]);
        let names = ["b", "c", "d", "e"].map(|name| (name, &second));
        let all = [&[("a", &first)][..], &names].concat();
        let together = Comparison::new(&all, &[]).unwrap();
        for run in &together.runs {
            assert!(!run.levels[0].test.claim.resolved && run.levels[0].sentence.contains("not resolved"));
        }
    }

    #[test]
    fn one_run_is_not_a_comparison() {
        let message = Comparison::new(&[("a", &baseline())], &[]).unwrap_err().to_string();
        assert_eq!(message, "a comparison needs at least 2, got 1");
    }

    #[test]
    fn text_fits_the_terminal() {
        let run = record(vec![level(0.0, 200, |i| i < 142), level(0.05, 200, |i| i % 2 == 0)]);
        let comparison = Comparison::new(&[("e5", &baseline()), ("e5b", &run)], &[]).unwrap();
        for width in [40, 80, 120] {
            let text = comparison.render(width);
            assert!(text.lines().all(|line| line.chars().count() <= width), "{text}");
        }
    }
}
