//! `hardy perturb`: one perturbation, applied to every tensor of a file as to a weight.

use std::path::{Path, PathBuf};

use clap::Args;
use hardy_model::{
    Dtype, HostTensor, NamedTensor,
    files::{read_tensors, write_tensors},
};
use hardy_numerics::{
    Bits, Blocks, ErrorMetrics, Image, Keys, NoiseKey, OptionError, Options, Perturbation, Rounding,
};
use hardy_train::toml_errors::suggestion;
use serde::Serialize;

use crate::{
    failure::Failure,
    noise_args::scale,
    output::Output,
    tensor_errors::{Changed, decibels, measure, number, table, values, width},
};

/// The stream of this command's noise.
const STREAM: &str = "perturb";
/// The stream of its faulty channels, which no step changes.
const CHANNELS: &str = "perturb channels";

const EXAMPLE: &str = "\
Kinds: noise relative_gaussian, absolute_gaussian, systematic_bias (--scale, --relative), truncation (--scale); faults \
dead_zone, saturation, bias (--scale), spike (--scale, --rate), stuck (--value), bit_flip (--rate, --bits, --image), \
burst_flip (the same, --period, --burst), each with --sparsity; or a number format, as `hardy formats` lists them (--rounding, --blocks). Every tensor must hold finite \
floating-point numbers; names and shapes stay, numbers are written as f32. Channels are positions along the last axis. The \
noise of a tensor depends on the seed, the step and its name alone. OUT may be IN: it is replaced when it is whole.

Example: 5 % relative Gaussian error on every weight of a model
  hardy perturb --error relative_gaussian --scale 0.05 --seed 1 model.safetensors noisy.safetensors";

/// Arguments of `hardy perturb`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Arguments {
    /// What kind of error; they are listed below
    #[arg(long, value_name = "KIND")]
    error: String,
    /// The scale of the error; of a truncation the step
    #[arg(long, value_name = "S", value_parser = scale, allow_negative_numbers = true)]
    scale: Option<f64>,
    /// Let a systematic bias grow with the magnitude of the value
    #[arg(long)]
    relative: bool,
    /// The share of channels that are faulty [default: 1]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    sparsity: Option<f64>,
    /// The probability of a spike for each value, or of a flip for each bit
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    rate: Option<f64>,
    /// What stuck channels are held at
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    value: Option<f64>,
    /// The bits that can be flipped: sign, exponent, mantissa, all, or FIRST,LAST [default: all]
    #[arg(long, value_name = "BITS", value_parser = bits)]
    bits: Option<Bits>,
    /// How values are stored where bits are flipped [default: f32]
    #[arg(long, value_name = "f32|bf16", value_parser = ["f32", "bf16"])]
    image: Option<String>,
    /// The stride of the values that an event of burst_flip strikes [default: 32]
    #[arg(long, value_name = "N")]
    period: Option<u32>,
    /// The most bits that an event of burst_flip flips [default: 3]
    #[arg(long, value_name = "N")]
    burst: Option<u32>,
    /// How a number format rounds [default: nearest]
    #[arg(long, value_name = "nearest|stochastic", value_parser = ["nearest", "stochastic"])]
    rounding: Option<String>,
    /// The shape of a number format's blocks [default: 1d]
    #[arg(long, value_name = "1d|2d", value_parser = ["1d", "2d"])]
    blocks: Option<String>,
    /// The seed of random errors
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The step of random errors
    #[arg(long, value_name = "N", default_value_t = 0)]
    step: u64,
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

/// Bits by name, or the first and the last.
fn bits(text: &str) -> Result<Bits, String> {
    let range = || {
        let (first, last) = text.split_once(',')?;
        Some(Bits::Range(first.trim().parse().ok()?, last.trim().parse().ok()?))
    };
    let wrong = "must be sign, exponent, mantissa, all, or the first and the last bit, such as 23,30";
    Bits::from_name(text).or_else(range).ok_or_else(|| wrong.to_owned())
}

/// What was done to the file.
#[derive(Serialize)]
struct Outcome<'a> {
    error: Perturbation,
    seed: u64,
    step: u64,
    input: &'a Path,
    output: &'a Path,
    tensors: Vec<Changed<ErrorMetrics>>,
}

/// Perturbs a file.
///
/// # Errors
/// An unknown kind of error, a file that can not be read or written, or a tensor that can not be perturbed.
pub fn run(args: &Arguments, output: Output) -> Result<(), Failure> {
    let error = args.perturbation()?;
    let (mut written, mut tensors) = (Vec::new(), Vec::new());
    for tensor in read_tensors(&args.input)?.tensors {
        let before = values(&args.input, &tensor, args.allow_nonfinite)?;
        let mut data = before.clone();
        error.apply_flat(args.keys(&tensor.name), width(&tensor.shape), &mut data);
        let metrics = measure(&before, &data).metrics();
        let NamedTensor { name, shape, .. } = tensor;
        tensors.push(Changed { name: name.clone(), shape: shape.clone(), metrics });
        written.push(HostTensor { name, shape, data });
    }
    write_tensors(&args.output, &written, Dtype::F32)?;
    let (input, path) = (&args.input, &args.output);
    let outcome = Outcome { error, seed: args.seed, step: args.step, input, output: path, tensors };
    output.show(&outcome, |_| text(&outcome.tensors))
}

impl Arguments {
    fn keys(&self, tensor: &str) -> Keys {
        Keys {
            noise: NoiseKey::new(self.seed, STREAM, self.step, tensor),
            channels: NoiseKey::new(self.seed, CHANNELS, 0, tensor),
        }
    }

    /// The options as a rule would have them.
    fn options(&self) -> Options {
        let word = |given: &Option<String>, chosen: &str| given.as_ref().map(|word| word == chosen);
        Options {
            kind: self.error.clone(),
            scale: self.scale,
            relative: self.relative.then_some(true),
            sparsity: self.sparsity,
            rate: self.rate,
            value: self.value,
            bits: self.bits,
            period: self.period,
            burst: self.burst,
            image: word(&self.image, "bf16").map(|bf16| if bf16 { Image::Bf16 } else { Image::F32 }),
            rounding: word(&self.rounding, "stochastic")
                .map(|random| if random { Rounding::Stochastic } else { Rounding::Nearest }),
            blocks: word(&self.blocks, "2d").map(|square| if square { Blocks::TwoD } else { Blocks::OneD }),
            ..Options::default()
        }
    }

    fn perturbation(&self) -> Result<Perturbation, Failure> {
        let kind = &self.error;
        if kind.starts_with("accumulate_") && Options::taken_by(kind).is_some() {
            return Err(Failure::input(format!(
                "--error {kind}: it rounds the partial sums of a product, and a file of tensors has none; use it in a \
                 [[noise]] rule on linear or matmul"
            )));
        }
        let error = self.options().perturbation().map_err(|wrong| match wrong {
            OptionError::UnknownKind(kind) => unknown(&kind),
            OptionError::Missing(option) => Failure::input(format!("--error {kind} needs --{option}")),
            OptionError::Superfluous { option, .. } => {
                Failure::input(format!("--{option} means nothing with --error {kind}"))
            }
        })?;
        error.validate().map_err(|wrong| Failure::input(format!("--error {kind}: {wrong}")))?;
        Ok(error)
    }
}

fn unknown(kind: &str) -> Failure {
    let (known, nearest) = (Perturbation::NAMES.join(", "), suggestion(kind, Perturbation::NAMES));
    let nearest = nearest.strip_prefix("did").map(|rest| format!("; did{rest}")).unwrap_or_default();
    Failure::input(format!("--error {kind}: unknown kind; the kinds are {known}{nearest}"))
}

fn text(tensors: &[Changed<ErrorMetrics>]) -> String {
    table::<ErrorMetrics>(
        &tensors.iter().collect::<Vec<_>>(),
        &[
            ("relative error", &|m| number(m.relative_rms)),
            ("mean relative", &|m| number(m.mean_relative)),
            ("SQNR dB", &|m| decibels(m.sqnr_db)),
            ("dead zone", &|m| number(m.dead_zone)),
            ("saturation", &|m| number(m.saturation)),
            ("max error", &|m| number(m.max_error)),
        ],
    )
}
