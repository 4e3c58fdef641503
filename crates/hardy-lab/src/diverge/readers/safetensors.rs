//! Safetensors: Hardy's own dumps, whose header holds what is known of model and machine, and any other such file.

use std::path::Path;

use hardy_model::{NamedTensor, TensorData, files::read_tensors};

use crate::{
    diverge::{
        dump::{Dump, Entry, Matrix, ORDER, Precision, TOKENS, Values},
        name::Place,
    },
    error::LabError,
};

use super::wrong;

/// Reads a file.
///
/// # Errors
/// A file that is damaged, or a dump whose header does not fit its tensors.
pub fn read(path: &Path) -> Result<Dump, LabError> {
    let file = read_tensors(path).map_err(hardy_train::error::Error::from)?;
    let [ids, mask, _] = TOKENS.map(|name| file.find(name).and_then(matrix));
    let mut entries = Vec::new();
    for tensor in file.tensors.iter().filter(|tensor| !TOKENS.contains(&tensor.name.as_str())) {
        if let Some(entry) = entry(tensor) {
            entries.push(entry);
        }
    }
    let order = file.metadata.get(ORDER).map(|order| serde_json::from_str::<Vec<String>>(order));
    let ordered = order.is_some();
    if let Some(order) = order {
        let order = order.map_err(|_| wrong(path, "the header's `order` is no list of names"))?;
        let place = |name: &str| order.iter().position(|other| other == name);
        if let Some(stray) = entries.iter().find(|entry| place(&entry.name).is_none()) {
            return Err(wrong(path, format!("the header's `order` does not list `{}`", stray.name)));
        }
        entries.sort_by_key(|entry| place(&entry.name));
    }
    let mut facts = file.metadata;
    facts.remove(ORDER);
    Ok(Dump { source: path.display().to_string(), facts, ids, mask, entries, ordered })
}

/// A tensor of floating-point numbers; others are of no site.
fn entry(tensor: &NamedTensor) -> Option<Entry> {
    let precision = match tensor.data {
        TensorData::F32(_) => Precision::F32,
        TensorData::F16(_) => Precision::F16,
        TensorData::Bf16(_) => Precision::Bf16,
        TensorData::I32(_) | TensorData::I64(_) => return None,
    };
    let values = Values::Elements(tensor.as_f32().ok()?);
    let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
    Some(Entry { place: Place::parse(&name), name, shape, values, precision })
}

fn matrix(tensor: &NamedTensor) -> Option<Matrix> {
    let [_, width] = *tensor.shape else { return None };
    Some(Matrix { values: tensor.as_i64().ok()?, width })
}
