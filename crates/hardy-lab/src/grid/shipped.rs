//! The grids that come with Hardy, each a question of the literature: files of `grids/`, by name.

use hardy_numerics::Perturbation;
use hardy_ops::{Layers, Ops, Pass, Point};
use hardy_train::{
    error::{Error, Result},
    toml_errors,
};
use serde::Deserialize;

use super::{Axes, Cell};
use hardy_ops::Site;

/// Name and text of every shipped grid.
pub const ALL: &[(&str, &str)] = &[
    ("depth", include_str!("../../../../grids/depth.toml")),
    ("operators", include_str!("../../../../grids/operators.toml")),
    ("w4a16-vs-a4", include_str!("../../../../grids/w4a16-vs-a4.toml")),
];

/// A question and the axes that answer it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShippedGrid {
    /// What it asks, in one sentence.
    pub question: String,
    /// Blocks of axes, one after another.
    axes: Vec<Raw>,
}

/// Axes as they are written; what is missing is as in [`Axes::default`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    layers: Layers,
    #[serde(default)]
    operators: Ops,
    points: Option<Vec<Point>>,
    passes: Option<Vec<Pass>>,
    errors: Vec<Perturbation>,
    modules: Option<String>,
    #[serde(default)]
    exclude: Vec<String>,
}

impl ShippedGrid {
    /// The grid of a name, or in the file of a path.
    ///
    /// # Errors
    /// An unknown name, or a file that is no grid, with the line.
    pub fn load(spec: &str) -> Result<Self> {
        if let Some((name, text)) = ALL.iter().find(|(name, _)| *name == spec) {
            return Ok(toml_errors::parse(text, &format!("grids/{name}.toml"))?);
        }
        let path = std::path::Path::new(spec);
        if path.extension().is_none() {
            let known: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
            return Err(Error::config(format!(
                "unknown grid `{spec}`; the grids are {}, or a .toml file",
                known.join(", ")
            )));
        }
        let text = std::fs::read_to_string(path).map_err(Error::file(path))?;
        Ok(toml_errors::parse(&text, spec)?)
    }

    /// Its cells at the sites of a model.
    #[must_use]
    pub fn cells(&self, sites: &[Site]) -> Vec<Cell> {
        self.axes.iter().flat_map(|raw| raw.axes().cells(sites)).collect()
    }
}

impl Raw {
    fn axes(&self) -> Axes {
        let usual = Axes::default();
        Axes {
            layers: self.layers.clone(),
            operators: self.operators.clone(),
            points: self.points.clone().unwrap_or(usual.points),
            passes: self.passes.clone().unwrap_or(usual.passes),
            errors: self.errors.clone(),
            modules: self.modules.clone().unwrap_or(usual.modules),
            exclude: self.exclude.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use hardy_ops::Op;

    use super::*;

    #[test]
    fn every_shipped_grid_is_read_and_has_cells_that_can_be_bound() {
        let module = |name: &str| format!("model.layers.0.{name}");
        let site = |module: String, op| Site { module, op, layer: Some(0) };
        let sites = [
            site(module("mlp.down_proj"), Op::Linear),
            site(module("self_attn.softmax"), Op::Softmax),
            site(module("input_layernorm"), Op::RmsNorm),
        ];
        for (name, _) in ALL {
            let grid = ShippedGrid::load(name).unwrap();
            let cells = grid.cells(&sites);
            assert!(!cells.is_empty() && grid.question.ends_with('?'), "{name}");
            for cell in cells {
                cell.rule().validate().unwrap_or_else(|wrong| panic!("{name}, {cell}: {wrong}"));
            }
        }
    }

    #[test]
    fn an_unknown_grid_is_named_with_those_that_exist() {
        let message = ShippedGrid::load("depht").unwrap_err().to_string();
        assert!(message.contains("`depht`") && message.contains("w4a16-vs-a4"), "{message}");
    }
}
