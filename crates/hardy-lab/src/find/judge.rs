//! The method judged on known truth: faults of every kind and strength planted at sites drawn at random, and healthy machines on
//! as many texts. The looks are a list that several machines can share; what they saw is counted when all of it is there.

use std::path::PathBuf;

use hardy_model::{Blueprint, Decoder, ModelConfig, Qwen2Sizes};
use hardy_ops::NoisyBackend;
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
    let mut config = ModelConfig::qwen2(&sizes).map_err(Error::from)?;
    config.eos_token_ids.clone_from(&own.eos_token_ids);
    let blueprint = Blueprint::new(&config);
    let tensors = initial_weights(&blueprint, 1);
    Ok(Policy { decoder: Decoder::from_host(blueprint, tensors, device), ..like.clone() })
}

/// How the method is judged: `placements` faults of every kind and strength in every model, and looks at as many healthy machines.
#[derive(Debug)]
pub struct Judge<'a, B: NoisyBackend> {
    /// The models, by their names.
    pub models: &'a [(String, &'a Policy<B>)],
    /// What the texts are taken from.
    pub problems: &'a [Problem],
    /// Placements of every kind and strength in every model.
    pub placements: usize,
    /// Texts that every look reads.
    pub texts: usize,
    /// The seed of what is planted.
    pub seed: u64,
}

/// One look: at a model, healthy or with a fault of one strength planted.
#[derive(Clone, Copy, Debug)]
struct Look {
    model: usize,
    /// `None`: healthy.
    strength: Option<usize>,
    /// Which of the placements.
    k: usize,
}

/// All looks at `models` models, in the order in which they are counted: model by model, healthy ones first.
fn looks(models: usize, placements: usize) -> impl Iterator<Item = Look> {
    let strengths = || std::iter::once(None).chain((0..STRENGTHS.len()).map(Some));
    let of = move |model, strength| (0..placements).map(move |k| Look { model, strength, k });
    (0..models).flat_map(move |model| strengths().flat_map(move |strength| of(model, strength)))
}

/// How many looks there are at `models` models.
#[must_use]
pub fn cells(models: usize, placements: usize) -> usize {
    looks(models, placements).count()
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
        let all = looks(self.models.len(), self.placements).enumerate();
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

    fn at(&self, Look { model, strength, k }: Look) -> Result<Seen, LabError> {
        let (number, policy) = (model as u64, self.models[model].1);
        let first = (k * self.texts) % (self.problems.len().saturating_sub(self.texts) + 1);
        let problems = &self.problems[first..(first + self.texts).min(self.problems.len())];
        let find = Find {
            setting: Setting { policy, problems, wording: "{question}" },
            passes: 3,
            seed: splitmix::hash(&[self.seed, number, k as u64]),
        };
        let plant = |which: usize| {
            let drawn = splitmix::hash(&[self.seed, number, which as u64, k as u64]);
            find.plant(&STRENGTHS[which], drawn)
        };
        Ok(Seen::new(&find.run(strength.map(plant).transpose()?.as_ref())?))
    }
}

/// What the looks of a judgement are at.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Judged {
    models: Vec<String>,
    placements: usize,
}

impl Judgement {
    /// What all looks at `models` together say.
    ///
    /// # Errors
    /// If there are not as many of them as [`cells`] says.
    pub fn of(models: &[String], placements: usize, seen: &[Seen]) -> Result<Self, LabError> {
        let wanted = cells(models.len(), placements);
        if seen.len() != wanted || seen.is_empty() {
            return Err(
                Error::config(format!("{} looks are no judgement, which has {wanted}", seen.len())).into()
            );
        }
        let mut judgement = Self { placements, faults: Vec::new(), false_alarms: Vec::new() };
        for (name, seen) in models.iter().zip(seen.chunks(wanted / models.len())) {
            let (healthy, planted) = seen.split_at(placements);
            let alarms = healthy.iter().filter(|seen| seen.blamed).count();
            judgement.false_alarms.push((name.clone(), Rate::new(alarms, placements)));
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
        placements: usize,
        manifest: Manifest,
        seen: &[Seen],
    ) -> Result<CellsFile, LabError> {
        let judged = serde_json::to_value(Judged { models: models.to_vec(), placements });
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
        Self::of(&judged.models, judged.placements, &joined.results()?)
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
