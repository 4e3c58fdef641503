//! YaRN (arXiv:2309.00071): pairs that turn often keep their frequency, those that turn seldom are slowed down by a
//! factor, with a straight passage between the two; and queries and keys are made longer, against the flatter scores of
//! longer sequences.

use std::f64::consts::TAU;

use super::Fields;
use crate::error::Result;

/// The parameters of YaRN.
#[derive(Debug, Clone, PartialEq)]
pub struct Yarn {
    /// What seldom turning pairs are slowed down by.
    pub factor: f64,
    /// Pairs that turn more often than this over the original length keep their frequency.
    pub beta_fast: f64,
    /// Pairs that turn less often than this are slowed down in full.
    pub beta_slow: f64,
    /// Whether the passage begins and ends at whole pairs.
    pub truncate: bool,
    /// What queries and keys are multiplied by.
    pub attention_factor: f64,
    /// The length of sequence the model was first trained for.
    pub original_positions: usize,
}

impl Yarn {
    pub(super) fn read(inner: &Fields<'_>, original_positions: usize) -> Result<Self> {
        let factor = inner.required_positive("factor")?;
        let (mscale, all) = (inner.positive("mscale")?, inner.positive("mscale_all_dim")?);
        let longer = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
        let usual = match (mscale, all) {
            (Some(mscale), Some(all)) => longer(mscale) / longer(all),
            _ => longer(1.0),
        };
        Ok(Self {
            factor,
            beta_fast: inner.positive("beta_fast")?.unwrap_or(32.0),
            beta_slow: inner.positive("beta_slow")?.unwrap_or(1.0),
            truncate: inner.flag_or("truncate", true)?,
            attention_factor: inner.positive("attention_factor")?.unwrap_or(usual),
            original_positions,
        })
    }

    /// The frequencies of pairs whose plain ones are one over `powers`, in f32 as `transformers` computes them.
    pub(super) fn frequencies(&self, powers: Vec<f32>, theta: f64) -> Vec<f32> {
        let (low, high) = self.passage(2 * powers.len(), theta);
        let (low, width) = (low as f32, if low == high { 0.001 } else { high - low } as f32);
        let one = |(pair, power): (usize, f32)| {
            let kept = 1.0 - ((pair as f32 - low) / width).clamp(0.0, 1.0);
            1.0 / (self.factor as f32 * power) * (1.0 - kept) + 1.0 / power * kept
        };
        powers.into_iter().enumerate().map(one).collect()
    }

    /// The pairs between which frequencies pass from kept to divided, in a head of width `dim`.
    fn passage(&self, dim: usize, theta: f64) -> (f64, f64) {
        let pair = |turns: f64| {
            dim as f64 * (self.original_positions as f64 / (turns * TAU)).ln() / (2.0 * theta.ln())
        };
        let (low, high) = (pair(self.beta_fast), pair(self.beta_slow));
        let (low, high) = if self.truncate { (low.floor(), high.ceil()) } else { (low, high) };
        (low.max(0.0), high.min(dim as f64 - 1.0))
    }
}
