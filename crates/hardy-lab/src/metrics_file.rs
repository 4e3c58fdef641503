//! `metrics.jsonl` as it grows: what has been read is not read again, and a line that is still being written waits for its
//! end.

use std::{
    fs::File,
    io::{ErrorKind, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use crate::{error::LabError, metric_table::MetricTable};

/// How far a file of metrics has been read.
#[derive(Clone, Debug)]
pub struct MetricsFile {
    path: PathBuf,
    /// Bytes of whole lines that were read.
    offset: u64,
    /// Lines that were read.
    lines: usize,
}

impl MetricsFile {
    /// The file at `path`, of which nothing has been read; it need not exist yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), offset: 0, lines: 0 }
    }

    /// Adds the lines that are new to `table`; a file that has become shorter is read anew. Says whether anything changed.
    ///
    /// # Errors
    /// A file that cannot be read, or a line that is not JSON, named by its number.
    pub fn read_new(&mut self, table: &mut MetricTable) -> Result<bool, LabError> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(false),
            Err(e) => return Err(LabError::file(&self.path)(e)),
        };
        let length = file.metadata().map_err(LabError::file(&self.path))?.len();
        if length < self.offset {
            *table = MetricTable::default();
            (self.offset, self.lines) = (0, 0);
        }
        let text = self.rest(&mut file)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        for line in text[..whole].lines() {
            self.lines += 1;
            if !line.trim().is_empty() {
                table.push(line).map_err(|e| LabError::json(&self.path, self.lines, &e))?;
            }
        }
        self.offset += whole as u64;
        Ok(whole > 0)
    }

    /// What follows the lines that were read.
    fn rest(&self, file: &mut File) -> Result<String, LabError> {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(self.offset)).map_err(LabError::file(&self.path))?;
        file.read_to_end(&mut bytes).map_err(LabError::file(&self.path))?;
        // A character may be half written; the line that it is in waits for its end anyway.
        Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use super::*;

    #[test]
    fn a_line_is_read_once_when_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.jsonl");
        let (mut file, mut table) = (MetricsFile::new(&path), MetricTable::default());
        assert!(!file.read_new(&mut table).unwrap());
        fs::write(&path, "{\"step\":1,\"x\":1}\n{\"step\":2,").unwrap();
        assert!(file.read_new(&mut table).unwrap());
        assert_eq!(table.len(), 1);
        assert!(!file.read_new(&mut table).unwrap());
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"\"x\":2}\n").unwrap();
        assert!(file.read_new(&mut table).unwrap());
        assert_eq!(table.values("x").collect::<Vec<_>>(), [(1, 1.0), (2, 2.0)]);
    }

    #[test]
    fn a_run_that_went_back_is_read_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.jsonl");
        let (mut file, mut table) = (MetricsFile::new(&path), MetricTable::default());
        fs::write(&path, "{\"step\":1,\"x\":1}\n{\"step\":2,\"x\":2}\n").unwrap();
        file.read_new(&mut table).unwrap();
        fs::write(&path, "{\"step\":1,\"x\":5}\n").unwrap();
        assert!(file.read_new(&mut table).unwrap());
        assert_eq!(table.values("x").collect::<Vec<_>>(), [(1, 5.0)]);
    }
}
