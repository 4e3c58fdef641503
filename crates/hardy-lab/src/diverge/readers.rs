//! Reading dumps: Hardy's own, and those of other machines. Files come from elsewhere, so every number in them is held
//! against the length of the file before it is believed, and nothing in them is ever run.

mod array;
mod msprobe;
mod npy;
mod pickle;
mod pt;
mod safetensors;
mod zip;

use std::path::Path;

use super::dump::Dump;
use crate::error::LabError;

pub use array::{Array, Numbers};
pub use pickle::{Pickled, Unpickled, unpickle};

/// Reads a dump: `.safetensors`, `.npy`, `.npz`, `.pt` and the like, or a directory of msprobe.
///
/// # Errors
/// What is no dump, is cut off, or holds what can not be read.
pub fn read(path: &Path) -> Result<Dump, LabError> {
    if path.is_dir() || path.file_name().is_some_and(|name| name == "dump.json") {
        return msprobe::read(path);
    }
    match extension(path).as_str() {
        "safetensors" => safetensors::read(path),
        "npy" | "npz" | "pt" | "pth" | "bin" => Ok(array::dump(path, arrays(path)?)),
        other => Err(wrong(
            path,
            format!(
                "`.{other}` is none of the kinds that are read: .safetensors, .npy, .npz, .pt (.pth, .bin), or a directory \
                 of msprobe"
            ),
        )),
    }
}

/// The arrays of a file, in the order in which it has them.
///
/// # Errors
/// A file that is cut off, or holds what can not be read.
pub fn arrays(path: &Path) -> Result<Vec<Array>, LabError> {
    match extension(path).as_str() {
        "npy" => Ok(vec![npy::read(path)?]),
        "npz" => npy::read_all(path),
        _ => pt::read(path),
    }
}

fn extension(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase()
}

/// For `map_err`: what is wrong with the file `path`.
fn wrong(path: &Path, reason: impl Into<String>) -> LabError {
    LabError::Dump { path: path.to_owned(), reason: reason.into() }
}
