//! Writing a safetensors file that `transformers` reads, in f32 or rounded to nearest even to a 16-bit type.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use half::{bf16, f16};
use safetensors::View;

use super::{HostTensor, write_atomically};
use crate::error::{Error, Result};

/// The type in which weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dtype {
    /// IEEE binary32, `float32`.
    #[default]
    F32,
    /// The upper half of a binary32, `bfloat16`.
    Bf16,
    /// IEEE binary16, `float16`; what is beyond 65504 cannot be written.
    F16,
}

impl Dtype {
    /// Every type, for messages and parsers.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];

    /// The name in a `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }

    /// The type of that name in a `config.json`, with or without `torch.` before it.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.strip_prefix("torch.").unwrap_or(name);
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// What is left of `x` when it is stored in this type (round to nearest, ties to even) and read again.
    pub fn round(self, x: f32) -> f32 {
        match self {
            Self::F32 => x,
            Self::Bf16 => bf16::from_f32(x).to_f32(),
            Self::F16 => f16::from_f32(x).to_f32(),
        }
    }
}

/// Writes `tensors` to `path` as `dtype`, with the metadata `{"format": "pt"}`, atomically.
///
/// # Errors
/// [`Error::TensorWrite`] when two tensors have one name, when a shape does not fit its elements or when a finite
/// element is beyond the range of `dtype`; [`Error::Write`]. What was in `path` is then unchanged.
pub fn write_tensors(path: &Path, tensors: &[HostTensor], dtype: Dtype) -> Result<()> {
    check(path, tensors, dtype)?;
    let views = tensors.iter().map(|tensor| (tensor.name.as_str(), Stored { tensor, dtype }));
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(views, Some(metadata))
        .map_err(|error| Error::Safetensors { path: path.to_owned(), problem: error.to_string() })?;
    write_atomically(path, &bytes)
}

fn check(path: &Path, tensors: &[HostTensor], dtype: Dtype) -> Result<()> {
    let mut names = BTreeSet::new();
    for tensor in tensors {
        let elements = tensor.shape.iter().try_fold(1_usize, |product, &extent| product.checked_mul(extent));
        let beyond = tensor.data.iter().find(|x| x.is_finite() && !dtype.round(**x).is_finite());
        let problem = if !names.insert(&tensor.name) {
            "another tensor has that name".to_owned()
        } else if elements != Some(tensor.data.len()) {
            format!("its shape {:?} does not fit its {} elements", tensor.shape, tensor.data.len())
        } else if let Some(x) = beyond {
            format!("{x:e} is beyond the range of {}; write float32 or bfloat16", dtype.name())
        } else {
            continue;
        };
        return Err(Error::TensorWrite { path: path.to_owned(), name: tensor.name.clone(), problem });
    }
    Ok(())
}

/// A tensor as its bytes in a file, little-endian, made when they are asked for.
struct Stored<'a> {
    tensor: &'a HostTensor,
    dtype: Dtype,
}

impl View for Stored<'_> {
    fn dtype(&self) -> safetensors::Dtype {
        match self.dtype {
            Dtype::F32 => safetensors::Dtype::F32,
            Dtype::Bf16 => safetensors::Dtype::BF16,
            Dtype::F16 => safetensors::Dtype::F16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let data = self.tensor.data.iter();
        Cow::Owned(match self.dtype {
            Dtype::F32 => data.flat_map(|x| x.to_le_bytes()).collect(),
            Dtype::Bf16 => data.flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
            Dtype::F16 => data.flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        })
    }

    fn data_len(&self) -> usize {
        self.tensor.data.len() * if self.dtype == Dtype::F32 { 4 } else { 2 }
    }
}
