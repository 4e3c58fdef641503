//! Rotary position embedding (arXiv:2104.09864): pair `i` of a head turns by `theta^(-2i/d)` radians per position.
//! Scaling slows the turning down, so that a model reads further than it was trained to.

use std::f32::consts::PI;

use super::{Architecture, fields::Fields, keys::refuse_unread_inside};
use crate::error::Result;

mod yarn;

pub use yarn::Yarn;

/// Base and scaling of the rotary frequencies.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// The base.
    pub theta: f64,
    /// How the frequencies are changed.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are changed to reach further.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all; type `default`.
    None,
    /// All divided by a factor; type `linear`.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Long wavelengths divided by a factor, short ones kept, a smooth passage between; type `llama3`, section
    /// "rope" of the Llama 3.1 release.
    Llama3 {
        /// The factor.
        factor: f64,
        /// Wavelengths above `original_positions` over this are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_positions` over this are kept.
        high_freq_factor: f64,
        /// The length of sequence the model was first trained for.
        original_positions: usize,
    },
    /// Long wavelengths divided by a factor, and queries and keys made longer; type `yarn`.
    Yarn(Yarn),
}

/// The base where a file names none.
const DEFAULT_THETA: f64 = 10_000.0;
/// The same for SmolLM3.
const SMOLLM3_THETA: f64 = 2_000_000.0;

impl Rope {
    /// From `rope_scaling` or `rope_parameters`, with `rope_theta` in there or at the top.
    pub(super) fn read(fields: &Fields<'_>, architecture: Architecture) -> Result<Self> {
        let parameters = fields.object("rope_parameters")?;
        let inner = match fields.object("rope_scaling")? {
            None => parameters,
            given => given,
        };
        let default = if architecture == Architecture::SmolLm3 { SMOLLM3_THETA } else { DEFAULT_THETA };
        let top = fields.positive("rope_theta")?;
        let Some(inner) = inner else {
            check_share(fields)?;
            return Ok(Self { theta: top.unwrap_or(default), scaling: RopeScaling::None });
        };
        check_share(fields)?;
        check_share(&inner)?;
        let theta = inner.positive("rope_theta")?.or(top).unwrap_or(default);
        let scaling = RopeScaling::read(fields, &inner)?;
        refuse_unread_inside(&inner)?;
        Ok(Self { theta, scaling })
    }

    /// The frequencies of a head of width `head_dim`.
    pub(super) fn inverse_frequencies(&self, head_dim: usize) -> Vec<f32> {
        // The exponent is rounded to f32 first, as in `transformers`; the power is taken in f64 and rounded once.
        let exponent = |i: usize| (2 * i) as f32 / head_dim as f32;
        let power = |i: usize| f64::from(self.theta as f32).powf(f64::from(exponent(i))) as f32;
        let powers = (0..head_dim / 2).map(power);
        match &self.scaling {
            RopeScaling::Yarn(yarn) => yarn.frequencies(powers.collect(), self.theta),
            scaling => powers.map(|power| scaling.apply(1.0 / power)).collect(),
        }
    }
}

/// Refuses heads that are rotated in part.
fn check_share(holder: &Fields<'_>) -> Result<()> {
    match holder.positive("partial_rotary_factor")? {
        Some(share) if share != 1.0 => {
            Err(holder.wrong("partial_rotary_factor", "1: heads are rotated whole"))
        }
        _ => Ok(()),
    }
}

impl RopeScaling {
    fn read(fields: &Fields<'_>, inner: &Fields<'_>) -> Result<Self> {
        let old = inner.text("type")?;
        let key = if inner.contains("rope_type") { "rope_type" } else { "type" };
        match inner.text("rope_type")?.or(old).unwrap_or("default") {
            "default" => Ok(Self::None),
            "linear" => Ok(Self::Linear { factor: inner.required_positive("factor")? }),
            "llama3" => Self::read_llama3(fields, inner),
            "yarn" => Ok(Self::Yarn(Yarn::read(inner, original_positions(fields, inner)?)?)),
            // `dynamic` and `longrope` let the length of the batch change the angles of every token.
            _ => Err(inner.wrong(key, "default, linear, llama3 or yarn: others are not supported")),
        }
    }

    /// What queries and keys are multiplied by.
    pub(super) fn magnitude(&self) -> f32 {
        match self {
            Self::Yarn(yarn) => yarn.attention_factor as f32,
            _ => 1.0,
        }
    }

    fn read_llama3(fields: &Fields<'_>, inner: &Fields<'_>) -> Result<Self> {
        let low_freq_factor = inner.required_positive("low_freq_factor")?;
        let high_freq_factor = inner.required_positive("high_freq_factor")?;
        if high_freq_factor <= low_freq_factor {
            let wanted = format!("above `low_freq_factor`, which is {low_freq_factor}");
            return Err(inner.wrong("high_freq_factor", &wanted));
        }
        let original_positions = original_positions(fields, inner)?;
        let factor = inner.required_positive("factor")?;
        Ok(Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions })
    }

    fn apply(&self, frequency: f32) -> f32 {
        match *self {
            Self::None | Self::Yarn(_) => frequency,
            Self::Linear { factor } => frequency / factor as f32,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => {
                let (factor, original) = (factor as f32, original_positions as f32);
                let (low, high) = (low_freq_factor as f32, high_freq_factor as f32);
                let wavelength = 2.0 * PI / frequency;
                if wavelength > original / low {
                    frequency / factor
                } else if wavelength < original / high {
                    frequency
                } else {
                    let smooth = (original / wavelength - low) / (high - low);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        }
    }
}

/// The length of sequence that the model was first trained for.
fn original_positions(fields: &Fields<'_>, inner: &Fields<'_>) -> Result<usize> {
    const ORIGINAL: &str = "original_max_position_embeddings";
    match (fields.optional_size(ORIGINAL)?, inner.optional_size(ORIGINAL)?) {
        (Some(given), _) | (None, Some(given)) => Ok(given),
        (None, None) => fields.size("max_position_embeddings"),
    }
}
