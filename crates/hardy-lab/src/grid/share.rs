//! A grid in shares: each measures some of the cells, and joined they are the grid of one machine. Claims are decided when all
//! cells are there, since what one cell may claim depends on how many others claim something.

use std::path::PathBuf;

use hardy_train::error::Error;
use serde::Deserialize;

use super::GridRecord;
use crate::{
    error::LabError,
    run::Crew,
    shard::{Allow, CellsFile, Manifest, join_cells},
};

/// What shards of a grid are shards of.
pub const KIND: &str = "probe grid";

impl GridRecord {
    /// The file of a share: `self` holds its cells alone, in the order of their places.
    ///
    /// # Errors
    /// A measure that has no JSON form.
    pub fn share(&self, manifest: Manifest) -> Result<CellsFile, LabError> {
        let common = serde_json::to_value(Self { cells: Vec::new(), ..self.clone() });
        CellsFile::new(manifest, common.unwrap_or_default(), &self.cells)
    }

    /// The grid of which every worker of `crew` measured its share: `self` holds the cells of this one.
    ///
    /// # Errors
    /// A worker that is gone.
    pub fn joined(self, crew: &Crew) -> Result<Self, LabError> {
        let mut grid = Self { cells: crew.join_records(self.cells)?, ..self };
        grid.decide();
        Ok(grid)
    }

    /// The grid of which `paths` are the shares.
    ///
    /// # Errors
    /// Files that are not all the shares of one grid, each once.
    pub fn merge(paths: &[PathBuf], allow: Allow) -> Result<Self, LabError> {
        let joined = join_cells(paths, allow)?;
        let common = Self::deserialize(&joined.common);
        let common = common.map_err(|error| Error::config(format!("the shards are of no grid: {error}")))?;
        let mut grid = Self { cells: joined.results()?, ..common };
        grid.decide();
        Ok(grid)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{grid::record::made_up::grid, shard::Shard};

    #[test]
    fn shares_of_a_grid_joined_are_the_grid_with_its_claims() {
        let mut whole = grid();
        // What JSON has no number for comes back as what it was.
        whole.cells[0].norm_ratio = Some(f64::NAN);
        whole.cells[1].measured = f64::INFINITY;
        whole.decide();
        let dir = tempfile::tempdir().unwrap();
        let write = |index: usize| {
            let shard = Shard::new(index, 3).unwrap();
            let mut own = GridRecord {
                cells: shard.select(whole.cells.clone()).map(|(_, cell)| cell).collect(),
                ..whole.clone()
            };
            // Alone a share claims more than it may beside the others.
            own.decide();
            let manifest = Manifest {
                kind: KIND.to_owned(),
                shard,
                cells: whole.cells.len(),
                definition: json!({}),
                build: json!({}),
                processor: "any".to_owned(),
                inputs: Default::default(),
            };
            let path = dir.path().join(format!("{index}.json"));
            let file = own.share(manifest).unwrap();
            std::fs::write(&path, serde_json::to_string(&file).unwrap()).unwrap();
            path
        };
        let joined = GridRecord::merge(&[2, 3, 1].map(write), Allow::default()).unwrap();
        assert_eq!(serde_json::to_string(&joined).unwrap(), serde_json::to_string(&whole).unwrap());
    }
}
