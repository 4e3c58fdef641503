//! Where a run's errors really fell: layer by operator, the error that was measured there in training. A hole, or a layer
//! that stands out, is seen before a table is read.

use std::collections::{BTreeMap, BTreeSet};

use hardy_numerics::ErrorEnergy;
use hardy_ops::Receipt;

use super::Entry;
use crate::format;
use crate::html::{details, escape};

/// Operator, point and pass, as a column is headed.
type Column = (String, &'static str);

pub fn html(entries: &[Entry]) -> String {
    let maps = entries.iter().filter_map(|entry| {
        let map = map(&entry.run.receipts);
        let summary = format!("{}: error measured by layer and operator, in training", entry.name);
        (!map.is_empty()).then(|| details(&summary, entries.len() == 1, &map))
    });
    maps.collect()
}

/// The map of receipts that belong to layers; empty where there are none, or no more than one.
fn map(receipts: &[Receipt]) -> String {
    let mut cells: BTreeMap<(usize, Column), ErrorEnergy> = BTreeMap::new();
    for receipt in receipts {
        let Some(layer) = layer_of(&receipt.site) else { continue };
        let column = (format!("{} {}", receipt.op.name(), receipt.point.name()), receipt.pass.name());
        let cell = cells.entry((layer, column)).or_default();
        *cell += receipt.energy();
    }
    let layers: BTreeSet<usize> = cells.keys().map(|(layer, _)| *layer).collect();
    if layers.len() < 2 {
        return String::new();
    }
    let columns: BTreeSet<&Column> = cells.keys().map(|(_, column)| column).collect();
    let most =
        cells.values().map(|energy| energy.relative()).filter(|error| error.is_finite()).fold(0.0, f64::max);
    let heads = columns.iter().map(|(what, pass)| format!("<th>{}<small>{pass}</small></th>", escape(what)));
    let head = format!("<tr><th>layer</th>{}</tr>", heads.collect::<String>());
    let row = |layer: &usize| {
        let cells = columns.iter().map(|column| cell(cells.get(&(*layer, (*column).clone())), most));
        format!("<tr><th>{layer}</th>{}</tr>", cells.collect::<String>())
    };
    let rows: String = layers.iter().map(row).collect();
    format!(
        "<div class=\"scroll\"><table class=\"heat\"><thead>{head}</thead><tbody>{rows}</tbody></table></div>"
    )
}

fn cell(energy: Option<&ErrorEnergy>, most: f64) -> String {
    let Some(error) = energy.map(|energy| energy.relative()) else { return "<td>–</td>".into() };
    let share = if most > 0.0 && error.is_finite() { (100.0 * error / most).round() } else { 0.0 };
    format!("<td style=\"--heat:{share}%\">{} %</td>", format::significant(100.0 * error, 3))
}

/// The layer in a module path such as `model.layers.3.mlp.down_proj`.
fn layer_of(site: &str) -> Option<usize> {
    let mut parts = site.split('.');
    parts.find(|part| *part == "layers")?;
    parts.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    fn receipt(site: &str, error: f64) -> Receipt {
        from_value(json!({
            "site": site, "op": "linear", "point": "output", "phase": "train", "pass": "forward",
            "calls": 1, "elements": 4, "measured": error, "error_energy": error * error, "signal_energy": 1.0,
        }))
        .unwrap()
    }

    #[test]
    fn a_layer_has_one_cell_for_all_its_sites_of_an_operator() {
        let sites = [
            "model.layers.0.mlp.up_proj",
            "model.layers.0.mlp.down_proj",
            "model.layers.11.mlp.up_proj",
            "lm_head",
        ];
        let receipts: Vec<_> =
            sites.iter().zip([0.03, 0.05, 0.1, 9.0]).map(|(site, e)| receipt(site, e)).collect();
        let map = map(&receipts);
        assert_eq!(map.matches("<td").count(), 2, "{map}");
        assert!(map.contains("--heat:100%\">10") && map.contains("4.12 %"), "{map}");
    }

    #[test]
    fn receipts_of_one_layer_are_no_map() {
        assert_eq!(map(&[receipt("model.layers.3.mlp.up_proj", 0.1), receipt("lm_head", 0.1)]), "");
    }
}
