//! The method judged on known truth: faults of every kind and strength planted at sites drawn at random, and healthy machines on
//! as many texts. Strengths are relative to what a site gives, as the reports of the method give theirs.

use hardy_model::{Blueprint, Decoder, ModelConfig, Qwen2Sizes};
use hardy_numerics::{Options, Perturbation};
use hardy_ops::{NoisyBackend, Ops, Point, Rule, Site};
use hardy_train::{data::Problem, policy::Policy, sft::initial_weights, splitmix};
use serde::{Deserialize, Serialize};

use super::{Fault, Find, machine::Machine};
use crate::{
    error::LabError,
    setting::Setting,
    statistics::{CONFIDENCE, Interval, wilson},
};

/// Layers of the model with random weights.
const DEEP: usize = 12;

/// A kind and a strength.
#[derive(Clone, Copy, Debug)]
struct Strength {
    kind: &'static str,
    /// Its scale or value over the largest output of the site; of spikes too.
    of_largest: f64,
    /// The probability, of kinds that have one.
    rate: Option<f64>,
    /// The share of channels.
    sparsity: f64,
    /// Whether the reports of the method give this strength.
    published: bool,
}

/// What is planted. Reports of the method (SRDD) use a dead zone of 0.3 and saturation at 0.7 of the largest value, dense and in a
/// tenth of the values; they find dense ones and sparse dead zones, and miss sparse saturation and bias.
const STRENGTHS: &[Strength] = &[
    of("dead_zone", 0.3, None, 1.0, true),
    of("dead_zone", 0.3, None, 0.1, true),
    of("dead_zone", 0.02, None, 0.25, false),
    of("saturation", 0.7, None, 1.0, true),
    of("saturation", 0.7, None, 0.1, false),
    of("saturation", 0.3, None, 0.1, false),
    of("bias", 0.05, None, 1.0, false),
    of("bias", 0.05, None, 0.1, false),
    of("stuck", 0.1, None, 0.05, false),
    of("spike", 1.0, Some(1e-3), 1.0, false),
    of("bit_flip", 0.0, Some(1e-5), 1.0, false),
    of("burst_flip", 0.0, Some(1e-2), 1.0, false),
];

const fn of(
    kind: &'static str,
    of_largest: f64,
    rate: Option<f64>,
    sparsity: f64,
    published: bool,
) -> Strength {
    Strength { kind, of_largest, rate, sparsity, published }
}

impl Strength {
    fn error(&self, largest: f64) -> Result<Perturbation, LabError> {
        let magnitude = self.of_largest * largest;
        let takes = Options::taken_by(self.kind).unwrap_or_default();
        let options = Options {
            kind: self.kind.to_owned(),
            scale: (takes.contains(&"scale") && self.kind != "stuck").then_some(magnitude),
            value: (self.kind == "stuck").then_some(magnitude),
            rate: self.rate,
            sparsity: Some(self.sparsity),
            ..Options::default()
        };
        options.perturbation().map_err(|wrong| hardy_train::error::Error::config(wrong.to_string()).into())
    }

    fn words(&self) -> String {
        let strength = match self.rate {
            Some(rate) if self.of_largest == 0.0 => format!("rate {rate:e}"),
            Some(rate) => format!("{} of the largest, rate {rate:e}", self.of_largest),
            None => format!("{} of the largest", self.of_largest),
        };
        format!("{} {strength}, {} % of channels", self.kind, 100.0 * self.sparsity)
    }
}

/// Hits among so many, with Wilson's 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// How many.
    pub hits: usize,
    /// Of how many.
    pub of: usize,
    /// Of the share.
    pub interval: Interval,
}

impl Rate {
    fn new(hits: usize, of: usize) -> Self {
        let interval = match of {
            0 => Interval { low: 0.0, high: 1.0 },
            _ => wilson(hits as u64, of as u64, CONFIDENCE),
        };
        Self { hits, of, interval }
    }

    /// Hits over all; NaN of none.
    #[must_use]
    pub fn share(&self) -> f64 {
        self.hits as f64 / self.of as f64
    }
}

/// One kind and strength in one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgedFault {
    /// The model.
    pub model: String,
    /// The kind and strength in words.
    pub fault: String,
    /// Whether the reports of the method give this strength.
    pub published: bool,
    /// Placements that changed nothing, and are in no rate.
    pub without_effect: usize,
    /// Anything was blamed.
    pub detected: Rate,
    /// The right layer was blamed.
    pub layer: Rate,
    /// The right layer or a neighbour was.
    pub near: Rate,
    /// The very site was.
    pub site: Rate,
}

/// Everything that was judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// Placements of every kind and strength in every model.
    pub placements: usize,
    /// The kinds and strengths.
    pub faults: Vec<JudgedFault>,
    /// Healthy machines that were blamed, model by model.
    pub false_alarms: Vec<(String, Rate)>,
}

/// A model of twelve layers with random weights and the tokenizer of `like`.
///
/// # Errors
/// A model that can not be made so.
pub fn random_model<B: NoisyBackend>(like: &Policy<B>, device: &B::Device) -> Result<Policy<B>, LabError> {
    let own = &like.decoder.blueprint.config;
    let sizes = Qwen2Sizes {
        vocab_size: own.vocab_size,
        hidden_size: 96,
        intermediate_size: 256,
        layers: DEEP,
        heads: 4,
        kv_heads: 2,
        max_positions: own.max_positions,
        rope_theta: 10_000.0,
        tied_embeddings: true,
        initializer_range: 0.08,
    };
    let mut config = ModelConfig::qwen2(&sizes).map_err(hardy_train::error::Error::from)?;
    config.eos_token_ids.clone_from(&own.eos_token_ids);
    let blueprint = Blueprint::new(&config);
    let tensors = initial_weights(&blueprint, 1);
    Ok(Policy { decoder: Decoder::from_host(blueprint, tensors, device), ..like.clone() })
}

/// Plants `placements` faults of every kind and strength in every model, and looks at as many healthy machines. Every look reads
/// `texts` of the problems. `progress` is told how many looks are done, and of how many.
///
/// # Errors
/// Text that a model can not read.
pub fn judge<B: NoisyBackend>(
    models: &[(String, &Policy<B>)],
    problems: &[Problem],
    (placements, texts, seed): (usize, usize, u64),
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Judgement, LabError> {
    let total = models.len() * placements * (STRENGTHS.len() + 1);
    let mut done = 0;
    let mut tick = || {
        done += 1;
        progress(done, total);
    };
    let mut judgement = Judgement { placements, faults: Vec::new(), false_alarms: Vec::new() };
    for (number, (name, policy)) in models.iter().enumerate() {
        let of_texts = |k: usize| {
            let first = (k * texts) % (problems.len().saturating_sub(texts) + 1);
            &problems[first..(first + texts).min(problems.len())]
        };
        let find = |k: usize| Find {
            setting: Setting { policy, problems: of_texts(k), wording: "{question}" },
            passes: 3,
            seed: splitmix::hash(&[seed, number as u64, k as u64]),
        };
        let mut alarms = 0;
        for k in 0..placements {
            alarms += usize::from(find(k).run(None)?.blamed().is_some());
            tick();
        }
        judgement.false_alarms.push((name.clone(), Rate::new(alarms, placements)));
        for (which, strength) in STRENGTHS.iter().enumerate() {
            let mut tally = Tally::default();
            for k in 0..placements {
                let drawn = splitmix::hash(&[seed, number as u64, which as u64, k as u64]);
                let find = find(k);
                tally.add(&find.run(Some(&find.plant(strength, drawn)?))?);
                tick();
            }
            judgement.faults.push(tally.judged(name, strength));
        }
    }
    Ok(judgement)
}

impl<B: NoisyBackend> Find<'_, B> {
    /// A fault at a site of a layer drawn by `drawn`.
    fn plant(&self, strength: &Strength, drawn: u64) -> Result<Fault, LabError> {
        let decoder = &self.setting.policy.decoder;
        let sites: Vec<(usize, &Site)> =
            decoder.blueprint.sites.iter().enumerate().filter(|(_, site)| site.layer.is_some()).collect();
        let (index, site) = sites[(drawn % sites.len() as u64) as usize];
        let healthy = Machine::new(decoder, &self.setting.worked()?).pass(&hardy_ops::Noise::clean(), None);
        let values = healthy.outputs.get(&index).into_iter().flat_map(|output| output.rows.iter().flatten());
        let largest = values.fold(0.0_f32, |max, x| max.max(x.abs()));
        let error = strength.error(f64::from(largest))?;
        let rule = Rule {
            ops: Ops::Some(vec![site.op]),
            at: Point::Output,
            modules: site.module.clone(),
            error,
            ..Rule::noise(0.0)
        };
        Ok(Fault { written: format!("{} at {}", strength.words(), site.module), rule })
    }
}

/// What came of the placements of one strength.
#[derive(Default)]
struct Tally {
    without_effect: usize,
    effective: usize,
    detected: usize,
    layer: usize,
    near: usize,
    site: usize,
}

impl Tally {
    fn add(&mut self, report: &super::FindReport) {
        let Some(injected) = report.injected.as_ref().filter(|injected| injected.took_effect()) else {
            self.without_effect += 1;
            return;
        };
        self.effective += 1;
        let Some(blamed) = report.blamed() else { return };
        self.detected += 1;
        let (layer, site) = report.hit().unwrap_or_default();
        self.layer += usize::from(layer);
        self.site += usize::from(site);
        let apart = |own: &Option<usize>| Some(own.as_ref()?.abs_diff(blamed.layer?));
        let near = injected.layers.iter().any(|own| layer || apart(own).is_some_and(|apart| apart <= 1));
        self.near += usize::from(near);
    }

    fn judged(&self, model: &str, strength: &Strength) -> JudgedFault {
        let rate = |hits| Rate::new(hits, self.effective);
        JudgedFault {
            model: model.to_owned(),
            fault: strength.words(),
            published: strength.published,
            without_effect: self.without_effect,
            detected: rate(self.detected),
            layer: rate(self.layer),
            near: rate(self.near),
            site: rate(self.site),
        }
    }
}
