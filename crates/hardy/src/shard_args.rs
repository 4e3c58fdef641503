//! `--shard` of commands whose cells are small: which share of them this process measures, and the file that keeps it.

use std::path::{Path, PathBuf};

use clap::Args;
use hardy_lab::{
    run::Crew,
    shard::{CellsFile, Manifest, Shard, inputs},
};
use hardy_train::config::refuse_existing;
use serde::Serialize;
use serde_json::Value;

use crate::{
    build_info,
    failure::Failure,
    output::{Output, keep},
};

/// Which share.
#[derive(Clone, Debug, Args)]
pub struct ShardArgs {
    /// Measure a share of the cells, as in 2/4, and keep it beside --out: of grid.json in grid.shard-2-of-4.json; `hardy merge`
    /// joins the shares. auto/4 takes the number from a Slurm array (1 to 4) or an indexed Kubernetes job; auto takes both from
    /// a whole Slurm array
    #[arg(long, value_name = "I/N", requires = "out")]
    pub shard: Option<Shard>,
}

/// A share that was measured.
#[derive(Serialize)]
struct Shared {
    shard: Shard,
    file: PathBuf,
    cells: usize,
    of: usize,
}

impl ShardArgs {
    /// The file that is written where `out` was asked for; it must not exist.
    ///
    /// # Errors
    /// It does.
    pub fn file(&self, out: Option<&Path>) -> Result<Option<PathBuf>, Failure> {
        let path =
            out.map(|out| self.shard.map_or_else(|| out.to_owned(), |shard| named(out, &shard.name())));
        path.as_deref().map_or(Ok(()), refuse_existing)?;
        Ok(path)
    }

    /// The share of this process: that of `--shard`, or of one of several workers.
    ///
    /// # Errors
    /// Both.
    pub fn among(&self, crew: &Crew) -> Result<Option<Shard>, Failure> {
        match (self.shard, crew.shard()) {
            (Some(_), Some(_)) => {
                Err(Failure::input("--shard and several workers are two ways of sharing cells out; take one"))
            }
            (typed, launched) => Ok(typed.or(launched)),
        }
    }

    /// What the share says of itself: `what` its `cells` are, everything that they follow from, and the files by their names.
    ///
    /// # Errors
    /// More shares than cells, or a file that can not be read; `None` where all cells are measured.
    pub fn manifest(
        &self,
        kind: &str,
        cells: usize,
        definition: Value,
        files: [&str; 2],
    ) -> Result<Option<Manifest>, Failure> {
        let Some(shard) = self.shard else { return Ok(None) };
        shard.check(cells, "cells").map_err(|wrong| Failure::input(format!("--shard: {wrong}")))?;
        Ok(Some(Manifest {
            kind: kind.to_owned(),
            shard,
            cells,
            definition,
            build: serde_json::to_value(build_info::table()).unwrap_or_default(),
            processor: hardy_numerics::simd::level().to_owned(),
            inputs: inputs(files)?,
        }))
    }
}

/// Keeps a share in `file`, which [`ShardArgs::file`] gave for `out`, and says what joins it to the others.
///
/// # Errors
/// A file that can not be written.
pub fn keep_share(share: &CellsFile, file: &Path, out: &Path, output: Output) -> Result<(), Failure> {
    keep(share, Some(file))?;
    let shard = share.shard.shard;
    let shared = Shared { shard, file: file.to_owned(), cells: share.cells.len(), of: share.shard.cells };
    output.show(&shared, |_| {
        let all = named(out, &format!("shard-*-of-{}", shard.of()));
        let (Shared { cells, of, .. }, file, all, out) = (&shared, file.display(), all.display(), out.display());
        format!(
            "shard {shard}: {cells} of {of} cells, in {file}\nwhen all are made: hardy merge {all} --out {out}\n"
        )
    })
}

/// `grid.json` as `grid.NAME.json`.
fn named(out: &Path, name: &str) -> PathBuf {
    let mut file = out.file_stem().unwrap_or_default().to_owned();
    file.push(format!(".{name}"));
    if let Some(extension) = out.extension() {
        file.push(".");
        file.push(extension);
    }
    out.with_file_name(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_lies_beside_the_whole_under_its_number() {
        let name = |out: &str| named(Path::new(out), "shard-2-of-4").display().to_string();
        assert_eq!(name("runs/grid.json"), "runs/grid.shard-2-of-4.json");
        assert_eq!(name("grid"), "grid.shard-2-of-4");
    }
}
