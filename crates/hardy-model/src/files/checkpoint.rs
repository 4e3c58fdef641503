//! The weights of a model directory, whole (`model.safetensors`) or in shards (`model.safetensors.index.json`), as
//! f32 and in the order in which the model lists its parameters.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use safetensors::SafeTensors;

use super::named::{named_tensor, parse, some_names};
use super::read_json;
use crate::config::ParameterSpec;
use crate::error::{Error, Result};

/// A tensor in the memory of the host.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Its name, as Hugging Face has it.
    pub name: String,
    /// Its extents, outermost first.
    pub shape: Vec<usize>,
    /// Its elements row by row, as many as the product of `shape`.
    pub data: Vec<f32>,
}

/// Reads the parameters that `specs` lists from the directory `dir`, in that order. Tensors nobody asks for are left
/// alone: `lm_head.weight` of a tied model, rotary frequencies of old exports.
///
/// # Errors
/// [`Error::NoWeights`], [`Error::Read`], [`Error::Safetensors`], [`Error::MissingShard`], [`Error::MissingTensor`],
/// [`Error::Shape`] and [`Error::TensorDtype`], each naming the file and the tensor.
pub fn read_checkpoint(dir: &Path, specs: &[ParameterSpec]) -> Result<Vec<HostTensor>> {
    let (whole, index) = (dir.join("model.safetensors"), dir.join("model.safetensors.index.json"));
    if whole.exists() {
        let mut tensors = vec![None; specs.len()];
        read_file(&whole, specs.iter().enumerate(), &mut tensors)?;
        Ok(tensors.into_iter().flatten().collect())
    } else if index.exists() {
        read_shards(dir, &index, specs)
    } else {
        Err(Error::NoWeights { path: dir.to_owned() })
    }
}

fn read_shards(dir: &Path, index: &Path, specs: &[ParameterSpec]) -> Result<Vec<HostTensor>> {
    let places = weight_map(index)?;
    for shard in places.values() {
        if !dir.join(shard).is_file() {
            return Err(Error::MissingShard { path: index.to_owned(), shard: shard.clone() });
        }
    }
    let mut by_shard: BTreeMap<&str, Vec<(usize, &ParameterSpec)>> = BTreeMap::new();
    for (at, spec) in specs.iter().enumerate() {
        let shard = places.get(&spec.name).ok_or_else(|| {
            missing(
                index,
                spec,
                &format!("its weight_map holds {}", some_names(places.keys().map(String::as_str))),
            )
        })?;
        by_shard.entry(shard).or_default().push((at, spec));
    }
    let mut tensors = vec![None; specs.len()];
    for (shard, specs) in by_shard {
        read_file(&dir.join(shard), specs.into_iter(), &mut tensors)?;
    }
    Ok(tensors.into_iter().flatten().collect())
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

/// Reads `specs` from one file into their places in `tensors`.
pub(super) fn read_file<'a>(
    path: &Path,
    specs: impl Iterator<Item = (usize, &'a ParameterSpec)>,
    tensors: &mut [Option<HostTensor>],
) -> Result<()> {
    let bytes = std::fs::read(path).map_err(Error::read(path))?;
    let file = parse(path, &bytes)?;
    for (at, spec) in specs {
        tensors[at] = Some(read_parameter(path, &file, spec)?);
    }
    Ok(())
}

fn read_parameter(path: &Path, file: &SafeTensors<'_>, spec: &ParameterSpec) -> Result<HostTensor> {
    let Ok(view) = file.tensor(&spec.name) else {
        return Err(missing(path, spec, &format!("the file holds {}", some_names(file.names().into_iter()))));
    };
    if view.shape() != spec.shape {
        return Err(Error::Shape {
            path: path.to_owned(),
            name: spec.name.clone(),
            found: view.shape().to_vec(),
            asker: "config.json",
            wanted: spec.shape.clone(),
        });
    }
    let tensor = named_tensor(path, file, &spec.name)?;
    Ok(HostTensor { data: tensor.into_f32()?, name: spec.name.clone(), shape: spec.shape.clone() })
}

fn missing(path: &Path, spec: &ParameterSpec, instead: &str) -> Error {
    Error::MissingTensor {
        path: path.to_owned(),
        name: spec.name.clone(),
        wanted: format!("config.json asks for it with shape {:?}, {instead}", spec.shape),
    }
}
