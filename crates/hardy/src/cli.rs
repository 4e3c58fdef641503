//! What can be asked of `hardy`.

use clap::{Parser, Subcommand};

use crate::{
    build_info, commands,
    number_args::{help, whole},
};

/// Train language models under the numerical errors of the hardware they will run on, and show what survives
#[derive(Debug, Parser)]
#[command(name = "hardy", version = build_info::version(), after_help = EXAMPLE, max_term_width = 100)]
pub struct Cli {
    /// Print one JSON document on standard output, everything else on standard error
    #[arg(long, global = true)]
    pub json: bool,
    #[arg(
        long,
        global = true,
        value_name = "N",
        value_parser = whole::<usize>("--threads"),
        help = help("--threads")
    )]
    pub threads: Option<usize>,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLE: &str = "\
Example: train a small model clean and under 5 % error, and see what survives
  hardy run quickstart

Exit codes: 0 success, 1 a failed run, 2 bad usage or input.";

/// The commands, in the order in which they are listed to people.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train, evaluate and report, as a configuration says
    Run(commands::run::Arguments),
    /// Run presets with several seeds, and judge them in one table
    Suite(commands::suite::Arguments),
    /// Join the shards that several machines made of a suite
    Merge(commands::merge::Arguments),
    /// Warm a base model up on worked answers
    Sft(commands::sft::Arguments),
    /// Measure what a model loses under noise
    Eval(commands::eval::Arguments),
    /// Find the layers and operators that errors hurt, and the levels that they tolerate
    Probe(Box<commands::probe::Arguments>),
    /// Find a faulty machine without a reference
    Find(commands::find::Arguments),
    /// Find the layers that a number format hurts
    Scan(commands::scan::Arguments),
    /// Write what a model computes at its sites, activations and gradients
    Dump(commands::dump::Arguments),
    /// Hold one machine against another, and say where they part
    Diverge(commands::diverge::Arguments),
    /// Make a step of a run again, and say whether it comes out the same
    Replay(commands::replay::Arguments),
    /// Say whether the differences between runs are real
    Compare(commands::compare::Arguments),
    /// Write one self-contained HTML page on runs
    Report(commands::report::Arguments),
    /// Show runs in a browser while they go on
    Watch(commands::watch::Arguments),
    /// Log-probabilities, loss, logits and gradients of a batch
    Score(commands::score::Arguments),
    /// Continue prompts
    Generate(commands::generate::Arguments),
    /// Show the tensors of a file as they would be in a number format
    Quantize(commands::quantize::Arguments),
    /// List the number formats, what they cost and what they keep
    Formats(commands::formats::Arguments),
    /// Apply one perturbation to every tensor of a file
    Perturb(commands::perturb::Arguments),
    /// Print the sigma of every step of a noise schedule
    Schedule(commands::schedule::Arguments),
    /// Write a run's model as a Hugging Face directory
    Export(commands::export::Arguments),
    /// List every key of a configuration: its default, what is admissible, what it means
    Config(commands::config::Arguments),
    /// Show devices, threads, SIMD level, versions, and what is missing
    Doctor(commands::doctor::Arguments),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("hardy {}", command.get_name())), "{}", command.get_name());
        }
    }
}
