//! Which cells are probed: the flags that name layers, operators, points, passes and levels, or a grid by name.

use clap::Args;
use hardy_lab::grid::{Axes, Cell, level_of, shipped::ShippedGrid, with_level};
use hardy_numerics::Perturbation;
use hardy_ops::{Layers, Ops, Plan, Site};
use serde::de::DeserializeOwned;
use toml::Value;

use crate::{error_spec, failure::Failure, noise_args, output::note};

/// The cells of a grid.
#[derive(Clone, Debug, Args)]
pub struct CellArgs {
    /// Strengths of the error, one cell each: scales, or rates of flips [default: the error's own, else 0.05]
    #[arg(
        long,
        value_name = "LEVELS",
        value_delimiter = ',',
        value_parser = noise_args::scale,
        allow_negative_numbers = true
    )]
    levels: Vec<f64>,
    /// Operators, as in linear,softmax, or all
    #[arg(long, value_name = "OPS")]
    operators: Option<String>,
    /// Layers, as in 0..4 or 1,3, or all, which has the embedding, the last norm and the head too
    #[arg(long, value_name = "LAYERS")]
    layers: Option<String>,
    /// Modules, as a glob such as *.down_proj
    #[arg(long, value_name = "GLOB")]
    modules: Option<String>,
    /// Points at which the error enters: input, output, weight [default: output]
    #[arg(long, value_name = "POINTS")]
    points: Option<String>,
    /// Passes in which it enters: forward, backward [default: forward]
    #[arg(long, value_name = "PASSES")]
    passes: Option<String>,
    /// The error: a kind, with options as in spike:rate=0.01 [default: relative_gaussian]
    #[arg(long, value_name = "KIND[:key=value,…]")]
    error: Option<String>,
    /// A grid that comes with Hardy: depth, operators, w4a16-vs-a4; or a .toml file with `question` and `[[axes]]`
    #[arg(long, value_name = "NAME", conflicts_with_all = ["levels", "operators", "layers", "modules", "points", "passes", "error", "noise", "plan"])]
    grid: Option<String>,
}

impl CellArgs {
    /// The cells at the sites of a model.
    ///
    /// # Errors
    /// Flags that can not be understood, or that select nothing.
    pub fn cells(&self, plan: &Plan, sites: &[Site]) -> Result<Vec<Cell>, Failure> {
        let cells = match &self.grid {
            Some(name) => {
                let grid = ShippedGrid::load(name)?;
                note(&grid.question);
                grid.cells(sites)
            }
            None => self.axes(plan)?.cells(sites),
        };
        for cell in &cells {
            let rule = cell.rule();
            rule.validate().map_err(|wrong| Failure::input(format!("{cell}: {wrong}")))?;
        }
        if cells.is_empty() {
            return Err(nothing(sites));
        }
        Ok(cells)
    }

    fn axes(&self, plan: &Plan) -> Result<Axes, Failure> {
        let mut axes = plan.rules.first().map_or_else(Axes::default, Axes::of);
        if let Some(text) = &self.operators {
            axes.operators = if text == "all" { Ops::All } else { list("--operators", text)? };
        }
        if let Some(text) = &self.layers {
            axes.layers = layers(text)?;
        }
        if let Some(glob) = &self.modules {
            axes.modules.clone_from(glob);
        }
        if let Some(text) = &self.points {
            axes.points = list("--points", text)?;
        }
        if let Some(text) = &self.passes {
            axes.passes = list("--passes", text)?;
        }
        axes.errors = self.errors(axes.errors[0])?;
        Ok(axes)
    }

    fn errors(&self, usual: Perturbation) -> Result<Vec<Perturbation>, Failure> {
        let wrong = |message| Failure::input(format!("--error: {message}"));
        if let Some(text) = &self.error {
            let (kind, keys) = error_spec::split(text).map_err(wrong)?;
            let options = error_spec::options(&kind, keys).map_err(wrong)?;
            return error_spec::at_levels(options, &self.levels).map_err(wrong);
        }
        if self.levels.is_empty() {
            return Ok(vec![usual]);
        }
        if level_of(usual).is_none() {
            return Err(Failure::input(format!(
                "--levels means nothing with {}, which has one strength",
                usual.kind_name()
            )));
        }
        Ok(self.levels.iter().map(|&level| with_level(usual, level)).collect())
    }
}

/// Says what the model has.
fn nothing(sites: &[Site]) -> Failure {
    let last = sites.iter().filter_map(|site| site.layer).max().unwrap_or(0);
    let mut ops: Vec<&str> = sites.iter().map(|site| site.op.name()).collect();
    ops.sort_unstable();
    ops.dedup();
    Failure::input(format!(
        "no cell: nothing in the model has these layers, operators, modules and points together; it has layers \
         0..={last} and the operators {}",
        ops.join(", ")
    ))
}

/// A list of names that serde knows, parted by commas.
fn list<T: DeserializeOwned>(flag: &str, text: &str) -> Result<T, Failure> {
    let names = text.split(',').map(|name| Value::String(name.trim().to_owned())).collect();
    let read = Value::Array(names).try_into::<T>();
    read.map_err(|error| {
        Failure::input(format!("{flag}: {}", error.to_string().lines().next().unwrap_or_default()))
    })
}

/// `all`, a range, or numbers parted by commas.
fn layers(text: &str) -> Result<Layers, Failure> {
    let numbers: Result<Vec<i64>, _> = text.split(',').map(|number| number.trim().parse::<i64>()).collect();
    let value = match numbers {
        Ok(numbers) => Value::Array(numbers.into_iter().map(Value::Integer).collect()),
        Err(_) => Value::String(text.to_owned()),
    };
    value.try_into().map_err(|_| {
        Failure::input(format!(
            "--layers must be all, a range such as 4..8, or numbers such as 1,3, not `{text}`"
        ))
    })
}
