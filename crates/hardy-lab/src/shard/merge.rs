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
    /// What every shard found alike, such as the measure without error; null where there is nothing.
    pub common: Value,
    /// Places and results of its cells.
    pub cells: Vec<(usize, Value)>,
}

impl CellsFile {
    /// A shard whose cells gave `results`, in the order of their places.
    ///
    /// # Errors
    /// A result that has no JSON form.
    pub fn new<T: Serialize>(
        shard: Manifest,
        common: Value,
        results: impl IntoIterator<Item = T>,
    ) -> Result<Self, LabError> {
        let places = shard.shard.select(0..shard.cells).map(|(place, _)| place);
        let cell = |(place, result): (usize, T)| Ok((place, serde_json::to_value(result)?));
        let cells = places.zip(results).map(cell).collect::<Result<_, serde_json::Error>>();
        let cells = cells.map_err(|error| Error::config(format!("a cell can not be kept: {error}")))?;
        Ok(Self { shard, common, cells })
    }

    /// Reads a shard.
    ///
    /// # Errors
    /// A file that can not be read, or is none.
    pub fn read(path: &Path) -> Result<Self, LabError> {
        let text = std::fs::read_to_string(path).map_err(LabError::file(path))?;
        serde_json::from_str(&text).map_err(|error| LabError::json(path, error.line(), &error))
    }
}

/// Shards that were joined.
#[derive(Clone, Debug)]
pub struct Joined {
    /// What they are shards of, as the first says it.
    pub manifest: Manifest,
    /// What every one of them found alike.
    pub common: Value,
    /// The results of all cells, in the order of their places.
    pub cells: Vec<Value>,
}

impl Joined {
    /// The results as what they are.
    ///
    /// # Errors
    /// A result that is something else.
    pub fn results<T: serde::de::DeserializeOwned>(&self) -> Result<Vec<T>, LabError> {
        let result = |(place, cell): (usize, &Value)| {
            T::deserialize(cell).map_err(|error| {
                let kind = &self.manifest.kind;
                LabError::from(Error::config(format!("cell {place} of the {kind} can not be read: {error}")))
            })
        };
        self.cells.iter().enumerate().map(result).collect()
    }
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

/// Reads files of cells and joins them.
///
/// # Errors
/// As [`join`]; a file that is no shard, or lacks a cell of its share; shards that do not agree in what they have in common.
pub fn join_cells(paths: &[PathBuf], allow: Allow) -> Result<Joined, LabError> {
    let read = |path: &PathBuf| {
        let CellsFile { shard, common, cells } = CellsFile::read(path)?;
        Ok((path.clone(), shard, (common, cells)))
    };
    let shards = join(paths.iter().map(read).collect::<Result<_, LabError>>()?, allow)?;
    let refuse = |wrong: String| Err(Error::config(wrong).into());
    let (first_path, manifest, common) = {
        let (path, manifest, (common, _)) = &shards[0];
        (path.display(), manifest.clone(), common.clone())
    };
    let mut all: Vec<(usize, Value)> = Vec::new();
    for (path, manifest, (own, cells)) in &shards {
        let (path, shard) = (path.display(), manifest.shard);
        let expected = shard.select(0..manifest.cells).map(|(place, _)| place);
        if !expected.eq(cells.iter().map(|(place, _)| *place)) {
            return refuse(format!("{path}: does not hold the cells of shard {shard}; make it again"));
        }
        // Of other builds and processors the last bits may differ, as was allowed.
        if *own != common && !(allow.build || allow.processor) {
            return refuse(format!(
                "{first_path} and {path}: what they measured alike differs, so one of these machines computes something else"
            ));
        }
        all.extend(cells.iter().cloned());
    }
    all.sort_by_key(|(place, _)| *place);
    Ok(Joined { manifest, common, cells: all.into_iter().map(|(_, cell)| cell).collect() })
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
        CellsFile::new(manifest, json!(1.5), shard.select(0..5).map(|(_, cell)| cell * 10)).unwrap()
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
        let joined = join_cells(&[c.clone(), a.clone(), b.clone()], Allow::default()).unwrap();
        assert_eq!(joined.results::<u32>().unwrap(), [0, 10, 20, 30, 40]);
        assert!(joined.results::<String>().unwrap_err().to_string().contains("cell 0 of the probe grid"));
        let says = |paths: &[PathBuf], part: &str| {
            let said = join_cells(paths, Allow::default()).unwrap_err().to_string();
            assert!(said.contains(part), "{said}");
        };
        says(&[a.clone(), c.clone()], "2/3 is missing");
        says(std::slice::from_ref(&a), "2/3, 3/3 are missing");
        says(&[a.clone(), b.clone(), a.clone(), c.clone()], "are both shard 1/3");
        says(&[], "nothing to merge");
        let mut short = cells(Shard::new(2, 3).unwrap());
        short.common = json!(1.25);
        write(&b, &short);
        let all = [a, b.clone(), c];
        says(&all, "computes something else");
        assert!(join_cells(&all, Allow { processor: true, build: false }).is_ok());
        short.cells.pop();
        write(&b, &short);
        says(&all, "does not hold the cells of shard 2/3");
    }
}
