//! Tensors that say more of themselves than a model's: floats and integers in one safetensors file, with what is known of
//! them in its metadata.

use std::{borrow::Cow, collections::HashMap, path::Path};

use safetensors::View;

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
    write_atomically(path, &bytes)
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
