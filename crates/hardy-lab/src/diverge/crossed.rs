//! Where to look first: how far a machine's operators are off by themselves, times how much this model minds an error there.
//! The loss grows with the square of a small error's level, so that what a probe measured at one level tells of another.

use std::{collections::BTreeMap, path::Path};

use hardy_ops::Op;
use serde::Serialize;
use serde_json::Value;

use super::fit::Own;
use crate::error::LabError;

/// The level of a probe that does not say it.
const USUAL: f64 = 0.05;

/// A layer and operator of a machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ranked {
    /// The decoder layer; `None` for the head.
    pub layer: Option<usize>,
    /// The operator.
    pub op: Op,
    /// The machine's own relative error there.
    pub own: f64,
    /// The level at which the probe measured.
    pub level: f64,
    /// What it lost there, in the probe's measure.
    pub degradation: f64,
    /// What the machine's error alone should cost there, in the same measure.
    pub expected: f64,
}

/// Ranks a machine's operators by what their errors should cost, from the JSON of `hardy probe`; the most expensive first.
///
/// # Errors
/// A file that is no such JSON, or measured none of these operators.
pub fn rank(own: &[Own], probe: &Path) -> Result<Vec<Ranked>, LabError> {
    let wrong = |reason: &str| LabError::Dump { path: probe.to_owned(), reason: reason.to_owned() };
    let text = std::fs::read_to_string(probe).map_err(LabError::file(probe))?;
    let json: Value =
        serde_json::from_str(&text).map_err(|error| LabError::json(probe, error.line(), &error))?;
    let grid = json.get("grid").unwrap_or(&json);
    let cells = ["cells", "places"].into_iter().find_map(|key| grid[key].as_array());
    let cells = cells.ok_or_else(|| wrong("holds no `cells`; give what `hardy probe --json` printed"))?;
    let mut places: BTreeMap<(Option<usize>, Op), (f64, usize)> = BTreeMap::new();
    for own in own {
        let place = places.entry((own.layer, own.op)).or_default();
        place.0 += own.relative * own.relative;
        place.1 += 1;
    }
    let mut ranked: Vec<Ranked> = Vec::new();
    for ((layer, op), (square, count)) in places {
        let own = (square / count as f64).sqrt();
        let of_place = cells.iter().filter(|cell| is_of(cell, layer, op)).filter_map(measured);
        // The nearest level on a logarithmic scale.
        let apart = |level: f64| (level.ln() - own.max(f64::MIN_POSITIVE).ln()).abs();
        let nearest = of_place.min_by(|a, b| apart(a.0).total_cmp(&apart(b.0)));
        if let Some((level, degradation)) = nearest {
            let expected = degradation * (own / level).powi(2);
            ranked.push(Ranked { layer, op, own, level, degradation, expected });
        }
    }
    if ranked.is_empty() {
        return Err(wrong("measured no operator that the dump holds; probe the linear layers, forward"));
    }
    ranked.sort_by(|a, b| b.expected.total_cmp(&a.expected));
    Ok(ranked)
}

/// Whether a cell is of the outputs of this operator of this layer, forward; outside of layers, of the head.
fn is_of(cell: &Value, layer: Option<usize>, op: Op) -> bool {
    let same = |key: &str, wanted: &str| cell.get(key).is_none_or(|value| value == wanted);
    let at = cell["layer"].as_u64().map(|layer| layer as usize);
    at == layer && cell["op"] == op.name() && same("pass", "forward") && same("point", "output")
}

/// The level of a cell and what it lost.
fn measured(cell: &Value) -> Option<(f64, f64)> {
    let level = ["measured", "level"].into_iter().find_map(|key| cell[key].as_f64()).unwrap_or(USUAL);
    (level > 0.0).then_some((level, cell["degradation"].as_f64()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(layer: usize, relative: f64) -> Own {
        Own { module: format!("layers.{layer}"), layer: Some(layer), op: Op::Linear, relative }
    }

    #[test]
    fn what_hurts_most_comes_first_whatever_differs_most() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("probe.json");
        let cell = |layer: usize, level: f64, degradation: f64| {
            serde_json::json!({"layer": layer, "op": "linear", "pass": "forward", "point": "output", "level": level,
                "degradation": degradation})
        };
        let cells = [cell(0, 0.05, 0.5), cell(0, 0.01, 0.02), cell(1, 0.05, 0.001)];
        std::fs::write(&path, serde_json::json!({ "cells": cells }).to_string()).unwrap();
        let found = rank(&[own(0, 0.02), own(0, 0.02), own(1, 0.1)], &path).unwrap();
        assert_eq!(found.iter().map(|place| place.layer).collect::<Vec<_>>(), [Some(0), Some(1)]);
        assert_eq!(found[0].level, 0.01);
        assert!((found[0].expected - 0.08).abs() < 1e-12 && (found[1].expected - 0.004).abs() < 1e-12);
        std::fs::write(&path, "{}").unwrap();
        assert!(rank(&[own(0, 0.1)], &path).unwrap_err().to_string().contains("hardy probe --json"));
    }
}
