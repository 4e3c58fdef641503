//! `hardy quantize`: the tensors of a file as they would be in a number format.

use std::path::{Path, PathBuf};

use clap::Args;
use hardy_model::{
    Dtype, HostTensor, NamedTensor,
    files::{read_tensors, write_tensors},
};
use hardy_numerics::{
    Blocks, ErrorMetrics, ErrorSums, Format, NoiseKey, Perturbation, Quantization, Rounding,
};
use hardy_train::toml_errors::suggestion;
use serde::Serialize;

use crate::{
    failure::Failure,
    output::Output,
    tensor_errors::{Changed, decibels, measure, number, table, values, width},
};

/// The stream of this command's stochastic rounding.
const STREAM: &str = "quantize";

const EXAMPLE: &str = "\
Blocks run along the last axis; a tensor of one axis is one row. Names and shapes stay, numbers are written as f32. `hardy \
formats` lists the formats. OUT may be IN: it is replaced when it is whole.

Example: the weights of a model in MXFP4
  hardy quantize --format mxfp4 model.safetensors mxfp4.safetensors";

/// Arguments of `hardy quantize`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Arguments {
    /// The number format, such as mxfp4, nvfp4, hif4, fp8_e4m3 or int8
    #[arg(long, value_name = "NAME")]
    format: String,
    /// Round to one of the two neighbours so that the mean of the image is the value
    #[arg(long)]
    stochastic: bool,
    /// The seed of stochastic rounding
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The shape of blocks: 1d along the last axis, 2d squares (MX formats and NVFP4)
    #[arg(long, value_name = "1d|2d", default_value = "1d", value_parser = ["1d", "2d"])]
    blocks: String,
    /// Let NaN and infinity pass; NaN stays in its place
    #[arg(long)]
    allow_nonfinite: bool,
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
    format: Format,
    rounding: Rounding,
    blocks: Blocks,
    seed: u64,
    input: &'a Path,
    output: &'a Path,
    tensors: Vec<Changed<Measures>>,
    total: Changed<Measures>,
}

/// How far a tensor was moved, and what it takes to store it.
#[derive(Serialize)]
struct Measures {
    #[serde(flatten)]
    errors: ErrorMetrics,
    bits_per_value: f64,
}

/// Quantises a file.
///
/// # Errors
/// An unknown format, blocks that it does not have, a file that can not be read or written, or a tensor that can not be
/// quantised.
pub fn run(args: &Arguments, output: Output) -> Result<(), Failure> {
    let quantization = args.quantization()?;
    let (mut written, mut tensors, mut total) = (Vec::new(), Vec::new(), ErrorSums::default());
    let measures = |sums: ErrorSums| {
        let bits_per_value = quantization.format.bits_per_value();
        Measures { errors: sums.metrics(), bits_per_value }
    };
    for tensor in read_tensors(&args.input)?.tensors {
        let before = values(&args.input, &tensor, args.allow_nonfinite)?;
        let mut data = before.clone();
        let key = NoiseKey::new(args.seed, STREAM, 0, &tensor.name);
        let error = Perturbation::Quantization(quantization);
        error.apply_flat(key, width(&tensor.shape), &mut data);
        let sums = measure(&before, &data);
        total = total.plus(sums);
        let NamedTensor { name, shape, .. } = tensor;
        tensors.push(Changed { name: name.clone(), shape: shape.clone(), metrics: measures(sums) });
        written.push(HostTensor { name, shape, data });
    }
    write_tensors(&args.output, &written, Dtype::F32)?;
    let elements = written.iter().map(|tensor| tensor.data.len()).sum();
    let outcome = Outcome {
        format: quantization.format,
        rounding: quantization.rounding,
        blocks: quantization.blocks,
        seed: args.seed,
        input: &args.input,
        output: &args.output,
        tensors,
        total: Changed { name: "total".to_owned(), shape: vec![elements], metrics: measures(total) },
    };
    output.show(&outcome, |_| text(&outcome))
}

impl Arguments {
    fn quantization(&self) -> Result<Quantization, Failure> {
        let name = &self.format;
        let Some(format) = Format::from_name(name) else {
            let (known, nearest) = (Format::NAMES.join(", "), suggestion(name, Format::NAMES));
            let nearest = nearest.strip_prefix("did").map(|rest| format!("; did{rest}")).unwrap_or_default();
            return Err(Failure::input(format!(
                "--format {name}: unknown format; the formats are {known}{nearest}"
            )));
        };
        let rounding = if self.stochastic { Rounding::Stochastic } else { Rounding::Nearest };
        let blocks = if self.blocks == "2d" { Blocks::TwoD } else { Blocks::OneD };
        let quantization = Quantization { format, rounding, blocks, clip_gradient: false };
        let valid = Perturbation::Quantization(quantization).validate();
        valid.map_err(|wrong| Failure::input(format!("--blocks {}: {wrong}", self.blocks)))?;
        Ok(quantization)
    }
}

fn text(outcome: &Outcome) -> String {
    let rows: Vec<_> = outcome.tensors.iter().chain([&outcome.total]).collect();
    table::<Measures>(
        &rows,
        &[
            ("SQNR dB", &|m| decibels(m.errors.sqnr_db)),
            ("mean relative", &|m| number(m.errors.mean_relative)),
            ("dead zone", &|m| number(m.errors.dead_zone)),
            ("saturation", &|m| number(m.errors.saturation)),
            ("bits/value", &|m| format!("{}", m.bits_per_value)),
        ],
    )
}
