//! Rotary position embedding (arXiv:2104.09864): pair `i` of a head turns by `theta^(-2i/d)` radians per position.
//! Scaling slows the turning down, so that a model reads further than it was trained to.

use std::f32::consts::PI;

use super::fields::Fields;
use crate::error::Result;

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
}

impl Rope {
    /// From `rope_scaling` or `rope_parameters`, with `rope_theta` in there or at the top; 10000 where it is absent.
    pub(super) fn read(fields: &Fields<'_>) -> Result<Self> {
        let inner = match fields.object("rope_scaling")? {
            None => fields.object("rope_parameters")?,
            given => given,
        };
        let top = fields.positive("rope_theta")?;
        let Some(inner) = inner else {
            return Ok(Self { theta: top.unwrap_or(10_000.0), scaling: RopeScaling::None });
        };
        for holder in [fields, &inner] {
            if holder.positive("partial_rotary_factor")?.is_some_and(|share| share != 1.0) {
                return Err(holder.wrong("partial_rotary_factor", "1: heads are rotated whole"));
            }
        }
        let theta = inner.positive("rope_theta")?.or(top).unwrap_or(10_000.0);
        Ok(Self { theta, scaling: RopeScaling::read(fields, &inner)? })
    }

    /// The frequencies of a head of width `head_dim`.
    pub(super) fn inverse_frequencies(&self, head_dim: usize) -> Vec<f32> {
        // The exponent is rounded to f32 first, as in `transformers`; the power is taken in f64 and rounded once.
        let exponent = |i: usize| (2 * i) as f32 / head_dim as f32;
        let power = |i: usize| f64::from(self.theta as f32).powf(f64::from(exponent(i))) as f32;
        (0..head_dim / 2).map(|i| self.scaling.apply(1.0 / power(i))).collect()
    }
}

impl RopeScaling {
    fn read(fields: &Fields<'_>, inner: &Fields<'_>) -> Result<Self> {
        let key = if inner.contains("rope_type") { "rope_type" } else { "type" };
        match inner.text(key)?.unwrap_or("default") {
            "default" => Ok(Self::None),
            "linear" => Ok(Self::Linear { factor: inner.required_positive("factor")? }),
            "llama3" => Self::read_llama3(fields, inner),
            _ => Err(inner.wrong(key, "default, linear or llama3: others are not supported")),
        }
    }

    fn read_llama3(fields: &Fields<'_>, inner: &Fields<'_>) -> Result<Self> {
        const ORIGINAL: &str = "original_max_position_embeddings";
        let low_freq_factor = inner.required_positive("low_freq_factor")?;
        let high_freq_factor = inner.required_positive("high_freq_factor")?;
        if high_freq_factor <= low_freq_factor {
            let wanted = format!("above `low_freq_factor`, which is {low_freq_factor}");
            return Err(inner.wrong("high_freq_factor", &wanted));
        }
        let original_positions = match (fields.optional_size(ORIGINAL)?, inner.optional_size(ORIGINAL)?) {
            (Some(given), _) | (None, Some(given)) => given,
            (None, None) => fields.size("max_position_embeddings")?,
        };
        let factor = inner.required_positive("factor")?;
        Ok(Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions })
    }

    fn apply(&self, frequency: f32) -> f32 {
        match *self {
            Self::None => frequency,
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
