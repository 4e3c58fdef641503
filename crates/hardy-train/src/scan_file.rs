//! What `hardy scan` found (SRDD, static relative dead-zone detection): for every linear layer the error that a number
//! format makes on its inputs and its weight, which layers it is too large in, and what follows. This is the file, which a
//! guide of AQN reads; who judges is `hardy-lab`.

use std::{fs, path::Path};

use hardy_model::{HostTensor, files::fingerprint};
use hardy_numerics::Precision;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A scan of one model in one format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScanFile {
    /// The model, as it was named.
    pub model: String,
    /// The fingerprint of its parameters.
    pub fingerprint: String,
    /// The number format.
    pub format: String,
    /// The arithmetic of the products of the pass that was looked at.
    #[serde(default)]
    pub precision: Precision,
    /// Decoder layers.
    pub layers: usize,
    /// What flags a layer.
    pub thresholds: Thresholds,
    /// The layers that are flagged by one of their activations.
    pub flagged_layers: Vec<usize>,
    /// What follows.
    pub recommendation: Recommendation,
    /// Every linear layer's input and weight.
    pub rows: Vec<ScanRow>,
}

/// What flags a layer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thresholds {
    /// The least SQNR, in dB.
    pub min_sqnr_db: f64,
    /// The largest share of values that become 0.
    pub max_dead_zone: f64,
    /// The largest share of values that are cut off.
    pub max_saturation: f64,
    /// The largest mean relative error.
    pub max_relative_error: f64,
}

/// What is quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The input of a linear layer.
    Activation,
    /// Its weight.
    Weight,
}

/// What follows from a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recommendation {
    /// No layer is flagged.
    None,
    /// Few layers are flagged: noise in training aimed at them.
    Targeted,
    /// Many layers are flagged: keep those in a finer format.
    MixedPrecision,
    /// The mean SQNR is hopeless: another format.
    Reconsider,
}

impl Recommendation {
    /// As people read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Targeted => "targeted",
            Self::MixedPrecision => "mixed precision",
            Self::Reconsider => "reconsider",
        }
    }
}

/// The error on one activation or weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScanRow {
    /// The module path.
    pub module: String,
    /// Its decoder layer.
    pub layer: Option<usize>,
    /// What is quantised.
    pub what: What,
    /// Elements measured.
    pub elements: usize,
    /// Signal to quantisation noise in dB; `None` without error, −1000 where the format overflows to ∞.
    pub sqnr_db: Option<f64>,
    /// The mean of |error| / |x| over x ≠ 0; ∞, in JSON null, where the format overflows.
    #[serde(deserialize_with = "null_as_infinite")]
    pub relative_error: f64,
    /// ‖error‖₂ / ‖x‖₂, likewise.
    #[serde(deserialize_with = "null_as_infinite")]
    pub relative_rms: f64,
    /// The share of x ≠ 0 that becomes 0.
    pub dead_zone: f64,
    /// The share that is cut off.
    pub saturation: f64,
    /// The thresholds that are crossed, in words.
    pub reasons: Vec<String>,
}

fn null_as_infinite<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::INFINITY))
}

impl ScanFile {
    /// Reads the JSON that `hardy scan` wrote.
    ///
    /// # Errors
    /// A file that can not be read or is no scan.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(Error::file(path))?;
        serde_json::from_str(&text).map_err(|error| {
            Error::config(format!("{}: {error}; give the JSON of `hardy scan`", path.display()))
        })
    }

    /// The rows of inputs of linear layers.
    pub fn activations(&self) -> impl Iterator<Item = &ScanRow> {
        self.rows.iter().filter(|row| row.what == What::Activation)
    }

    /// The mean relative error on the activations of every layer.
    #[must_use]
    pub fn layer_errors(&self) -> Vec<f64> {
        let of = |layer: usize| {
            let own = self.activations().filter(move |row| row.layer == Some(layer));
            let (sum, count) = own.fold((0.0, 0.0), |(sum, n), row| (sum + row.relative_error, n + 1.0));
            sum / f64::max(count, 1.0)
        };
        (0..self.layers).map(of).collect()
    }

    /// The flagged layers, of which only so many of the largest error where a number is given.
    #[must_use]
    pub fn worst_layers(&self, most: Option<usize>) -> Vec<usize> {
        let errors = self.layer_errors();
        let mut layers: Vec<usize> =
            self.flagged_layers.iter().copied().filter(|&layer| layer < errors.len()).collect();
        layers.sort_by(|&a, &b| errors[b].total_cmp(&errors[a]).then(a.cmp(&b)));
        layers.truncate(most.unwrap_or(usize::MAX));
        layers
    }

    /// Refuses a scan of other parameters than `parameters`, which belong to `model`.
    ///
    /// # Errors
    /// The fingerprints or the numbers of layers differ.
    pub fn check_model(&self, model: &str, layers: usize, parameters: &[HostTensor]) -> Result<()> {
        if self.layers == layers && self.fingerprint == fingerprint(parameters) {
            return Ok(());
        }
        Err(Error::config(format!(
            "`aqn.scan` is a scan of another model ({}, {} layers), not of {model} ({layers} layers) with these \
             weights; scan it with `hardy scan --model {model}`",
            self.model, self.layers
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(fingerprint: String) -> ScanFile {
        ScanFile {
            model: "m".into(),
            fingerprint,
            format: "mxfp4".into(),
            precision: Precision::F32,
            layers: 1,
            thresholds: Thresholds {
                min_sqnr_db: 20.0,
                max_dead_zone: 0.05,
                max_saturation: 0.01,
                max_relative_error: 0.1,
            },
            flagged_layers: Vec::new(),
            recommendation: Recommendation::None,
            rows: Vec::new(),
        }
    }

    #[test]
    fn one_changed_weight_is_another_model() {
        let tensor = |x: f32| HostTensor { name: "w".into(), shape: vec![2], data: vec![1.0, x] };
        let scan = scan(fingerprint(&[tensor(2.0)]));
        assert!(scan.check_model("m", 1, &[tensor(2.0)]).is_ok());
        assert!(scan.check_model("m", 2, &[tensor(2.0)]).is_err());
        let message = scan.check_model("m", 1, &[tensor(2.5)]).unwrap_err().to_string();
        assert!(message.contains("another model"), "{message}");
    }
}
