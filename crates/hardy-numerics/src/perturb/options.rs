//! How a perturbation is spelled: its kind, and the options that the kind takes. Configuration files and the command line
//! share these names.

use super::{Accumulation, Bits, Blocks, Fault, Image, Partial, Perturbation, Quantization, Rounding};
use crate::formats::Format;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A perturbation as it is written, such as `{ kind = "relative_gaussian", scale = 0.05 }`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// One of [`Perturbation::NAMES`].
    pub kind: String,
    /// The magnitude of noise and of `dead_zone`, `saturation`, `spike` and `bias`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// The step of a truncation, another word for its scale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<f64>,
    /// Whether a systematic bias grows with the value; by default not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative: Option<bool>,
    /// The share of channels in which a fault sits; by default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<f64>,
    /// The probability of a spike for each value, of a flip for each bit, or of an event for each window of 1024 values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// What a stuck channel is held at; `scale` means the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// The bits that can be flipped; by default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<Bits>,
    /// How a value is stored where its bits are flipped; by default f32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// The stride of the values that an event of `burst_flip` strikes; by default 32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period: Option<u32>,
    /// The most bits that an event of `burst_flip` flips; by default 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// Terms between two roundings of a partial sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk: Option<usize>,
    /// How a format rounds; by default to nearest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounding: Option<Rounding>,
    /// The shape of a format's blocks; by default along the last axis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Blocks>,
    /// Whether the gradient is 0 where a value saturated in its format; by default not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_gradient: Option<bool>,
}

/// Why options are no perturbation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionError {
    /// The kind is unknown.
    UnknownKind(String),
    /// The kind needs this option.
    Missing(&'static str),
    /// The kind does not take this option.
    Superfluous {
        /// The kind.
        kind: String,
        /// What it does not take.
        option: &'static str,
        /// What it takes.
        takes: &'static [&'static str],
    },
}

impl fmt::Display for OptionError {
    /// In the words that serde uses, so that readers of configuration files find the keys in them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKind(kind) => {
                let known = Perturbation::NAMES.join("`, `");
                write!(f, "unknown variant `{kind}`, expected one of `{known}`")
            }
            Self::Missing(option) => write!(f, "missing field `{option}`"),
            Self::Superfluous { kind, option, takes } => {
                write!(f, "`{option}` means nothing with kind \"{kind}\", which takes {}", takes.join(", "))
            }
        }
    }
}

impl std::error::Error for OptionError {}

impl Options {
    /// The options that a kind takes; `None` for an unknown kind.
    pub fn taken_by(kind: &str) -> Option<&'static [&'static str]> {
        Some(match kind {
            "relative_gaussian" | "absolute_gaussian" => &["scale"],
            "systematic_bias" => &["scale", "relative"],
            "truncation" => &["scale", "step"],
            "dead_zone" | "saturation" | "bias" => &["scale", "sparsity"],
            "spike" => &["scale", "rate", "sparsity"],
            "stuck" => &["value", "scale", "sparsity"],
            "bit_flip" => &["rate", "bits", "image", "sparsity"],
            "burst_flip" => &["rate", "period", "burst", "bits", "image", "sparsity"],
            "accumulate_bf16" | "accumulate_fp16" => &["chunk"],
            _ if Format::from_name(kind).is_some() => &["rounding", "blocks", "clip_gradient"],
            _ => return None,
        })
    }

    /// The names of the options that were given.
    fn given(&self) -> impl Iterator<Item = &'static str> {
        [
            ("scale", self.scale.is_some()),
            ("step", self.step.is_some()),
            ("relative", self.relative.is_some()),
            ("sparsity", self.sparsity.is_some()),
            ("rate", self.rate.is_some()),
            ("value", self.value.is_some()),
            ("bits", self.bits.is_some()),
            ("image", self.image.is_some()),
            ("period", self.period.is_some()),
            ("burst", self.burst.is_some()),
            ("chunk", self.chunk.is_some()),
            ("rounding", self.rounding.is_some()),
            ("blocks", self.blocks.is_some()),
            ("clip_gradient", self.clip_gradient.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, given)| given.then_some(name))
    }

    /// The perturbation, which may still be out of range: see [`Perturbation::validate`].
    ///
    /// # Errors
    ///
    /// An unknown kind, an option that it needs, or one that it does not take.
    pub fn perturbation(&self) -> Result<Perturbation, OptionError> {
        let unknown = || OptionError::UnknownKind(self.kind.clone());
        let takes = Self::taken_by(&self.kind).ok_or_else(unknown)?;
        if let Some(option) = self.given().find(|option| !takes.contains(option)) {
            return Err(OptionError::Superfluous { kind: self.kind.clone(), option, takes });
        }
        let scale = || self.scale.ok_or(OptionError::Missing("scale"));
        let accumulation = |partial| {
            let chunk = self.chunk.ok_or(OptionError::Missing("chunk"))?;
            Ok(Perturbation::Accumulation(Accumulation { partial, chunk }))
        };
        Ok(match self.kind.as_str() {
            "relative_gaussian" => Perturbation::RelativeGaussian { scale: scale()? },
            "absolute_gaussian" => Perturbation::AbsoluteGaussian { scale: scale()? },
            "systematic_bias" => {
                let relative = self.relative.unwrap_or_default();
                Perturbation::SystematicBias { scale: scale()?, relative }
            }
            "truncation" => Perturbation::Truncation { scale: self.step.map_or_else(scale, Ok)? },
            "accumulate_bf16" => accumulation(Partial::Bf16)?,
            "accumulate_fp16" => accumulation(Partial::Fp16)?,
            kind => match Format::from_name(kind) {
                Some(format) => self.quantization(format),
                None => self.fault()?,
            },
        })
    }

    fn quantization(&self, format: Format) -> Perturbation {
        Perturbation::Quantization(Quantization {
            format,
            rounding: self.rounding.unwrap_or_default(),
            blocks: self.blocks.unwrap_or_default(),
            clip_gradient: self.clip_gradient.unwrap_or_default(),
        })
    }

    fn fault(&self) -> Result<Perturbation, OptionError> {
        let scale = || self.scale.ok_or(OptionError::Missing("scale"));
        let rate = || self.rate.ok_or(OptionError::Missing("rate"));
        let fault = match self.kind.as_str() {
            "dead_zone" => Fault::DeadZone { scale: scale()? },
            "saturation" => Fault::Saturation { scale: scale()? },
            "spike" => Fault::Spike { scale: scale()?, rate: rate()? },
            "bias" => Fault::Bias { scale: scale()? },
            "stuck" => {
                Fault::Stuck { value: self.value.or(self.scale).ok_or(OptionError::Missing("value"))? }
            }
            kind => {
                let (bits, image) = (self.bits.unwrap_or_default(), self.image.unwrap_or_default());
                let rate = rate()?;
                let period = self.period.unwrap_or(Fault::PERIOD);
                let burst = self.burst.unwrap_or(Fault::BURST);
                match kind {
                    "burst_flip" => Fault::BurstFlip { rate, period, burst, bits, image },
                    _ => Fault::BitFlip { rate, bits, image },
                }
            }
        };
        Ok(Perturbation::Fault { fault, sparsity: self.sparsity.unwrap_or(1.0) })
    }
}

impl TryFrom<Options> for Perturbation {
    type Error = OptionError;

    fn try_from(options: Options) -> Result<Self, OptionError> {
        options.perturbation()
    }
}

impl From<Perturbation> for Options {
    fn from(perturbation: Perturbation) -> Self {
        let mut options = Self {
            kind: perturbation.kind_name().to_owned(),
            scale: perturbation.scale(),
            ..Self::default()
        };
        match perturbation {
            Perturbation::SystematicBias { relative, .. } => options.relative = Some(relative),
            Perturbation::Fault { fault, sparsity } => {
                options.sparsity = Some(sparsity);
                options.spell(fault);
            }
            Perturbation::Quantization(Quantization { rounding, blocks, clip_gradient, .. }) => {
                options.rounding = Some(rounding);
                options.blocks = Some(blocks);
                options.clip_gradient = Some(clip_gradient);
            }
            Perturbation::Accumulation(accumulation) => options.chunk = Some(accumulation.chunk),
            _ => {}
        }
        options
    }
}

impl Options {
    /// Adds what a fault has beside its scale.
    fn spell(&mut self, fault: Fault) {
        self.rate = fault.rate();
        match fault {
            Fault::Stuck { value } => self.value = Some(value),
            Fault::BitFlip { bits, image, .. } => (self.bits, self.image) = (Some(bits), Some(image)),
            Fault::BurstFlip { period, burst, bits, image, .. } => {
                (self.period, self.burst) = (Some(period), Some(burst));
                (self.bits, self.image) = (Some(bits), Some(image));
            }
            _ => {}
        }
    }
}
