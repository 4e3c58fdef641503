//! `hardy perturb`: one perturbation, applied to every tensor of a file as to a weight.

use std::path::{Path, PathBuf};

use clap::Args;
use hardy_lab::{
    format,
    text_table::{Align, TextTable},
};
use hardy_model::{
    Dtype, HostTensor, NamedTensor,
    files::{read_tensors, write_tensors},
};
use hardy_numerics::{ErrorMetrics, NoiseKey, Perturbation};
use hardy_train::toml_errors::suggestion;
use serde::Serialize;

use crate::{failure::Failure, noise_args::scale, output::Output, tensor_index::index_of};

/// The stream of this command's noise.
const STREAM: &str = "perturb";

const EXAMPLE: &str = "\
Every tensor must hold finite floating-point numbers; names and shapes stay, numbers are written as f32. The noise of \
a tensor depends on the seed, the step and its name alone. OUT may be IN: it is replaced when it is whole.

Example: 5 % relative Gaussian error on every weight of a model
  hardy perturb --error relative_gaussian --scale 0.05 --seed 1 model.safetensors noisy.safetensors";

/// Arguments of `hardy perturb`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Arguments {
    /// relative_gaussian, absolute_gaussian, systematic_bias or truncation
    #[arg(long, value_name = "KIND")]
    error: String,
    /// The scale of the error; of a truncation the step
    #[arg(long, value_name = "S", value_parser = scale, allow_negative_numbers = true)]
    scale: f64,
    /// Let a systematic bias grow with the magnitude of the value
    #[arg(long)]
    relative: bool,
    /// The seed of random errors
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The step of random errors
    #[arg(long, value_name = "N", default_value_t = 0)]
    step: u64,
    /// What to read
    #[arg(value_name = "IN.safetensors")]
    input: PathBuf,
    /// Where to write
    #[arg(value_name = "OUT.safetensors")]
    output: PathBuf,
}

/// What was done to the file.
#[derive(Serialize)]
struct Outcome<'a> {
    error: Perturbation,
    seed: u64,
    step: u64,
    input: &'a Path,
    output: &'a Path,
    tensors: Vec<Perturbed>,
}

/// What was done to a tensor.
#[derive(Serialize)]
struct Perturbed {
    name: String,
    shape: Vec<usize>,
    #[serde(flatten)]
    metrics: ErrorMetrics,
}

/// Perturbs a file.
///
/// # Errors
/// An unknown kind of error, a file that can not be read or written, or a tensor that can not be perturbed.
pub fn run(args: &Arguments, output: Output) -> Result<(), Failure> {
    let error = args.perturbation()?;
    let (mut written, mut tensors) = (Vec::new(), Vec::new());
    for tensor in read_tensors(&args.input)?.tensors {
        let before = finite_values(&args.input, &tensor)?;
        let mut data = before.clone();
        error.apply_flat(NoiseKey::new(args.seed, STREAM, args.step, &tensor.name), &mut data);
        let metrics = ErrorMetrics::measure(&before, &data);
        let NamedTensor { name, shape, .. } = tensor;
        tensors.push(Perturbed { name: name.clone(), shape: shape.clone(), metrics });
        written.push(HostTensor { name, shape, data });
    }
    write_tensors(&args.output, &written, Dtype::F32)?;
    let (input, path) = (&args.input, &args.output);
    let outcome = Outcome { error, seed: args.seed, step: args.step, input, output: path, tensors };
    output.show(&outcome, |_| text(&outcome.tensors))
}

impl Arguments {
    fn perturbation(&self) -> Result<Perturbation, Failure> {
        let kind = &self.error;
        let Some(error) = Perturbation::from_name(kind, self.scale, self.relative) else {
            let (known, nearest) = (Perturbation::NAMES.join(", "), suggestion(kind, Perturbation::NAMES));
            let nearest = nearest.strip_prefix("did").map(|rest| format!("; did{rest}")).unwrap_or_default();
            return Err(Failure::input(format!(
                "--error {kind}: unknown kind; the kinds are {known}{nearest}"
            )));
        };
        if self.relative && !matches!(error, Perturbation::SystematicBias { .. }) {
            return Err(Failure::input(format!("--relative means nothing with --error {kind}")));
        }
        Ok(error)
    }
}

/// The values of a tensor, all of which must be finite.
fn finite_values(path: &Path, tensor: &NamedTensor) -> Result<Vec<f32>, Failure> {
    let values = tensor.as_f32()?;
    let Some(at) = values.iter().position(|x| !x.is_finite()) else { return Ok(values) };
    let (path, name) = (path.display(), &tensor.name);
    let (index, found) = (index_of(at, &tensor.shape), values[at]);
    Err(Failure::input(format!("{path}: `{name}`{index} is {found}; only finite numbers can be perturbed")))
}

fn text(tensors: &[Perturbed]) -> String {
    use Align::{Left, Right};
    let columns = [
        ("tensor", Left),
        ("shape", Left),
        ("relative error", Right),
        ("mean relative", Right),
        ("SQNR dB", Right),
        ("dead zone", Right),
        ("saturation", Right),
        ("max error", Right),
    ];
    let mut table = TextTable::new(&columns);
    for Perturbed { name, shape, metrics } in tensors {
        table.row([
            name.clone(),
            format!("{shape:?}"),
            format::significant(metrics.relative_rms, 4),
            format::significant(metrics.mean_relative, 4),
            format!("{:.2}", metrics.sqnr_db),
            format::significant(metrics.dead_zone, 3),
            format::significant(metrics.saturation, 3),
            format::significant(metrics.max_error, 3),
        ]);
    }
    table.render()
}
