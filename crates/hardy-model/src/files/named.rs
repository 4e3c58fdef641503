//! Reading a safetensors file: every tensor by name, in the type it was stored in. The header is checked against the
//! length of the file before anything is taken from it, so that a damaged file is an error and never a panic.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use safetensors::{SafeTensorError, SafeTensors, tensor::TensorView};
use serde_json::Value;

use crate::error::{Error, Result};

const READABLE: &str = "F32, BF16, F16, I32 or I64";

/// The elements of a tensor, row by row, in the type they were stored in.
#[derive(Debug, Clone, PartialEq)]
pub enum TensorData {
    /// IEEE binary32.
    F32(Vec<f32>),
    /// The upper half of a binary32.
    Bf16(Vec<bf16>),
    /// IEEE binary16.
    F16(Vec<f16>),
    /// 32-bit integers.
    I32(Vec<i32>),
    /// 64-bit integers.
    I64(Vec<i64>),
}

/// A tensor from a file.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    /// Its name in the file.
    pub name: String,
    /// Its extents, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Its elements, as many as the product of `shape`.
    pub data: TensorData,
    file: Arc<Path>,
}

impl NamedTensor {
    /// The elements as f32; exact for every floating-point type that is read.
    ///
    /// # Errors
    /// [`Error::TensorDtype`] when they are integers.
    pub fn as_f32(&self) -> Result<Vec<f32>> {
        match &self.data {
            TensorData::F32(x) => Ok(x.clone()),
            TensorData::Bf16(x) => Ok(x.iter().map(|v| v.to_f32()).collect()),
            TensorData::F16(x) => Ok(x.iter().map(|v| v.to_f32()).collect()),
            TensorData::I32(_) | TensorData::I64(_) => Err(self.wrong_dtype("F32, BF16 or F16")),
        }
    }

    /// As [`NamedTensor::as_f32`], without a copy where the elements are f32 already.
    ///
    /// # Errors
    /// [`Error::TensorDtype`] when they are integers.
    pub fn into_f32(self) -> Result<Vec<f32>> {
        match self.data {
            TensorData::F32(x) => Ok(x),
            _ => self.as_f32(),
        }
    }

    /// The elements as 64-bit integers.
    ///
    /// # Errors
    /// [`Error::TensorDtype`] when they are floating-point numbers.
    pub fn as_i64(&self) -> Result<Vec<i64>> {
        match &self.data {
            TensorData::I32(x) => Ok(x.iter().copied().map(i64::from).collect()),
            TensorData::I64(x) => Ok(x.clone()),
            _ => Err(self.wrong_dtype("I32 or I64")),
        }
    }

    fn wrong_dtype(&self, wanted: &'static str) -> Error {
        let found = match &self.data {
            TensorData::F32(_) => "F32",
            TensorData::Bf16(_) => "BF16",
            TensorData::F16(_) => "F16",
            TensorData::I32(_) => "I32",
            TensorData::I64(_) => "I64",
        };
        wrong_dtype(&self.file, &self.name, found, wanted)
    }
}

fn wrong_dtype(path: &Path, name: &str, found: &str, wanted: &'static str) -> Error {
    Error::TensorDtype { path: path.to_owned(), name: name.to_owned(), found: found.to_owned(), wanted }
}

/// The tensors of one file.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorFile {
    /// Where they were read from.
    pub path: PathBuf,
    /// The tensors, sorted by name.
    pub tensors: Vec<NamedTensor>,
}

impl TensorFile {
    /// The tensor called `name`, if there is one.
    pub fn find(&self, name: &str) -> Option<&NamedTensor> {
        let at = self.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name)).ok()?;
        Some(&self.tensors[at])
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], which lists the names that are there.
    pub fn get(&self, name: &str) -> Result<&NamedTensor> {
        self.find(name).ok_or_else(|| {
            let names = self.tensors.iter().map(|tensor| tensor.name.as_str());
            Error::MissingTensor {
                path: self.path.clone(),
                name: name.to_owned(),
                wanted: format!("the file holds {}", some_names(names)),
            }
        })
    }
}

/// Reads every tensor of the safetensors file `path`.
///
/// # Errors
/// [`Error::Read`], [`Error::Safetensors`] when the file is cut short or damaged, [`Error::TensorDtype`] when a tensor
/// is neither F32, BF16, F16, I32 nor I64.
pub fn read_tensors(path: &Path) -> Result<TensorFile> {
    let bytes = std::fs::read(path).map_err(Error::read(path))?;
    let file = parse(path, &bytes)?;
    let mut names = file.names();
    names.sort_unstable();
    let tensors = names.into_iter().map(|name| named_tensor(path, &file, name)).collect::<Result<_>>()?;
    Ok(TensorFile { path: path.to_owned(), tensors })
}

/// Takes one tensor out of a parsed file.
pub(super) fn named_tensor(path: &Path, file: &SafeTensors<'_>, name: &str) -> Result<NamedTensor> {
    let view = file.tensor(name).map_err(|error| damaged(path, &error))?;
    let data =
        elements(&view).ok_or_else(|| wrong_dtype(path, name, &format!("{:?}", view.dtype()), READABLE))?;
    Ok(NamedTensor { name: name.to_owned(), shape: view.shape().to_vec(), data, file: path.into() })
}

fn elements(view: &TensorView<'_>) -> Option<TensorData> {
    let bytes = view.data();
    Some(match view.dtype() {
        safetensors::Dtype::F32 => TensorData::F32(from_bytes(bytes, f32::from_le_bytes)),
        safetensors::Dtype::BF16 => TensorData::Bf16(from_bytes(bytes, bf16::from_le_bytes)),
        safetensors::Dtype::F16 => TensorData::F16(from_bytes(bytes, f16::from_le_bytes)),
        safetensors::Dtype::I32 => TensorData::I32(from_bytes(bytes, i32::from_le_bytes)),
        safetensors::Dtype::I64 => TensorData::I64(from_bytes(bytes, i64::from_le_bytes)),
        _ => return None,
    })
}

fn from_bytes<T, const N: usize>(bytes: &[u8], value: fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().copied().map(value).collect()
}

/// Checks `bytes` as a safetensors file.
pub(super) fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>> {
    if let Some(problem) = too_short(bytes) {
        return Err(Error::Safetensors { path: path.to_owned(), problem });
    }
    SafeTensors::deserialize(bytes).map_err(|error| damaged(path, &error))
}

/// Says how a file is cut short, if it is. Offsets beyond the file are caught here, before anyone adds to them.
fn too_short(bytes: &[u8]) -> Option<String> {
    let have = bytes.len();
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Some(format!("it has {have} bytes, fewer than the 8 that give the header's length"));
    };
    let length = u64::from_le_bytes(*length);
    let Some(header) = usize::try_from(length).ok().and_then(|length| rest.get(..length)) else {
        return Some(format!("its header should have {length} bytes, the whole file has {have}"));
    };
    let Ok(Value::Object(header)) = serde_json::from_slice(header) else {
        return Some("its header is not a JSON object".to_owned());
    };
    let data = (rest.len() as u64).saturating_sub(length);
    let ends = header.iter().filter_map(|(name, info)| Some((info["data_offsets"][1].as_u64()?, name)));
    let (end, name) = ends.max()?;
    (end > data).then(|| format!("`{name}` ends at byte {end} of the data, which has {data} (cut short?)"))
}

fn damaged(path: &Path, error: &SafeTensorError) -> Error {
    let problem = match error {
        SafeTensorError::MetadataIncompleteBuffer => "bytes follow the last tensor".to_owned(),
        SafeTensorError::InvalidOffset(name) => format!("the offsets of `{name}` overlap or leave a gap"),
        SafeTensorError::TensorInvalidInfo => "a tensor's shape does not fit its number of bytes".to_owned(),
        SafeTensorError::ValidationOverflow => "a tensor's shape is too large".to_owned(),
        other => other.to_string(),
    };
    Error::Safetensors { path: path.to_owned(), problem }
}

/// Up to four names, sorted, and how many more there are.
pub(super) fn some_names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 4;
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    match names.len() {
        0 => "no tensors".to_owned(),
        count if count <= SHOWN => format!("`{}`", names.join("`, `")),
        count => format!("`{}` and {} more", names[..SHOWN].join("`, `"), count - SHOWN),
    }
}
