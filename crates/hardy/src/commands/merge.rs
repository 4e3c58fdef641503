//! `hardy merge`: shards of a suite or a grid, joined.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use hardy_lab::{
    shard::Allow,
    suite::{self, SuiteTable},
};

use crate::{failure::Failure, new_directory, output::Output};

const EXAMPLE: &str = "\
SHARD is a directory that `hardy suite --shard` wrote. All shards of one suite are wanted, each once and finished, made by \
one build on one kind of processor from the same files. The table is equal to the byte to that of one machine. --out is a new \
directory, or that in which the shards lie.

Example:
  hardy merge runs/hw/shard-*-of-4 --out runs/hw";

/// Arguments of `hardy merge`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Arguments {
    /// What `--shard` wrote
    #[arg(value_name = "SHARD", required = true)]
    shards: Vec<PathBuf>,
    /// The directory of the whole
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Join shards that differ in this nevertheless; last bits may then differ too. May be repeated
    #[arg(long, value_name = "WHAT")]
    allow: Vec<Difference>,
}

/// In what shards may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Difference {
    /// The build of Hardy
    Build,
    /// The kind of processor
    Processor,
}

/// Joins shards.
///
/// # Errors
/// What is not all the shards of one whole, each once; an `--out` that exists.
pub fn run(args: &Arguments, output: Output) -> Result<(), Failure> {
    let has = |what| args.allow.contains(&what);
    let allow = Allow { build: has(Difference::Build), processor: has(Difference::Processor) };
    let table = join(&args.shards, &args.out, allow)?;
    output.show(&table, |width| {
        let files = args.out.join("table.{json,md}");
        format!("{}table: {}\n", table.render(width), files.display())
    })
}

fn join(shards: &[PathBuf], out: &Path, allow: Allow) -> Result<SuiteTable, Failure> {
    let mut table = None;
    let fill = |directory: &Path| {
        table = Some(suite::merge(shards, directory, allow)?);
        Ok(())
    };
    if holds_only(out, shards) {
        new_directory::create_within(out, fill)?;
    } else {
        hardy_train::config::refuse_existing(out)?;
        new_directory::create(out, fill)?;
    }
    table.ok_or_else(|| Failure::run("nothing was merged"))
}

/// Whether `out` is the directory in which the shards lie, and holds nothing else.
fn holds_only(out: &Path, shards: &[PathBuf]) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    let theirs: Vec<_> = shards.iter().filter_map(|shard| real(shard)).collect();
    let Ok(entries) = std::fs::read_dir(out) else { return false };
    let mut entries = entries.flatten().filter(|entry| entry.file_name() != "suite.lock").peekable();
    entries.peek().is_some()
        && entries.all(|entry| real(&entry.path()).is_some_and(|path| theirs.contains(&path)))
}
