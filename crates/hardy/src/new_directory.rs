//! Writing a directory so that it is there whole or not at all.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use crate::failure::Failure;

/// Fills a directory beside `target`, then renames it; an empty `target` is replaced.
///
/// # Errors
/// A directory that can not be written, or what `fill` says; nothing is left behind then.
pub fn create(target: &Path, fill: impl FnOnce(&Path) -> Result<(), Failure>) -> Result<(), Failure> {
    let partial = partial_name(target);
    fs::create_dir_all(&partial).map_err(|error| failed(&partial, &error))?;
    let written = fill(&partial).and_then(|()| {
        // Ours to replace only when empty, and then it goes; otherwise the rename fails.
        let _ = fs::remove_dir(target);
        fs::rename(&partial, target).map_err(|error| failed(target, &error))
    });
    if written.is_err() {
        // The first failure is the one to tell.
        let _ = fs::remove_dir_all(&partial);
    }
    written
}

/// `.NAME.PROCESS.partial` beside the target.
fn partial_name(target: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(format!(".{}.partial", std::process::id()));
    target.with_file_name(name)
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::run(format!("{}: cannot be written: {error}", path.display()))
}
