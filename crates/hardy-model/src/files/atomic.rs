//! Writing a file so that it is there whole or not at all: under a temporary name in the same directory, flushed to
//! the disk, then renamed over the old one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Writes `bytes` to `path`, replacing what is there in one step. A process that dies on the way leaves the old file.
///
/// # Errors
/// [`Error::Write`] when the directory is missing, full or not writable; the old file is then unchanged.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    fill_atomically(path, |file| file.write_all(bytes).map_err(Error::write(path)))
}

/// The same for a file that `fill` writes bit by bit.
pub(super) fn fill_atomically(path: &Path, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let temporary = temporary_name(path).map_err(Error::write(path))?;
    let rename = |()| fs::rename(&temporary, path).map_err(Error::write(path));
    if let Err(error) = fill_and_flush(&temporary, path, fill).and_then(rename) {
        // The first failure is the one to tell; a temporary file that was never made cannot be removed either.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    flush_directory(path);
    Ok(())
}

/// `.name.PROCESS.COUNT.tmp` beside `path`, different for every call.
fn temporary_name(path: &Path) -> io::Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name =
        path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a file name"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    Ok(path.with_file_name(temporary))
}

fn fill_and_flush(temporary: &Path, path: &Path, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let mut file = File::create(temporary).map_err(Error::write(path))?;
    fill(&mut file)?;
    file.sync_all().map_err(Error::write(path))
}

/// Makes the name of `path`, which is complete, survive a power cut where the system can.
pub fn flush_directory(path: &Path) {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Ok(directory) = File::open(directory) {
        let _ = directory.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn replaces_the_old_file_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write_atomically(&path, b"old").unwrap();
        write_atomically(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["a.json"]);
    }

    #[test]
    fn a_failed_write_names_the_file_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("occupied");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), b"kept").unwrap();
        let message = write_atomically(&path, b"x").unwrap_err().to_string();
        assert!(message.contains("occupied: cannot be written"), "{message}");
        assert_eq!(names(dir.path()), ["occupied"]);
        assert_eq!(fs::read(path.join("inside")).unwrap(), b"kept");
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(write_atomically(&dir.path().join("no/such/file"), b"x").is_err());
        assert!(write_atomically(Path::new("/"), b"x").is_err());
    }
}
