//! The method judged on known truth: faults of every kind and strength planted at sites drawn at random, and healthy machines,
//! also such as compute in fewer bits, each on texts of its own. The looks are a list that several machines can share; what they
//! saw is counted when all of it is there.

use std::path::PathBuf;

use hardy_model::{Blueprint, Decoder, ModelConfig, Qwen2Sizes};
use hardy_numerics::formats::Format;
use hardy_ops::{NoisyBackend, Op, Ops, Point, Rule};
use hardy_train::{data::Problem, error::Error, policy::Policy, sft::initial_weights, splitmix};
use serde::{Deserialize, Serialize};

use super::{
    Find,
    strength::{STRENGTHS, Strength},
};
use crate::{
    error::LabError,
    setting::Setting,
    shard::{Allow, CellsFile, Manifest, Shard, join_cells},
    statistics::{CONFIDENCE, Interval, wilson},
};

/// What shards of a judgement are shards of.
pub const KIND: &str = "find";
/// Layers of the model with random weights.
const DEEP: usize = 12;

/// A machine that is healthy.
struct Healthy {
    /// What it is called after the model's name.
    name: &'static str,
    /// What it does to every number.
    rules: fn() -> Vec<Rule>,
}

/// They differ in the formats that they compute in.
const MACHINES: [Healthy; 3] = [
    Healthy { name: "", rules: Vec::new },
    Healthy { name: ", all in BF16", rules: all_in_bf16 },
    Healthy { name: ", products of MXFP4", rules: products_of_mxfp4 },
];

fn all_in_bf16() -> Vec<Rule> {
    vec![Rule { ops: Ops::All, at: Point::Output, error: Format::Bf16.into(), ..Rule::noise(0.0) }]
}

fn products_of_mxfp4() -> Vec<Rule> {
    let rule =
        |at| Rule { ops: Ops::Some(vec![Op::Linear]), at, error: Format::Mxfp4.into(), ..Rule::noise(0.0) };
    [Point::Weight, Point::Input].map(rule).to_vec()
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
    /// Healthy machines that were blamed, by model and format.
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
    let mut config = ModelConfig::qwen2(&sizes).map_err(Error::from)?;
    config.eos_token_ids.clone_from(&own.eos_token_ids);
    let blueprint = Blueprint::new(&config);
    let tensors = initial_weights(&blueprint, 1);
    let decoder = Decoder::from_host(blueprint, tensors, device);
    Ok(Policy { decoder, ..like.clone() }.in_precision(like.decoder.blueprint.precision))
}

/// How the method is judged: faults of every kind and strength in every model, and looks at healthy machines.
#[derive(Debug)]
pub struct Judge<'a, B: NoisyBackend> {
    /// The models, by their names.
    pub models: &'a [(String, &'a Policy<B>)],
    /// What the texts are taken from.
    pub problems: &'a [Problem],
    /// How often it looks.
    pub looks: Looks,
    /// Texts that every look reads.
    pub texts: usize,
    /// The seed of what is planted.
    pub seed: u64,
}

/// How often every model is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Looks {
    /// Placements of every kind and strength.
    pub placements: usize,
    /// Looks at every healthy machine.
    pub healthy: usize,
}

/// One look at a model.
#[derive(Clone, Copy, Debug)]
struct Look {
    model: usize,
    machine: Machine,
    /// Which of those at this machine.
    k: usize,
}

/// The state of a machine, by its number.
#[derive(Clone, Copy, Debug)]
enum Machine {
    Healthy(usize),
    /// With a fault of this strength planted.
    Faulty(usize),
}

impl Looks {
    /// All looks at `models` models, in the order in which they are counted: model by model, healthy machines first.
    fn all(self, models: usize) -> impl Iterator<Item = Look> {
        let healthy = (0..MACHINES.len()).map(move |machine| (Machine::Healthy(machine), self.healthy));
        let faulty = (0..STRENGTHS.len()).map(move |strength| (Machine::Faulty(strength), self.placements));
        let of = move |model: usize, (machine, n): (Machine, usize)| {
            (0..n).map(move |k| Look { model, machine, k })
        };
        let of_model = move |model| healthy.clone().chain(faulty.clone()).flat_map(move |one| of(model, one));
        (0..models).flat_map(of_model)
    }

    /// How many looks there are at `models` models.
    #[must_use]
    pub fn cells(self, models: usize) -> usize {
        self.all(models).count()
    }

    /// How many different texts the looks at one machine read, if each reads `texts`.
    #[must_use]
    pub fn problems(self, texts: usize) -> usize {
        texts.saturating_mul(self.placements.max(self.healthy))
    }
}

/// What came of one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// A fault was planted and changed something.
    took_effect: bool,
    /// Anything was blamed.
    blamed: bool,
    /// The right layer was.
    layer: bool,
    /// The right layer or a neighbour was.
    near: bool,
    /// The very site was.
    site: bool,
}

impl Seen {
    fn new(report: &super::FindReport) -> Self {
        let injected = report.injected.as_ref().filter(|injected| injected.took_effect());
        let (layer, site) = report.hit().unwrap_or_default();
        let apart = |own: &Option<usize>| Some(own.as_ref()?.abs_diff(report.blamed()?.layer?));
        let neighbour = |own| apart(own).is_some_and(|apart| apart <= 1);
        Self {
            took_effect: injected.is_some(),
            blamed: report.blamed().is_some(),
            layer,
            near: layer || injected.is_some_and(|injected| injected.layers.iter().any(neighbour)),
            site,
        }
    }
}

impl<B: NoisyBackend> Judge<'_, B> {
    /// Takes all looks, or those of `share`, in order; `progress` is told how many are done, and of how many.
    ///
    /// # Errors
    /// Text that a model can not read.
    pub fn look(
        &self,
        share: Option<Shard>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<Seen>, LabError> {
        let all = self.looks.all(self.models.len()).enumerate();
        let own: Vec<Look> = all
            .filter(|(place, _)| share.is_none_or(|share| share.has(*place)))
            .map(|(_, look)| look)
            .collect();
        let one = |(done, look): (usize, &Look)| {
            let seen = self.at(*look)?;
            progress(done + 1, own.len());
            Ok(seen)
        };
        own.iter().enumerate().map(one).collect()
    }

    fn at(&self, Look { model, machine, k }: Look) -> Result<Seen, LabError> {
        let (number, policy) = (model as u64, self.models[model].1);
        let first = (k * self.texts) % (self.problems.len().saturating_sub(self.texts) + 1);
        let problems = &self.problems[first..(first + self.texts).min(self.problems.len())];
        let find = Find {
            setting: Setting { policy, problems, wording: "{question}" },
            passes: 3,
            seed: splitmix::hash(&[self.seed, number, k as u64]),
            rules: &[],
        };
        let report = match machine {
            Machine::Healthy(machine) => Find { rules: &(MACHINES[machine].rules)(), ..find }.run(None)?,
            Machine::Faulty(which) => {
                let drawn = splitmix::hash(&[self.seed, number, which as u64, k as u64]);
                find.run(Some(&find.plant(&STRENGTHS[which], drawn)?))?
            }
        };
        Ok(Seen::new(&report))
    }
}

/// What the looks of a judgement are at.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Judged {
    models: Vec<String>,
    looks: Looks,
}

impl Judgement {
    /// What all looks at `models` together say.
    ///
    /// # Errors
    /// If there are not as many of them as [`Looks::cells`] says.
    pub fn of(models: &[String], looks: Looks, seen: &[Seen]) -> Result<Self, LabError> {
        let wanted = looks.cells(models.len());
        if seen.len() != wanted || seen.is_empty() {
            return Err(
                Error::config(format!("{} looks are no judgement, which has {wanted}", seen.len())).into()
            );
        }
        let Looks { placements, healthy } = looks;
        let mut judgement = Self { placements, faults: Vec::new(), false_alarms: Vec::new() };
        for (name, seen) in models.iter().zip(seen.chunks(wanted / models.len())) {
            let (well, planted) = seen.split_at(healthy * MACHINES.len());
            for (Healthy { name: format, .. }, seen) in MACHINES.iter().zip(well.chunks(healthy)) {
                let alarms = seen.iter().filter(|seen| seen.blamed).count();
                judgement.false_alarms.push((format!("{name}{format}"), Rate::new(alarms, healthy)));
            }
            let judged = STRENGTHS.iter().zip(planted.chunks(placements));
            judgement.faults.extend(judged.map(|(strength, seen)| judged_fault(name, strength, seen)));
        }
        Ok(judgement)
    }

    /// The file of a share of the looks at `models`.
    ///
    /// # Errors
    /// Never, but for a look that has no JSON form.
    pub fn share(
        models: &[String],
        looks: Looks,
        manifest: Manifest,
        seen: &[Seen],
    ) -> Result<CellsFile, LabError> {
        let judged = serde_json::to_value(Judged { models: models.to_vec(), looks });
        CellsFile::new(manifest, judged.unwrap_or_default(), seen)
    }

    /// The judgement of which `paths` are the shares.
    ///
    /// # Errors
    /// Files that are not all the shares of one judgement, each once.
    pub fn merge(paths: &[PathBuf], allow: Allow) -> Result<Self, LabError> {
        let joined = join_cells(paths, allow)?;
        let judged = Judged::deserialize(&joined.common)
            .map_err(|error| Error::config(format!("the shards are of no judgement: {error}")))?;
        Self::of(&judged.models, judged.looks, &joined.results()?)
    }
}

fn judged_fault(model: &str, strength: &Strength, seen: &[Seen]) -> JudgedFault {
    let effective: Vec<&Seen> = seen.iter().filter(|seen| seen.took_effect).collect();
    let rate =
        |of: fn(&Seen) -> bool| Rate::new(effective.iter().filter(|seen| of(seen)).count(), effective.len());
    JudgedFault {
        model: model.to_owned(),
        fault: strength.words(),
        published: strength.published,
        without_effect: seen.len() - effective.len(),
        detected: rate(|seen| seen.blamed),
        layer: rate(|seen| seen.layer),
        near: rate(|seen| seen.near),
        site: rate(|seen| seen.site),
    }
}
