//! The model that comes with Hardy: `builtin:tiny`, compiled in and unpacked where its files are needed.

use std::path::{Path, PathBuf};

use hardy_model::files::write_atomically;

use crate::error::{Error, Result};

/// The files of `builtin:tiny`.
const TINY: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../../../assets/tiny/config.json")),
    ("model.safetensors", include_bytes!("../../../assets/tiny/model.safetensors")),
    ("tokenizer.json", include_bytes!("../../../assets/tiny/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../../assets/tiny/tokenizer_config.json")),
    ("chat_template.jinja", include_bytes!("../../../assets/tiny/chat_template.jinja")),
];

/// The directory of the model that `spec` names; `builtin:tiny` is unpacked into the temporary directory.
///
/// # Errors
/// An unknown `builtin:` name, or a temporary directory that can not be written.
pub fn resolve(spec: &str) -> Result<PathBuf> {
    match spec.strip_prefix("builtin:") {
        None => Ok(PathBuf::from(spec)),
        Some("tiny") => unpack(),
        Some(_) => Err(Error::config(format!("unknown model `{spec}`; the built-in one is `builtin:tiny`"))),
    }
}

fn unpack() -> Result<PathBuf> {
    let dir =
        std::env::temp_dir().join(format!("hardy-{}-tiny-{:016x}", env!("CARGO_PKG_VERSION"), digest()));
    std::fs::create_dir_all(&dir).map_err(Error::file(&dir))?;
    for (name, bytes) in TINY {
        let path = dir.join(name);
        if !same(&path, bytes) {
            write_atomically(&path, bytes)?;
        }
    }
    Ok(dir)
}

/// Whether the file holds just these bytes.
fn same(path: &Path, bytes: &[u8]) -> bool {
    std::fs::read(path).is_ok_and(|found| found == bytes)
}

/// FNV-1a of all files, so that another build's model has another directory.
fn digest() -> u64 {
    let bytes = TINY.iter().flat_map(|(_, bytes)| bytes.iter());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
