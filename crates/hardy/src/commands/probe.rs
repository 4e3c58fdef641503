//! `hardy probe`: where errors hurt a model, or what errors would leave of its activations and gradients.

mod advice;
mod cells;
mod magnitudes;

use std::{
    io::{IsTerminal, stdout},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use hardy_lab::{
    Setting,
    evaluate::EVAL_DATA_SEED,
    grid::{Cell, Grid, GridMetric, GridRecord, page, share, table},
};
use hardy_model::files::write_atomically;
use hardy_train::{
    data::{self, Source, Split},
    error::Error,
    reward::Extraction,
};
use serde_json::{Value, json};

use self::{advice::AdviceArgs, cells::CellArgs};
use crate::{
    build_info,
    crew::{self, CrewArgs, refuse_company},
    device::{Engine, on_device},
    failure::Failure,
    model_source::ModelArgs,
    noise_args::NoiseArgs,
    number_args::{explained, whole},
    output::{Output, keep, note},
    progress::Progress,
    shard_args::{ShardArgs, keep_share},
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
a number format; a look before hours are spent; one of four machines; four processes
  hardy probe --model builtin:tiny --data builtin:arith
  hardy probe --model builtin:tiny --data builtin:arith --n 100 --levels 0.01,0.05,0.1 --passes forward,backward
  hardy probe --model builtin:tiny --data builtin:arith --grid w4a16-vs-a4 --html grid.html
  hardy probe --model builtin:tiny --data builtin:arith --n 100 --metric accuracy --advise plan.toml
  hardy probe --model builtin:tiny --data builtin:arith --n 100 --advise mixed.toml --advise-format mxfp4
  hardy probe --magnitudes --model builtin:tiny --data builtin:arith
  hardy probe --model builtin:tiny --data builtin:arith --n 100 --shard 2/4 --out grid.json
  torchrun --no-python --nproc-per-node 4 hardy probe --model builtin:tiny --data builtin:arith --n 100";

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
    #[arg(long, value_name = "FILE.html", conflicts_with = "shard")]
    html: Option<PathBuf>,
    #[command(flatten)]
    shard: ShardArgs,
    #[command(flatten)]
    crew: CrewArgs,
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
    args.refuse_other_work_in_shares()?;
    if args.magnitudes {
        refuse_company("--magnitudes, one pass,")?;
    }
    let out = args.shard.file(args.out.as_deref())?;
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
    let definition = args.definition(&grid, &cells);
    let crew = args.crew.launched(args.model.device.device)?;
    let asked = format!("{definition:#}\n{:?}", args.advice);
    crew::ended(&crew, crew.agree(Some(&build_info::table()), &asked, &policy, all.iter()))?;
    let own = args.shard.among(&crew)?;
    if args.advice.wanted() {
        let others = Setting { problems: if others.is_empty() { problems } else { others }, ..setting };
        return args.advice.run(&crew, &grid, &cells, others, (&args.model.spec, &args.data), output);
    }
    let files = [args.model.spec.as_str(), args.data.as_str()];
    let share = args.shard.manifest(share::KIND, cells.len(), definition, files)?;
    let cells = match own {
        Some(shard) => shard.select(cells).map(|(_, cell)| cell).collect(),
        None => cells,
    };
    let mut bar = crew.workers.is_first().then(|| Progress::new("probe", cells.len()));
    let found = grid.run(&cells, &mut |done| bar.iter_mut().for_each(|bar| bar.at(done)));
    drop(bar);
    let mut found = crew::ended(&crew, found.and_then(|found| found.joined(&crew)))?;
    if !crew.workers.is_first() {
        return Ok(());
    }
    (found.model, found.data) = (args.model.spec.clone(), args.data.clone());
    if let (Some(manifest), Some(file), Some(whole)) = (share, &out, &args.out) {
        return keep_share(&found.share(manifest)?, file, whole, output);
    }
    keep(&found, out.as_deref())?;
    show_page(&found, args.html.as_deref())?;
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

    /// Shares are of the grid alone.
    fn refuse_other_work_in_shares(&self) -> Result<(), Failure> {
        let other = if self.magnitudes { Some("--magnitudes") } else { self.advice.flag() };
        match (self.shard.shard, other) {
            (Some(_), Some(flag)) => Err(Failure::input(format!(
                "--shard shares the cells of a grid, and {flag} is none; leave one out"
            ))),
            _ => Ok(()),
        }
    }

    /// Everything that the cells follow from, beside the files.
    fn definition<B: Engine>(&self, grid: &Grid<'_, B>, cells: &[Cell]) -> Value {
        json!({
            "model": self.model.spec,
            "max_positions": self.model.max_positions,
            "device": self.model.device.device.to_string(),
            "precision": grid.setting.policy.decoder.blueprint.precision,
            "data": self.data,
            "n": grid.setting.problems.len(),
            "prompt": self.prompt,
            "metric": grid.metric.name(),
            "strict": self.metric == Measure::Strict,
            "draws": grid.draws,
            "seed": grid.seed,
            "max_new_tokens": grid.max_new_tokens,
            "cells": cells,
        })
    }
}

/// Writes the page of a grid, where it was asked for.
///
/// # Errors
/// A file that can not be written.
pub fn show_page(found: &GridRecord, html: Option<&Path>) -> Result<(), Failure> {
    let Some(path) = html else { return Ok(()) };
    write_atomically(path, page::html(found, "").as_bytes())?;
    note(&format!("{}: open it in a browser", path.display()));
    Ok(())
}
