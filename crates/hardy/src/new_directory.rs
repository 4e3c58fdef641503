//! Writing a directory so that it is there whole or not at all.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use hardy_model::files::flush_directory;

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
        fs::rename(&partial, target).map_err(|error| failed(target, &error))?;
        flush_directory(target);
        Ok(())
    });
    if written.is_err() {
        // The first failure is the one to tell.
        let _ = fs::remove_dir_all(&partial);
    }
    written
}

/// Fills a directory, then moves what is in it into `target`, which exists.
///
/// # Errors
/// As [`create`]; where something is in the way, `target` keeps what it had.
pub fn create_within(target: &Path, fill: impl FnOnce(&Path) -> Result<(), Failure>) -> Result<(), Failure> {
    let whole = target.join("whole");
    create(&whole, fill)?;
    let entries = fs::read_dir(&whole).map_err(|error| failed(&whole, &error))?;
    for entry in entries.flatten() {
        let to = target.join(entry.file_name());
        fs::rename(entry.path(), &to).map_err(|error| failed(&to, &error))?;
    }
    flush_directory(&whole);
    fs::remove_dir(&whole).map_err(|error| failed(&whole, &error))
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
