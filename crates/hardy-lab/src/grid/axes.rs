//! The axes of a grid, and the cells in which they cross at the sites of a model.

use hardy_numerics::Perturbation;
use hardy_ops::{Layers, Ops, Pass, Point, Rule, Site};

use super::cell::{Cell, level_of};

/// What a grid crosses. What an operator does not have, such as the weight of a softmax, makes no cell.
#[derive(Clone, Debug)]
pub struct Axes {
    /// The layers; `All` has the sites outside of layers too.
    pub layers: Layers,
    /// The operators.
    pub operators: Ops,
    /// The points, of the forward pass.
    pub points: Vec<Point>,
    /// The passes.
    pub passes: Vec<Pass>,
    /// The errors, one for each level.
    pub errors: Vec<Perturbation>,
    /// The modules, as a glob.
    pub modules: String,
    /// Globs of modules that are left out.
    pub exclude: Vec<String>,
}

impl Default for Axes {
    /// 5 % relative error at the output of every operator, forward.
    fn default() -> Self {
        Self {
            layers: Layers::All,
            operators: Ops::All,
            points: vec![Point::Output],
            passes: vec![Pass::Forward],
            errors: vec![Perturbation::RelativeGaussian { scale: 0.05 }],
            modules: "*".to_owned(),
            exclude: Vec::new(),
        }
    }
}

impl Axes {
    /// The axes on which a rule lies: its operators, layers and modules, its point, its passes, its error.
    #[must_use]
    pub fn of(rule: &Rule) -> Self {
        Self {
            layers: rule.layers.clone(),
            operators: rule.ops.clone(),
            points: vec![rule.at],
            passes: rule.pass.clone(),
            errors: vec![rule.error],
            modules: rule.modules.clone(),
            exclude: rule.exclude.clone(),
        }
    }

    /// The cells, in the order of the forward pass, then of points, passes and levels.
    #[must_use]
    pub fn cells(&self, sites: &[Site]) -> Vec<Cell> {
        let mut cells: Vec<Cell> = Vec::new();
        for site in sites {
            for &point in &self.points {
                for &pass in &self.passes {
                    let rule = self.rule(point, pass);
                    if !rule.selects(site) {
                        continue;
                    }
                    let here = self.errors.iter().map(|error| self.cell(site, point, pass, *error));
                    let here: Vec<Cell> = here.collect();
                    if !cells.iter().any(|cell| here.iter().any(|new| cell.same_place(new))) {
                        cells.extend(here);
                    }
                }
            }
        }
        cells
    }

    /// A rule on all that the axes select.
    fn rule(&self, point: Point, pass: Pass) -> Rule {
        Rule {
            ops: self.operators.clone(),
            at: point,
            layers: self.layers.clone(),
            modules: self.modules.clone(),
            exclude: self.exclude.clone(),
            pass: vec![pass],
            ..Rule::noise(0.05)
        }
    }

    fn cell(&self, site: &Site, point: Point, pass: Pass, error: Perturbation) -> Cell {
        Cell {
            layer: site.layer,
            op: site.op,
            point,
            pass,
            // Outside of layers an operator can occur in several modules, each a place of its own.
            modules: if site.layer.is_some() { self.modules.clone() } else { site.module.clone() },
            exclude: self.exclude.clone(),
            level: level_of(error),
            error,
        }
    }
}

#[cfg(test)]
mod tests {
    use hardy_ops::Op;

    use super::*;

    fn sites() -> Vec<Site> {
        let site = |module: &str, op, layer| Site { module: module.to_owned(), op, layer };
        vec![
            site("model.embed_tokens", Op::Embedding, None),
            site("model.layers.0.self_attn.q_proj", Op::Linear, Some(0)),
            site("model.layers.0.self_attn.softmax", Op::Softmax, Some(0)),
            site("model.layers.0.mlp.up_proj", Op::Linear, Some(0)),
            site("model.layers.1.mlp.up_proj", Op::Linear, Some(1)),
            site("lm_head", Op::Linear, None),
        ]
    }

    #[test]
    fn axes_cross_where_the_operator_has_the_point() {
        let scales = [0.01, 0.1].map(|scale| Perturbation::RelativeGaussian { scale });
        let axes =
            Axes { points: vec![Point::Output, Point::Weight], errors: scales.to_vec(), ..Axes::default() };
        let cells = axes.cells(&sites());
        // Embedding, linear of two layers and of the head: both points; softmax: its output alone. Two levels each.
        assert_eq!(cells.len(), 2 * (4 * 2 + 1));
        assert!(cells.iter().enumerate().all(|(i, a)| cells[..i].iter().all(|b| a != b)), "every cell once");
        let layers: Vec<Option<usize>> = cells.iter().map(|cell| cell.layer).collect();
        assert_eq!((layers[0], layers[4], layers.last()), (None, Some(0), Some(&None)));
    }

    #[test]
    fn every_cell_selects_a_site_and_only_of_its_layer_and_operator() {
        for cell in Axes::default().cells(&sites()) {
            let rule = cell.rule();
            let selected: Vec<Site> = sites().into_iter().filter(|site| rule.selects(site)).collect();
            assert!(!selected.is_empty(), "{cell}");
            assert!(selected.iter().all(|site| (site.layer, site.op) == (cell.layer, cell.op)), "{cell}");
        }
    }
}
