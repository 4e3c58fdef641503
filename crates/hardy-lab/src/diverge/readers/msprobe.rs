//! Directories of msprobe, the standard of Ascend's tools (MindStudio): `stepN/rankN` (or `procPID`) with `dump.json`, which
//! lists what every module and function read and wrote in the order of execution, `construct.json`, which says in which
//! module each was called, and the tensors as files, or only statistics of them.

use std::{
    collections::HashMap,
    path::{Component, Path, PathBuf},
};

use serde_json::{Map, Value};

use super::{array::Numbers, arrays, wrong};
use crate::{
    diverge::{
        dump::{Dump, Entry, Matrix, Precision, Statistics, Values},
        name::{Place, Side},
    },
    error::LabError,
};

const TENSORS: &str = "dump_tensor_data";

/// Reads a directory, or its `dump.json`.
///
/// # Errors
/// A directory without a dump or with several, a file that is damaged, or a tensor that lies outside of it.
pub fn read(path: &Path) -> Result<Dump, LabError> {
    let file = find(path)?;
    let directory = file.parent().unwrap_or(Path::new("."));
    let json = read_json(&file)?;
    let Some(data) = json.get("data").and_then(Value::as_object) else {
        return Err(wrong(&file, "has no `data`, as a dump of msprobe does"));
    };
    let parents = match directory.join("construct.json") {
        construct if construct.is_file() => read_json(&construct)?,
        _ => Map::new(),
    };
    let functions = functions(data, &parents);
    let mut dump = Dump { source: path.display().to_string(), ordered: true, ..Dump::default() };
    for (call, what) in data {
        for (name, tensor) in tensors(call, what) {
            match entry(&file, directory, &name, tensor)? {
                Some(mut entry) => {
                    if let (Some(module), Side::Output) = (functions.get(call.as_str()), entry.place.side) {
                        entry.place = Place { module: module.clone(), call: 0, ..entry.place };
                    }
                    dump.entries.push(entry);
                }
                None if dump.ids.is_none() && name.contains("embed") => {
                    dump.ids = ids(&file, directory, tensor)?
                }
                None => {}
            }
        }
    }
    Ok(dump)
}

/// The one `dump.json` at or below `path`.
fn find(path: &Path) -> Result<PathBuf, LabError> {
    if path.is_file() {
        return Ok(path.to_owned());
    }
    let mut found = Vec::new();
    let mut level = vec![path.to_owned()];
    for _ in 0..3 {
        found.extend(level.iter().map(|folder| folder.join("dump.json")).filter(|file| file.is_file()));
        level = level.iter().flat_map(|folder| folders(folder)).collect();
    }
    let short = |file: &PathBuf| file.parent().unwrap_or(path).display().to_string();
    match &found[..] {
        [] => Err(wrong(path, "holds no dump.json, neither itself nor in stepN/rankN")),
        [one] => Ok(one.clone()),
        [first, .., last] => Err(wrong(
            path,
            format!(
                "holds {} dumps, from {} to {}; name one of them",
                found.len(),
                short(first),
                short(last)
            ),
        )),
    }
}

/// The folders of steps and ranks in `path`, sorted.
fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let named = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        ["step", "rank", "proc"].iter().any(|start| name.starts_with(start)) && path.is_dir()
    };
    let mut folders: Vec<PathBuf> = entries.filter(named).collect();
    folders.sort();
    folders
}

/// Reads JSON as Python writes it, with NaN and infinities, which are read as null.
fn read_json(path: &Path) -> Result<Map<String, Value>, LabError> {
    let text = std::fs::read_to_string(path).map_err(LabError::file(path))?;
    serde_json::from_str(&without_infinities(&text))
        .map_err(|error| LabError::json(path, error.line(), &error))
}

/// JSON text with `NaN`, `Infinity` and `-Infinity` outside of strings replaced by `null`.
fn without_infinities(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(['"', 'N', 'I', '-']) {
        let (before, from) = rest.split_at(at);
        out += before;
        let word = ["NaN", "Infinity", "-Infinity"].into_iter().find(|word| from.starts_with(word));
        let length = match word {
            Some(word) => {
                out += "null";
                rest = &from[word.len()..];
                continue;
            }
            None if from.starts_with('"') => string_length(from),
            None => 1,
        };
        out += &from[..length];
        rest = &from[length..];
    }
    out + rest
}

/// Bytes of the string literal at the beginning of `text`.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The softmax of attention, which is no module: the path that Hardy has for the one function of that name within a module
/// called `self_attn`.
fn functions(data: &Map<String, Value>, parents: &Map<String, Value>) -> HashMap<String, String> {
    let softmax = data.keys().filter(|call| call.contains("softmax") && call.ends_with(".forward"));
    let named = softmax.filter_map(|call| {
        let parent = parents.get(call)?.as_str()?;
        let module = Place::parse(&format!("{parent}.output.0")).module;
        module.ends_with("self_attn").then(|| (call.clone(), format!("{module}.softmax")))
    });
    named.collect()
}

/// The tensors of one call, with their names as their files have them.
fn tensors<'a>(call: &str, what: &'a Value) -> Vec<(String, &'a Value)> {
    let mut found = Vec::new();
    let gradients = call.contains(".parameters_grad");
    for (key, values) in what.as_object().into_iter().flatten() {
        let role = match key.as_str() {
            "input_args" | "input" => "input",
            "output" => "output",
            other if gradients => other,
            _ => continue,
        };
        let items: Vec<&Value> = match values {
            Value::Array(items) => items.iter().collect(),
            one => vec![one],
        };
        for (index, item) in items.into_iter().enumerate() {
            let name = if gradients { format!("{call}.{role}") } else { format!("{call}.{role}.{index}") };
            found.push((name, item));
        }
    }
    found
}

/// A tensor of floating-point numbers; others, and what is no tensor, are of no site.
fn entry(file: &Path, directory: &Path, name: &str, tensor: &Value) -> Result<Option<Entry>, LabError> {
    let precision = match tensor["dtype"].as_str().map(|dtype| dtype.rsplit('.').next().unwrap_or(dtype)) {
        Some("float64" | "float32" | "Float32" | "Float64") => Precision::F32,
        Some("float16" | "Float16") => Precision::F16,
        Some("bfloat16" | "BFloat16") => Precision::Bf16,
        _ => return Ok(None),
    };
    let shape = tensor["shape"]
        .as_array()
        .map(|shape| shape.iter().map(|n| n.as_u64().map(|n| n as usize)).collect());
    let Some(Some(shape)) = shape else { return Err(wrong(file, format!("`{name}` has no shape"))) };
    let values = match tensor_file(file, directory, name, tensor)? {
        Some(path) => Values::File(path),
        None => {
            let number = |key: &str| tensor[key].as_f64();
            Values::Statistics(Statistics {
                max: number("Max"),
                min: number("Min"),
                mean: number("Mean"),
                norm: number("Norm"),
            })
        }
    };
    Ok(Some(Entry { name: name.to_owned(), place: Place::parse(name), shape, values, precision }))
}

/// The file of a tensor, which lies in the dump's own folder; `None` where only statistics were kept.
fn tensor_file(
    file: &Path,
    directory: &Path,
    name: &str,
    tensor: &Value,
) -> Result<Option<PathBuf>, LabError> {
    let Some(data) = tensor["data_name"].as_str() else { return Ok(None) };
    let plain = matches!(&Path::new(data).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
    let leaves = || {
        wrong(file, format!("the tensor of `{name}` is `{data}`, which leaves the directory; it is not read"))
    };
    if !plain || data.contains('\\') {
        return Err(leaves());
    }
    let folder = directory.join(TENSORS);
    let path = folder.join(data);
    let (Ok(real), Ok(folder)) = (path.canonicalize(), folder.canonicalize()) else {
        return Err(wrong(
            file,
            format!("the tensor of `{name}`, {TENSORS}/{data}, is not there (cut short?)"),
        ));
    };
    if real.starts_with(folder) { Ok(Some(path)) } else { Err(leaves()) }
}

/// What the embedding read: the tokens.
fn ids(file: &Path, directory: &Path, tensor: &Value) -> Result<Option<Matrix>, LabError> {
    let Some(path) = tensor_file(file, directory, "embed_tokens", tensor)? else { return Ok(None) };
    let array = arrays(&path)?.into_iter().next();
    Ok(array.and_then(|array| match (array.numbers, &array.shape[..]) {
        (Numbers::Integers(values), &[_, width]) => Some(Matrix { values, width }),
        _ => None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pythons_infinities_are_read_as_null() {
        let text = r#"{"a": NaN, "b\"-Infinity": [-Infinity, Infinity, -1.5], "NaN": "Infinity"}"#;
        let json: Value = serde_json::from_str(&without_infinities(text)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"a": null, "b\"-Infinity": [null, null, -1.5], "NaN": "Infinity"})
        );
    }
}
