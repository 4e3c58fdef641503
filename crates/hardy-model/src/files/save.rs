//! Writing a safetensors file that `transformers` reads, in f32 or rounded to nearest even to a 16-bit type.

use std::{collections::HashMap, fs::File, io::Write, ops::Deref, path::Path};

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::{Deserialize, Serialize};

use super::{HostTensor, atomic::fill_atomically};
use crate::{
    config::ParameterSpec,
    error::{Error, Result},
};

/// Elements that are turned into bytes at a time.
const CHUNK: usize = 1 << 20;
/// Elements that one thread takes of them.
const PART: usize = 1 << 14;
/// The data of a safetensors file begins at a multiple of this.
const ALIGNMENT: usize = 8;

/// The type in which weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Dtype {
    /// IEEE binary32, `float32`.
    #[default]
    #[serde(rename = "float32")]
    F32,
    /// The upper half of a binary32, `bfloat16`.
    #[serde(rename = "bfloat16")]
    Bf16,
    /// IEEE binary16, `float16`; what is beyond 65504 cannot be written.
    #[serde(rename = "float16")]
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

    /// Bytes of an element.
    fn size(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }

    fn stored(self) -> safetensors::Dtype {
        match self {
            Self::F32 => safetensors::Dtype::F32,
            Self::Bf16 => safetensors::Dtype::BF16,
            Self::F16 => safetensors::Dtype::F16,
        }
    }

    /// The bytes of `data`.
    fn encode(self, data: &[f32], to: &mut [u8]) {
        match self {
            Self::F32 => encode(data, to, f32::to_le_bytes),
            Self::Bf16 => encode(data, to, |x| bf16::from_f32(x).to_le_bytes()),
            Self::F16 => encode(data, to, |x| f16::from_f32(x).to_le_bytes()),
        }
    }
}

/// Writes `tensors` to `path` as `dtype`, with the metadata `{"format": "pt"}`, atomically.
///
/// # Errors
/// [`Error::TensorWrite`] when two tensors have one name, when a shape does not fit its elements or when a finite
/// element is beyond the range of `dtype`; [`Error::Write`]. What was in `path` is then unchanged.
pub fn write_tensors(path: &Path, tensors: &[HostTensor], dtype: Dtype) -> Result<()> {
    let spec = |tensor: &HostTensor| ParameterSpec { name: tensor.name.clone(), shape: tensor.shape.clone() };
    let specs: Vec<ParameterSpec> = tensors.iter().map(spec).collect();
    write_each(path, &specs, dtype, |index| tensors[index].data.as_slice())
}

/// The same for tensors whose elements, `elements(i)` for that of `specs[i]`, are asked for one tensor after another, so
/// that a model need not be on the host twice.
///
/// # Errors
/// As [`write_tensors`].
pub fn write_each<D: Deref<Target = [f32]>>(
    path: &Path,
    specs: &[ParameterSpec],
    dtype: Dtype,
    elements: impl Fn(usize) -> D,
) -> Result<()> {
    let mut order: Vec<usize> = (0..specs.len()).collect();
    order.sort_by(|&a, &b| specs[a].name.cmp(&specs[b].name));
    let ordered: Vec<&ParameterSpec> = order.iter().map(|&index| &specs[index]).collect();
    let header = header(path, &ordered, dtype)?;
    fill_atomically(path, |file| {
        file.write_all(&header).map_err(Error::write(path))?;
        order.iter().try_for_each(|&index| write_one(file, path, &specs[index], dtype, &elements(index)))
    })
}

/// The length of the header and the header itself, in which the tensors follow each other without a gap.
fn header(path: &Path, specs: &[&ParameterSpec], dtype: Dtype) -> Result<Vec<u8>> {
    if let Some(pair) = specs.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(unwritable(path, pair[0], "another tensor has that name".to_owned()));
    }
    let mut end = 0_usize;
    let mut place = |spec: &&ParameterSpec| {
        let begin = end;
        let bytes = spec.shape.iter().try_fold(dtype.size(), |product, &extent| product.checked_mul(extent));
        end = bytes.and_then(|bytes| begin.checked_add(bytes)).ok_or_else(|| {
            unwritable(path, spec, format!("its shape {:?} does not fit any file", spec.shape))
        })?;
        let info =
            TensorInfo { dtype: dtype.stored(), shape: spec.shape.clone(), data_offsets: (begin, end) };
        Ok((spec.name.clone(), info))
    };
    let places = specs.iter().map(&mut place).collect::<Result<Vec<_>>>()?;
    let wrong = |problem: String| Error::Safetensors { path: path.to_owned(), problem };
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let header = Metadata::new(Some(metadata), places).map_err(|error| wrong(error.to_string()))?;
    let mut header = serde_json::to_vec(&header).map_err(|error| wrong(error.to_string()))?;
    header.resize(header.len().next_multiple_of(ALIGNMENT), b' ');
    Ok([&(header.len() as u64).to_le_bytes()[..], &header].concat())
}

fn write_one(file: &mut File, path: &Path, spec: &ParameterSpec, dtype: Dtype, data: &[f32]) -> Result<()> {
    if spec.shape.iter().product::<usize>() != data.len() {
        let problem = format!("its shape {:?} does not fit its {} elements", spec.shape, data.len());
        return Err(unwritable(path, spec, problem));
    }
    let beyond = |x: &&f32| x.is_finite() && !dtype.round(**x).is_finite();
    if let Some(x) = data.par_iter().find_first(beyond) {
        let problem = format!("{x:e} is beyond the range of {}; write float32 or bfloat16", dtype.name());
        return Err(unwritable(path, spec, problem));
    }
    let mut bytes = Vec::new();
    for data in data.chunks(CHUNK) {
        bytes.resize(data.len() * dtype.size(), 0);
        dtype.encode(data, &mut bytes);
        file.write_all(&bytes).map_err(Error::write(path))?;
    }
    Ok(())
}

fn unwritable(path: &Path, spec: &ParameterSpec, problem: String) -> Error {
    Error::TensorWrite { path: path.to_owned(), name: spec.name.clone(), problem }
}

/// `to` from as many elements, little-endian, by all threads.
fn encode<const N: usize>(data: &[f32], to: &mut [u8], bytes: impl Fn(f32) -> [u8; N] + Sync) {
    to.as_chunks_mut::<N>().0.par_iter_mut().zip(data).with_min_len(PART).for_each(|(to, &x)| *to = bytes(x));
}
