//! Adaptive quantisation noise: a schedule of sigma (QeRL, arXiv:2510.11696), the weights it is on, and how it differs
//! between layers.

mod learned;

use hardy_ops::{Layers, Op, Ops, Rule};
use serde::{Deserialize, Serialize};

pub use learned::Learning;

use crate::{
    error::{Error, Result},
    scan_file::ScanFile,
    schedule::Schedule,
};

/// The kinds of AQN schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AqnSchedule {
    /// One sigma.
    Constant,
    /// Falling in stages over the run (QeRL, arXiv:2510.11696).
    Staged,
    /// Falling in stages in every epoch.
    EpochAware,
    /// One sigma for every layer, each moved by its gradient, in training (arXiv:2603.19470).
    Learned,
}

impl AqnSchedule {
    fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Staged => "staged",
            Self::EpochAware => "epoch_aware",
            Self::Learned => "learned",
        }
    }
}

/// Adaptive quantisation noise: noise on RMSNorm weights in rollouts whose scale follows a schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AqnSection {
    /// The kind.
    pub schedule: AqnSchedule,
    /// Sigma at the start; the only one where it is constant.
    #[serde(alias = "sigma")]
    pub sigma_start: f64,
    /// Sigma at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sigma_end: Option<f64>,
    /// Stages of the run, the first without noise (staged).
    #[serde(default = "ten")]
    pub stages: usize,
    /// Stages with noise in an epoch (epoch-aware).
    #[serde(default = "five")]
    pub stages_per_epoch: usize,
    /// Which weights the noise is on.
    #[serde(default, skip_serializing_if = "AqnTarget::is_default")]
    pub target: AqnTarget,
    /// How sigma differs between layers; the same everywhere where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guide: Option<Guide>,
    /// The JSON of `hardy scan` on the model that the run starts from, or `auto` to make it at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scan: Option<String>,
    /// The number format of `scan = "auto"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scan_format: Option<String>,
    /// Of the flagged layers only so many, those of the largest error (`targeted`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worst: Option<usize>,
    /// The learning rate of ln σ where sigma is learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// The smallest sigma that is learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sigma_min: Option<f64>,
    /// The largest sigma that is learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sigma_max: Option<f64>,
}

/// Which weights AQN perturbs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AqnTarget {
    /// Every RMSNorm.
    #[default]
    RmsNorm,
    /// Every linear layer but the head, a mixture's router and the gate of its shared expert.
    Linear,
    /// The norms after attention, for mixtures of experts.
    PostAttentionNorm,
    /// What enters every layer, where sigma is learned; not in mixtures of experts.
    HiddenStates,
}

impl AqnTarget {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How sigma differs between layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guide {
    /// Only in the layers that the scan flags.
    Targeted,
    /// Times the layer's error over the mean error.
    Variable,
    /// Times the mean error over the layer's error.
    Inverse,
    /// In full at both ends of the model; between them a tenth, from half of the training on.
    Zones,
    /// Only at 40 to 60 % of the depth.
    Depth,
}

/// The `scan` that is made at the start of the run.
pub const AUTO: &str = "auto";
/// The share of the layers at either end that `zones` leaves alone.
const EDGE: f64 = 0.25;
/// What `zones` multiplies the middle by, from half of the steps on.
const MIDDLE: f64 = 0.1;

fn ten() -> usize {
    10
}

fn five() -> usize {
    5
}

impl AqnSection {
    /// The rules for a model with so many `layers`: one where all are alike, else one for each multiplier of `sigma`. The
    /// noise itself is that of the single rule, only its scale differs.
    ///
    /// # Errors
    /// A guide without its scan, or one that leaves no layer any noise.
    pub fn rules(&self, sigma: &[f64], layers: usize, scan: Option<&ScanFile>) -> Result<Vec<Rule>> {
        let Some(guide) = self.guide else { return Ok(vec![self.rule(sigma.to_vec())]) };
        let (multipliers, last) = self.multipliers(guide, layers, scan)?;
        let mut groups: Vec<(f64, Vec<usize>)> = Vec::new();
        for (layer, &multiplier) in multipliers.iter().enumerate().filter(|(_, m)| **m != 0.0) {
            match groups.iter_mut().find(|(other, _)| *other == multiplier) {
                Some((_, layers)) => layers.push(layer),
                None => groups.push((multiplier, vec![layer])),
            }
        }
        if groups.is_empty() {
            return Err(Error::config("`aqn.guide` leaves no layer any noise: the scan flags none"));
        }
        let scaled = |multiplier: f64| scale(sigma, multiplier, guide);
        let mut rules: Vec<Rule> = groups
            .into_iter()
            .map(|(multiplier, layers)| Rule {
                layers: Layers::List(layers),
                ..self.rule(scaled(multiplier))
            })
            .collect();
        if self.target == AqnTarget::RmsNorm && last != 0.0 {
            rules.push(Rule { modules: "model.norm".to_owned(), ..self.rule(scaled(last)) });
        }
        Ok(rules)
    }

    /// The rule for `target` in every layer.
    fn rule(&self, sigma: Vec<f64>) -> Rule {
        let rule = Rule::aqn(sigma);
        match self.target {
            AqnTarget::RmsNorm => rule,
            AqnTarget::Linear => {
                let exclude = ["lm_head", "*.mlp.gate", "*.mlp.shared_expert_gate", "*lora_*"]
                    .map(str::to_owned)
                    .to_vec();
                Rule { ops: Ops::Some(vec![Op::Linear]), exclude, ..rule }
            }
            AqnTarget::PostAttentionNorm => Rule { modules: "*.post_attention_layernorm".to_owned(), ..rule },
            // A rule for every layer; see `learned_rules`.
            AqnTarget::HiddenStates => rule,
        }
    }

    /// What multiplies sigma in every layer and in the norm after the last.
    fn multipliers(&self, guide: Guide, layers: usize, scan: Option<&ScanFile>) -> Result<(Vec<f64>, f64)> {
        let only = |chosen: &dyn Fn(usize) -> bool| {
            (0..layers).map(|layer| if chosen(layer) { 1.0 } else { 0.0 }).collect::<Vec<f64>>()
        };
        let depth = layers as f64;
        if guide == Guide::Depth {
            let (first, end) = ((0.4 * depth).floor() as usize, (0.6 * depth).ceil() as usize);
            return Ok((only(&|layer| (first..end).contains(&layer)), 0.0));
        }
        if guide == Guide::Zones {
            let edge = (EDGE * depth).ceil() as usize;
            let middle = |layer: usize| layer >= edge && layer + edge < layers;
            let zone = |layer| if middle(layer) { MIDDLE } else { 1.0 };
            return Ok(((0..layers).map(zone).collect(), 1.0));
        }
        let scan = scan.ok_or_else(|| {
            Error::config("this `aqn.guide` needs `aqn.scan`: the JSON of `hardy scan`, or \"auto\"")
        })?;
        if guide == Guide::Targeted {
            let flagged = scan.worst_layers(self.worst);
            return Ok((only(&|layer| flagged.contains(&layer)), 0.0));
        }
        let errors = scan.layer_errors();
        let mean = errors.iter().sum::<f64>() / depth;
        if errors.len() != layers || errors.iter().any(|error| !(*error > 0.0 && error.is_finite())) {
            return Err(Error::config(
                "`aqn.scan` has no error above 0 for every layer; scan with a coarser format",
            ));
        }
        let ratio = |error: &f64| if guide == Guide::Variable { error / mean } else { mean / error };
        Ok((errors.iter().map(ratio).collect(), 1.0))
    }

    /// Sigma at every step of a run.
    ///
    /// # Errors
    /// Sigmas, stages or epochs that make no schedule, or one that is 0 at every step of the run.
    pub fn sigmas(&self, total_steps: usize, steps_per_epoch: usize) -> Result<Vec<f64>> {
        let sigma_start = self.sigma_start;
        let end = || {
            self.sigma_end.ok_or_else(|| {
                Error::config("`aqn.sigma_end` is missing; only a constant schedule does without")
            })
        };
        let schedule = match self.schedule {
            AqnSchedule::Constant | AqnSchedule::Learned => {
                Schedule::Constant { sigma: sigma_start, total_steps }
            }
            AqnSchedule::Staged => {
                Schedule::Staged { sigma_start, sigma_end: end()?, stages: self.stages, total_steps }
            }
            AqnSchedule::EpochAware => Schedule::EpochAware {
                sigma_start,
                sigma_end: end()?,
                epochs: total_steps.div_ceil(steps_per_epoch),
                steps_per_epoch,
                stages_per_epoch: self.stages_per_epoch,
            },
        };
        schedule.validate().map_err(|error| Error::config(format!("[aqn]: {error}")))?;
        let sigmas = schedule.sigmas();
        if sigmas.iter().take(total_steps).all(|&sigma| sigma == 0.0) {
            return Err(self.silent(&sigmas, total_steps, steps_per_epoch));
        }
        Ok(sigmas)
    }

    /// What is wrong with a schedule that is 0 at every one of a run's `total_steps`.
    fn silent(&self, sigmas: &[f64], total_steps: usize, steps_per_epoch: usize) -> Error {
        let name = self.schedule.name();
        let first = sigmas.iter().position(|&sigma| sigma != 0.0);
        let remedy = match (self.schedule, first) {
            (AqnSchedule::Constant | AqnSchedule::Learned, _) => {
                "`aqn.sigma_start` is 0; give one above 0, or leave [aqn] out".to_owned()
            }
            (AqnSchedule::Staged, _) => "the first of its stages has no noise; take at least 2 steps".to_owned(),
            (AqnSchedule::EpochAware, Some(first)) => format!(
                "the first stage of an epoch of {steps_per_epoch} steps has no noise; take at least {} steps, or more \
                 `aqn.stages_per_epoch`",
                first + 1
            ),
            (AqnSchedule::EpochAware, None) => "the first stage of an epoch has no noise, and an epoch has no step beyond \
                 it; take more problems, fewer `train.prompts_per_step`, or the schedule \"staged\" or \"constant\""
                .to_owned(),
        };
        let steps = if total_steps == 1 {
            "the run's only step".to_owned()
        } else {
            format!("every one of the run's {total_steps} steps")
        };
        Error::config(format!(
            "[aqn]: the schedule \"{name}\" is 0 at {steps}, so there would be no noise: {remedy}"
        ))
    }
}

/// `sigma` times a multiplier, which in zones begins at half of the steps.
fn scale(sigma: &[f64], multiplier: f64, guide: Guide) -> Vec<f64> {
    let from = if guide == Guide::Zones { sigma.len() / 2 } else { 0 };
    let at = |(step, sigma): (usize, &f64)| if step >= from { sigma * multiplier } else { *sigma };
    sigma.iter().enumerate().map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan_file::{Recommendation, ScanRow, Thresholds, What};

    fn section(guide: Guide) -> AqnSection {
        let text = "schedule = \"constant\"\nsigma = 0.1\n";
        AqnSection { guide: Some(guide), ..toml::from_str(text).unwrap() }
    }

    /// A scan of four layers, of which the last two are flagged.
    fn scan() -> ScanFile {
        let row = |layer: usize| ScanRow {
            module: format!("model.layers.{layer}.mlp.up_proj"),
            layer: Some(layer),
            what: What::Activation,
            elements: 1,
            sqnr_db: Some(30.0),
            relative_error: [0.02, 0.04, 0.2, 0.14][layer],
            relative_rms: 0.0,
            dead_zone: 0.0,
            saturation: 0.0,
            reasons: Vec::new(),
        };
        ScanFile {
            model: "m".into(),
            fingerprint: "f".into(),
            format: "mxfp4".into(),
            precision: hardy_numerics::Precision::F32,
            layers: 4,
            thresholds: Thresholds {
                min_sqnr_db: 20.0,
                max_dead_zone: 0.05,
                max_saturation: 0.01,
                max_relative_error: 0.1,
            },
            flagged_layers: vec![2, 3],
            recommendation: Recommendation::MixedPrecision,
            rows: (0..4).map(row).collect(),
        }
    }

    /// The sigma of every layer at a step.
    fn sigmas(guide: Guide, step: usize) -> Vec<f64> {
        let rules = section(guide).rules(&[0.1; 4], 4, Some(&scan())).unwrap();
        let of = |layer: usize| {
            let own = |rule: &&Rule| matches!(&rule.layers, Layers::List(list) if list.contains(&layer));
            rules.iter().find(own).map_or(0.0, |rule| rule.schedule.as_ref().unwrap()[step])
        };
        (0..4).map(of).collect()
    }

    fn close(found: &[f64], right: &[f64]) {
        assert!(found.iter().zip(right).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?}, not {right:?}");
    }

    #[test]
    fn every_guide_gives_layers_their_own_sigma() {
        close(&sigmas(Guide::Targeted, 0), &[0.0, 0.0, 0.1, 0.1]);
        close(&sigmas(Guide::Variable, 0), &[0.02, 0.04, 0.2, 0.14]);
        close(&sigmas(Guide::Inverse, 0), &[0.5, 0.25, 0.05, 0.1 / 1.4]);
        close(&sigmas(Guide::Depth, 0), &[0.0, 0.1, 0.1, 0.0]);
        close(&sigmas(Guide::Zones, 1), &[0.1; 4]);
        close(&sigmas(Guide::Zones, 2), &[0.1, 0.01, 0.01, 0.1]);
    }

    #[test]
    fn only_the_worst_of_the_flagged_layers_can_be_asked_for() {
        let aqn = AqnSection { worst: Some(1), ..section(Guide::Targeted) };
        let rules = aqn.rules(&[0.1], 4, Some(&scan())).unwrap();
        assert_eq!(rules.len(), 1);
        assert_eq!(rules[0].layers, Layers::List(vec![2]));
    }

    #[test]
    fn a_schedule_that_is_0_at_every_step_of_the_run_is_refused() {
        let aqn = |schedule, sigma_start| AqnSection {
            schedule,
            sigma_start,
            sigma_end: Some(0.001),
            guide: None,
            ..section(Guide::Depth)
        };
        let refused =
            |aqn: &AqnSection, steps, per_epoch| aqn.sigmas(steps, per_epoch).unwrap_err().to_string();
        let zero = refused(&aqn(AqnSchedule::Constant, 0.0), 5, 5);
        assert!(
            zero.contains("\"constant\" is 0 at every one of the run's 5 steps")
                && zero.contains("sigma_start"),
            "{zero}"
        );
        let staged = aqn(AqnSchedule::Staged, 0.05);
        assert!(refused(&staged, 1, 1).contains("\"staged\" is 0 at the run's only step"));
        assert!(staged.sigmas(2, 2).is_ok());
        let epochs = aqn(AqnSchedule::EpochAware, 0.05);
        let short = refused(&epochs, 4, 24);
        assert!(
            short.contains("\"epoch_aware\" is 0 at every one of the run's 4 steps")
                && short.contains("at least 5 steps"),
            "{short}"
        );
        assert!(epochs.sigmas(5, 24).is_ok());
        assert!(refused(&epochs, 6, 1).contains("fewer `train.prompts_per_step`"));
    }

    #[test]
    fn a_guide_without_its_scan_is_refused() {
        let message = section(Guide::Variable).rules(&[0.1], 4, None).unwrap_err().to_string();
        assert!(message.contains("aqn.scan"), "{message}");
        assert!(section(Guide::Depth).rules(&[0.1], 4, None).is_ok());
    }

    #[test]
    fn noise_on_linear_weights_leaves_out_the_head_and_the_router() {
        let aqn = AqnSection { target: AqnTarget::Linear, guide: None, ..section(Guide::Depth) };
        let rule = aqn.rules(&[0.1], 4, None).unwrap().remove(0);
        let site =
            |module: &str| hardy_ops::Site { module: module.to_owned(), op: Op::Linear, layer: Some(0) };
        assert!(rule.selects(&site("model.layers.0.mlp.up_proj")));
        for other in [
            "lm_head",
            "model.layers.0.mlp.gate",
            "model.layers.0.mlp.shared_expert_gate",
            "model.layers.0.mlp.up_proj.lora_A",
        ] {
            assert!(!rule.selects(&site(other)), "{other}");
        }
    }
}
