//! `hardy merge`: shards of a suite, a grid or a judgement, joined.

use std::{
    io::{IsTerminal, stdout},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use hardy_lab::{
    find::{
        judge::{self, Judgement},
        table::render_judgement,
    },
    grid::{GridRecord, share, table},
    shard::{Allow, CellsFile},
    suite::{self, SuiteTable},
};
use hardy_train::config::refuse_existing;

use crate::{
    commands::probe::show_page,
    failure::Failure,
    new_directory,
    output::{Output, keep},
};

const EXAMPLE: &str = "\
SHARD is a directory that `hardy suite --shard` wrote, or a file of `hardy probe --shard` or `hardy find --judge --shard`. All \
shards of one whole are wanted, each once and finished, made by one build on one kind of processor from the same files. What \
comes of them is equal to the byte to that of one machine. --out is, of a suite, a new directory or that in which the shards lie; \
else a new file.

Examples:
  hardy merge runs/hw/shard-*-of-4 --out runs/hw
  hardy merge grid.shard-*-of-4.json --out grid.json --html grid.html";

/// Arguments of `hardy merge`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Arguments {
    /// What `--shard` wrote
    #[arg(value_name = "SHARD", required = true)]
    shards: Vec<PathBuf>,
    /// The whole: a directory of a suite, else a JSON file
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Of a grid: write it as an HTML page of heat maps
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
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
    let first = args.shards.first().filter(|first| !first.is_dir());
    let Some(first) = first else { return args.suite(allow, output) };
    let kind = CellsFile::read(first)?.shard.kind;
    refuse_existing(&args.out)?;
    match kind.as_str() {
        share::KIND => args.grid(allow, output),
        judge::KIND => args.judgement(allow, output),
        other => Err(Failure::input(format!(
            "{}: is a shard of a `{other}`, which this version does not know; use the build that made it",
            first.display()
        ))),
    }
}

impl Arguments {
    fn suite(&self, allow: Allow, output: Output) -> Result<(), Failure> {
        self.refuse_page("a suite")?;
        let table = join(&self.shards, &self.out, allow)?;
        output.show(&table, |width| {
            let files = self.out.join("table.{json,md}");
            format!("{}table: {}\n", table.render(width), files.display())
        })
    }

    fn grid(&self, allow: Allow, output: Output) -> Result<(), Failure> {
        let grid = GridRecord::merge(&self.shards, allow)?;
        keep(&grid, Some(&self.out))?;
        show_page(&grid, self.html.as_deref())?;
        output.show(&grid, |width| table::render(&grid, width, stdout().is_terminal()))
    }

    fn judgement(&self, allow: Allow, output: Output) -> Result<(), Failure> {
        self.refuse_page("a judgement")?;
        let judged = Judgement::merge(&self.shards, allow)?;
        keep(&judged, Some(&self.out))?;
        output.show(&judged, |width| render_judgement(&judged, width))
    }

    /// Only a grid has a page.
    fn refuse_page(&self, what: &str) -> Result<(), Failure> {
        match self.html {
            Some(_) => {
                Err(Failure::input(format!("--html is the page of a grid, and these are shards of {what}")))
            }
            None => Ok(()),
        }
    }
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
        refuse_existing(out)?;
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
