//! Finding a faulty machine without a reference (self-referential diagnosis, SRDD): the machine's own layers are each other's
//! reference, and so are its own answers to the same question.
//!
//! | check | asks | sees |
//! |---|---|---|
//! | stability | the same pass again, bit for bit | what strikes by chance: spikes, flipped bits, noise |
//! | response | a small disturbance of the input: which outputs do not move at all, and share one value | dead zones, saturation, stuck channels, truncation |
//! | sums | the rows of a softmax add up to 1, the embedding gives its table | any fault there |
//! | symmetry | `f(−x) = −f(x)` of products and norms, `f(0) = 0` and `f(x) − f(−x) = x` of SiLU and GELU, nothing for no query | offsets |
//! | scaling | `f(kx) = k·f(x)` of products beyond the largest values of the text, and what a norm makes of a single value | saturation that is hardly met |
//!
//! Layer by layer the scan also gives the gain (the growth of the disturbance), the smallest share of a channel's values that
//! move, and the kurtosis. A site is blamed where a check stands out from the same module in the other layers; of several the
//! first in the forward pass, since what follows a fault looks wrong too. What is deterministic and keeps every one of these
//! relations, such as a product that is everywhere a little too large, can not be found so: only the hash of a good machine's
//! pass tells it ([`FindReport::hash`]).

mod asker;
mod checks;
mod inject;
pub mod judge;
mod machine;
mod scaling;
mod strength;
mod symmetry;
pub mod table;

use hardy_numerics::Precision;
use hardy_ops::{NoisyBackend, Op, Phase, Plan, Rule, Site};
use serde::{Deserialize, Serialize};

pub use inject::{Fault, Injected};

use self::{
    asker::Asker,
    checks::{Scores, kurtosis, responses, stability, sums},
    machine::{Machine, Snapshot},
    scaling::misscaled,
    symmetry::asymmetries,
};
use crate::{error::LabError, setting::Setting};

/// The disturbance, as a share of every value of the embedding.
const DISTURBANCE: f64 = 0.01;

/// How a machine is looked at.
#[derive(Debug)]
pub struct Find<'a, B: NoisyBackend> {
    /// The model, and the text that goes through it.
    pub setting: Setting<'a, B>,
    /// The same pass so many times; at least 2.
    pub passes: usize,
    /// The seed of what is injected.
    pub seed: u64,
    /// What the machine does to numbers though it is healthy, such as their format.
    pub rules: &'a [Rule],
}

/// What was seen of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerScan {
    /// The layer.
    pub layer: usize,
    /// The growth of a disturbance from its input to its output.
    pub gain: f64,
    /// The smallest share of a channel's outputs that move with the disturbance, over the layer's sites.
    pub least_moving: f64,
    /// The kurtosis of what the layer gives on; 3 of a normal distribution.
    pub kurtosis: f64,
    /// The share of its sites' outputs that differ from pass to pass.
    pub unstable: f64,
    /// Channels of its sites that never move.
    pub dead_channels: usize,
    /// Channels of its sites whose largest value stands still in several places.
    pub saturated_channels: usize,
}

/// A site that stands out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The module.
    pub site: String,
    /// Its operator.
    pub op: Op,
    /// The layer; `None` outside of the layers.
    pub layer: Option<usize>,
    /// The check that it failed.
    pub check: Check,
    /// What the check found there.
    pub score: f64,
    /// The median of the same module in other layers.
    pub usual: f64,
    /// What kind of fault looks like this.
    pub looks_like: String,
}

/// What a machine can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// The same pass gives the same bits.
    Stability,
    /// Outputs move with a disturbance.
    Response,
    /// Probabilities add up, tables are given as they are.
    Sums,
    /// Operators keep their symmetries.
    Symmetry,
    /// Operators grow as they must.
    Scaling,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FindReport {
    /// The model, as it was named.
    pub model: String,
    /// The arithmetic of its products.
    #[serde(default)]
    pub precision: Precision,
    /// Texts that went through it.
    pub n: usize,
    /// Tokens of them.
    pub tokens: usize,
    /// The fault that was planted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub injected: Option<Injected>,
    /// Every layer.
    pub layers: Vec<LayerScan>,
    /// The site that is blamed, first, and others that stand out.
    pub findings: Vec<Finding>,
    /// The hash of the first pass's log-probabilities, hidden states and outputs: 16 hexadecimal digits.
    pub hash: String,
    /// Whether every pass gave the same hash.
    pub reproduced: bool,
}

impl FindReport {
    /// The site that is blamed.
    #[must_use]
    pub fn blamed(&self) -> Option<&Finding> {
        self.findings.first()
    }

    /// Whether the planted fault's layer, and its very site, was blamed; `None` where none was planted.
    #[must_use]
    pub fn hit(&self) -> Option<(bool, bool)> {
        let injected = self.injected.as_ref()?;
        let Some(blamed) = self.blamed() else { return Some((false, false)) };
        let layer = injected.layers.contains(&blamed.layer);
        Some((layer, injected.sites.contains(&blamed.site)))
    }
}

impl<B: NoisyBackend> Find<'_, B> {
    /// Looks at the machine, with `fault` planted where there is one.
    ///
    /// # Errors
    /// A fault that fits no site, or text that the model can not read.
    pub fn run(&self, fault: Option<&Fault>) -> Result<FindReport, LabError> {
        let decoder = &self.setting.policy.decoder;
        let plan = Plan {
            rules: self.rules.iter().chain(fault.map(|fault| &fault.rule)).cloned().collect(),
            seed: self.seed,
            ..Plan::default()
        };
        let bound = crate::evaluate::bind("the fault", &plan, &decoder.blueprint.sites)?;
        let sequences = self.setting.worked()?;
        let machine = Machine::new(decoder, &sequences);
        let noise = |step| bound.noise(Phase::Eval, step);
        let first = machine.pass(&noise(0), None);
        let mut unstable = Scores::new();
        let mut reproduced = true;
        for pass in 1..self.passes.max(2) {
            let again = machine.pass(&noise(pass as u64), None);
            reproduced &= again.hash == first.hash;
            unstable.merge(stability(&first, &again));
        }
        let moved = machine.pass(&noise(0), Some(DISTURBANCE));
        let silent = responses(&first, &moved, &decoder.blueprint.sites);
        let sums = sums(decoder, &first);
        let sites = &decoder.blueprint.sites;
        // Before single operators are asked what the text does not: a fault that strikes only there did nothing to it.
        let injected = fault.map(|fault| fault.injected(&bound, sites));
        let errors = noise(0);
        let asker = Asker::new(decoder, &errors);
        let symmetry = asymmetries(&asker);
        let scaling = misscaled(&asker, &first);
        let by_check = [
            (Check::Stability, &unstable),
            (Check::Response, &silent.groups),
            (Check::Sums, &sums),
            (Check::Symmetry, &symmetry),
            (Check::Scaling, &scaling),
        ];
        let findings = findings(sites, &by_check);
        let layers = (0..decoder.layers()).map(|layer| LayerScan {
            layer,
            gain: gain(&first, &moved, layer),
            least_moving: least(sites, layer, &silent.least_moving),
            kurtosis: kurtosis(&first.states[layer + 1]),
            unstable: largest(sites, layer, &unstable),
            dead_channels: count(sites, layer, &silent.dead),
            saturated_channels: count(sites, layer, &silent.saturated),
        });
        Ok(FindReport {
            model: String::new(),
            precision: decoder.blueprint.precision,
            n: sequences.len(),
            tokens: machine.tokens(),
            injected,
            layers: layers.collect(),
            findings,
            hash: format!("{:016x}", first.hash),
            reproduced,
        })
    }
}

/// The growth of the disturbance through a layer.
fn gain(first: &Snapshot, moved: &Snapshot, layer: usize) -> f64 {
    let change = |at: usize| {
        let pairs = first.states[at].iter().zip(&moved.states[at]);
        pairs.map(|(a, b)| f64::from(b - a).powi(2)).sum::<f64>().sqrt()
    };
    change(layer + 1) / change(layer)
}

fn of_layer<'a>(sites: &'a [Site], layer: usize, scores: &'a Scores) -> impl Iterator<Item = f64> + 'a {
    let own = sites.iter().enumerate().filter(move |(_, site)| site.layer == Some(layer));
    own.filter_map(|(site, _)| scores.get(site))
}

fn largest(sites: &[Site], layer: usize, scores: &Scores) -> f64 {
    of_layer(sites, layer, scores).fold(0.0, f64::max)
}

fn least(sites: &[Site], layer: usize, scores: &Scores) -> f64 {
    of_layer(sites, layer, scores).fold(1.0, f64::min)
}

fn count(sites: &[Site], layer: usize, scores: &Scores) -> usize {
    of_layer(sites, layer, scores).sum::<f64>() as usize
}

/// The sites at which a check stands out, in the order of the forward pass: what follows a fault looks wrong too. What strikes
/// by chance comes first, for it also fails to respond as it should.
fn findings(sites: &[Site], by_check: &[(Check, &Scores)]) -> Vec<Finding> {
    let mut found: Vec<(usize, Finding)> = Vec::new();
    for (check, scores) in by_check {
        let outstanding = (0..sites.len()).filter_map(|site| {
            let (score, usual) = (scores.get(site)?, scores.usual(sites, site));
            let finding = || Finding {
                site: sites[site].module.clone(),
                op: sites[site].op,
                layer: sites[site].layer,
                check: *check,
                score,
                usual,
                looks_like: check.looks_like(scores, site).to_owned(),
            };
            check.stands_out(score, usual).then(|| (site, finding()))
        });
        found.extend(outstanding);
    }
    found.sort_by_key(|(site, finding)| (finding.check != Check::Stability, *site, finding.check));
    found.into_iter().map(|(_, finding)| finding).collect()
}

impl Check {
    /// Whether a score is out of the ordinary beside the usual one of the same module.
    fn stands_out(self, score: f64, usual: f64) -> bool {
        match self {
            // A share of values that differ; where all layers are unstable none is to blame, but the first still is first.
            Self::Stability => score > 0.0,
            // A number of values that stand still together.
            Self::Response => score >= 3.0 && score > 4.0 * usual + 2.0,
            // Relative errors.
            Self::Sums | Self::Symmetry => score > 1e-3 && score > 10.0 * usual,
            // A number format may round the two sides apart.
            Self::Scaling => score > 1e-2 && score > 10.0 * usual,
        }
    }

    /// What its score is, before the number.
    fn words(self) -> &'static str {
        match self {
            Self::Stability => "the share of its values that differ from pass to pass is",
            Self::Response => "the number of its values that share one magnitude and do not move is",
            Self::Sums => "the largest error of its sums is",
            Self::Symmetry => "the largest breach of its symmetry, over what it gives, is",
            Self::Scaling => "how far it is from growing with its input, over what it should give, is",
        }
    }

    fn looks_like(self, scores: &Scores, site: usize) -> &'static str {
        match self {
            Self::Stability => "something that strikes by chance: spikes, flipped bits, noise",
            Self::Response if scores.value(site) == Some(0.0) => "a dead zone: small values become 0",
            Self::Response => "saturation or stuck channels: values stand at one magnitude",
            Self::Sums => {
                "values that are lost or added: probabilities do not add up, or a table is not what it was"
            }
            Self::Symmetry => "an offset: opposite inputs do not give opposite outputs",
            Self::Scaling => "saturation: large values are cut",
        }
    }
}
