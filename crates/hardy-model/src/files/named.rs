//! Reading a safetensors file: every tensor by name, in the type it was stored in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};

use super::stored::Stored;
use crate::error::{Error, Result};

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
    pub(super) fn new(name: &str, shape: &[usize], data: TensorData, file: &Path) -> Self {
        Self { name: name.to_owned(), shape: shape.to_vec(), data, file: file.into() }
    }

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
    /// What the file says of them.
    pub metadata: BTreeMap<String, String>,
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
    let file = Stored::open(path)?;
    let tensors = file.names().iter().map(|name| file.read(name)).collect::<Result<_>>()?;
    Ok(TensorFile { path: path.to_owned(), tensors, metadata: file.metadata() })
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
