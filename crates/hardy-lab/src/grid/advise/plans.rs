//! The rules of a plan: a level for every place, or a format for the linear layers.

use hardy_numerics::{Perturbation, formats::Format};
use hardy_ops::{Layers, Op, Ops, Point, Rule};

use crate::grid::{Cell, threshold::Threshold};

/// The level of a place in a plan: what it is known to bear, scaled; 0 where nothing is.
pub fn given(threshold: &Threshold, scale: f64) -> f64 {
    rounded(threshold.low.unwrap_or_default() * scale)
}

/// One rule for every operator, point and level, at the layers that have it.
pub fn rules(thresholds: &[Threshold], scale: f64) -> Vec<Rule> {
    let mut rules: Vec<(String, Rule)> = Vec::new();
    for threshold in thresholds {
        let level = given(threshold, scale);
        let cell: Cell = threshold.cell.at_level(level);
        let key = format!("{} {} {} {level}", cell.op.name(), cell.point.name(), cell.modules);
        let rule = cell.rule();
        let same = rules
            .iter_mut()
            .find(|(other, rule)| *other == key && cell.layer.is_some() && rule.layers != Layers::All);
        match (same, cell.layer) {
            (Some((_, Rule { layers: Layers::List(list), .. })), Some(layer)) => list.push(layer),
            _ => rules.push((key, rule)),
        }
    }
    rules.into_iter().map(|(_, rule)| rule).filter(|rule| !rule.error.is_off()).collect()
}

/// Two digits, downward, so that plans are read easily and bear no more than was seen.
pub fn rounded(level: f64) -> f64 {
    if level <= 0.0 {
        return 0.0;
    }
    let unit = 10.0_f64.powi(level.log10().floor() as i32 - 1);
    let digits = (level / unit + 1e-9).floor();
    format!("{:.*}", (-unit.log10()).round().max(0.0) as usize, digits * unit).parse().unwrap_or(level)
}

/// The linear layers of some layers with weights and inputs in a format.
pub fn in_format(error: Perturbation, layers: &[usize]) -> Vec<Rule> {
    let rule = |at: Point| Rule {
        ops: Ops::Some(vec![Op::Linear]),
        layers: Layers::List(layers.to_vec()),
        at,
        error,
        ..Rule::noise(0.0)
    };
    vec![rule(Point::Weight), rule(Point::Input)]
}

/// `format` in all of so many layers but those of `bf16`.
pub fn mixed(format: Format, bf16: &[usize], layers: usize) -> Vec<Rule> {
    let rest: Vec<usize> = (0..layers).filter(|layer| !bf16.contains(layer)).collect();
    let parts = [(format.into(), rest.as_slice()), (Format::Bf16.into(), bf16)];
    let parts = parts.into_iter().filter(|(_, layers)| !layers.is_empty());
    parts.flat_map(|(error, layers)| in_format(error, layers)).collect()
}
