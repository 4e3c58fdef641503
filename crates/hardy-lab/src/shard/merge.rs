//! Joining shards: all of one whole, each there once.

use std::path::{Path, PathBuf};

use hardy_train::error::Error;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Allow, Manifest};
use crate::error::LabError;

/// What a shard of cells that are small writes: its manifest, and every cell's result with its place in the whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellsFile {
    /// What it is a shard of.
    pub shard: Manifest,
    /// Places and results of its cells.
    pub cells: Vec<(usize, Value)>,
}

/// Refuses shards that are not all of one whole, each once; gives them in the order of their numbers.
///
/// # Errors
/// One sentence that names the directories or files.
pub fn join<T>(
    mut shards: Vec<(PathBuf, Manifest, T)>,
    allow: Allow,
) -> Result<Vec<(PathBuf, Manifest, T)>, LabError> {
    let refuse = |wrong: String| Err(Error::config(wrong).into());
    let Some((first_path, first, _)) = shards.first() else {
        return refuse("there is nothing to merge; give the shards".to_owned());
    };
    let (of, what) = (first.shard.of(), first.kind.clone());
    for (path, manifest, _) in &shards {
        if let Some(wrong) = first.differs(manifest, allow) {
            return refuse(format!("{} and {}: {wrong}", first_path.display(), path.display()));
        }
    }
    shards.sort_by_key(|(_, manifest, _)| manifest.shard);
    let twice = shards.windows(2).find(|pair| pair[0].1.shard == pair[1].1.shard);
    if let Some([(one, manifest, _), (other, ..)]) = twice {
        let (one, other) = (one.display(), other.display());
        return refuse(format!("{one} and {other} are both shard {}; give it once", manifest.shard));
    }
    let there: Vec<usize> = shards.iter().map(|(_, manifest, _)| manifest.shard.index()).collect();
    let missing: Vec<String> =
        (1..=of).filter(|index| !there.contains(index)).map(|index| format!("{index}/{of}")).collect();
    if !missing.is_empty() {
        return refuse(format!(
            "of the {what}'s shards {} missing; make them with --shard, then merge",
            are(&missing)
        ));
    }
    Ok(shards)
}

fn are(names: &[String]) -> String {
    format!("{} {}", names.join(", "), if names.len() == 1 { "is" } else { "are" })
}

/// Reads files of cells and joins them: the manifest of the first, and the results in the order of the cells.
///
/// # Errors
/// As [`join`]; a file that is no shard, or lacks a cell of its share.
pub fn join_cells(paths: &[PathBuf], allow: Allow) -> Result<(Manifest, Vec<Value>), LabError> {
    let read = |path: &PathBuf| {
        let CellsFile { shard, cells } = read_cells(path)?;
        Ok((path.clone(), shard, cells))
    };
    let shards = join(paths.iter().map(read).collect::<Result<_, LabError>>()?, allow)?;
    let mut all: Vec<(usize, Value)> = Vec::new();
    for (path, manifest, cells) in &shards {
        let expected = manifest.shard.select(0..manifest.cells).map(|(place, _)| place);
        if !expected.eq(cells.iter().map(|(place, _)| *place)) {
            let (path, shard) = (path.display(), manifest.shard);
            return Err(Error::config(format!(
                "{path}: does not hold the cells of shard {shard}; make it again"
            ))
            .into());
        }
        all.extend(cells.iter().cloned());
    }
    all.sort_by_key(|(place, _)| *place);
    let manifest = shards.into_iter().next().map(|(_, manifest, _)| manifest);
    let manifest = manifest.ok_or_else(|| Error::config("there is nothing to merge"))?;
    Ok((manifest, all.into_iter().map(|(_, cell)| cell).collect()))
}

fn read_cells(path: &Path) -> Result<CellsFile, LabError> {
    let text = std::fs::read_to_string(path).map_err(LabError::file(path))?;
    serde_json::from_str(&text).map_err(|error| LabError::json(path, error.line(), &error))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::shard::Shard;

    fn cells(shard: Shard) -> CellsFile {
        let manifest = Manifest {
            kind: "probe grid".to_owned(),
            shard,
            cells: 5,
            definition: json!({ "level": 0.05 }),
            build: json!({}),
            processor: "any".to_owned(),
            inputs: Default::default(),
        };
        CellsFile {
            shard: manifest,
            cells: shard.select(0..5).map(|(place, cell)| (place, json!(cell * 10))).collect(),
        }
    }

    #[test]
    fn cells_come_in_the_order_of_the_whole_whatever_the_order_of_shards() {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (1..=3).map(|index| dir.path().join(format!("{index}.json"))).collect();
        let write = |path: &Path, file: &CellsFile| {
            std::fs::write(path, serde_json::to_string(file).unwrap()).unwrap()
        };
        for (index, path) in (1..).zip(&paths) {
            write(path, &cells(Shard::new(index, 3).unwrap()));
        }
        let [a, b, c] = [0, 1, 2].map(|i: usize| paths[i].clone());
        let (_, joined) = join_cells(&[c.clone(), a.clone(), b.clone()], Allow::default()).unwrap();
        assert_eq!(joined, [0, 10, 20, 30, 40].map(|cell| json!(cell)));
        let says = |paths: &[PathBuf], part: &str| {
            let said = join_cells(paths, Allow::default()).unwrap_err().to_string();
            assert!(said.contains(part), "{said}");
        };
        says(&[a.clone(), c.clone()], "2/3 is missing");
        says(std::slice::from_ref(&a), "2/3, 3/3 are missing");
        says(&[a.clone(), b.clone(), a.clone(), c.clone()], "are both shard 1/3");
        says(&[], "nothing to merge");
        let mut short = cells(Shard::new(2, 3).unwrap());
        short.cells.pop();
        write(&b, &short);
        says(&[a, b, c], "does not hold the cells of shard 2/3");
    }
}
