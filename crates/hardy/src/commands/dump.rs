//! `hardy dump`: what a model computes at its sites, so that another machine can be held against it.

use std::path::{Path, PathBuf};

use clap::Args;
use hardy_lab::{
    diverge::{Dump, record, record::Wanted},
    format,
};
use hardy_ops::{Phase, Receipt, Rule};
use serde::Serialize;

use crate::{
    device::{Engine, on_device},
    failure::Failure,
    model_source::ModelArgs,
    noise_args::{self, NoiseArgs},
    output::Output,
    progress::Progress,
    receipt_table,
    token_args::TokenArgs,
};

const EXAMPLE: &str = "\
OUT gets one tensor for every site, named MODULE/OPERATOR/POINT as in `model.layers.0.mlp.down_proj/linear/output`: \
[B,T,width], of scores and softmax [B,heads,T,T], 0 where a token is masked or not seen; and `input_ids`, \
`attention_mask`, `loss_mask` [B,T], so that it can be given as --batch again. Its header holds the model's fingerprint, \
the plan, the device, the precision and the order of the sites. With --grads also the gradients of the loss, `grad_input` of every \
site (and of a product's second factor, `grad_input/rhs`), `grad_weight` and `grad_bias`.

Examples: everything; and the outputs of one layer under a plan
  hardy dump --model builtin:tiny --data builtin:arith --out cpu.safetensors
  hardy dump --model DIR --batch in.safetensors --sites 'model.layers.3.*' --plan plan.toml --out noisy.safetensors
Then: hardy diverge cpu.safetensors noisy.safetensors";

/// Arguments of `hardy dump`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    tokens: TokenArgs,
    /// Where to write; in a directory that exists, dump.safetensors
    #[arg(long, value_name = "OUT.safetensors")]
    out: PathBuf,
    /// Globs on MODULE/OPERATOR/POINT or on the module path alone
    #[arg(long, value_name = "GLOB", num_args = 1.., default_value = "*")]
    sites: Vec<String>,
    /// Gradients of the loss too
    #[arg(long)]
    grads: bool,
    #[command(flatten)]
    noise: NoiseArgs,
}

#[derive(Serialize)]
struct Outcome<'a> {
    out: &'a Path,
    tensors: usize,
    values: u64,
    sequences: usize,
    tokens: usize,
    loss: f64,
    fingerprint: &'a str,
    noise: &'a [Rule],
    receipts: Vec<Receipt>,
}

/// Dumps.
///
/// # Errors
/// A model, batch or plan that can not be used; noise that was asked for and never fired.
pub fn run(args: &Arguments, output: Output) -> Result<(), Failure> {
    on_device!(args.model.device.device, run_on(args, output))
}

fn run_on<B: Engine>(args: &Arguments, output: Output) -> Result<(), Failure> {
    let mut plan = args.noise.plan()?;
    if !args.grads {
        plan = noise_args::forward_only(plan, "give --grads")?;
    }
    let (decoder, tokens) = args.tokens.read::<B>(&args.model)?;
    let bound = noise_args::bind(&plan, &decoder.blueprint, Phase::Train)?;
    let wanted = Wanted { sites: &args.sites, gradients: args.grads };
    let mut bar: Option<Progress> = None;
    let mut progress = |done, of| bar.get_or_insert_with(|| Progress::new("dump", of)).at(done);
    let mut dump = record(&decoder, &tokens, (&bound, args.noise.step), &wanted, &mut progress)?;
    drop(bar);
    describe(&mut dump, &args.model);
    let out = if args.out.is_dir() { args.out.join("dump.safetensors") } else { args.out.clone() };
    dump.write(&out, &tokens.loss_mask())?;
    let outcome = Outcome {
        out: &out,
        tensors: dump.entries.len(),
        values: dump.entries.iter().map(|entry| entry.shape.iter().product::<usize>() as u64).sum(),
        sequences: tokens.rows(),
        tokens: tokens.shown.iter().filter(|shown| **shown).count(),
        loss: dump.fact("loss").and_then(|loss| loss.parse().ok()).unwrap_or(f64::NAN),
        fingerprint: dump.fact("fingerprint").unwrap_or_default(),
        noise: &plan.rules,
        receipts: bound.receipts(),
    };
    output.show(&outcome, |_| text(&outcome))
}

/// Adds what the command line knows of a recording.
pub fn describe(dump: &mut Dump, model: &ModelArgs) {
    let facts = [
        ("model", model.spec.clone()),
        ("device", model.device.device.to_string()),
        ("threads", rayon::current_num_threads().to_string()),
        ("build", crate::build_info::version().to_owned()),
    ];
    dump.facts.extend(facts.map(|(key, value)| (key.to_owned(), value)));
}

fn text(outcome: &Outcome) -> String {
    let Outcome { out, tensors, values, sequences, tokens, loss, receipts, .. } = outcome;
    let head = format!(
        "{tensors} tensors, {} values, of {} tokens in {sequences} sequences (loss {loss:.6}), written to {}\n",
        format::count(*values),
        format::count(*tokens as u64),
        out.display()
    );
    match receipt_table::render(receipts) {
        table if table.is_empty() => head,
        table => format!("{head}\n{table}"),
    }
}
