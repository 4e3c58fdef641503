//! Advice: a plan that a model bears. Each place gets the level that it is known to bear alone, the lower end of its bracket. Errors
//! add up: where the model does not keep what it shall keep under all of them at once, the levels are scaled down together, as far
//! as that takes. Or a number format is given to all layers but those that it hurts most. The plan is then judged on problems that
//! nobody chose it by.

mod plans;

use std::collections::BTreeMap;

use hardy_numerics::formats::Format;
use hardy_ops::{NoisyBackend, Op, Plan, Point, Rule};
use hardy_train::reward::Extraction;
use serde::{Deserialize, Serialize};

use self::plans::{given, in_format, mixed, rules};
use super::{
    Grid, GridMetric,
    answers::Answering,
    prefix::{Prefix, stages_of},
    threshold::Threshold,
};
use crate::{
    error::LabError,
    evaluate::rules_toml,
    nll::differences,
    record::draw_of,
    setting::Setting,
    statistics::{CONFIDENCE, Interval, Scores, retention},
};

/// By how much levels are scaled down at a time.
const STEP: f64 = std::f64::consts::FRAC_1_SQRT_2;
/// Steps until nothing is left.
const MOST_STEPS: i32 = 24;
/// How often the last of these steps is halved, to scale down no further than it takes.
const HALVINGS: usize = 2;
/// Draws of the error under which a plan is judged.
const DRAWS: usize = 3;

/// A plan and what it was seen to keep.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Advice {
    /// The rules, as `[[noise]]` tables.
    pub plan: String,
    /// The share of accuracy that it shall keep.
    pub keep: f64,
    /// What all levels were scaled by; `None` of a format.
    pub scaled_by: Option<f64>,
    /// The level of every place; none of a format.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<PlaceLevel>,
    /// What the levels that places bear alone kept together; `None` of a format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unscaled: Option<Kept>,
    /// The layers that stay in BF16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bf16_layers: Option<Vec<usize>>,
    /// What it kept of the problems that it was chosen by.
    pub chosen_on: Kept,
    /// What it keeps of other problems.
    pub checked_on: Kept,
    /// Whether the interval on the other problems lies at or above what it shall keep, below it, or on both sides.
    pub verdict: Held,
}

/// The level that a plan gives to one place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlaceLevel {
    /// The place in words.
    pub place: String,
    /// The highest level that it is known to bear alone; `None` where even the lowest is not.
    pub bears: Option<f64>,
    /// Its level in the plan; 0 where it stays without error.
    pub level: f64,
}

/// Accuracy under a plan beside that without.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Kept {
    /// Problems.
    pub n: usize,
    /// Accuracy without error, in [0, 1].
    pub clean: f64,
    /// Accuracy under the plan, over all draws.
    pub accuracy: f64,
    /// Their ratio, with its 95 % interval in doubt of problems and draws; `None` where the clean side can not be told from 0.
    pub share: Option<(f64, Interval)>,
}

/// What can be said of a share that shall be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Held {
    /// The whole interval lies at or above it.
    Holds,
    /// The share does, but the interval reaches below.
    Consistent,
    /// The share does not, but the interval reaches it.
    Open,
    /// The whole interval lies below.
    Fails,
}

impl Kept {
    fn verdict(&self, keep: f64) -> Held {
        match self.share {
            Some((_, interval)) if interval.low >= keep => Held::Holds,
            Some((_, interval)) if interval.high < keep => Held::Fails,
            Some((share, _)) if share >= keep => Held::Consistent,
            _ => Held::Open,
        }
    }

    /// Whether it is clear that so much is kept; where problems are too few to make that clear even without any loss, whether
    /// it is what was seen.
    fn suffices(&self, keep: f64, lossless: &Self) -> bool {
        let clear = |kept: &Self| kept.verdict(keep) == Held::Holds;
        clear(self) || (!clear(lossless) && self.share.is_some_and(|(share, _)| share >= keep))
    }
}

/// Accuracy of answers under plans.
struct Judge<'a, B: NoisyBackend> {
    answering: Answering<'a, B>,
    stages: usize,
    seed: u64,
}

impl<'a, B: NoisyBackend> Judge<'a, B> {
    fn new(grid: &Grid<'a, B>, setting: Setting<'a, B>) -> Result<Self, LabError> {
        let metric = match grid.metric {
            GridMetric::Accuracy(metric) => metric,
            GridMetric::Nll => Extraction::Flexible,
        };
        let grid = Grid { setting, metric: GridMetric::Accuracy(metric), ..*grid };
        let stages = setting.policy.decoder.blueprint.stages();
        Ok(Self { answering: Answering::new(&grid)?, stages, seed: grid.seed })
    }

    fn kept(&self, rules: &[Rule]) -> Result<Kept, LabError> {
        let plan = Plan { rules: rules.to_vec(), seed: self.seed, ..Plan::default() };
        let random = rules.iter().any(|rule| rule.error.is_random());
        let draws = if rules.is_empty() || !random { 1 } else { DRAWS };
        let under = |draw| Ok(self.answering.under("plan", &draw_of(&plan, draw), &(0..=self.stages))?.0);
        let right = (0..draws).map(under).collect::<Result<Vec<_>, LabError>>()?;
        let column = |right: &[bool]| right.iter().map(|&right| f64::from(u8::from(right))).collect();
        let clean = Scores::of(&[column(self.answering.clean())]).spread_over(draws);
        let noisy = Scores::of(&right.iter().map(|right| column(right)).collect::<Vec<Vec<f64>>>());
        let share = retention(&noisy, &clean, CONFIDENCE);
        Ok(Kept {
            n: clean.problems.len(),
            clean: clean.mean(),
            accuracy: noisy.mean(),
            share: share.map(|interval| (noisy.mean() / clean.mean(), interval)),
        })
    }
}

impl<'a, B: NoisyBackend> Grid<'a, B> {
    /// A plan in which every place has a level of its own, which keeps `keep` of accuracy; `others` are problems to check it on.
    ///
    /// # Errors
    /// As [`Grid::run`].
    pub fn advise(
        &self,
        thresholds: &[Threshold],
        keep: f64,
        others: Setting<'a, B>,
        say: &mut dyn FnMut(&str),
    ) -> Result<Advice, LabError> {
        let judge = Judge::new(self, self.setting)?;
        let lossless = judge.kept(&[])?;
        let mut at = |octaves: f64| {
            let kept = judge.kept(&rules(thresholds, octaves.exp2()))?;
            say(&format!("levels times {:.3}: {}", octaves.exp2(), in_words(&kept)));
            Ok::<_, LabError>((kept, kept.suffices(keep, &lossless)))
        };
        let unscaled = at(0.0)?;
        let (mut octaves, mut found) = (0.0, unscaled);
        for step in 1..=MOST_STEPS {
            if found.1 {
                break;
            }
            octaves = f64::from(step) * STEP.log2();
            found = at(octaves)?;
        }
        let mut kept = found.0;
        let mut higher = -STEP.log2();
        for _ in 0..if found.1 && octaves < 0.0 { HALVINGS } else { 0 } {
            higher /= 2.0;
            if let (more, true) = at(octaves + higher)? {
                (octaves, kept) = (octaves + higher, more);
            }
        }
        let scale = octaves.exp2();
        let advice = self.checked(&rules(thresholds, scale), keep, kept, others)?;
        let places = thresholds.iter().map(|place| PlaceLevel {
            place: place.cell.place(),
            bears: place.low,
            level: given(place, scale),
        });
        let (places, unscaled) = (places.collect(), Some(unscaled.0));
        Ok(Advice { scaled_by: Some(scale), places, unscaled, ..advice })
    }

    /// A plan that gives `format` to weights and inputs of the linear layers, but for as few layers as it takes to keep `keep`
    /// of accuracy: those that it hurts most stay in BF16.
    ///
    /// # Errors
    /// As [`Grid::run`].
    pub fn advise_format(
        &self,
        format: Format,
        keep: f64,
        others: Setting<'a, B>,
        say: &mut dyn FnMut(&str),
    ) -> Result<Advice, LabError> {
        let ranked = self.ranked_by(format)?;
        let judge = Judge::new(self, self.setting)?;
        let lossless = judge.kept(&[])?;
        let with = |left: usize| {
            let mut bf16 = ranked[..left].to_vec();
            bf16.sort_unstable();
            (mixed(format, &bf16, ranked.len()), bf16)
        };
        // The fewest layers, by bisection: what fewer layers keep more do.
        let (mut low, mut high) = (0, ranked.len());
        let mut best = None;
        while low < high {
            let left = usize::midpoint(low, high);
            let (rules, bf16) = with(left);
            let kept = judge.kept(&rules)?;
            say(&format!("layers {bf16:?} in BF16: {}", in_words(&kept)));
            if kept.suffices(keep, &lossless) {
                (high, best) = (left, Some((rules, bf16, kept)));
            } else {
                low = left + 1;
            }
        }
        let (rules, bf16, kept) = match best {
            Some(best) => best,
            None => {
                let (rules, bf16) = with(ranked.len());
                let kept = judge.kept(&rules)?;
                (rules, bf16, kept)
            }
        };
        Ok(Advice { bf16_layers: Some(bf16), ..self.checked(&rules, keep, kept, others)? })
    }

    /// The layers from the one whose likelihood suffers most when it alone is in `format`.
    fn ranked_by(&self, format: Format) -> Result<Vec<usize>, LabError> {
        let decoder = &self.setting.policy.decoder;
        let sequences = self.setting.worked()?;
        let mut prefix = Prefix::new(decoder, &sequences, super::TOKENS);
        let mut losses: Vec<(usize, f64)> = Vec::new();
        let all = |prefix: &Prefix<B>, noise: &_, stages: &_| -> Vec<f64> {
            (0..prefix.len()).flat_map(|part| prefix.likelihoods(part, &sequences, noise, stages)).collect()
        };
        let clean = all(&prefix, &hardy_ops::Noise::clean(), &(0..=0));
        for layer in 0..decoder.layers() {
            let rules = in_format(format.into(), &[layer]);
            let stages = stages_of(decoder, &rules[0]);
            prefix.advance_to(*stages.start());
            let plan = Plan { rules, seed: self.seed, ..Plan::default() };
            let bound = crate::evaluate::bind(&format!("layer {layer}"), &plan, &decoder.blueprint.sites)?;
            let noisy =
                all(&prefix, &bound.noise(hardy_ops::Phase::Eval, crate::evaluate::EVAL_STEP), &stages);
            let lost = Scores::of(&differences(&[noisy], std::slice::from_ref(&clean))).mean();
            losses.push((layer, if lost.is_finite() { lost } else { f64::MAX }));
        }
        losses.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        Ok(losses.into_iter().map(|(layer, _)| layer).collect())
    }

    fn checked(
        &self,
        rules: &[Rule],
        keep: f64,
        chosen_on: Kept,
        others: Setting<'a, B>,
    ) -> Result<Advice, LabError> {
        let checked_on = Judge::new(self, others)?.kept(rules)?;
        Ok(Advice {
            plan: rules_toml(rules),
            keep,
            scaled_by: None,
            places: Vec::new(),
            unscaled: None,
            bf16_layers: None,
            chosen_on,
            checked_on,
            verdict: checked_on.verdict(keep),
        })
    }
}

/// What was kept, in words.
#[must_use]
pub fn in_words(kept: &Kept) -> String {
    let Kept { n, clean, accuracy, share } = kept;
    let of = format!("{:.1} % of {n} problems instead of {:.1} %", 100.0 * accuracy, 100.0 * clean);
    match share {
        Some((share, Interval { low, high })) => {
            format!("{of}, {:.1} % kept [{:.1}, {:.1}]", 100.0 * share, 100.0 * low, 100.0 * high)
        }
        None => of,
    }
}

/// The place of every operator and point that tolerates least, and the one that tolerates most; the most tolerant operator first.
#[must_use]
pub fn budget(thresholds: &[Threshold]) -> Vec<[&Threshold; 2]> {
    let mut parts: BTreeMap<(Op, Point), [&Threshold; 2]> = BTreeMap::new();
    for threshold in thresholds {
        let part = (threshold.cell.op, threshold.cell.point);
        let [least, most] = parts.entry(part).or_insert([threshold; 2]);
        if threshold.estimate() < least.estimate() {
            *least = threshold;
        }
        if threshold.estimate() > most.estimate() {
            *most = threshold;
        }
    }
    let mut found: Vec<_> = parts.into_values().collect();
    found.sort_by(|a, b| b[0].estimate().total_cmp(&a[0].estimate()));
    found
}

#[cfg(test)]
mod tests {
    use hardy_numerics::Perturbation;
    use hardy_ops::Pass;
    use hardy_train::plan_file::parse_plan;

    use super::{super::Cell, plans::rounded, *};

    fn threshold(layer: Option<usize>, low: f64) -> Threshold {
        let cell = Cell {
            layer,
            op: Op::Linear,
            point: Point::Output,
            pass: Pass::Forward,
            modules: if layer.is_some() { "*" } else { "lm_head" }.to_owned(),
            exclude: Vec::new(),
            level: Some(low),
            error: Perturbation::RelativeGaussian { scale: low },
        };
        Threshold { cell, low: Some(low), high: None, looks: 1, open: false }
    }

    #[test]
    fn a_plan_has_the_levels_of_its_places_and_is_read_again() {
        let rules = rules(
            &[
                threshold(Some(0), 0.08),
                threshold(Some(1), 0.005),
                threshold(Some(2), 0.08),
                threshold(None, 0.08),
            ],
            0.5,
        );
        let levels: Vec<(String, Option<f64>)> =
            rules.iter().map(|rule| (rule.layers.to_string(), rule.error.scale())).collect();
        let right = [("[0, 2]", 0.04), ("[1]", 0.0025), ("all", 0.04)];
        assert_eq!(levels, right.map(|(layers, level)| (layers.to_owned(), Some(level))));
        assert_eq!(parse_plan(&rules_toml(&rules), "plan.toml").unwrap().noise, rules);
    }

    #[test]
    fn a_place_that_is_not_known_to_bear_anything_stays_without_error() {
        let unknown = Threshold { low: None, high: Some(0.001), ..threshold(Some(0), 0.01) };
        let rules = rules(&[unknown, threshold(Some(1), 0.01)], 1.0);
        assert_eq!(rules.iter().map(|rule| rule.layers.to_string()).collect::<Vec<_>>(), ["[1]"]);
    }

    #[test]
    fn levels_are_rounded_down_to_two_digits() {
        let found = [0.0449, 0.001, 0.0999, 1.234, 0.0].map(rounded);
        assert_eq!(found, [0.044, 0.001, 0.099, 1.2, 0.0]);
    }

    #[test]
    fn a_format_leaves_out_the_layers_that_stay() {
        let rules = mixed(Format::Bf16, &[1], 3);
        let layers: Vec<String> = rules.iter().map(|rule| rule.layers.to_string()).collect();
        assert_eq!(layers, ["[0, 2]", "[0, 2]", "[1]", "[1]"]);
        assert_eq!(mixed(Format::Bf16, &[], 3).len(), 2);
    }
}
