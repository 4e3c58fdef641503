//! The `hardy` command line: it parses, calls the library and prints.
//!
//! Results go to standard output, one JSON document with `--json`; everything else goes to standard error. The exit
//! code is 0 on success, 1 for a failed run, 2 for bad usage or input.

mod allocator;
#[cfg(unix)]
mod ansi;
mod batch_file;
mod build_info;
mod checkpoint_run;
mod cli;
mod commands;
mod crew;
mod device;
mod error_spec;
mod failure;
mod http;
mod interrupt;
mod model_source;
mod new_directory;
mod noise_args;
mod number_args;
mod output;
mod progress;
mod receipt_table;
#[cfg_attr(not(unix), path = "screen/plain.rs")]
mod screen;
mod shard_args;
mod sparkline;
mod tensor_errors;
mod tensor_index;
mod threads;
mod token_args;

use std::process::ExitCode;

use clap::Parser;
use hardy_numerics::simd::Level;

use cli::{Cli, Command};
use failure::Failure;
use output::Output;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.json);
    // A server computes now and then: it holds no thread of the pool, and no memory, in between.
    let serves = matches!(cli.command, Command::Watch(_));
    if !serves {
        allocator::keep_freed_pages();
    }
    // On a thread of the pool: from outside, every small product would be handed over and waited for.
    let work = || match serves {
        true => run(cli.command, output),
        false => rayon::scope(|_| run(cli.command, output)),
    };
    match simd_level().and_then(|()| threads::build_pool(cli.threads)).and_then(|()| work()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Refuses a level of `HARDY_SIMD` that this processor lacks, before anything is computed.
fn simd_level() -> Result<(), Failure> {
    Level::chosen().map(drop).map_err(Failure::input)
}

fn run(command: Command, output: Output) -> Result<(), Failure> {
    match command {
        Command::Run(args) => commands::run::run(&args, output),
        Command::Suite(args) => commands::suite::run(&args, output),
        Command::Merge(args) => commands::merge::run(&args, output),
        Command::Sft(args) => commands::sft::run(&args, output),
        Command::Eval(args) => commands::eval::run(&args, output),
        Command::Probe(args) => commands::probe::run(&args, output),
        Command::Find(args) => commands::find::run(&args, output),
        Command::Scan(args) => commands::scan::run(&args, output),
        Command::Dump(args) => commands::dump::run(&args, output),
        Command::Diverge(args) => commands::diverge::run(&args, output),
        Command::Replay(args) => commands::replay::run(&args, output),
        Command::Compare(args) => commands::compare::run(&args, output),
        Command::Report(args) => commands::report::run(&args, output),
        Command::Watch(args) => commands::watch::run(&args, output),
        Command::Score(args) => commands::score::run(&args, output),
        Command::Generate(args) => commands::generate::run(&args, output),
        Command::Quantize(args) => commands::quantize::run(&args, output),
        Command::Formats(args) => commands::formats::run(&args, output),
        Command::Perturb(args) => commands::perturb::run(&args, output),
        Command::Schedule(args) => commands::schedule::run(&args, output),
        Command::Export(args) => commands::export::run(&args, output),
        Command::Config(args) => commands::config::run(&args, output),
        Command::Doctor(args) => commands::doctor::run(&args, output),
    }
}
