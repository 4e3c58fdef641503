//! The weights of a model directory, whole (`model.safetensors`) or in shards (`model.safetensors.index.json`), as
//! f32 and in the order in which the model lists its parameters.

use std::collections::{BTreeMap, HashSet};
use std::path::{Component, Path};

use burn_tensor::Bytes;
use rayon::prelude::*;

use super::{experts::Fused, named::some_names, read_json, stored::Stored};
use crate::config::ParameterSpec;
use crate::error::{Error, Result};

/// A tensor in the memory of the host.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor<D = Vec<f32>> {
    /// Its name, as Hugging Face has it.
    pub name: String,
    /// Its extents, outermost first.
    pub shape: Vec<usize>,
    /// Its elements row by row, as many as the product of `shape`.
    pub data: D,
}

/// Elements that are only read: in f32, or in 16 bits where they are bfloat16.
#[derive(Debug)]
pub enum Elements {
    /// In f32.
    Wide(Vec<f32>),
    /// A matrix in bfloat16, in memory or in a mapped file.
    Narrow(Bytes),
}

/// What reads as many elements of a tensor, from one of them on.
type Reader<D> = fn(&Stored, &str, usize, usize) -> Result<D>;

/// Reads the parameters that `specs` lists from the directory `dir`, in that order. Every tensor is read once, straight
/// into its place. Tensors that change nothing are left alone: `lm_head.weight` of a tied model, rotary frequencies of
/// old exports.
///
/// # Errors
/// [`Error::NoWeights`], [`Error::Read`], [`Error::Safetensors`], [`Error::MissingShard`], [`Error::Shards`],
/// [`Error::MissingTensor`], [`Error::UnexpectedTensor`], [`Error::Shape`] and [`Error::TensorDtype`], each naming the
/// file and the tensor.
pub fn read_checkpoint(dir: &Path, specs: &[ParameterSpec]) -> Result<Vec<HostTensor>> {
    read_by(Stored::read_f32, dir, specs)
}

/// [`read_checkpoint`], with what is stored in bfloat16 left in 16 bits.
///
/// # Errors
/// As [`read_checkpoint`].
pub fn read_as_stored(dir: &Path, specs: &[ParameterSpec]) -> Result<Vec<HostTensor<Elements>>> {
    read_by(Stored::read_elements, dir, specs)
}

fn read_by<D: Send>(reader: Reader<D>, dir: &Path, specs: &[ParameterSpec]) -> Result<Vec<HostTensor<D>>> {
    let (whole, index) = (dir.join("model.safetensors"), dir.join("model.safetensors.index.json"));
    if whole.exists() {
        let file = Stored::open(&whole)?;
        refuse_unexpected(&whole, &file.names(), specs)?;
        specs.par_iter().map(|spec| read_parameter(reader, &file, spec)).collect()
    } else if index.exists() {
        read_shards(reader, dir, &index, specs)
    } else {
        Err(Error::NoWeights { path: dir.to_owned() })
    }
}

fn read_shards<D: Send>(
    reader: Reader<D>,
    dir: &Path,
    index: &Path,
    specs: &[ParameterSpec],
) -> Result<Vec<HostTensor<D>>> {
    let places = weight_map(index)?;
    let files = open_shards(dir, index, &places)?;
    refuse_unexpected(index, places.keys(), specs)?;
    let shard_of = |spec: &ParameterSpec| {
        let fused = || places.get(&Fused::of(spec)?.name);
        let shard = places.get(&spec.name).or_else(fused).ok_or_else(|| {
            let held = some_names(places.keys().map(String::as_str));
            missing(index, spec, &format!("its weight_map holds {held}"))
        })?;
        Ok(&files[shard.as_str()])
    };
    let shards: Vec<&Stored> = specs.iter().map(shard_of).collect::<Result<_>>()?;
    let read = |(spec, file): (&ParameterSpec, &&Stored)| read_parameter(reader, file, spec);
    specs.par_iter().zip(&shards).map(read).collect()
}

/// Opens every file that the index names, and checks that each holds what the index says of it and nothing else.
fn open_shards<'a>(
    dir: &Path,
    index: &Path,
    places: &'a BTreeMap<String, String>,
) -> Result<BTreeMap<&'a str, Stored>> {
    let mut files = BTreeMap::new();
    for shard in places.values() {
        if !dir.join(shard).is_file() {
            return Err(Error::MissingShard { path: index.to_owned(), shard: shard.clone() });
        }
        if !files.contains_key(shard.as_str()) {
            files.insert(shard.as_str(), Stored::open(&dir.join(shard))?);
        }
    }
    let disagree = |problem| Err(Error::Shards { path: index.to_owned(), problem });
    for (shard, file) in &files {
        for name in file.names() {
            match places.get(&name) {
                Some(place) if place == shard => {}
                Some(other) => {
                    return disagree(format!("`{name}` is in {shard}, the index puts it in {other}"));
                }
                None => return disagree(format!("`{name}` is in {shard}, the index does not list it")),
            }
        }
    }
    match places.iter().find(|(name, shard)| files[shard.as_str()].info(name).is_none()) {
        Some((name, shard)) => {
            disagree(format!("the index puts `{name}` in {shard}, which does not hold it"))
        }
        None => Ok(files),
    }
}

/// Refuses a tensor of the decoder that nobody asks for: without it the model would be another.
fn refuse_unexpected<'a>(
    path: &Path,
    names: impl IntoIterator<Item = &'a String>,
    specs: &[ParameterSpec],
) -> Result<()> {
    let fused = specs.iter().filter_map(Fused::of).map(|fused| fused.name);
    let asked: HashSet<String> = specs.iter().map(|spec| spec.name.clone()).chain(fused).collect();
    let matters = |name: &&String| {
        name.starts_with("model.") && !name.ends_with(".rotary_emb.inv_freq") && !asked.contains(*name)
    };
    match names.into_iter().find(matters) {
        None => Ok(()),
        Some(name) => Err(Error::UnexpectedTensor { path: path.to_owned(), name: name.clone() }),
    }
}

/// Tensor name to file name, in the same directory.
fn weight_map(index: &Path) -> Result<BTreeMap<String, String>> {
    let key = |key: &str, found: String, wanted: &str| Error::Value {
        path: index.to_owned(),
        key: key.to_owned(),
        found,
        wanted: wanted.to_owned(),
    };
    let map = read_json(index)?.remove("weight_map").unwrap_or_default();
    let map = map.as_object().ok_or_else(|| key("weight_map", map.to_string(), "an object"))?;
    map.iter()
        .map(|(name, shard)| match shard.as_str() {
            Some(file) if is_plain_name(file) => Ok((name.clone(), file.to_owned())),
            _ => {
                Err(key(&format!("weight_map.{name}"), shard.to_string(), "a file name without a directory"))
            }
        })
        .collect()
}

fn is_plain_name(file: &str) -> bool {
    let mut parts = Path::new(file).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
}

/// Reads all of `specs` from one file.
pub(super) fn read_all(file: &Stored, specs: &[ParameterSpec]) -> Result<Vec<HostTensor>> {
    specs.par_iter().map(|spec| read_parameter(Stored::read_f32, file, spec)).collect()
}

/// Reads the tensors that `specs` lists from the file `path`, one after another, and hands each to `take` with its place, so
/// that no more than one is held beside those that are kept.
///
/// # Errors
/// As [`read_checkpoint`].
pub fn read_each(path: &Path, specs: &[ParameterSpec], mut take: impl FnMut(usize, Vec<f32>)) -> Result<()> {
    let file = Stored::open(path)?;
    for (index, spec) in specs.iter().enumerate() {
        take(index, read_parameter(Stored::read_f32, &file, spec)?.data);
    }
    Ok(())
}

fn read_parameter<D>(reader: Reader<D>, file: &Stored, spec: &ParameterSpec) -> Result<HostTensor<D>> {
    let fused =
        Fused::of(spec).filter(|fused| file.info(&spec.name).is_none() && file.info(&fused.name).is_some());
    let (name, first) = match &fused {
        Some(fused) => (fused.name.as_str(), fused.first),
        None => (spec.name.as_str(), 0),
    };
    let Some(info) = file.info(name) else {
        let names = file.names();
        let held = some_names(names.iter().map(String::as_str));
        return Err(missing(&file.path, spec, &format!("the file holds {held}")));
    };
    let (fits, wanted) = match &fused {
        Some(Fused { shape: [rows, columns], expert, .. }) => {
            let experts = info.shape.first().copied().unwrap_or(0).max(expert + 1);
            let wanted = vec![experts, *rows, *columns];
            (info.shape == wanted, wanted)
        }
        None => (info.shape == spec.shape, spec.shape.clone()),
    };
    if !fits {
        let (path, found) = (file.path.clone(), info.shape.clone());
        return Err(Error::Shape { path, name: name.to_owned(), found, asker: "config.json", wanted });
    }
    let data = reader(file, name, first, spec.shape.iter().product())?;
    Ok(HostTensor { data, name: spec.name.clone(), shape: spec.shape.clone() })
}

fn missing(path: &Path, spec: &ParameterSpec, instead: &str) -> Error {
    Error::MissingTensor {
        path: path.to_owned(),
        name: spec.name.clone(),
        wanted: format!("config.json asks for it with shape {:?}, {instead}", spec.shape),
    }
}
