//! What survives noise: every level of an evaluation against its clean level, on the same problems. The verdict has
//! three classes of loss and a fourth answer, "not resolved", for when the interval does not decide between them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::LabError;
use crate::format;
use crate::pairing::pair;
use crate::record::{EvalRecord, LevelRecord};
use crate::statistics::{CONFIDENCE, Interval, PairedTest, wilson};
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

    /// The class that the whole interval of a loss lies in, or [`Verdict::NotResolved`].
    #[must_use]
    pub fn of_interval(points: Interval) -> Self {
        let (least, most) = (Self::of_loss(points.low), Self::of_loss(points.high));
        if least == most { least } else { Self::NotResolved }
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
    /// Strict accuracy, in [0, 1].
    pub accuracy: f64,
    /// Wilson's 95 % interval of it, in [0, 1].
    pub interval: Interval,
    /// Flexible accuracy, in [0, 1].
    pub flexible_accuracy: f64,
    /// The loss; `None` at the level that the others are held against.
    pub loss: Option<Loss>,
}

/// What a level loses against the clean level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// Clean minus noisy: points lost are positive; b counts problems that only the clean level gets right.
    #[serde(flatten)]
    pub test: PairedTest,
    /// Noisy accuracy over clean accuracy; `None` where the clean accuracy is 0.
    pub retention: Option<f64>,
    /// The class of the loss, if the interval decides it.
    pub verdict: Verdict,
    /// The class of the loss as seen, were it exact.
    pub verdict_as_seen: Verdict,
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
        let levels =
            record.levels.iter().map(|level| LevelRow::new(clean, level)).collect::<Result<_, _>>()?;
        Ok(Self {
            model: record.model.clone(),
            data: record.data.clone(),
            step: record.step,
            n: clean.problems.len(),
            against: clean.label.clone(),
            levels,
        })
    }

    /// The table as text for a terminal of `width` columns: one line per level where that fits, else a few.
    #[must_use]
    pub fn render(&self, width: usize) -> String {
        let table = self.wide();
        let body = if table.width() <= width { table.render() } else { self.stacked(width) };
        let step = self.step.map(|step| format!(", step {step}")).unwrap_or_default();
        let n = format::count(self.n as u64);
        let title =
            format!("{}{step} on {}: strict accuracy, {n} problems, 95 % intervals", self.model, self.data);
        let legend = format!(
            "lost: {} minus this level, in points, on the same problems. kept: this level over {0}. p: exact McNemar. \
             needed: problems to resolve the difference seen (5 %, power 0.8). verdict: robust below 1 point lost, \
             moderately robust to 3; not resolved when the interval spans two of these.",
            self.against,
        );
        format!("{}\n{body}\n{}", wrap(&title, width, 0), wrap(&legend, width, 0))
    }

    fn wide(&self) -> TextTable {
        use Align::{Left, Right};
        let columns = [
            ("level", Left),
            ("accuracy", Left),
            ("flexible", Right),
            ("lost", Left),
            ("kept", Right),
            ("p", Right),
            ("needed", Right),
            ("verdict", Left),
        ];
        let mut table = TextTable::new(&columns);
        for row in &self.levels {
            let accuracy = format::percent_with_interval(row.accuracy, row.interval);
            let head = [row.label.clone(), accuracy, format::percent(row.flexible_accuracy)];
            let dash = || "–".to_owned();
            let tail = row
                .loss
                .as_ref()
                .map_or_else(|| [dash(), dash(), dash(), dash(), String::new()], Loss::cells);
            table.row(head.into_iter().chain(tail));
        }
        table
    }

    fn stacked(&self, width: usize) -> String {
        let mut out = String::new();
        for row in &self.levels {
            let accuracy = format::percent_with_interval(row.accuracy, row.interval);
            let flexible = format::percent(row.flexible_accuracy);
            out += &wrap(&format!("{}: {accuracy}, flexible {flexible}", row.label), width, 0);
            if let Some(loss) = &row.loss {
                let [lost, kept, p, needed, verdict] = loss.cells();
                out += &wrap(&format!("lost {lost}, kept {kept}"), width, 2);
                out += &wrap(&format!("p {p}, needed {needed}, {verdict}"), width, 2);
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
    fn new(clean: &LevelRecord, level: &LevelRecord) -> Result<Self, LabError> {
        let loss = if std::ptr::eq(clean, level) { None } else { Some(Loss::new(clean, level)?) };
        let n = level.problems.len() as u64;
        Ok(Self {
            label: level.label.clone(),
            noise: level.noise,
            accuracy: level.right() as f64 / n as f64,
            interval: wilson(level.right(), n, CONFIDENCE),
            flexible_accuracy: level.flexible_accuracy,
            loss,
        })
    }
}

impl Loss {
    fn new(clean: &LevelRecord, level: &LevelRecord) -> Result<Self, LabError> {
        let names = [clean, level].map(|side| format!("level {}", side.label));
        let test = PairedTest::of(&pair((&names[0], clean), (&names[1], level))?);
        let retention = (clean.right() > 0).then(|| level.right() as f64 / clean.right() as f64);
        Ok(Self {
            test,
            retention,
            verdict: Verdict::of_interval(test.interval_points),
            verdict_as_seen: Verdict::of_loss(test.difference_points),
        })
    }

    /// Lost, kept, p, needed and verdict, as printed.
    pub(crate) fn cells(&self) -> [String; 5] {
        [
            format::points_with_interval(self.test.difference_points, self.test.interval_points),
            self.retention.map_or_else(|| "–".into(), format::percent),
            format::p_value(self.test.p),
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
        let interval = |low, high| Verdict::of_interval(Interval { low, high });
        assert_eq!(interval(-2.0, 0.9), Verdict::Robust);
        assert_eq!(interval(1.0, 3.0), Verdict::ModeratelyRobust);
        assert_eq!(interval(3.1, 9.0), Verdict::NotRobust);
        assert_eq!(interval(0.9, 1.1), Verdict::NotResolved);
        assert_eq!(interval(-1.0, 9.0), Verdict::NotResolved);
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
        assert_eq!((loss.retention, loss.test.p, loss.test.needed), (None, 1.0, None));
    }
}
