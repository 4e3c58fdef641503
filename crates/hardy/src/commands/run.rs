//! `hardy run`: training under noise, with evaluations and a report.

use std::path::{Path, PathBuf};

use clap::Args;
use hardy_lab::{
    Comparison, EvalRecord, LabError, RobustnessTable,
    page::decide_together,
    run::{self as lab, Crew},
};
use hardy_ops::Rule;
use hardy_train::{
    config::{RunConfig, refuse_existing},
    error::Error,
    plan_file::read_plan,
};
use serde::Serialize;
use toml::{Table, Value};

use crate::{
    build_info,
    crew::{self, CrewArgs},
    device::{DeviceArgs, Engine, on_device},
    failure::Failure,
    noise_args,
    output::{Output, note},
};

mod dashboard;
mod planned;
mod teller;
mod view;

use planned::Planned;
use teller::Teller;
pub use teller::evaluation;

const EXAMPLE: &str = "\
CONFIG is a TOML file or the name of a preset: quickstart, baseline, bf16-full, e5, e5a, e5b, e5c, e8a, e8b, e8c, e8d, \
e9a, e9b, e3a, e3b, e4a, e4b, w4a4-mxfp4, w4a4-nvfp4, w4a4-hif4, e7a, e5a-lora, e5b-lora, e6a, e6b, e12, dapo, \
dr-grpo, gspo. A run directory that exists is \
never overwritten. HARDY_NOISE adds rules to the plan of every run. On a terminal a dashboard shows the run while it goes on; \
--no-dashboard, --json, TERM=dumb or standard error to a file give plain lines.

Examples:
  hardy run quickstart
  hardy run e5b --set train.steps=40 --set model.path=DIR --out runs/e5b-short
  hardy run e5b --scale 1.5b --set model.path=DIR --set data.train=train.jsonl --set data.eval=test.jsonl
  hardy run e5b --resume
  hardy run e5b --extend --set train.epochs=4
  torchrun --no-python --nproc-per-node 4 hardy run e5b
  for r in 0 1; do RANK=$r WORLD_SIZE=2 hardy run e5b & done; wait";

/// Arguments of `hardy run`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Arguments {
    /// A TOML file, or a preset's name
    #[arg(value_name = "CONFIG")]
    config: String,
    /// The scale of a preset: `tiny` for the built-in toy, `1.5b` for the published setting on a model and data of yours
    #[arg(long, value_name = "NAME")]
    scale: Option<String>,
    /// Change a key of the configuration, as in train.steps=10; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Rules to add to the configuration's: a TOML file with `[[noise]]`, such as `hardy probe --advise` writes
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// The run directory [default: runs/NAME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on from the last checkpoint in the run directory
    #[arg(long)]
    resume: bool,
    /// Go on to more `train.steps` or `train.epochs` than the run was started with
    #[arg(long)]
    extend: bool,
    /// Of several workers, let each keep the optimizer's state of a share of the parameters alone (ZeRO stage 1)
    #[arg(long)]
    shard_optimizer: bool,
    #[command(flatten)]
    crew: CrewArgs,
    /// Check everything, write nothing, and say what the run will take; its time from a probe of a few seconds
    #[arg(long)]
    dry_run: bool,
    /// Plain lines on a terminal too, instead of a dashboard
    #[arg(long)]
    no_dashboard: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

/// What came of a configuration.
#[derive(Serialize)]
struct Outcome {
    directory: PathBuf,
    report: PathBuf,
    arms: Vec<Arm>,
    /// The arms against the first, where there are several.
    comparison: Option<Comparison>,
}

/// What came of one run.
#[derive(Serialize)]
struct Arm {
    name: String,
    directory: PathBuf,
    table: RobustnessTable,
}

/// Trains, evaluates and reports.
///
/// # Errors
/// Input that can not be used, or a run that fails.
pub fn run(args: &Arguments, output: Output) -> Result<(), Failure> {
    on_device!(args.device.device, run_on(args, output))
}

fn run_on<B: Engine>(args: &Arguments, output: Output) -> Result<(), Failure> {
    let scale = args.scale.iter().map(|name| format!("scale=\"{name}\""));
    let mut config =
        RunConfig::load(&args.config, &scale.chain(args.set.iter().cloned()).collect::<Vec<_>>())?;
    config.build = Some(build_info::table());
    if let Some(path) = &args.plan {
        add_rules(&mut config, &read_plan(path)?.noise)?;
    }
    if let Some(environment) = noise_args::environment()? {
        add_rules(&mut config, &environment.noise)?;
    }
    let directory = args.out.clone().unwrap_or_else(|| Path::new("runs").join(&config.name));
    if args.dry_run {
        return dry_run::<B>(args, &config, &directory, output);
    }
    let (device, resume) = (B::open(args.device.device)?, args.resume || args.extend);
    let crew = Crew { shard_optimizer: args.shard_optimizer, ..args.crew.launched(args.device.device)? };
    let extended =
        if args.extend && crew.workers.is_first() { lab::extend(&config, &directory) } else { Ok(()) };
    // Workers may share a terminal.
    let alone = crew.workers.size() == 1;
    let mut teller = match alone && !args.no_dashboard && !output.is_json() {
        true => Teller::on_terminal(),
        false => Teller::default(),
    };
    let made = extended.and_then(|()| {
        lab::run_arms::<B>(&crew, &config, &directory, resume, &device, &mut |event| teller.tell(&event))
    });
    drop(teller);
    let finished = crew::ended(&crew, made)?;
    if !crew.workers.is_first() {
        return Ok(());
    }
    if crew.workers.size() > 1 {
        let ([bytes, messages], size) = (crew.workers.sent(), crew.workers.size());
        note(&format!("{size} workers; the first sent {bytes} bytes in {messages} messages"));
    }
    let outcome = Outcome::new(directory, &finished)?;
    output.show(&outcome, |width| outcome.text(width))
}

fn dry_run<B: Engine>(
    args: &Arguments,
    config: &RunConfig,
    directory: &Path,
    output: Output,
) -> Result<(), Failure> {
    if !(args.resume || args.extend) {
        refuse_existing(directory)?;
    }
    let (device, mut told) = (B::open(args.device.device)?, Vec::new());
    let plan = |arm: &RunConfig| {
        let lab::DryRun { forecast, warnings } = lab::dry_run::<B>(arm, &device)?;
        for warning in warnings {
            // Arms have most in common.
            if !told.contains(&warning) {
                note(&format!("warning: {warning}"));
                told.push(warning);
            }
        }
        let own = if config.arm.is_empty() { directory.to_owned() } else { directory.join(&arm.name) };
        Ok(Planned { name: arm.name.clone(), directory: own, forecast })
    };
    let planned = config.arms()?.iter().map(plan).collect::<Result<Vec<_>, LabError>>()?;
    output.show(&planned, |_| planned.iter().map(Planned::text).collect())
}

/// Adds rules to a configuration and to those of its arms that have their own.
///
/// # Errors
/// A rule that has no TOML form.
pub fn add_rules(config: &mut RunConfig, rules: &[Rule]) -> Result<(), LabError> {
    config.noise.extend_from_slice(rules);
    for arm in &mut config.arm {
        let Some(Value::Array(own)) = arm.get_mut("noise") else { continue };
        for rule in rules {
            let table = Table::try_from(rule).map_err(|error| Error::config(error.to_string()))?;
            own.push(Value::Table(table));
        }
    }
    Ok(())
}

impl Outcome {
    fn new(directory: PathBuf, finished: &[(String, PathBuf, EvalRecord)]) -> Result<Self, Failure> {
        let arm = |(name, directory, record): &(String, PathBuf, EvalRecord)| {
            let table = RobustnessTable::from_record(record)?;
            Ok(Arm { name: name.clone(), directory: directory.clone(), table })
        };
        let mut arms = finished.iter().map(arm).collect::<Result<Vec<_>, LabError>>()?;
        let named: Vec<_> = finished.iter().map(|(name, _, record)| (name.as_str(), record)).collect();
        let mut comparison = if named.len() > 1 { Some(Comparison::new(&named, &[])?) } else { None };
        decide_together(arms.iter_mut().map(|arm| &mut arm.table), comparison.as_mut());
        Ok(Self { report: directory.join("report.html"), directory, arms, comparison })
    }

    fn text(&self, width: usize) -> String {
        let tables = self.arms.iter().map(|arm| format!("== {}\n{}\n", arm.name, arm.table.render(width)));
        let mut out: String = tables.collect();
        if let Some(comparison) = &self.comparison {
            out += &format!("== Are the differences real?\n{}\n", comparison.render(width));
        }
        out + &format!("report: {}\n", self.report.display())
    }
}
