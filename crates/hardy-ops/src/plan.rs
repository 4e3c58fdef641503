//! A plan is a list of rules; bound to a model's sites it knows every place at which each rule acts. Binding fails
//! when a rule matches nothing, so that noise can not silently miss its target.

use std::{collections::BTreeSet, sync::Arc};

use hardy_numerics::{Keys, NoiseKey};
use serde::{Deserialize, Serialize};

use crate::{
    at::Noise,
    errors::{Injection, SiteNoise},
    receipt::{Receipt, Tally},
    rule::{Rule, RuleError},
    site::{Pass, Phase, Point, Site, SiteId},
};

/// Whether rollout and training see the same noise for the same tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Streams {
    /// Every phase has its own noise.
    #[default]
    PerPhase,
    /// All phases share one, as deterministic hardware would.
    Shared,
}

/// A list of rules and the seed of their noise.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The rules, applied in this order where several meet at one point.
    pub rules: Vec<Rule>,
    /// The run's seed, part of every noise value's address.
    pub seed: u64,
    /// Whether phases share their noise.
    pub streams: Streams,
}

/// Why a plan can not be bound to a model.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BindError {
    /// The rule is wrong by itself.
    #[error("rule {number}: {source}")]
    Rule {
        /// The number of the rule, from 1.
        number: usize,
        /// What is wrong.
        source: RuleError,
    },
    /// The rule puts an error on the gradient of a weight that is not trained.
    #[error(
        "rule {number} ({rule}) acts on the gradient of {module}'s weight, but that weight is frozen and has none; name \
         the adapters instead, as in `modules = \"*lora*\"`, or leave `backward` out of `pass`"
    )]
    Frozen {
        /// The number of the rule, from 1.
        number: usize,
        /// What the rule asks for.
        rule: String,
        /// The first such module.
        module: String,
    },
    /// The rule's scale is to be learned by the gradient of a weight that is not trained.
    #[error(
        "rule {number} learns its scale by the gradient of {module}'s weight, but that weight is frozen and has none; \
         perturb what is not: `aqn.target = \"hidden_states\"` for AQN"
    )]
    LearnedOnFrozen {
        /// The number of the rule, from 1.
        number: usize,
        /// The first such module.
        module: String,
    },
    /// The rule selects nothing.
    #[error("rule {number} matches no site: it asks for {rule}, but the model has {sites}")]
    NoSite {
        /// The number of the rule, from 1.
        number: usize,
        /// What the rule asks for.
        rule: String,
        /// The sites that exist, layers folded together.
        sites: String,
    },
}

impl Plan {
    /// Binds the plan to a model's `sites`, all of whose weights are trained. Rules that name no phase act in those of
    /// `otherwise`.
    ///
    /// # Errors
    /// A rule that is wrong by itself, or matches no site.
    pub fn bind(&self, sites: &[Site], otherwise: &[Phase]) -> Result<BoundPlan, BindError> {
        self.bind_with_frozen(sites, otherwise, |_| false)
    }

    /// The same where the weights of some sites are `frozen`. They have no gradient, so a rule on outputs, which means
    /// both products of the backward pass, acts there on ∂x alone.
    ///
    /// # Errors
    /// As [`Plan::bind`], and a rule on the weight or its gradient of which the backward pass has none.
    pub fn bind_with_frozen(
        &self,
        sites: &[Site],
        otherwise: &[Phase],
        frozen: impl Fn(&Site) -> bool,
    ) -> Result<BoundPlan, BindError> {
        let mut slots = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            let number = index + 1;
            rule.validate().map_err(|source| BindError::Rule { number, source })?;
            if !rule.pass.contains(&Pass::Forward) && !rule.acts_in(Phase::Train, otherwise) {
                return Err(BindError::Rule { number, source: RuleError::NoBackward });
            }
            let (before, mut without_gradient) = (slots.len(), None);
            let selected = sites.iter().enumerate().filter(|(_, site)| rule.selects(site));
            for (site, at) in selected {
                for point in rule.points(at.op) {
                    if point == Point::GradWeight && frozen(at) {
                        without_gradient.get_or_insert(at);
                        continue;
                    }
                    if rule.learned && point == Point::Weight && frozen(at) {
                        return Err(BindError::LearnedOnFrozen { number, module: at.module.clone() });
                    }
                    let earlier = self.rules[..index].iter();
                    let ordinal = earlier
                        .filter(|rule| rule.selects(at) && rule.points(at.op).contains(&point))
                        .count();
                    let acts =
                        |phase: &Phase| rule.acts_in(*phase, otherwise) && has_pass(*phase, point.pass());
                    slots.extend(Phase::ALL.into_iter().filter(acts).map(|phase| Slot {
                        phase,
                        site: SiteId(site),
                        point,
                        rule: index,
                        ordinal,
                        tally: Arc::default(),
                    }));
                }
            }
            let only_in_gradients =
                matches!(rule.at, Point::Weight | Point::GradWeight) || slots.len() == before;
            if let Some(site) =
                without_gradient.filter(|_| only_in_gradients && rule.acts_in(Phase::Train, otherwise))
            {
                let (rule, module) = (rule.to_string(), site.module.clone());
                return Err(BindError::Frozen { number, rule, module });
            }
            if slots.len() == before {
                return Err(BindError::NoSite { number, rule: rule.to_string(), sites: describe(sites) });
            }
        }
        Ok(BoundPlan { plan: self.clone(), sites: sites.into(), slots })
    }
}

/// The stream of what stays the same through phases and steps.
const CHANNELS: &str = "channels";

/// One rule at one point of one site in one phase.
#[derive(Debug)]
struct Slot {
    phase: Phase,
    site: SiteId,
    point: Point,
    rule: usize,
    /// How many earlier rules act at the same point, in whatever phase: part of the address, so that meeting rules draw
    /// apart, and a rule draws the same in every phase where phases share their noise.
    ordinal: usize,
    tally: Arc<Tally>,
}

/// Only training has a backward pass.
fn has_pass(phase: Phase, pass: Pass) -> bool {
    pass == Pass::Forward || phase == Phase::Train
}

/// The sites in one line, layers folded together.
fn describe(sites: &[Site]) -> String {
    let layers = sites.iter().filter_map(|site| site.layer).max();
    let fold = |site: &Site| match site.layer {
        Some(layer) => site.module.replacen(&format!(".{layer}."), ".N.", 1),
        None => site.module.clone(),
    };
    let names: BTreeSet<String> =
        sites.iter().map(|site| format!("{} ({})", fold(site), site.op.name())).collect();
    let names = names.into_iter().collect::<Vec<_>>().join(", ");
    match layers {
        Some(last) => format!("layers 0..={last} and the sites {names}"),
        None => format!("the sites {names}"),
    }
}

/// A plan that knows the sites at which each of its rules acts, and keeps their receipts.
#[derive(Debug)]
pub struct BoundPlan {
    plan: Plan,
    sites: Arc<[Site]>,
    slots: Vec<Slot>,
}

impl BoundPlan {
    /// The plan as it was written.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Gives a rule another scale, from the next [`BoundPlan::noise`] on.
    pub fn set_scale(&mut self, rule: usize, scale: f64) {
        let rule = &mut self.plan.rules[rule];
        rule.error = rule.error.with_scale(scale);
    }

    /// The sites and points at which a rule acts in `phase`.
    pub(crate) fn places(&self, rule: usize, phase: Phase) -> impl Iterator<Item = (SiteId, Point)> + '_ {
        let slots = self.slots.iter().filter(move |slot| (slot.rule, slot.phase) == (rule, phase));
        slots.map(|slot| (slot.site, slot.point))
    }

    /// The noise of one phase at one step.
    pub fn noise(&self, phase: Phase, step: u64) -> Noise {
        let mut sites: Vec<Option<SiteNoise>> = vec![None; self.sites.len()];
        for slot in self.slots.iter().filter(|slot| slot.phase == phase) {
            let Some(perturbation) = self.plan.rules[slot.rule].perturbation(step) else { continue };
            if perturbation.is_off() {
                continue;
            }
            slot.tally.arm();
            let keys = ["lhs", "rhs"].map(|operand| self.keys(slot, step, operand));
            let tally = Arc::clone(&slot.tally);
            let learned = self.plan.rules[slot.rule].learned;
            let injection = Injection { perturbation, keys, tally, learned, counted: Arc::default() };
            sites[slot.site.0].get_or_insert_default().push(slot.point, injection);
        }
        Noise::new(sites.into_iter().map(|site| site.map(Arc::new)).collect())
    }

    /// The keys of a slot; the element, row and sequence are added by the operator. Which channels are faulty depends
    /// on neither phase nor step: a fault of the hardware stays where it is.
    fn keys(&self, slot: &Slot, step: u64, operand: &str) -> Keys {
        let stream = match self.plan.streams {
            Streams::PerPhase => slot.phase.name(),
            Streams::Shared => "shared",
        };
        let site = &self.sites[slot.site.0];
        let (op, point, ordinal) = (site.op.name(), slot.point.name(), slot.ordinal);
        let place = format!("{}/{op}/{point}/{operand}/{ordinal}", site.module);
        Keys {
            noise: NoiseKey::new(self.plan.seed, stream, step, &place),
            channels: NoiseKey::new(self.plan.seed, CHANNELS, 0, &place),
        }
    }

    /// The receipts of everything that noise was asked for, in the order of rules, then sites.
    pub fn receipts(&self) -> Vec<Receipt> {
        self.slots.iter().filter_map(|slot| self.receipt(slot)).collect()
    }

    fn receipt(&self, slot: &Slot) -> Option<Receipt> {
        let counts = slot.tally.counts();
        let site = &self.sites[slot.site.0];
        counts.armed.then(|| Receipt {
            site: site.module.clone(),
            op: site.op,
            point: slot.point,
            phase: slot.phase,
            pass: slot.point.pass(),
            rule: slot.rule + 1,
            kind: self.plan.rules[slot.rule].error.kind_name().to_owned(),
            calls: counts.calls,
            elements: counts.elements,
            non_finite: counts.energy.non_finite,
            asked: counts.asked,
            measured: counts.energy.relative(),
            error_energy: counts.energy.error,
            signal_energy: counts.energy.signal,
        })
    }

    /// Sets the counts back to those of `receipts`, so that a resumed run goes on counting.
    pub fn restore(&self, receipts: &[Receipt]) {
        for slot in &self.slots {
            let site = &self.sites[slot.site.0];
            let same = |receipt: &&Receipt| {
                receipt.site == site.module
                    && receipt.op == site.op
                    && (receipt.point, receipt.phase, receipt.rule) == (slot.point, slot.phase, slot.rule + 1)
            };
            let Some(receipt) = receipts.iter().find(same) else { continue };
            slot.tally.update(|counts| {
                counts.armed = true;
                counts.calls = receipt.calls;
                counts.elements = receipt.elements;
                counts.asked = receipt.asked;
                counts.energy = receipt.energy();
            });
        }
    }

    /// What was asked for and never happened: one sentence for each rule, phase and pass in which noise was asked
    /// for and no element was perturbed.
    pub fn unfired(&self) -> Vec<String> {
        let mut asked: Vec<(usize, Phase, Pass, u64)> = Vec::new();
        for slot in self.slots.iter().filter(|slot| slot.tally.counts().armed) {
            let pass = slot.point.pass();
            let elements = slot.tally.counts().elements;
            match asked.iter_mut().find(|row| (row.0, row.1, row.2) == (slot.rule, slot.phase, pass)) {
                Some(row) => row.3 += elements,
                None => asked.push((slot.rule, slot.phase, pass, elements)),
            }
        }
        let silent = asked.into_iter().filter(|row| row.3 == 0);
        silent
            .map(|(rule, phase, pass, _)| {
                let (phase, pass) = (phase.name(), pass.name());
                let what = &self.plan.rules[rule];
                format!(
                    "rule {} ({what}) asked for noise in {phase}, {pass}, but none was injected",
                    rule + 1
                )
            })
            .collect()
    }

    /// Whether some rule can act in `phase`.
    pub fn acts_in(&self, phase: Phase) -> bool {
        self.slots.iter().any(|slot| slot.phase == phase)
    }
}
