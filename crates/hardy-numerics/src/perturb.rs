//! Perturbations: what is done to a value x to give its image x̃. Random ones take their noise from the address of the
//! value; all work in place and return the energy of the error they made.
//!
//! | kind | image |
//! |---|---|
//! | `relative_gaussian` | x + ε·\|x\|·s, ε standard normal |
//! | `absolute_gaussian` | x + ε·s |
//! | `systematic_bias` | x + sign(x)·s, or relative: x + sign(x)·\|x\|·s; sign(0) = 0 |
//! | `truncation` | the multiple of s next to x toward zero |
//! | `dead_zone`, `saturation`, `spike`, `bias`, `stuck`, `bit_flip`, `burst_flip` | see [`Fault`] |
//! | the name of a [`Format`] | the number of that format next to x, see [`Quantization`] |
//! | `accumulate_bf16`, `accumulate_fp16` | of a product, see [`Accumulation`] |
//!
//! A scale of 0 leaves every value as it is. NaN stays NaN.

mod accumulation;
mod apply;
mod burst;
mod chance;
mod fault;
mod noise;
mod options;
mod quantization;
#[cfg(test)]
mod tests;

pub use accumulation::{Accumulation, Partial};
pub use chance::Chance;
pub use fault::{Bits, Fault, Image};
pub use options::{OptionError, Options};
pub use quantization::{Blocks, Quantization, Rounding};

use crate::formats::Format;
use serde::{Deserialize, Serialize};

/// One kind of error with its magnitude. Files spell it as [`Options`] do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Options", into = "Options")]
pub enum Perturbation {
    /// Gaussian noise whose standard deviation is `scale` times the magnitude of the value.
    RelativeGaussian {
        /// Standard deviation over magnitude; 0.05 is 5 %.
        scale: f64,
    },
    /// Gaussian noise of standard deviation `scale`.
    AbsoluteGaussian {
        /// Standard deviation, in units of the value.
        scale: f64,
    },
    /// A step away from zero.
    SystematicBias {
        /// The step, in units of the value, or over its magnitude where `relative`.
        scale: f64,
        /// Whether the step grows with the magnitude of the value.
        relative: bool,
    },
    /// Truncation toward zero to a multiple of a step.
    Truncation {
        /// The step, in units of the value; 0 is no truncation.
        scale: f64,
    },
    /// A fault of the hardware, in some channels.
    Fault {
        /// What is wrong.
        fault: Fault,
        /// The share of channels that are faulty, in 0..=1.
        sparsity: f64,
    },
    /// A number format.
    Quantization(Quantization),
    /// Rounded partial sums; an error of products, not of values.
    Accumulation(Accumulation),
}

/// The names of the kinds that are no formats.
const OWN: [&str; 13] = [
    "relative_gaussian",
    "absolute_gaussian",
    "systematic_bias",
    "truncation",
    "dead_zone",
    "saturation",
    "spike",
    "bias",
    "stuck",
    "bit_flip",
    "burst_flip",
    "accumulate_bf16",
    "accumulate_fp16",
];

impl Perturbation {
    /// The names of all kinds, as configuration files and [`Options`] spell them.
    pub const NAMES: &[&str] = &{
        let mut names = [""; OWN.len() + Format::NAMES.len()];
        let mut i = 0;
        while i < names.len() {
            names[i] = if i < OWN.len() { OWN[i] } else { Format::NAMES[i - OWN.len()] };
            i += 1;
        }
        names
    };

    /// The name of the kind, one of [`Perturbation::NAMES`].
    pub fn kind_name(&self) -> &'static str {
        match self {
            Self::RelativeGaussian { .. } => "relative_gaussian",
            Self::AbsoluteGaussian { .. } => "absolute_gaussian",
            Self::SystematicBias { .. } => "systematic_bias",
            Self::Truncation { .. } => "truncation",
            Self::Fault { fault, .. } => fault.name(),
            Self::Quantization(quantization) => quantization.format.name(),
            Self::Accumulation(accumulation) => accumulation.name(),
        }
    }

    /// The scale, of a truncation the step; `None` for a kind without one.
    pub fn scale(&self) -> Option<f64> {
        match *self {
            Self::RelativeGaussian { scale }
            | Self::AbsoluteGaussian { scale }
            | Self::SystematicBias { scale, .. }
            | Self::Truncation { scale } => Some(scale),
            Self::Fault { fault, .. } => fault.scale(),
            Self::Quantization(_) | Self::Accumulation(_) => None,
        }
    }

    /// The same kind with another scale; a kind without one stays as it is.
    #[must_use]
    pub fn with_scale(self, scale: f64) -> Self {
        match self {
            Self::RelativeGaussian { .. } => Self::RelativeGaussian { scale },
            Self::AbsoluteGaussian { .. } => Self::AbsoluteGaussian { scale },
            Self::SystematicBias { relative, .. } => Self::SystematicBias { scale, relative },
            Self::Truncation { .. } => Self::Truncation { scale },
            Self::Fault { fault, sparsity } => Self::Fault { fault: fault.with_scale(scale), sparsity },
            Self::Quantization(_) | Self::Accumulation(_) => self,
        }
    }

    /// Whether the image depends on the address.
    pub fn is_random(&self) -> bool {
        match self {
            Self::RelativeGaussian { .. } | Self::AbsoluteGaussian { .. } => true,
            Self::Fault { fault, sparsity } => {
                *sparsity < 1.0
                    || matches!(fault, Fault::Spike { .. } | Fault::BitFlip { .. } | Fault::BurstFlip { .. })
            }
            Self::Quantization(quantization) => quantization.rounding == Rounding::Stochastic,
            Self::SystematicBias { .. } | Self::Truncation { .. } | Self::Accumulation(_) => false,
        }
    }

    /// Whether no value can change: a scale, a rate or a sparsity of 0.
    pub fn is_off(&self) -> bool {
        self.off().is_some()
    }

    /// The option that is 0, so that no value can change: `scale`, `rate` or `sparsity`.
    pub fn off(&self) -> Option<&'static str> {
        if self.scale() == Some(0.0) {
            return Some("scale");
        }
        match self {
            Self::Fault { fault, .. } if fault.rate() == Some(0.0) => Some("rate"),
            Self::Fault { sparsity: 0.0, .. } => Some("sparsity"),
            _ => None,
        }
    }

    /// Checks scale, rate, sparsity, bits, chunk, and that the format has the blocks.
    ///
    /// # Errors
    ///
    /// One sentence that says what was found and what it must be.
    pub fn validate(&self) -> Result<(), String> {
        if let Some(scale) = self.scale().filter(|scale| !(*scale >= 0.0 && (*scale as f32).is_finite())) {
            return Err(format!("scale is {scale:?}, but must be a finite number ≥ 0"));
        }
        if let Some(scale) = self.scale().filter(|scale| *scale > 0.0 && *scale as f32 == 0.0) {
            let smallest = f32::from_bits(1);
            return Err(format!(
                "scale is {scale:?}, which f32 does not tell from 0; the smallest is {smallest:e}"
            ));
        }
        match self {
            Self::Fault { fault, sparsity } => {
                fault.validate()?;
                share("sparsity", *sparsity)
            }
            Self::Quantization(quantization) => quantization.validate(),
            Self::Accumulation(accumulation) => accumulation.validate(),
            _ => Ok(()),
        }
    }
}

impl From<Format> for Perturbation {
    /// The format with its usual options: to nearest, blocks along the last axis.
    fn from(format: Format) -> Self {
        Self::Quantization(format.into())
    }
}

/// Checks a share or a rate, which 64 random bits must tell from 0.
fn share(name: &str, value: f64) -> Result<(), String> {
    if !(0.0..=1.0).contains(&value) {
        return Err(format!("{name} is {value:?}, but must lie in 0..=1"));
    }
    if value > 0.0 && value < chance::SMALLEST {
        let smallest = chance::SMALLEST;
        return Err(format!(
            "{name} is {value:?}, so rare that nothing would be struck; the smallest is {smallest:e}"
        ));
    }
    Ok(())
}
