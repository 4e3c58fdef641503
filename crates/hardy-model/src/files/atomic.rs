//! Writing a file so that it is there whole or not at all: under a temporary name in the same directory, flushed to
//! the disk, then renamed over the old one.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::{Error, Result};

/// A temporary file that was not written to for so long has nobody who will rename it.
const ABANDONED: Duration = Duration::from_secs(600);

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

/// Removes what processes that died left under their temporary names, in `directory` and all below. Which can not be
/// removed stays: it is in nobody's way.
pub fn remove_abandoned(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            remove_abandoned(&entry.path());
        } else if is_temporary(&entry.file_name())
            && metadata.modified().is_ok_and(|then| then.elapsed().is_ok_and(|since| since > ABANDONED))
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether a name is one of [`temporary_name`].
fn is_temporary(name: &OsStr) -> bool {
    let own = |name: &str| {
        let mut parts = name.strip_prefix('.')?.strip_suffix(".tmp")?.rsplitn(3, '.');
        let numbers = [parts.next()?, parts.next()?].iter().all(|part| part.parse::<u64>().is_ok());
        Some(numbers && parts.next().is_some_and(|name| !name.is_empty()))
    };
    name.to_str().and_then(own).unwrap_or(false)
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
    fn only_what_was_abandoned_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("checkpoints/step-000003");
        fs::create_dir_all(&inner).unwrap();
        let fresh = temporary_name(&inner.join("model.safetensors")).unwrap();
        let old = ["a.json", ".a.json.tmp", ".a.json.12.x.tmp", "..12.3.tmp"].map(|name| inner.join(name));
        for path in [&fresh].into_iter().chain(&old) {
            fs::write(path, b"x").unwrap();
        }
        let abandoned = temporary_name(&inner.join("model.safetensors")).unwrap();
        fs::write(&abandoned, b"x").unwrap();
        let long_ago = std::time::SystemTime::now() - 2 * ABANDONED;
        for path in old.iter().chain([&abandoned]) {
            File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
        }
        remove_abandoned(dir.path());
        assert!(!abandoned.exists() && fresh.exists() && old.iter().all(|path| path.exists()));
        remove_abandoned(&dir.path().join("missing"));
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(write_atomically(&dir.path().join("no/such/file"), b"x").is_err());
        assert!(write_atomically(Path::new("/"), b"x").is_err());
    }
}
