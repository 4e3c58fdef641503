//! A rule says where, when and what: which sites it selects, in which phases and passes it acts, and which
//! perturbation it is. Rules are read from `[[noise]]` tables.

use std::{fmt, sync::Arc};

use hardy_numerics::{Blocks, Perturbation, Quantization};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    glob,
    site::{Op, Pass, Phase, Point, Site},
};

/// One error: where, when, what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The operators selected.
    #[serde(default)]
    pub ops: Ops,
    /// The point: `input`, `output` or `weight` (or a gradient's own name, for backward errors alone).
    #[serde(default = "output")]
    pub at: Point,
    /// The decoder layers selected. Sites outside the layers (embedding, last norm, head) need `"all"`.
    #[serde(default)]
    pub layers: Layers,
    /// A glob on the module path. Low-rank adapters (`*.lora_A`, `*.lora_B`) are selected only where it names `lora`.
    #[serde(default = "star")]
    pub modules: String,
    /// Globs on module paths that are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// The phases in which the rule acts; where it is silent, the user of the plan decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub during: Option<Vec<Phase>>,
    /// The passes in which the rule acts.
    #[serde(default = "forward")]
    pub pass: Vec<Pass>,
    /// What is injected.
    pub error: Perturbation,
    /// The scale at every step, in place of `error.scale`; 0 is off. This is how AQN follows its schedule.
    #[serde(skip)]
    pub schedule: Option<Arc<[f64]>>,
    /// Whether the scale is learned: training asks for the loss's derivative in it ([`BoundPlan::scale_gradients`]) and sets
    /// it ([`BoundPlan::set_scale`]). For absolute Gaussian noise on weights and outputs, in training.
    ///
    /// [`BoundPlan::scale_gradients`]: crate::BoundPlan::scale_gradients
    /// [`BoundPlan::set_scale`]: crate::BoundPlan::set_scale
    #[serde(skip)]
    pub learned: bool,
}

fn output() -> Point {
    Point::Output
}

fn star() -> String {
    "*".to_owned()
}

fn forward() -> Vec<Pass> {
    vec![Pass::Forward]
}

/// What is wrong with a rule by itself.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RuleError {
    /// The scale or another number of the error is out of range.
    #[error("error {0}")]
    Scale(String),
    /// The error can not be where the rule puts it.
    #[error("error {0}")]
    Misplaced(String),
    /// The rule follows a schedule, but its kind of error has no scale.
    #[error("error {0} has no scale that could follow a schedule")]
    NoScale(&'static str),
    /// The error's scale, rate or sparsity is 0.
    #[error(
        "error {kind}: `{option}` is 0, so the rule would change nothing; leave the rule out, or give a number above 0"
    )]
    Off {
        /// The kind of error.
        kind: &'static str,
        /// What is 0.
        option: &'static str,
    },
    /// The schedule is 0 at every step.
    #[error(
        "the schedule of error {kind} is 0 at every one of its {steps} steps, so the rule would change nothing"
    )]
    Silent {
        /// The kind of error.
        kind: &'static str,
        /// How many steps it has.
        steps: usize,
    },
    /// The list of phases or passes is empty, so that the rule could never act.
    #[error("`{0}` is empty, so the rule could never act; name at least one")]
    Never(&'static str),
    /// The schedule holds a scale that is negative or not finite.
    #[error("step {step} of the schedule: {wrong}")]
    Schedule {
        /// The step, from 0.
        step: usize,
        /// What is wrong.
        wrong: String,
    },
    /// An error of the backward pass alone, in phases that have none.
    #[error(
        "`pass` names only `backward`, which only the phase `train` has, and the rule does not act there"
    )]
    NoBackward,
    /// The scale can not be learned.
    #[error(
        "the scale of error {0} can not be learned here: absolute_gaussian's can, at = \"output\" or \"weight\""
    )]
    NotLearned(&'static str),
    /// The pass excludes the point.
    #[error("`at = \"{0}\"` is a point of the backward pass, but `pass` does not name `backward`")]
    PassExcludesPoint(&'static str),
}

impl Rule {
    /// Relative Gaussian error of `scale` on the outputs of every linear and matmul, forward: what `--noise` means.
    pub fn noise(scale: f64) -> Self {
        Self {
            ops: Ops::Some(vec![Op::Linear, Op::Matmul]),
            at: Point::Output,
            layers: Layers::All,
            modules: star(),
            exclude: Vec::new(),
            during: None,
            pass: forward(),
            error: Perturbation::RelativeGaussian { scale },
            schedule: None,
            learned: false,
        }
    }

    /// Adaptive quantisation noise (QeRL, arXiv:2510.11696): absolute Gaussian noise on RMSNorm weights in
    /// rollouts, whose scale follows `sigma`, one value a step.
    pub fn aqn(sigma: Vec<f64>) -> Self {
        Self {
            ops: Ops::Some(vec![Op::RmsNorm]),
            at: Point::Weight,
            during: Some(vec![Phase::Rollout]),
            error: Perturbation::AbsoluteGaussian { scale: sigma.iter().copied().fold(0.0, f64::max) },
            schedule: Some(sigma.into()),
            ..Self::noise(0.0)
        }
    }

    /// Checks what can be known without a model.
    ///
    /// # Errors
    /// An error out of range or misplaced, or a rule that could never act.
    pub fn validate(&self) -> Result<(), RuleError> {
        self.error.validate().map_err(RuleError::Scale)?;
        self.validate_place().map_err(RuleError::Misplaced)?;
        if self.schedule.is_some() && self.error.scale().is_none() {
            return Err(RuleError::NoScale(self.error.kind_name()));
        }
        for (step, &sigma) in self.schedule.iter().flat_map(|schedule| schedule.iter().enumerate()) {
            let check = self.error.with_scale(sigma).validate();
            check.map_err(|wrong| RuleError::Schedule { step, wrong })?;
        }
        self.check_it_acts()?;
        self.check_learned()?;
        if self.during.as_ref().is_some_and(Vec::is_empty) {
            return Err(RuleError::Never("during"));
        }
        if self.pass.is_empty() {
            return Err(RuleError::Never("pass"));
        }
        if self.at.pass() == Pass::Backward && !self.pass.contains(&Pass::Backward) {
            return Err(RuleError::PassExcludesPoint(self.at.name()));
        }
        Ok(())
    }

    /// Refuses what would change nothing at any step: a number without its noise would look like one with it.
    fn check_it_acts(&self) -> Result<(), RuleError> {
        let kind = self.error.kind_name();
        match (&self.schedule, self.error.off()) {
            (Some(schedule), _) if schedule.iter().all(|&sigma| sigma == 0.0) => {
                Err(RuleError::Silent { kind, steps: schedule.len() })
            }
            // A schedule takes the place of the scale, not of a rate or a sparsity.
            (None, Some(option)) | (Some(_), Some(option @ ("rate" | "sparsity"))) => {
                Err(RuleError::Off { kind, option })
            }
            _ => Ok(()),
        }
    }

    /// Refuses to learn a scale in which the loss has no derivative here.
    fn check_learned(&self) -> Result<(), RuleError> {
        let gaussian = matches!(self.error, Perturbation::AbsoluteGaussian { .. });
        if self.learned && !(gaussian && matches!(self.at, Point::Output | Point::Weight)) {
            return Err(RuleError::NotLearned(self.error.kind_name()));
        }
        Ok(())
    }

    /// Checks that the error can be where the rule puts it.
    fn validate_place(&self) -> Result<(), String> {
        let (kind, at) = (self.error.kind_name(), self.at.name());
        match self.error {
            Perturbation::Accumulation(_) if !self.is_of_products() => Err(format!(
                "{kind} rounds the partial sums of products: it needs at = \"output\" and no `ops` but linear and \
                 matmul, not at = \"{at}\" and ops {}",
                self.ops
            )),
            Perturbation::Quantization(Quantization { blocks: Blocks::TwoD, .. })
                if !matches!(self.at, Point::Weight | Point::GradWeight) =>
            {
                Err(format!("{kind}: blocks = \"2d\" is for weights and needs at = \"weight\", not \"{at}\""))
            }
            Perturbation::Quantization(Quantization { clip_gradient: true, .. }) => self.validate_clip(),
            _ => Ok(()),
        }
    }

    fn is_of_products(&self) -> bool {
        let Ops::Some(ops) = &self.ops else { return false };
        self.at == Point::Output && ops.iter().all(|op| matches!(op, Op::Linear | Op::Matmul))
    }

    /// Gradients are clipped where an operator's own tensors are quantised in the forward pass; what is quantised
    /// between the products of attention is no tensor of an operator.
    fn validate_clip(&self) -> Result<(), String> {
        if self.at.pass() == Pass::Backward || !self.pass.contains(&Pass::Forward) {
            return Err(
                "clip_gradient needs a format in the forward pass, whose saturation it follows".to_owned()
            );
        }
        let inside = [Op::Matmul, Op::Softmax].iter().any(|op| self.ops.contains(*op));
        if inside && self.at != Point::Weight {
            return Err(format!(
                "clip_gradient does not reach matmul and softmax, so `ops` must name others, not {}",
                self.ops
            ));
        }
        Ok(())
    }

    /// Whether the rule acts in `phase`; a rule that names no phase acts in those of `otherwise`.
    pub fn acts_in(&self, phase: Phase, otherwise: &[Phase]) -> bool {
        self.during.as_deref().unwrap_or(otherwise).contains(&phase)
    }

    /// The points at which the rule injects at a site with `op`: its own in the forward pass; in the backward pass
    /// the gradients that answer to it, where an error on outputs means both products, ∂x and ∂W.
    pub fn points(&self, op: Op) -> Vec<Point> {
        let forward = self.pass.contains(&Pass::Forward).then_some(self.at).into_iter();
        let backward: &[Point] = match self.at {
            _ if !self.pass.contains(&Pass::Backward) => &[],
            Point::Output => &[Point::GradInput, Point::GradWeight],
            Point::Input | Point::GradInput => &[Point::GradInput],
            Point::Weight | Point::GradWeight => &[Point::GradWeight],
        };
        let mut points: Vec<Point> = forward.chain(backward.iter().copied()).collect();
        points.dedup();
        points.retain(|point| op.points().contains(point));
        points
    }

    /// Whether the rule selects `site`.
    pub fn selects(&self, site: &Site) -> bool {
        self.ops.contains(site.op)
            && self.layers.contains(site.layer)
            && glob::matches(&self.modules, &site.module)
            && (self.modules.contains("lora") || !site.module.contains(".lora_"))
            && !self.exclude.iter().any(|pattern| glob::matches(pattern, &site.module))
            && !self.points(site.op).is_empty()
    }

    /// The perturbation at `step`, or `None` where the schedule is at 0.
    pub fn perturbation(&self, step: u64) -> Option<Perturbation> {
        let Some(schedule) = &self.schedule else { return Some(self.error) };
        let sigma = usize::try_from(step).ok().and_then(|step| schedule.get(step)).copied().unwrap_or(0.0);
        (sigma != 0.0).then(|| self.error.with_scale(sigma))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ops {}, at {}, layers {}", self.ops, self.at.name(), self.layers)?;
        if self.modules != "*" {
            write!(f, ", modules {}", self.modules)?;
        }
        if !self.exclude.is_empty() {
            write!(f, ", exclude {}", self.exclude.join(" "))?;
        }
        Ok(())
    }
}

/// The operators of a rule: `"all"` or a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Ops {
    /// Every operator that has the rule's point.
    #[default]
    All,
    /// These.
    Some(Vec<Op>),
}

impl Ops {
    fn contains(&self, op: Op) -> bool {
        match self {
            Self::All => true,
            Self::Some(ops) => ops.contains(&op),
        }
    }
}

impl fmt::Display for Ops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Some(ops) => {
                write!(f, "[{}]", ops.iter().map(|op| op.name()).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

impl Serialize for Ops {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::Some(ops) => ops.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Ops {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Word(String),
            List(Vec<String>),
        }
        let names = match Raw::deserialize(deserializer)
            .map_err(|_| D::Error::custom("`ops` must be \"all\" or a list of operators"))?
        {
            Raw::Word(word) if word == "all" => return Ok(Self::All),
            Raw::Word(word) => vec![word],
            Raw::List(list) => list,
        };
        if names.is_empty() {
            return Err(D::Error::custom("`ops` is empty; name an operator, or write \"all\""));
        }
        names
            .iter()
            .map(|name| op_named(name).map_err(D::Error::custom))
            .collect::<Result<_, _>>()
            .map(Self::Some)
    }
}

fn op_named(name: &str) -> Result<Op, String> {
    Op::ALL.into_iter().find(|op| op.name() == name).ok_or_else(|| {
        let known: Vec<&str> = Op::ALL.iter().map(|op| op.name()).collect();
        format!("unknown operator `{name}`; the operators are {}, or \"all\"", known.join(", "))
    })
}

/// The decoder layers of a rule: `"all"`, a range `"4..8"` (8 excluded) or `"4..=8"`, one number, or a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Layers {
    /// Every site, in a layer or not.
    #[default]
    All,
    /// From the first up to, not including, the second.
    Range(usize, usize),
    /// These.
    List(Vec<usize>),
}

impl Layers {
    fn contains(&self, layer: Option<usize>) -> bool {
        match (self, layer) {
            (Self::All, _) => true,
            (_, None) => false,
            (Self::Range(start, end), Some(layer)) => (*start..*end).contains(&layer),
            (Self::List(list), Some(layer)) => list.contains(&layer),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        if text == "all" {
            return Some(Self::All);
        }
        let (start, end) = text.split_once("..")?;
        let start = start.trim().parse().ok()?;
        let end = match end.trim().strip_prefix('=') {
            Some(last) => last.trim().parse::<usize>().ok()?.checked_add(1)?,
            None => end.trim().parse().ok()?,
        };
        (start < end).then_some(Self::Range(start, end))
    }
}

impl fmt::Display for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Range(start, end) => write!(f, "{start}..{end}"),
            Self::List(list) => write!(f, "{list:?}"),
        }
    }
}

impl Serialize for Layers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::List(list) => list.serialize(serializer),
            other => serializer.serialize_str(&other.to_string()),
        }
    }
}

impl<'de> Deserialize<'de> for Layers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Text(String),
            One(usize),
            List(Vec<usize>),
        }
        let wrong = "`layers` must be \"all\", a range such as \"4..8\", or a list such as [1, 3]";
        match Raw::deserialize(deserializer).map_err(|_| D::Error::custom(wrong))? {
            Raw::Text(text) => {
                Self::parse(&text).ok_or_else(|| D::Error::custom(format!("{wrong}, but is \"{text}\"")))
            }
            Raw::One(layer) => Ok(Self::List(vec![layer])),
            Raw::List(list) if list.is_empty() => {
                Err(D::Error::custom("`layers` is empty; name a layer, or write \"all\""))
            }
            Raw::List(list) => Ok(Self::List(list)),
        }
    }
}
