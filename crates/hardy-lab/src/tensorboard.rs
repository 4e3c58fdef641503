//! TensorBoard event files, written by hand: a file is a row of framed protobuf messages, and scalars need only five
//! fields of two messages. Framing is TFRecord's (length, masked CRC-32C of the length, data, masked CRC-32C of the
//! data); the messages are `tensorflow.Event` and `tensorflow.Summary` (event.proto, summary.proto).

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::LabError;

/// Writes scalars to a new event file. A resumed run makes another file; TensorBoard reads them in order of name.
#[derive(Debug)]
pub struct TensorBoardWriter {
    path: PathBuf,
    out: BufWriter<File>,
}

impl TensorBoardWriter {
    /// Makes `directory` if need be, and in it an event file that did not exist before.
    ///
    /// # Errors
    ///
    /// When the directory or the file cannot be made or written.
    pub fn create(directory: &Path) -> Result<Self, LabError> {
        std::fs::create_dir_all(directory).map_err(LabError::file(directory))?;
        let now = SystemTime::now();
        let seconds = since_epoch(now).as_secs();
        for number in 0u32.. {
            let path = directory.join(format!("events.out.tfevents.{seconds:010}.hardy.{number:03}"));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    let mut writer = Self { path, out: BufWriter::new(file) };
                    writer.record(&version_event(now))?;
                    return Ok(writer);
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(LabError::file(path)(e)),
            }
        }
        unreachable!("4 billion event files within one second")
    }

    /// Writes one value of `tag`, e.g. `train/loss`, at a training step.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn scalar(
        &mut self,
        tag: &str,
        step: u64,
        value: f32,
        wall_time: SystemTime,
    ) -> Result<(), LabError> {
        self.record(&scalar_event(tag, step, value, wall_time))
    }

    /// Hands everything written so far to the operating system.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn flush(&mut self) -> Result<(), LabError> {
        self.out.flush().map_err(LabError::file(&self.path))
    }

    /// The event file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn record(&mut self, data: &[u8]) -> Result<(), LabError> {
        self.out.write_all(&frame(data)).map_err(LabError::file(&self.path))
    }
}

/// One TFRecord.
fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = length.to_vec();
    out.extend(masked_crc(&length).to_le_bytes());
    out.extend(data);
    out.extend(masked_crc(data).to_le_bytes());
    out
}

/// TFRecord's masking, which keeps the checksum of data that holds checksums from being special.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli, RFC 3720 appendix B.4), bit by bit: a record is some tens of bytes.
fn crc32c(data: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// `Event { wall_time = 1, file_version = 3 }`, the first record of every file.
fn version_event(now: SystemTime) -> Vec<u8> {
    let mut event = double(1, since_epoch(now).as_secs_f64());
    event.extend(bytes(3, b"brain.Event:2"));
    event
}

/// `Event { wall_time = 1, step = 2, summary = 5 { value = 1 { tag = 1, simple_value = 2 } } }`.
fn scalar_event(tag: &str, step: u64, value: f32, wall_time: SystemTime) -> Vec<u8> {
    let mut scalar = bytes(1, tag.as_bytes());
    scalar.extend(float(2, value));
    let mut event = double(1, since_epoch(wall_time).as_secs_f64());
    event.extend(varint(2 << 3));
    event.extend(varint(step));
    event.extend(bytes(5, &bytes(1, &scalar)));
    event
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A protobuf field of wire type 1.
fn double(field: u64, value: f64) -> Vec<u8> {
    [varint(field << 3 | 1), value.to_le_bytes().to_vec()].concat()
}

/// A protobuf field of wire type 5.
fn float(field: u64, value: f32) -> Vec<u8> {
    [varint(field << 3 | 5), value.to_le_bytes().to_vec()].concat()
}

/// A protobuf field of wire type 2: a string or a message.
fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}

/// A base-128 number, low group first.
fn varint(mut value: u64) -> Vec<u8> {
    let mut out = vec![];
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splits a file into its records, checking both checksums of each.
    fn records(mut file: &[u8]) -> Vec<Vec<u8>> {
        let mut records = vec![];
        while !file.is_empty() {
            let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
            assert_eq!(file[8..12], masked_crc(&file[..8]).to_le_bytes());
            let data = &file[12..12 + length];
            assert_eq!(file[12 + length..16 + length], masked_crc(data).to_le_bytes());
            records.push(data.to_vec());
            file = &file[16 + length..];
        }
        records
    }

    #[test]
    fn crc32c_agrees_with_its_check_value_and_rfc_3720() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn a_scalar_is_encoded_as_protobuf_says() {
        let event = scalar_event("a", 300, 1.0, UNIX_EPOCH + Duration::from_secs(2));
        let expected: &[u8] = &[
            0x09, 0, 0, 0, 0, 0, 0, 0, 0x40, // wall_time = 2.0
            0x10, 0xac, 0x02, // step = 300
            0x2a, 0x0a, 0x0a, 0x08, // summary { value {
            0x0a, 0x01, b'a', 0x15, 0, 0, 0x80, 0x3f, // tag = "a", simple_value = 1.0
        ];
        assert_eq!(event, expected);
    }

    #[test]
    fn a_file_begins_with_its_version_and_a_resumed_run_makes_another() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = TensorBoardWriter::create(&directory.path().join("tensorboard")).unwrap();
        first.scalar("train/loss", 7, 0.5, SystemTime::now()).unwrap();
        first.flush().unwrap();
        let second = TensorBoardWriter::create(&directory.path().join("tensorboard")).unwrap();
        assert!(first.path() < second.path());
        let written = records(&std::fs::read(first.path()).unwrap());
        assert_eq!(written.len(), 2);
        assert!(written[0].ends_with(b"brain.Event:2"));
    }
}
