//! `hardy diverge`: one machine against another, site by site, and where they part.

mod fitted;
mod served;
mod side;
mod table;

use std::path::{Path, PathBuf};

use clap::Args;
use hardy_lab::diverge::{Divergence, VerdictKind, diverge, readers, report::Options};
use serde::Serialize;

use crate::{
    device::DeviceArgs, failure::Failure, model_source::ModelArgs, number_args::number, output::Output,
    token_args::TokenArgs,
};

use fitted::Explained;
use served::EndpointArgs;
use side::{Recorder, Side};

const EXAMPLE: &str = "\
A and B are dumps: of `hardy dump`; .npy, .npz or .pt files (nothing in them is run; tensors and dictionaries of them are \
read); or directories of msprobe (stepN/rankN with dump.json). Sites are matched by module path.

A SIDE of --between is a device and what is different there: DEVICE[,KEY=VALUE]..., with the keys threads, precision (f32 or bf16), \
plan (a file), noise (a scale), format (weights and inputs of linear layers), seed and model (another directory), as in `cpu,threads=1` or \
`cpu,plan=plan.toml`. Where both differ, both are made a second time, to see whether each repeats itself.

Verdicts: `equal`; `localised`: the first site that differs is where they part; `not reproduced`: a machine differs from itself as much; \
`inconclusive`. Exit codes: 0 equal, 1 any other verdict, 2 bad usage or input.

Examples:
  hardy diverge cpu.safetensors npu_dump/step0/rank0
  hardy diverge --model builtin:tiny --data builtin:arith --between cpu cpu,threads=1 --grads
  hardy diverge --model builtin:tiny --data builtin:arith --between cpu cpu,format=mxfp4
  hardy diverge --model DIR cpu.safetensors npu_dump/step0/rank0 --fit npu.toml
  hardy diverge --model DIR --data test.jsonl --endpoint http://127.0.0.1:8000";

/// Arguments of `hardy diverge`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Arguments {
    /// Two dumps, the reference first
    #[arg(value_name = "DUMP", num_args = 0..=2)]
    dumps: Vec<PathBuf>,
    /// Another dump that the first machine made of the same: how far it differs from itself
    #[arg(long, value_name = "DUMP")]
    again_a: Option<PathBuf>,
    /// The same of the second
    #[arg(long, value_name = "DUMP")]
    again_b: Option<PathBuf>,
    /// The model to make both sides with, or that the endpoint serves
    #[arg(long, value_name = "DIR")]
    model: Option<String>,
    /// Fit the error model that explains the second dump's machine, and write it as a plan; needs --model, the weights
    #[arg(long, value_name = "PLAN.toml", requires = "model", requires = "dumps")]
    fit: Option<PathBuf>,
    /// What `hardy probe --json` printed of this model: ranks that machine's operators by what their errors should cost
    #[arg(long, value_name = "PROBE.json", requires = "fit")]
    sensitivity: Option<PathBuf>,
    /// Two sides to make
    #[arg(long, value_name = "SIDE", num_args = 2, requires = "model", conflicts_with = "devices")]
    between: Vec<String>,
    /// Devices of this build, the reference first: each other one is held against it
    #[arg(long, value_name = "A,B", value_delimiter = ',', requires = "model")]
    devices: Vec<String>,
    #[command(flatten)]
    endpoint: EndpointArgs,
    #[command(flatten)]
    tokens: TokenArgs,
    /// Globs on MODULE/OPERATOR/POINT or on the module path alone, for sides that are made here
    #[arg(long, value_name = "GLOB", num_args = 1.., default_value = "*")]
    sites: Vec<String>,
    /// Gradients of the loss too, for sides that are made here
    #[arg(long)]
    grads: bool,
    /// The relative error up to which a site agrees [default: 0 between sides on one kind of device; else 1e-5, of float16 5e-3,
    /// of bfloat16 2e-2]; with --endpoint the mean |Δ| in nats [default: 0.01]
    #[arg(long, value_name = "X", value_parser = number("--tolerance"))]
    tolerance: Option<f64>,
    /// Compare models with different parameters too
    #[arg(long)]
    any_model: bool,
    /// Show every site, not only the first that differ
    #[arg(long)]
    all: bool,
}

/// Compares.
///
/// # Errors
/// What can not be read or compared; any verdict but `equal`.
pub fn run(args: &Arguments, output: Output) -> Result<(), Failure> {
    if let (Some(url), Some(model)) = (&args.endpoint.endpoint, &args.model) {
        let found = args.endpoint.compare(url, &on_cpu(model)?, &args.tokens, args.tolerance)?;
        output.show(&found, |_| served::text(&found))?;
        return if found.verdict.kind == VerdictKind::Equal { Ok(()) } else { Err(Failure::Differs) };
    }
    let found = match (&args.dumps[..], args.sides()?) {
        ([a, b], None) => args.dumps(a, b)?,
        ([], Some(sides)) => args.made(&sides)?,
        _ => {
            return Err(Failure::input(
                "what against what? give two dumps, or --model with --between SIDE SIDE or --devices A,B",
            ));
        }
    };
    let text = |_| found.iter().map(|one| one.text(args)).collect::<Vec<_>>().join("\n");
    match &found[..] {
        [one] => output.show(one, text)?,
        all => output.show(&all, text)?,
    }
    let equal = found.iter().all(|one| one.divergence.verdict.kind == VerdictKind::Equal);
    if equal { Ok(()) } else { Err(Failure::Differs) }
}

/// The model of a name, on the CPU.
fn on_cpu(spec: &str) -> Result<ModelArgs, Failure> {
    let device = DeviceArgs::named("cpu").map_err(Failure::input)?;
    Ok(ModelArgs { spec: spec.to_owned(), max_positions: None, precision: None, device })
}

/// A comparison, and the error model where one was asked for.
#[derive(Serialize)]
struct Outcome {
    #[serde(flatten)]
    divergence: Divergence,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_model: Option<Explained>,
}

impl Outcome {
    fn text(&self, args: &Arguments) -> String {
        let mut text = table::text(&self.divergence, args.all);
        if let (Some(model), Some(plan)) = (&self.error_model, &args.fit) {
            text += &format!("\n{}", fitted::text(model, plan));
        }
        text
    }
}

impl Arguments {
    fn options(&self) -> Options {
        Options { tolerance: self.tolerance, any_model: self.any_model }
    }

    fn dumps(&self, a: &Path, b: &Path) -> Result<Vec<Outcome>, Failure> {
        let read = |path: &Option<PathBuf>| path.as_deref().map(readers::read).transpose();
        let (a, b) = (readers::read(a)?, readers::read(b)?);
        let again = [read(&self.again_a)?, read(&self.again_b)?];
        let divergence = diverge(&a, &b, [again[0].as_ref(), again[1].as_ref()], self.options())?;
        let error_model = match (&self.fit, &self.model) {
            (Some(plan), Some(model)) => {
                let sensitivity = self.sensitivity.as_deref();
                Some(fitted::explained((&a, &b), &divergence, &on_cpu(model)?, (plan, sensitivity))?)
            }
            _ => None,
        };
        Ok(vec![Outcome { divergence, error_model }])
    }

    /// The sides to make, if any.
    fn sides(&self) -> Result<Option<Vec<Side>>, Failure> {
        let Some(model) = self.model.as_ref().filter(|_| self.dumps.is_empty()) else { return Ok(None) };
        let named = if self.between.is_empty() { &self.devices } else { &self.between };
        if named.len() < 2 {
            let given = named.len();
            return Err(Failure::input(format!(
                "--between and --devices need two sides, got {given}, as in `--between cpu cpu,threads=1`"
            )));
        }
        let parse = |text: &String| Side::parse(text, model).map_err(Failure::input);
        named.iter().map(parse).collect::<Result<Vec<_>, _>>().map(Some)
    }

    /// Every side against the first.
    fn made(&self, sides: &[Side]) -> Result<Vec<Outcome>, Failure> {
        let recorder = Recorder { tokens: &self.tokens, sites: &self.sites, gradients: self.grads };
        let reference = recorder.record(&sides[0])?;
        let mut found = Vec::new();
        for side in &sides[1..] {
            let other = recorder.record(side)?;
            let mut one = diverge(&reference, &other, [None, None], self.options())?;
            if one.verdict.kind != VerdictKind::Equal {
                let again = [recorder.record(&sides[0])?, recorder.record(side)?];
                one = diverge(&reference, &other, [Some(&again[0]), Some(&again[1])], self.options())?;
            }
            found.push(Outcome { divergence: one, error_model: None });
        }
        Ok(found)
    }
}
