//! What survives noise: every level of an evaluation against its clean level, on the same problems. The verdict has
//! three classes of loss and a fourth answer, "not resolved", for when the interval does not decide between them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::LabError;
use crate::format;
use crate::page::decide_together;
use crate::pairing::{Side, answers, pair};
use crate::record::{EvalRecord, LevelRecord, Metric};
use crate::statistics::{CONFIDENCE, Interval, PairedTest, accuracy, retention, scores};
use crate::text_table::{Align, TextTable, wrap};

/// A loss below this many points is robust.
pub const ROBUST_BELOW: f64 = 1.0;
/// A loss up to this many points is moderately robust.
pub const MODERATE_UP_TO: f64 = 3.0;

/// How much a model loses under noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Less than 1 point is lost.
    Robust,
    /// 1 to 3 points are lost.
    ModeratelyRobust,
    /// More than 3 points are lost.
    NotRobust,
    /// The interval of the loss spans more than one class.
    NotResolved,
}

impl Verdict {
    /// The class of a known loss in points; never [`Verdict::NotResolved`].
    #[must_use]
    pub fn of_loss(points: f64) -> Self {
        match points {
            lost if lost < ROBUST_BELOW => Self::Robust,
            lost if lost <= MODERATE_UP_TO => Self::ModeratelyRobust,
            _ => Self::NotRobust,
        }
    }

    /// The class that the whole interval of a loss lies in, or [`Verdict::NotResolved`]. That something is lost is a
    /// claim, and must be `resolved` among the others of its page.
    #[must_use]
    pub fn of_interval(points: Interval, resolved: bool) -> Self {
        let (least, most) = (Self::of_loss(points.low), Self::of_loss(points.high));
        match least {
            class if class != most => Self::NotResolved,
            Self::Robust => Self::Robust,
            class if resolved => class,
            _ => Self::NotResolved,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Robust => "robust",
            Self::ModeratelyRobust => "moderately robust",
            Self::NotRobust => "not robust",
            Self::NotResolved => "not resolved",
        })
    }
}

/// What the legend says of answers that ended there.
const NOT_FINITE: &str = "not finite: answers that ended because the next token's logits were. ";

/// Accuracy at each noise level of one evaluation, and what each loses against the clean level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RobustnessTable {
    /// The model that was evaluated.
    pub model: String,
    /// The data it was evaluated on.
    pub data: String,
    /// The training step, inside a run.
    pub step: Option<u64>,
    /// Problems per level.
    pub n: usize,
    /// What answers are judged by.
    pub metric: Metric,
    /// The label of the level that the others are held against.
    pub against: String,
    /// One row per level, as in the record.
    pub levels: Vec<LevelRow>,
}

/// One level of a [`RobustnessTable`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LevelRow {
    /// The level's label.
    pub label: String,
    /// The level's scale, if it has one.
    pub noise: Option<f64>,
    /// Accuracy by the table's metric, in [0, 1].
    pub accuracy: f64,
    /// Its 95 % interval, in [0, 1]: Wilson's, or, of several draws, in doubt of the draws too.
    pub interval: Interval,
    /// Strict accuracy, in [0, 1].
    pub strict_accuracy: f64,
    /// Flexible accuracy, in [0, 1].
    pub flexible_accuracy: f64,
    /// The share of answers that were cut off and are not right; `None` where the record does not say.
    pub cut_off: Option<f64>,
    /// The share of answers that ended because the next token's logits were not finite.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub non_finite: f64,
    /// The accuracy under each draw of the error, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub draws: Vec<f64>,
    /// Where problems were answered several times, the chance that one of `k` answers is right, with `k`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pass_at: Vec<(usize, f64)>,
    /// The loss; `None` at the level that the others are held against.
    pub loss: Option<Loss>,
}

/// What a level loses against the clean level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// Clean minus noisy: points lost are positive; b counts problems that only the clean level gets right.
    #[serde(flatten)]
    pub test: PairedTest,
    /// Of the points lost, those by answers that were cut off; `None` where the record does not say.
    pub by_cut_off_points: Option<f64>,
    /// Noisy accuracy over clean accuracy; `None` where the clean accuracy is 0.
    pub retention: Option<f64>,
    /// Its 95 % interval; `None` where the clean accuracy can not be told from 0.
    pub retention_interval: Option<Interval>,
    /// The class of the loss, if the interval decides it.
    pub verdict: Verdict,
    /// The class of the loss as seen, were it exact.
    pub verdict_as_seen: Verdict,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
pub(crate) fn is_zero(share: &f64) -> bool {
    *share == 0.0
}

impl RobustnessTable {
    /// Judges a record.
    ///
    /// # Errors
    ///
    /// When the record fails [`EvalRecord::check`] or its levels did not answer the same problems.
    pub fn from_record(record: &EvalRecord) -> Result<Self, LabError> {
        record.check()?;
        let nothing = || LabError::Empty { what: format!("the evaluation of {}", record.model) };
        let clean = record.clean_level().ok_or_else(nothing)?;
        let levels = record
            .levels
            .iter()
            .map(|level| LevelRow::new(record, clean, level))
            .collect::<Result<_, _>>()?;
        let mut table = Self {
            model: record.model.clone(),
            data: record.data.clone(),
            step: record.step,
            n: clean.problems.len(),
            metric: record.metric.clone(),
            against: clean.label.clone(),
            levels,
        };
        decide_together([&mut table], []);
        Ok(table)
    }

    /// What is claimed to be lost.
    pub(crate) fn losses(&mut self) -> impl Iterator<Item = &mut Loss> {
        self.levels.iter_mut().filter_map(|level| level.loss.as_mut())
    }

    /// The table as text for a terminal of `width` columns: one line per level where that fits, else a few.
    #[must_use]
    pub fn render(&self, width: usize) -> String {
        let table = self.wide();
        let body = if table.width() <= width { table.render() } else { self.stacked(width) };
        let step = self.step.map(|step| format!(", step {step}")).unwrap_or_default();
        let n = format::count(self.n as u64);
        let metric = &self.metric;
        let title = format!("{}{step} on {}: {metric}, {n} problems, 95 % intervals", self.model, self.data);
        let legend = format!(
            "lost: {} minus this level, in points, on the same problems. kept: this level over {0}. cut off: answers that \
             were cut off and are not right, which are among those lost. {}p: {}, with Holm for all levels shown. needed: \
             problems to resolve the difference seen (5 %, power 0.8). verdict: robust below 1 point lost, moderately \
             robust to 3; not resolved when the interval spans two of these.{}",
            self.against,
            if self.some_not_finite() { NOT_FINITE } else { "" },
            self.test(),
            self.caution(),
        );
        format!("{}\n{body}\n{}", wrap(&title, width, 0), wrap(&legend, width, 0))
    }

    fn test(&self) -> &'static str {
        match (self.several_draws(), &self.metric, self.several_samples()) {
            (true, ..) => "that of the interval",
            (_, Metric::Score(_), _) | (.., true) => {
                "the paired permutation test, of right and wrong McNemar's"
            }
            _ => "exact McNemar",
        }
    }

    fn several_samples(&self) -> bool {
        self.levels.iter().any(|level| !level.pass_at.is_empty())
    }

    /// Whether some answers ended at logits that are not finite.
    fn some_not_finite(&self) -> bool {
        self.levels.iter().any(|level| level.non_finite > 0.0)
    }

    fn several_draws(&self) -> bool {
        self.levels.iter().any(|level| !level.draws.is_empty())
    }

    /// What the intervals doubt.
    fn caution(&self) -> &'static str {
        if self.several_draws() {
            " Intervals doubt the draws of the error (each one's accuracy under draws) as they doubt the problems."
        } else {
            " Intervals doubt the problems, and hold for this model and this draw of the error (see --draws)."
        }
    }

    fn wide(&self) -> TextTable {
        use Align::{Left, Right};
        let draws = self.several_draws();
        let (other, samples) = (self.other(), self.several_samples());
        let columns = [
            (true, "level", Left),
            (true, if other.is_some() { "accuracy" } else { "score" }, Left),
            (other.is_some(), other.as_ref().map_or("", Metric::name), Right),
            (true, "cut off", Right),
            (self.some_not_finite(), "not finite", Right),
            (true, "lost", Left),
            (true, "kept", Left),
            (true, "p (Holm)", Right),
            (true, "needed", Right),
            (true, "verdict", Left),
            (draws, "draws", Left),
            (samples, "pass@k", Left),
        ];
        let shown = columns.map(|(shown, ..)| shown);
        let names: Vec<_> =
            columns.iter().filter(|(shown, ..)| *shown).map(|(_, name, align)| (*name, *align)).collect();
        let mut table = TextTable::new(&names);
        for row in &self.levels {
            let accuracy = format::percent_with_interval(row.accuracy, row.interval);
            let other = self.other_accuracy(row).map(format::percent).unwrap_or_default();
            let not_finite = format::percent(row.non_finite);
            let head = [row.label.clone(), accuracy, other, row.cut_off_cell(), not_finite];
            let dash = || "–".to_owned();
            let tail = row
                .loss
                .as_ref()
                .map_or_else(|| [dash(), dash(), dash(), dash(), String::new()], Loss::cells);
            let cells = head.into_iter().chain(tail).chain([row.draws_cell(), row.pass_at_cell()]);
            table.row(cells.zip(shown).filter(|(_, shown)| *shown).map(|(cell, _)| cell));
        }
        table
    }

    /// The form of accuracy that the table does not judge by.
    pub(crate) fn other(&self) -> Option<Metric> {
        self.metric.other()
    }

    /// The accuracy by [`Self::other`].
    pub(crate) fn other_accuracy(&self, row: &LevelRow) -> Option<f64> {
        match self.other()? {
            Metric::Flexible => Some(row.flexible_accuracy),
            _ => Some(row.strict_accuracy),
        }
    }

    fn stacked(&self, width: usize) -> String {
        let mut out = String::new();
        for row in &self.levels {
            let accuracy = format::percent_with_interval(row.accuracy, row.interval);
            let other = self.other().zip(self.other_accuracy(row));
            let other = other
                .map(|(metric, x)| format!(", {} {}", metric.name(), format::percent(x)))
                .unwrap_or_default();
            let ended = row.ended();
            out += &wrap(&format!("{}: {accuracy}{other}, {ended}", row.label), width, 0);
            if !row.pass_at.is_empty() {
                out += &wrap(&row.pass_at_cell(), width, 2);
            }
            if let Some(loss) = &row.loss {
                let [lost, kept, p, needed, verdict] = loss.cells();
                out += &wrap(&format!("lost {lost}, kept {kept}"), width, 2);
                out += &wrap(&format!("p (Holm) {p}, needed {needed}, {verdict}"), width, 2);
            }
            if !row.draws.is_empty() {
                out += &wrap(&format!("draws {}", row.draws_cell()), width, 2);
            }
        }
        out
    }
}

impl fmt::Display for RobustnessTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(100))
    }
}

impl LevelRow {
    fn new(record: &EvalRecord, clean: &LevelRecord, level: &LevelRecord) -> Result<Self, LabError> {
        let metric = &record.metric;
        let loss = if std::ptr::eq(clean, level) { None } else { Some(Loss::new(record, clean, level)?) };
        let side = scores(&vec![level.values(metric)]);
        Ok(Self {
            label: level.label.clone(),
            noise: level.noise,
            accuracy: side.mean(),
            interval: accuracy(&side, CONFIDENCE),
            strict_accuracy: level.accuracy,
            flexible_accuracy: level.flexible_accuracy,
            cut_off: level.cut_off(metric),
            non_finite: level.share(|answer| answer.non_finite).unwrap_or_default(),
            draws: if level.draws.is_empty() { Vec::new() } else { side.columns },
            pass_at: level.pass_at(metric),
            loss,
        })
    }

    /// The share that was cut off and is not right, as printed.
    pub(crate) fn cut_off_cell(&self) -> String {
        self.cut_off.map_or_else(|| "unknown".to_owned(), format::percent)
    }

    /// How many answers ended otherwise than by themselves, in words.
    pub(crate) fn ended(&self) -> String {
        let not_finite = match self.non_finite {
            0.0 => String::new(),
            share => format!(", not finite {}", format::percent(share)),
        };
        format!("cut off {}{not_finite}", self.cut_off_cell())
    }

    /// The chances that one of k answers is right, as printed.
    pub(crate) fn pass_at_cell(&self) -> String {
        let one = |(k, chance): &(usize, f64)| format!("pass@{k} {}", format::percent(*chance));
        self.pass_at.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// The least and largest accuracy of a draw and their number, as printed.
    pub(crate) fn draws_cell(&self) -> String {
        let (low, high) =
            self.draws.iter().fold((1.0, 0.0), |(low, high): (f64, f64), &x| (low.min(x), high.max(x)));
        match self.draws.len() {
            0 => String::new(),
            count => format!("{count}: {:.1} to {}", 100.0 * low, format::percent(high)),
        }
    }
}

impl Loss {
    fn new(record: &EvalRecord, clean: &LevelRecord, level: &LevelRecord) -> Result<Self, LabError> {
        let names = [clean, level].map(|side| format!("level {}", side.label));
        let sides =
            [(&names[0], clean), (&names[1], level)].map(|(name, level)| [Side { name, record, level }]);
        let metric = &record.metric;
        let test = pair(&sides[0], &sides[1], metric, &[])?;
        let [all, kept] = [0, 1].map(|side| scores(&answers(&sides[side], metric)));
        let columns = all.columns.len().max(kept.columns.len());
        let [all, kept] = [all.spread_over(columns), kept.spread_over(columns)];
        let cut = |level: &LevelRecord| level.cut_off(metric);
        Ok(Self {
            test,
            by_cut_off_points: cut(level).zip(cut(clean)).map(|(noisy, clean)| 100.0 * (noisy - clean)),
            retention: (all.mean() > 0.0).then(|| kept.mean() / all.mean()),
            retention_interval: retention(&kept, &all, CONFIDENCE),
            verdict: Verdict::NotResolved,
            verdict_as_seen: Verdict::of_loss(test.difference_points),
        })
    }

    /// Gives the verdict after its claim was decided.
    pub(crate) fn settle(&mut self) {
        self.verdict = Verdict::of_interval(self.test.interval_points, self.test.claim.resolved);
    }

    /// Lost, kept, p, needed and verdict, as printed.
    pub(crate) fn cells(&self) -> [String; 5] {
        let kept = self.retention.map_or_else(
            || "–".into(),
            |share| match self.retention_interval {
                Some(interval) => format::percent_with_interval(share, interval),
                None => format::percent(share),
            },
        );
        [
            format::points_with_interval(self.test.difference_points, self.test.interval_points),
            kept,
            format::p_value(self.test.claim.p_holm),
            self.test.needed.map_or_else(|| "–".into(), format::count),
            self.verdict.to_string(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::made_up::{level, record};

    fn table() -> RobustnessTable {
        // 1,000 problems: 750 right; at 5 % the same but two, at 10 % two thirds of them.
        let levels = vec![
            level(0.05, 1000, |i| (2..750).contains(&i)),
            level(0.0, 1000, |i| i < 750),
            level(0.1, 1000, |i| (250..750).contains(&i)),
        ];
        RobustnessTable::from_record(&record(levels)).unwrap()
    }

    #[test]
    fn the_level_without_noise_is_the_clean_one_wherever_it_stands() {
        let table = table();
        assert_eq!(table.against, "clean");
        assert!(table.levels[1].loss.is_none());
        let loss = table.levels[2].loss.as_ref().unwrap();
        assert!((loss.test.difference_points - 25.0).abs() < 1e-9);
        assert!((loss.retention.unwrap() - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!((loss.test.b, loss.test.c), (250, 0));
    }

    #[test]
    fn a_verdict_is_given_only_when_the_interval_decides() {
        let verdicts: Vec<_> =
            table().levels.iter().filter_map(|row| Some(row.loss.as_ref()?.verdict)).collect();
        assert_eq!(verdicts, [Verdict::Robust, Verdict::NotRobust]);
        let interval = |low, high| Verdict::of_interval(Interval { low, high }, true);
        assert_eq!(interval(-2.0, 0.9), Verdict::Robust);
        assert_eq!(interval(1.0, 3.0), Verdict::ModeratelyRobust);
        assert_eq!(interval(3.1, 9.0), Verdict::NotRobust);
        assert_eq!(interval(0.9, 1.1), Verdict::NotResolved);
        assert_eq!(interval(-1.0, 9.0), Verdict::NotResolved);
        assert_eq!(Verdict::of_interval(Interval { low: 3.1, high: 9.0 }, false), Verdict::NotResolved);
    }

    #[test]
    fn a_small_evaluation_does_not_resolve_a_small_loss() {
        let levels = vec![level(0.0, 50, |i| i < 40), level(0.05, 50, |i| (1..40).contains(&i))];
        let table = RobustnessTable::from_record(&record(levels)).unwrap();
        let loss = table.levels[1].loss.as_ref().unwrap();
        assert_eq!((loss.verdict, loss.verdict_as_seen), (Verdict::NotResolved, Verdict::ModeratelyRobust));
        assert!(loss.test.needed.unwrap() > 50);
    }

    #[test]
    fn text_fits_the_terminal_and_says_per_cent_and_points() {
        for width in [40, 60, 80, 100, 140] {
            let text = table().render(width);
            let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(longest <= width, "{longest} columns of {width}:\n{text}");
            assert!(
                text.contains("75.0 %") && text.contains("+25.0 [") && text.contains("not robust"),
                "{text}"
            );
        }
    }

    #[test]
    fn json_carries_units_in_its_names() {
        let json = serde_json::to_value(table()).unwrap();
        let loss = &json["levels"][2]["loss"];
        assert_eq!(loss["verdict"], "not_robust");
        assert_eq!(loss["difference_points"], 25.0);
        assert!(loss["interval_points"]["low"].as_f64().unwrap() > 20.0);
    }

    #[test]
    fn a_model_that_gets_nothing_right_has_no_retention() {
        let levels = vec![level(0.0, 20, |_| false), level(0.05, 20, |_| false)];
        let table = RobustnessTable::from_record(&record(levels)).unwrap();
        let loss = table.levels[1].loss.as_ref().unwrap();
        assert_eq!((loss.retention, loss.test.claim.p, loss.test.needed), (None, 1.0, None));
    }
}
