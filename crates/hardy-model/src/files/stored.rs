//! A safetensors file that is open: its header is read and checked against the length of the file, its tensors are read
//! one at a time. A file is never in memory as a whole: elements pass through a small buffer into the place where they
//! are wanted, widened to f32 on the way, by all threads at once.
//!
//! What is trained is read, not mapped. Were someone to shorten or rewrite a mapped file, the process would die or see elements
//! change under its hands; so it is an error, or every element is read once. Bfloat16 weights that are only looked at are mapped:
//! reading them takes no memory and hardly any time. Hardy replaces files whole, so that what is mapped stays as it was.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use burn_tensor::{AllocationProperty, Bytes};
use half::{bf16, f16};
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::{
    SafeTensorError,
    tensor::{Metadata, TensorInfo},
};
use serde_json::Value;

use super::{
    checkpoint::Elements,
    named::{NamedTensor, TensorData},
};
use crate::error::{Error, Result};

/// Elements that one thread reads at a time.
const CHUNK: usize = 1 << 18;
/// What tensors may hold.
const READABLE: &str = "F32, BF16, F16, I32 or I64";
/// The bytes that give the header's length.
const LENGTH: usize = 8;

/// An open safetensors file.
#[derive(Debug)]
pub(super) struct Stored {
    pub path: PathBuf,
    file: File,
    /// Where the data begins.
    data: u64,
    header: Metadata,
    map: OnceLock<bytes::Bytes>,
}

impl Stored {
    /// Opens `path` and checks its header.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::read(path))?;
        let length = file.metadata().map_err(Error::read(path))?.len();
        let wrong = |problem| Error::Safetensors { path: path.to_owned(), problem };
        let header = read_header(&mut file, length).map_err(Error::read(path))?.map_err(wrong)?;
        let data = (LENGTH + header.len()) as u64;
        let header = check(&header, length - data).map_err(wrong)?;
        Ok(Self { path: path.to_owned(), file, data, header, map: OnceLock::new() })
    }

    /// The names of its tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.header.tensors().into_keys().collect();
        names.sort_unstable();
        names
    }

    /// What the header says beside the tensors.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        self.header.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// What the header says of a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.header.info(name)
    }

    /// The elements of a tensor from `first` on, as many as `elements`, as f32.
    pub fn read_f32(&self, name: &str, first: usize, elements: usize) -> Result<Vec<f32>> {
        let widen = match self.info(name).map(|info| info.dtype) {
            Some(safetensors::Dtype::F32) => from_f32,
            Some(safetensors::Dtype::BF16) => from_bf16,
            Some(safetensors::Dtype::F16) => from_f16,
            _ => return Err(self.wrong_dtype(name, "F32, BF16 or F16")),
        };
        self.read_as(name, first, elements, widen)
    }

    /// The same, those of a bfloat16 matrix in 16 bits, mapped where they lie as the processor reads them. Vectors weigh nothing.
    pub fn read_elements(&self, name: &str, first: usize, elements: usize) -> Result<Elements> {
        let is_matrix = |shape: &[usize]| shape.len() > 1 && shape[0] > 1;
        let narrow = |info: &&TensorInfo| info.dtype == safetensors::Dtype::BF16 && is_matrix(&info.shape);
        let Some(info) = self.info(name).filter(narrow) else {
            return self.read_f32(name, first, elements).map(Elements::Wide);
        };
        let start = self.data as usize + info.data_offsets.0 + size_of::<bf16>() * first;
        let (file, end) = (self.mapped()?, start + size_of::<bf16>() * elements);
        if end > file.len() {
            return Err(Error::read(&self.path)(io::ErrorKind::UnexpectedEof.into()));
        }
        let mapped = file.slice(start..end);
        if cfg!(target_endian = "little") && mapped.as_ptr().addr().is_multiple_of(align_of::<bf16>()) {
            return Ok(Elements::Narrow(Bytes::from_shared(mapped, AllocationProperty::File)));
        }
        let bits = self.read_as(name, first, elements, |bytes, to| decode(bytes, to, bf16::from_le_bytes))?;
        Ok(Elements::Narrow(Bytes::from_elems(bits)))
    }

    /// The whole file, mapped once.
    fn mapped(&self) -> Result<bytes::Bytes> {
        if let Some(map) = self.map.get() {
            return Ok(map.clone());
        }
        // SAFETY: nobody writes through the map; a file that somebody else rewrites in place is beyond what a process can
        // guard against, and Hardy itself replaces files whole.
        let map = unsafe { Mmap::map(&self.file) }.map_err(Error::read(&self.path))?;
        Ok(self.map.get_or_init(|| bytes::Bytes::from_owner(map)).clone())
    }

    /// A whole tensor, in the type that it is stored in.
    pub fn read(&self, name: &str) -> Result<NamedTensor> {
        let wrong = || self.wrong_dtype(name, READABLE);
        let info = self.info(name).ok_or_else(wrong)?;
        let count = info.shape.iter().product();
        let data = match info.dtype {
            safetensors::Dtype::F32 => TensorData::F32(self.read_as(name, 0, count, from_f32)?),
            safetensors::Dtype::BF16 => TensorData::Bf16(
                self.read_as(name, 0, count, |bytes, to| decode(bytes, to, bf16::from_le_bytes))?,
            ),
            safetensors::Dtype::F16 => TensorData::F16(
                self.read_as(name, 0, count, |bytes, to| decode(bytes, to, f16::from_le_bytes))?,
            ),
            safetensors::Dtype::I32 => TensorData::I32(
                self.read_as(name, 0, count, |bytes, to| decode(bytes, to, i32::from_le_bytes))?,
            ),
            safetensors::Dtype::I64 => TensorData::I64(
                self.read_as(name, 0, count, |bytes, to| decode(bytes, to, i64::from_le_bytes))?,
            ),
            _ => return Err(wrong()),
        };
        Ok(NamedTensor::new(name, &info.shape, data, &self.path))
    }

    /// Reads elements in parallel; `decode` makes them of their bytes.
    fn read_as<T: Copy + Default + Send>(
        &self,
        name: &str,
        first: usize,
        elements: usize,
        decode: impl Fn(&[u8], &mut [T]) + Sync,
    ) -> Result<Vec<T>> {
        let (size, start) =
            self.info(name).map_or((0, 0), |info| (info.dtype.bitsize() / 8, info.data_offsets.0));
        let mut all = vec![T::default(); elements];
        let one = |bytes: &mut Vec<u8>, (index, part): (usize, &mut [T])| {
            bytes.resize(part.len() * size, 0);
            let at = start + (first + index * CHUNK) * size;
            read_exact_at(&self.file, bytes, self.data + at as u64)?;
            decode(bytes, part);
            Ok(())
        };
        let read = all.par_chunks_mut(CHUNK).enumerate().try_for_each_init(Vec::new, one);
        read.map_err(Error::read(&self.path)).map(|()| all)
    }

    fn wrong_dtype(&self, name: &str, wanted: &'static str) -> Error {
        let found = self.info(name).map_or_else(String::new, |info| format!("{:?}", info.dtype));
        Error::TensorDtype { path: self.path.clone(), name: name.to_owned(), found, wanted }
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, at)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, at)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => (bytes, at) = (&mut bytes[read..], at + read as u64),
        }
    }
    Ok(())
}

/// `to` from as many little-endian elements.
fn decode<T, const N: usize>(bytes: &[u8], to: &mut [T], value: fn([u8; N]) -> T) {
    to.iter_mut().zip(bytes.as_chunks::<N>().0).for_each(|(to, bytes)| *to = value(*bytes));
}

fn from_f32(bytes: &[u8], to: &mut [f32]) {
    decode(bytes, to, f32::from_le_bytes);
}

/// The upper half of the bits.
fn from_bf16(bytes: &[u8], to: &mut [f32]) {
    decode(bytes, to, |bytes| f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16));
}

fn from_f16(bytes: &[u8], to: &mut [f32]) {
    decode(bytes, to, |bytes| f16::from_le_bytes(bytes).to_f32());
}

/// The bytes of the header, or what is wrong with a file that is too short to have one. Nothing is allocated for a
/// header that the file can not hold.
fn read_header(file: &mut File, have: u64) -> io::Result<std::result::Result<Vec<u8>, String>> {
    if have < LENGTH as u64 {
        return Ok(Err(format!("it has {have} bytes, fewer than the 8 that give the header's length")));
    }
    let mut length = [0; LENGTH];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > have - LENGTH as u64 {
        return Ok(Err(format!("its header should have {length} bytes, the whole file has {have}")));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header)?;
    Ok(Ok(header))
}

/// Checks a header for `have` bytes of data. Offsets beyond the file are caught first, before anyone adds to them.
fn check(header: &[u8], have: u64) -> std::result::Result<Metadata, String> {
    let Ok(Value::Object(json)) = serde_json::from_slice(header) else {
        return Err("its header is not a JSON object".to_owned());
    };
    let ends = json.iter().filter_map(|(name, info)| Some((info["data_offsets"][1].as_u64()?, name)));
    let (end, name) = ends.max().map_or((0, ""), |(end, name)| (end, name.as_str()));
    if end > have {
        return Err(format!("`{name}` ends at byte {end} of the data, which has {have} (cut short?)"));
    }
    let length = (header.len() as u64).to_le_bytes();
    let whole: Vec<u8> = length.iter().chain(header).copied().collect();
    match safetensors::SafeTensors::read_metadata(&whole) {
        // The data itself is not there; everything else is in order.
        Err(SafeTensorError::MetadataIncompleteBuffer) | Ok(_) if end < have => {
            Err("bytes follow the last tensor".to_owned())
        }
        Err(SafeTensorError::MetadataIncompleteBuffer) | Ok(_) => {
            serde_json::from_slice(header).map_err(|error| error.to_string())
        }
        Err(error) => Err(damaged(&error)),
    }
}

fn damaged(error: &SafeTensorError) -> String {
    match error {
        SafeTensorError::InvalidOffset(name) => format!("the offsets of `{name}` overlap or leave a gap"),
        SafeTensorError::TensorInvalidInfo => "a tensor's shape does not fit its number of bytes".to_owned(),
        SafeTensorError::ValidationOverflow => "a tensor's shape is too large".to_owned(),
        other => other.to_string(),
    }
}
