//! `hardy probe`: where errors hurt a model, or what errors would leave of its activations and gradients.

mod advice;
mod cells;
mod magnitudes;

use std::{
    io::{IsTerminal, stdout},
    path::PathBuf,
};

use clap::{Args, ValueEnum};
use hardy_lab::{
    Setting,
    evaluate::EVAL_DATA_SEED,
    grid::{Grid, GridMetric, GridRecord, page, table},
};
use hardy_model::files::{write_atomically, write_json};
use hardy_train::{
    config::refuse_existing,
    data::{self, Source, Split},
    error::Error,
    reward::Extraction,
};

use self::{advice::AdviceArgs, cells::CellArgs};
use crate::{
    device::{Engine, on_device},
    failure::Failure,
    model_source::ModelArgs,
    noise_args::NoiseArgs,
    number_args::{explained, whole},
    output::{Output, note},
    progress::Progress,
};

const EXAMPLE: &str = "\
One error at a time enters at one operator of one layer, at one point, in one pass, at one level, and the table shows what that \
alone does: to the mean negative log-likelihood of the worked answers' tokens, to accuracy with --metric accuracy, and, of errors \
in the backward pass, to the direction of the gradient. What lies before an error is not computed again. The error is --error; \
else that of the plan's first rule, at every place that the rule selects; else 5 % relative noise.

With --threshold: the level at which a place alone loses so much, --drop, sought by sequential tests that spend draws where the answer \
is open. With --advise: a plan that keeps a share of accuracy, --keep, written as TOML and checked on as many problems again.

With --magnitudes: what every rule of the plan leaves of activations and gradients; without a plan 5 % relative error on the \
outputs of linear layers and matmuls and, backward, on their gradients.

Examples: who is to blame; the same at three levels in both passes; a question of the literature; a plan with levels, and one with \
a number format; a look before hours are spent
  hardy probe --model builtin:tiny --data builtin:arith
  hardy probe --model builtin:tiny --data builtin:arith --n 100 --levels 0.01,0.05,0.1 --passes forward,backward
  hardy probe --model builtin:tiny --data builtin:arith --grid w4a16-vs-a4 --html grid.html
  hardy probe --model builtin:tiny --data builtin:arith --n 100 --metric accuracy --advise plan.toml
  hardy probe --model builtin:tiny --data builtin:arith --n 100 --advise mixed.toml --advise-format mxfp4
  hardy probe --magnitudes --model builtin:tiny --data builtin:arith";

/// What is measured of the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Measure {
    /// The mean negative log-likelihood of the worked answers
    Nll,
    /// Answers that are right in any form
    Accuracy,
    /// Answers that are right after `####`
    Strict,
}

/// Arguments of `hardy probe`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    /// The problems whose worked answers are read: `builtin:arith`, or a GSM8K-style .jsonl file
    #[arg(long, value_name = "FILE")]
    data: String,
    /// Activation and gradient magnitudes, and the signal-to-noise that each rule leaves
    #[arg(long)]
    magnitudes: bool,
    #[command(flatten)]
    noise: NoiseArgs,
    #[command(flatten)]
    cells: CellArgs,
    #[command(flatten)]
    advice: AdviceArgs,
    /// What is measured of errors in the forward pass
    #[arg(long, value_enum, default_value = "nll")]
    metric: Measure,
    #[arg(
        long,
        help = explained("Independent draws of every random error", "eval.draws"),
        value_name = "K",
        default_value_t = 1,
        value_parser = whole::<usize>("eval.draws")
    )]
    draws: usize,
    #[arg(
        long,
        help = explained("Problems: the first N", "eval.n"),
        value_name = "N",
        default_value_t = 16,
        value_parser = whole::<usize>("eval.n")
    )]
    n: usize,
    #[arg(
        long,
        help = explained("Tokens after which an answer is cut off", "eval.max_new_tokens"),
        value_name = "N",
        default_value_t = 256,
        value_parser = whole::<usize>("eval.max_new_tokens")
    )]
    max_new_tokens: usize,
    #[arg(
        long,
        help = explained("Sequences that are generated at once", "eval.batch"),
        value_name = "N",
        default_value_t = 256,
        value_parser = whole::<usize>("eval.batch")
    )]
    batch: usize,
    /// How a problem is asked, with `{question}` in it
    #[arg(long, value_name = "TEXT", default_value = "{question}")]
    prompt: String,
    /// Keep the grid in a new JSON file
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
    /// Write the grid as an HTML page of heat maps
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
}

/// Probes.
///
/// # Errors
/// A model, plan or data that can not be used.
pub fn run(args: &Arguments, output: Output) -> Result<(), Failure> {
    on_device!(args.model.device.device, run_on(args, output))
}

fn run_on<B: Engine>(args: &Arguments, output: Output) -> Result<(), Failure> {
    let plan = args.noise.plan()?;
    args.out.as_deref().map_or(Ok(()), refuse_existing)?;
    let policy = args.model.policy::<B>()?;
    let wanted = if args.advice.checks() { 2 * args.n } else { args.n };
    let all = data::load(&Source::texts(&args.data), Split::Train, EVAL_DATA_SEED, Some(wanted))
        .map_err(Error::from)?;
    // A plan is checked on problems that it was not chosen by.
    let own = if args.advice.checks() { args.n.min(all.len().div_ceil(2)) } else { all.len() };
    let (problems, others) = all.split_at(own);
    let setting = Setting { policy: &policy, problems, wording: &args.prompt };
    if args.magnitudes {
        return magnitudes::run(&setting, plan, output);
    }
    let cells = args.cells.cells(&plan, &policy.decoder.blueprint.sites)?;
    let grid = Grid {
        setting,
        metric: args.metric(),
        draws: args.draws,
        seed: plan.seed,
        max_new_tokens: args.max_new_tokens,
        batch: args.batch,
    };
    if args.advice.wanted() {
        let others = Setting { problems: if others.is_empty() { problems } else { others }, ..setting };
        return args.advice.run(&grid, &cells, others, (&args.model.spec, &args.data), output);
    }
    let mut bar = Progress::new("probe", cells.len());
    let mut found = grid.run(&cells, &mut |done| bar.at(done))?;
    drop(bar);
    (found.model, found.data) = (args.model.spec.clone(), args.data.clone());
    args.keep(&found)?;
    output.show(&found, |width| table::render(&found, width, stdout().is_terminal()))
}

impl Arguments {
    fn metric(&self) -> GridMetric {
        match self.metric {
            Measure::Nll => GridMetric::Nll,
            Measure::Accuracy => GridMetric::Accuracy(Extraction::Flexible),
            Measure::Strict => GridMetric::Accuracy(Extraction::Strict),
        }
    }

    /// Writes the files that were asked for.
    fn keep(&self, found: &GridRecord) -> Result<(), Failure> {
        if let Some(path) = &self.out {
            let json = serde_json::to_value(found).map_err(|error| Failure::run(error.to_string()))?;
            write_json(path, &json)?;
        }
        if let Some(path) = &self.html {
            write_atomically(path, page::html(found, "").as_bytes())?;
            note(&format!("{}: open it in a browser", path.display()));
        }
        Ok(())
    }
}
