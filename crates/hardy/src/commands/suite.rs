//! `hardy suite`: presets × seeds, and one table.

use std::path::{Path, PathBuf};

use clap::Args;
use hardy_lab::{
    shard::Shard,
    suite::{Member, Schedule, Suite, execute},
};
use serde::Serialize;
use serde_json::json;

use crate::{
    build_info,
    commands::run::add_rules,
    device::{DeviceArgs, Engine, on_device},
    failure::Failure,
    noise_args,
    number_args::{help, whole},
    output::{Output, note},
};

mod engine;
mod ray;
mod teller;

use engine::EngineArgs;
use teller::Teller;

const EXAMPLE: &str = "\
SUITE is a TOML file (name, presets, seeds, baseline, set) or a shipped one: hw-noise, forward-backward, \
quantised, lora. The same \
command goes on with a suite that was stopped: finished runs are not made again, and the table is the same. Results do \
not depend on --jobs.

Examples:
  hardy suite hw-noise --jobs 2
  hardy suite forward-backward --set train.steps=40 --out runs/short
  hardy suite hw-noise --shard 2/4 --out runs/hw
  hardy suite hw-noise --emit slurm --shards 4 --out /shared/hw > hw.sbatch && sbatch hw.sbatch
  hardy suite hw-noise --on ray://127.0.0.1:8265 --jobs 8 --out /shared/hw";

/// Arguments of `hardy suite`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Arguments {
    /// A TOML file, or a shipped suite's name
    #[arg(value_name = "SUITE")]
    suite: String,
    /// The suite's directory [default: runs/NAME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[arg(
        long,
        help = help("--jobs"),
        value_name = "N",
        default_value_t = 1,
        value_parser = whole::<usize>("--jobs")
    )]
    jobs: usize,
    /// Change a key of every configuration, as in train.steps=10; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Make a share of the runs, as in 2/4, in a directory of its own within the suite's; `hardy merge` joins the shares.
    /// auto/4 takes the number from a Slurm array (1 to 4) or an indexed Kubernetes job; auto takes both from a whole Slurm
    /// array. Without --shard the environment is not read, and all runs are made
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// Check everything and write nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// What came of a share.
#[derive(Serialize)]
struct Shared {
    shard: Shard,
    directory: PathBuf,
    runs: Vec<String>,
}

impl Shared {
    fn new(shard: Shard, schedule: &Schedule) -> Self {
        let runs = schedule.members().iter().map(Member::label).collect();
        Self { shard, directory: schedule.directory().to_owned(), runs }
    }

    fn text(&self, suite: &Path) -> String {
        let (runs, shard, suite) = (self.runs.len(), self.shard, suite.display());
        let of = shard.of();
        format!(
            "shard {shard}: {runs} runs, in {}\nwhen all are made: hardy merge {suite}/shard-*-of-{of} --out {suite}\n",
            self.directory.display()
        )
    }
}

/// What a suite would do.
#[derive(Serialize)]
struct Planned {
    run: String,
    directory: PathBuf,
    steps: u64,
    finished: bool,
}

/// Makes the runs that are missing and judges all.
///
/// # Errors
/// Input that can not be used, or a run that fails.
pub fn run(args: &Arguments, output: Output) -> Result<(), Failure> {
    on_device!(args.device.device, run_on(args, output))
}

fn run_on<B: Engine>(args: &Arguments, output: Output) -> Result<(), Failure> {
    let mut suite = Suite::load(&args.suite)?;
    suite.set.extend(args.set.iter().cloned());
    let directory = args.out.clone().unwrap_or_else(|| Path::new("runs").join(&suite.name));
    let rules = noise_args::environment()?.map(|plan| plan.noise).unwrap_or_default();
    let schedule = Schedule::new(&suite, &directory, |config| {
        config.build = Some(build_info::table());
        add_rules(config, &rules)
    })?;
    if let Some(emit) = args.engine.emit {
        let typed = (args.suite.as_str(), &args.set[..]);
        let file = args.engine.file(emit, typed, &schedule, &suite.name)?;
        return output.show(&json!({ "file": file }), |_| file.clone());
    }
    let schedule = match args.shard {
        Some(shard) => schedule.share(shard, &build_info::table(), hardy_numerics::simd::level())?,
        None => schedule,
    };
    let device = B::open(args.device.device)?;
    let steps = schedule.steps::<B>(&device)?;
    if args.dry_run {
        return dry_run(&schedule, &steps, output);
    }
    let _lock = schedule.claim(&mut |warning| note(&format!("warning: {warning}")))?;
    if let Some(address) = &args.engine.on {
        ray::execute(&schedule, &args.engine, address, args.jobs)?;
    } else {
        let mut teller = Teller::new(&schedule, &steps);
        execute::<B>(&schedule, args.jobs, &device, &mut |event| teller.tell(&event))?;
    }
    if let Some(shard) = schedule.shard() {
        let done = Shared::new(shard, &schedule);
        return output.show(&done, |_| done.text(&directory));
    }
    let table = schedule.table()?;
    table.keep(&directory)?;
    output.show(&table, |width| {
        let files = directory.join("table.{json,md}");
        format!("{}table: {}\n", table.render(width), files.display())
    })
}

fn dry_run(schedule: &Schedule, steps: &[u64], output: Output) -> Result<(), Failure> {
    let planned: Vec<Planned> = schedule
        .members()
        .iter()
        .zip(steps)
        .map(|(member, &steps)| Planned {
            run: member.label(),
            directory: member.directory.clone(),
            steps,
            finished: member.finished,
        })
        .collect();
    let line = |p: &Planned| {
        let (run, steps, directory) = (&p.run, p.steps, p.directory.display());
        let what = if p.finished { "finished, in" } else { "would write" };
        format!("{run}: {steps} steps, {what} {directory}\n")
    };
    output.show(&planned, |_| planned.iter().map(line).collect())
}
