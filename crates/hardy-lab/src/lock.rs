//! One process at a time in a directory: a file in it that is locked, and says by whom, while the process is at work. The system
//! lets go of it however the process ends, so that one that was killed keeps nobody out.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    path::Path,
};

use hardy_model::files::remove_abandoned;
use hardy_train::error::Error;

use crate::error::LabError;

/// A directory that others are kept out of until this is dropped.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Locks `directory` by its file `name`, both of which are made if need be. A file system without locks is told to `warn`,
    /// and nobody is kept out. What processes that died there left half-written is removed.
    ///
    /// # Errors
    /// A file that can not be written, or another process at work there, which is named.
    pub fn take(directory: &Path, name: &str, warn: &mut dyn FnMut(&str)) -> Result<Self, LabError> {
        fs::create_dir_all(directory).map_err(LabError::file(directory))?;
        let path = directory.join(name);
        let open = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = open.map_err(LabError::file(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let (directory, who) = (directory.display(), holder(&mut file));
                let busy = format!("{directory}: {who} is at work there; wait until it ends, or end it");
                return Err(Error::config(busy).into());
            }
            Err(TryLockError::Error(error)) => {
                let path = path.display();
                warn(&format!("{path}: can not be locked ({error}); see that nobody else is at work there"));
            }
        }
        let me = format!("process {}{}\n", std::process::id(), host());
        let written = file.set_len(0).and_then(|()| file.write_all(me.as_bytes()));
        written.map_err(LabError::file(&path))?;
        remove_abandoned(directory);
        Ok(Self(file))
    }
}

impl Drop for Lock {
    /// The file stays, since one that somebody else has opened already must not become another; it names nobody.
    fn drop(&mut self) {
        let _ = self.0.set_len(0);
    }
}

/// Who has locked `file`, as far as it says.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
    let named = read.is_ok() && !text.trim().is_empty();
    if named { text.trim().to_owned() } else { "another process".to_owned() }
}

/// ` on HOST`, where the system tells its name.
fn host() -> String {
    let name =
        fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    name.map(|name| format!(" on {}", name.trim())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(directory: &Path) -> Result<Lock, LabError> {
        Lock::take(directory, "a.lock", &mut |warning| panic!("{warning}"))
    }

    #[test]
    fn the_second_is_told_of_the_first_and_comes_in_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("own");
        let first = take(&own).unwrap();
        let error = take(&own).unwrap_err();
        let (message, me) = (error.to_string(), format!("process {}", std::process::id()));
        assert!(message.contains("own: ") && message.contains(&me), "{message}");
        assert!(error.is_input());
        drop(first);
        assert_eq!(fs::read_to_string(own.join("a.lock")).unwrap(), "");
        take(&own).unwrap();
    }

    #[test]
    fn what_a_dead_process_wrote_keeps_nobody_out() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.lock"), "process 4294967295 on a host whose name is long\n").unwrap();
        let lock = take(dir.path()).unwrap();
        let text = fs::read_to_string(dir.path().join("a.lock")).unwrap();
        assert!(
            text.starts_with(&format!("process {}", std::process::id())) && text.lines().count() == 1,
            "{text}"
        );
        drop(lock);
    }
}
