//! The table of sensitivities: layers down, operators across, coloured on a terminal from green to red.

use std::io::{IsTerminal, stdout};

use hardy_lab::{format::significant, sensitivity::Sensitivities};
use hardy_ops::Op;

/// Characters of a column.
const WIDTH: usize = 11;
/// Green to red, of the 256 colours of terminals.
const HEAT: [u8; 5] = [34, 112, 220, 208, 196];

/// Layers down, operators across; beside it the likelihood without error.
pub fn table(found: &Sensitivities) -> String {
    let ops: Vec<Op> = Op::ALL.into_iter().filter(|op| found.places.iter().any(|p| p.op == *op)).collect();
    let mut layers: Vec<Option<usize>> = found.places.iter().map(|place| place.layer).collect();
    layers.sort_by_key(|layer| layer.unwrap_or(usize::MAX));
    layers.dedup();
    let largest = found.places.iter().map(|place| place.degradation).fold(0.0, f64::max);
    let mut out = format!("{:>8}", "layer");
    ops.iter().for_each(|op| out += &format!("{:>WIDTH$}", op.name()));
    out += "\n";
    for layer in layers {
        out += &format!("{:>8}", layer.map_or_else(|| "outside".to_owned(), |layer| layer.to_string()));
        for op in &ops {
            let here: Vec<f64> = found
                .places
                .iter()
                .filter(|place| place.layer == layer && place.op == *op)
                .map(|place| place.degradation)
                .collect();
            out += &cell(&here, largest);
        }
        out += "\n";
    }
    out + &format!(
        "change of the negative log-likelihood; without error it is {}\n",
        significant(found.clean, 4)
    )
}

/// The sum over the places of a cell, of which only those outside of layers are several.
fn cell(here: &[f64], largest: f64) -> String {
    if here.is_empty() {
        return format!("{:>WIDTH$}", "–");
    }
    let change: f64 = here.iter().sum();
    let text = format!("{:>WIDTH$}", format!("{change:+.4}"));
    if !stdout().is_terminal() {
        return text;
    }
    let share = (change / largest.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0);
    let colour = HEAT[((share * HEAT.len() as f64) as usize).min(HEAT.len() - 1)];
    format!("\x1b[38;5;{colour}m{text}\x1b[0m")
}
