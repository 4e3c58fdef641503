//! What a shard says of itself, so that only shards of one whole are joined: which it is, of what, made by which build on
//! which kind of processor, from which files.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use hardy_train::error::Error;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Shard;
use crate::error::LabError;

/// What a shard says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// What is shared: `suite`, `probe grid`, `find`.
    pub kind: String,
    /// Which share it is.
    pub shard: Shard,
    /// Cells of the whole.
    pub cells: usize,
    /// Everything that the cells follow from, but the files below.
    pub definition: Value,
    /// The build of Hardy that made it: versions, compiler, target, revision.
    pub build: Value,
    /// The kind of processor: on another the last bits may differ.
    pub processor: String,
    /// A fingerprint of every file that was read, by the name under which it was asked for.
    pub inputs: BTreeMap<String, String>,
}

/// In what shards may differ, where that is wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allow {
    /// Builds of Hardy.
    pub build: bool,
    /// Kinds of processors.
    pub processor: bool,
}

impl Manifest {
    /// In what `other` is a shard of something else, in one sentence; `None` where both are of one whole.
    #[must_use]
    pub fn differs(&self, other: &Self, allow: Allow) -> Option<String> {
        let Self { kind, shard, cells, definition, build, processor, inputs } = self;
        if *kind != other.kind {
            return Some(format!("one is a shard of a {kind}, the other of a {}", other.kind));
        }
        if let Some((path, [a, b])) = first_difference(definition, &other.definition, String::new()) {
            return Some(format!(
                "they are shards of different definitions: {path} is {a} in one and {b} in the other"
            ));
        }
        if (shard.of(), *cells) != (other.shard.of(), other.cells) {
            return Some(format!("one is a shard of {}, the other of {}", shard.of(), other.shard.of()));
        }
        let named = inputs.keys().chain(other.inputs.keys());
        if let Some(name) = named.into_iter().find(|name| inputs.get(*name) != other.inputs.get(*name)) {
            return Some(format!(
                "`{name}` had other contents when the other was made; use the same files for all"
            ));
        }
        if let Some((path, [a, b])) =
            first_difference(build, &other.build, String::new()).filter(|_| !allow.build)
        {
            return Some(format!(
                "they were made by different builds: {path} is {a} in one and {b} in the other; make them with one, or `--allow build`"
            ));
        }
        if *processor != other.processor && !allow.processor {
            let theirs = &other.processor;
            return Some(format!(
                "they were made on different kinds of processors, {processor} and {theirs}, on which last bits may differ; make them on one kind, or `--allow processor`"
            ));
        }
        None
    }

    /// The manifest in the file at `path`.
    ///
    /// # Errors
    /// A file that can not be read or is no manifest.
    pub fn read(path: &Path) -> Result<Self, LabError> {
        let text = std::fs::read_to_string(path).map_err(LabError::file(path))?;
        serde_json::from_str(&text).map_err(|error| LabError::json(path, error.line(), &error))
    }
}

/// The fingerprints of files and directories, models and data, by the names under which they are asked for. What is built
/// in is that of the build.
///
/// # Errors
/// A file that can not be read.
pub fn inputs<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<BTreeMap<String, String>, LabError> {
    let files = names.into_iter().filter(|name| !name.starts_with("builtin:"));
    files.map(|name| Ok((name.to_owned(), fingerprint(Path::new(name))?))).collect()
}

/// 64 bits of FNV-1a over a file, or over the names and contents of the files of a directory, those below left out.
fn fingerprint(path: &Path) -> Result<String, LabError> {
    let mut hash = Fnv::default();
    if path.is_dir() {
        let entries = std::fs::read_dir(path).map_err(LabError::file(path))?;
        let mut files: Vec<PathBuf> =
            entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
        files.sort();
        for file in files {
            hash.add(file.file_name().unwrap_or_default().as_encoded_bytes());
            hash.add_file(&file)?;
        }
    } else {
        hash.add_file(path)?;
    }
    Ok(format!("{:016x}", hash.0))
}

/// The hash, word by word.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        let mut word = |word: u64| self.0 = (self.0 ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|bytes| word(u64::from_le_bytes(*bytes)));
        rest.iter().for_each(|byte| word(u64::from(*byte)));
        word(bytes.len() as u64);
    }

    fn add_file(&mut self, path: &Path) -> Result<(), LabError> {
        let mut file = BufReader::new(File::open(path).map_err(Error::file(path))?);
        let mut buffer = vec![0; 1 << 20];
        loop {
            let mut filled = 0;
            // Full buffers, so that the hash does not depend on how the system hands a file out.
            while filled < buffer.len() {
                match file.read(&mut buffer[filled..]).map_err(Error::file(path))? {
                    0 => break,
                    n => filled += n,
                }
            }
            if filled == 0 {
                return Ok(());
            }
            self.add(&buffer[..filled]);
        }
    }
}

/// Where two values first differ, and how.
fn first_difference(a: &Value, b: &Value, path: String) -> Option<(String, [String; 2])> {
    let within =
        |key: &dyn std::fmt::Display| if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
    match (a, b) {
        _ if a == b => None,
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys());
            keys.into_iter().find_map(|key| {
                let [a, b] = [a, b].map(|object| object.get(key).unwrap_or(&Value::Null));
                first_difference(a, b, within(key))
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(at, (a, b))| first_difference(a, b, within(&at)))
        }
        _ => Some((path, [a, b].map(ToString::to_string))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            kind: "suite".to_owned(),
            shard: Shard::new(1, 2).unwrap(),
            cells: 4,
            definition: json!({ "name": "s", "configs": { "e5": { "train": { "steps": 2 } } }, "seeds": [0, 1] }),
            build: json!({ "hardy": "0.1.0" }),
            processor: "x86-64-v4".to_owned(),
            inputs: [("a.jsonl".to_owned(), "0f".to_owned())].into(),
        }
    }

    #[test]
    fn what_makes_two_shards_those_of_different_wholes_is_named() {
        let says = |change: fn(&mut Manifest), part: &str| {
            let mut other = manifest();
            change(&mut other);
            let said = manifest().differs(&other, Allow::default()).unwrap_or_default();
            assert!(said.contains(part), "{said}");
        };
        says(|m| m.kind = "find".to_owned(), "of a find");
        says(
            |m| m.definition["configs"]["e5"]["train"]["steps"] = json!(3),
            "configs.e5.train.steps is 2 in one and 3",
        );
        says(|m| m.definition["seeds"][1] = json!(7), "seeds.1 is 1 in one and 7");
        says(|m| m.shard = Shard::new(1, 3).unwrap(), "a shard of 2, the other of 3");
        says(|m| m.inputs.clear(), "`a.jsonl` had other contents");
        says(|m| m.build["hardy"] = json!("0.2.0"), "hardy is \"0.1.0\" in one and \"0.2.0\"");
        says(|m| m.processor = "aarch64".to_owned(), "--allow processor");
        assert_eq!(
            manifest()
                .differs(&Manifest { shard: Shard::new(2, 2).unwrap(), ..manifest() }, Allow::default()),
            None
        );
        let other = Manifest { processor: "aarch64".to_owned(), build: Value::Null, ..manifest() };
        assert_eq!(manifest().differs(&other, Allow { build: true, processor: true }), None);
    }

    #[test]
    fn a_fingerprint_is_that_of_contents() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            fingerprint(&dir.path().join(name)).unwrap()
        };
        assert_eq!(file("a", "one two three"), file("b", "one two three"));
        assert_ne!(file("a", "one two three"), file("b", "one two thref"));
        let whole = fingerprint(dir.path()).unwrap();
        file("a", "changed");
        assert_ne!(whole, fingerprint(dir.path()).unwrap());
    }
}
