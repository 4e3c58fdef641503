//! `metrics.jsonl` as it grows: what has been read is not read again, and a line that is still being written waits for its
//! end.

use std::{
    borrow::Cow,
    fs::File,
    io::{BufRead, BufReader, ErrorKind, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use crate::{error::LabError, metric_table::MetricTable};

/// Bytes that are read at once.
const BUFFER: usize = 1 << 16;

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
        file.seek(SeekFrom::Start(self.offset)).map_err(LabError::file(&self.path))?;
        self.read_lines(BufReader::with_capacity(BUFFER, file), length - self.offset, table)
    }

    /// Reads the whole lines of the `left` bytes that are new. What follows the last of them waits for its end.
    fn read_lines(
        &mut self,
        mut rest: impl BufRead,
        left: u64,
        table: &mut MetricTable,
    ) -> Result<bool, LabError> {
        let (mut line, begun) = (Vec::new(), self.offset);
        loop {
            let read = rest.read_until(b'\n', &mut line).map_err(LabError::file(&self.path))?;
            if line.last() != Some(&b'\n') {
                return Ok(self.offset > begun);
            }
            if self.offset == begun {
                table.expect(left.div_ceil(read as u64) as usize);
            }
            let number = self.lines + 1;
            let text =
                std::str::from_utf8(&line).map_or_else(|_| String::from_utf8_lossy(&line), Cow::Borrowed);
            if !text.trim().is_empty() {
                table.push(&text).map_err(|e| LabError::json(&self.path, number, &e))?;
            }
            (self.offset, self.lines) = (self.offset + read as u64, number);
            line.clear();
        }
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
