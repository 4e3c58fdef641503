//! Tensors that say more of themselves than a model's: floats and integers in one safetensors file, with what is known of
//! them in its metadata.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    path::Path,
};

use safetensors::View;
use serde_json::Value;

use super::{HostTensor, write_atomically};
use crate::error::{Error, Result};

/// A tensor of 64-bit integers in the memory of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntegerTensor {
    /// Its name.
    pub name: String,
    /// Its extents, outermost first.
    pub shape: Vec<usize>,
    /// Its elements row by row, as many as the product of `shape`.
    pub data: Vec<i64>,
}

/// Writes `tensors` as f32 and `integers` as they are to one file, atomically, with what `metadata` says of them.
///
/// # Errors
/// [`Error::Safetensors`] where a shape does not fit its elements; [`Error::Write`]. What was in `path` is then unchanged.
pub fn write_described(
    path: &Path,
    tensors: &[HostTensor],
    integers: &[IntegerTensor],
    metadata: impl IntoIterator<Item = (String, String)>,
) -> Result<()> {
    let wrong = |problem: String| Error::Safetensors { path: path.to_owned(), problem };
    let floats = tensors.iter().map(|tensor| (tensor.name.as_str(), Stored::Floats(tensor)));
    let integers = integers.iter().map(|tensor| (tensor.name.as_str(), Stored::Integers(tensor)));
    let views: Vec<(&str, Stored<'_>)> = floats.chain(integers).collect();
    if let Some((name, view)) = views.iter().find(|(_, view)| !view.fits()) {
        return Err(wrong(format!("`{name}`: its shape {:?} does not fit its elements", view.shape())));
    }
    let mut metadata: HashMap<String, String> = metadata.into_iter().collect();
    metadata.insert("format".to_owned(), "pt".to_owned());
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|error| wrong(error.to_string()))?;
    write_atomically(path, &ordered(bytes))
}

/// The same file with the keys of its header in their order, which is otherwise another one every time.
fn ordered(mut file: Vec<u8>) -> Vec<u8> {
    let Some((length, rest)) = file.split_first_chunk_mut::<8>() else { return file };
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let Some(header) = rest.get_mut(..length) else { return file };
    let keys = serde_json::from_slice::<BTreeMap<String, BTreeMap<String, Value>>>(header);
    if let Some(text) = keys.ok().and_then(|keys| serde_json::to_vec(&keys).ok())
        && text.len() <= length
    {
        header.fill(b' ');
        header[..text.len()].copy_from_slice(&text);
    }
    file
}

/// A tensor as its bytes in a file, little-endian, made when they are asked for.
enum Stored<'a> {
    Floats(&'a HostTensor),
    Integers(&'a IntegerTensor),
}

impl Stored<'_> {
    fn elements(&self) -> usize {
        match self {
            Self::Floats(tensor) => tensor.data.len(),
            Self::Integers(tensor) => tensor.data.len(),
        }
    }

    fn fits(&self) -> bool {
        let product = |product: usize, &extent: &usize| product.checked_mul(extent);
        self.shape().iter().try_fold(1, product) == Some(self.elements())
    }
}

impl View for Stored<'_> {
    fn dtype(&self) -> safetensors::Dtype {
        match self {
            Self::Floats(_) => safetensors::Dtype::F32,
            Self::Integers(_) => safetensors::Dtype::I64,
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Self::Floats(tensor) => &tensor.shape,
            Self::Integers(tensor) => &tensor.shape,
        }
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(match self {
            Self::Floats(tensor) => tensor.data.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Self::Integers(tensor) => tensor.data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        })
    }

    fn data_len(&self) -> usize {
        let size = if matches!(self, Self::Floats(_)) { 4 } else { 8 };
        self.elements() * size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_contents_are_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let tensors = [HostTensor { name: "x".into(), shape: vec![2], data: vec![1.0, -2.0] }];
        let integers = [IntegerTensor { name: "ids".into(), shape: vec![1], data: vec![7] }];
        let write = |index: usize| {
            let path = dir.path().join(format!("{index}.safetensors"));
            let facts = (0..20).map(|i| (format!("key {i}"), format!("\"{i}\" and é")));
            write_described(&path, &tensors, &integers, facts).unwrap();
            std::fs::read(path).unwrap()
        };
        let first = write(0);
        assert!((1..4).all(|index| write(index) == first));
        let (_, header) = safetensors::SafeTensors::read_metadata(&first).unwrap();
        assert_eq!(header.metadata().as_ref().unwrap()["key 7"], "\"7\" and é");
        let file = safetensors::SafeTensors::deserialize(&first).unwrap();
        assert_eq!(file.tensor("ids").unwrap().data(), 7_i64.to_le_bytes());
    }
}
