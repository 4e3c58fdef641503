//! The part of the ZIP format (PKWARE APPNOTE 6.3) that NumPy and PyTorch write: stored and deflated members, and ZIP64.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use flate2::{Crc, read::DeflateDecoder};

use super::wrong;
use crate::error::LabError;

/// The record at the end, without its comment.
const END: usize = 22;
/// The longest comment.
const COMMENT: u64 = 65_535;
/// The largest growth that deflate can encode, about.
const GROWTH: u64 = 1040;

/// A member.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    method: u16,
    crc: u32,
    packed: u64,
    size: u64,
    header: u64,
}

/// An open archive.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    file: File,
    length: u64,
    /// Its members, in the order of its directory.
    pub members: Vec<Member>,
}

impl Archive {
    /// Opens `path` and reads its directory.
    ///
    /// # Errors
    /// What is no archive, or is cut off.
    pub fn open(path: &Path) -> Result<Self, LabError> {
        let mut file = File::open(path).map_err(LabError::file(path))?;
        let length = file.metadata().map_err(LabError::file(path))?.len();
        let tail = length.min(END as u64 + COMMENT);
        let end = read_at(&mut file, length - tail, tail).map_err(LabError::file(path))?;
        let at = end.windows(4).rposition(|bytes| bytes == b"PK\x05\x06").filter(|at| at + END <= end.len());
        let cut = || wrong(path, "has no directory at its end, as an archive has (cut short?)");
        let at = at.ok_or_else(cut)?;
        let (mut size, mut start) = (u64::from(u32_at(&end, at + 12)), u64::from(u32_at(&end, at + 16)));
        let locator = at.checked_sub(20).filter(|&at| &end[at..at + 4] == b"PK\x06\x07");
        if let Some(locator) = locator {
            let record = u64_at(&end, locator + 8);
            if record.checked_add(56).is_none_or(|end| end > length) {
                return Err(cut());
            }
            let record = read_at(&mut file, record, 56).map_err(LabError::file(path))?;
            (size, start) = (u64_at(&record, 40), u64_at(&record, 48));
        }
        if start.checked_add(size).is_none_or(|end| end > length) {
            return Err(cut());
        }
        let directory = read_at(&mut file, start, size).map_err(LabError::file(path))?;
        let members = members(&directory).ok_or_else(|| wrong(path, "has a damaged directory"))?;
        Ok(Self { path: path.to_owned(), file, length, members })
    }

    /// The content of a member.
    ///
    /// # Errors
    /// A member that is cut off, damaged or packed in another way.
    pub fn read(&mut self, member: &Member) -> Result<Vec<u8>, LabError> {
        let path = self.path.clone();
        let wrong = |reason: &str| wrong(&path, format!("`{}` {reason}", member.name));
        let beyond = || wrong("reaches beyond the end of the file (cut short?)");
        let Member { header, packed, size, .. } = *member;
        if header.checked_add(30).is_none_or(|end| end > self.length) {
            return Err(beyond());
        }
        let local = read_at(&mut self.file, header, 30).map_err(LabError::file(&path))?;
        if &local[..4] != b"PK\x03\x04" {
            return Err(wrong("is not where the directory puts it"));
        }
        let start = header + 30 + u64::from(u16_at(&local, 26)) + u64::from(u16_at(&local, 28));
        if start.checked_add(packed).is_none_or(|end| end > self.length) {
            return Err(beyond());
        }
        let bytes = read_at(&mut self.file, start, packed).map_err(LabError::file(&path))?;
        let content = match member.method {
            0 => bytes,
            8 if size / GROWTH <= packed => {
                let mut content = Vec::new();
                let read = DeflateDecoder::new(&bytes[..]).take(size + 1).read_to_end(&mut content);
                read.map_err(|_| wrong("is damaged: it does not unpack"))?;
                content
            }
            8 => return Err(wrong("claims to unpack to more than it can")),
            method => {
                return Err(wrong(&format!("is packed by method {method}; stored and deflated are read")));
            }
        };
        let mut crc = Crc::new();
        crc.update(&content);
        if content.len() as u64 != size || crc.sum() != member.crc {
            return Err(wrong("is damaged: its checksum or length is another"));
        }
        Ok(content)
    }
}

/// The members of a directory; `None` where it is damaged.
fn members(mut directory: &[u8]) -> Option<Vec<Member>> {
    let mut members = Vec::new();
    while !directory.is_empty() {
        let (fixed, rest) = directory.split_at_checked(46)?;
        if &fixed[..4] != b"PK\x01\x02" {
            return None;
        }
        let [name, extra, comment] = [28, 30, 32].map(|at| usize::from(u16_at(fixed, at)));
        let (own, rest) = rest.split_at_checked(name + extra + comment)?;
        let sizes = [24, 20, 42].map(|at| u64::from(u32_at(fixed, at)));
        let [size, packed, header] = wide(sizes, &own[name..name + extra])?;
        members.push(Member {
            name: String::from_utf8_lossy(&own[..name]).into_owned(),
            method: u16_at(fixed, 10),
            crc: u32_at(fixed, 16),
            packed,
            size,
            header,
        });
        directory = rest;
    }
    Some(members)
}

/// Sizes of which those that are all ones stand in the ZIP64 field instead, in this order.
fn wide(mut sizes: [u64; 3], mut extra: &[u8]) -> Option<[u64; 3]> {
    while extra.len() >= 4 {
        let (head, rest) = extra.split_at(4);
        let (field, rest) = rest.split_at_checked(usize::from(u16_at(head, 2)))?;
        if u16_at(head, 0) == 1 {
            let mut numbers = field.chunks_exact(8).map(|bytes| u64_at(bytes, 0));
            for size in sizes.iter_mut().filter(|size| **size == u64::from(u32::MAX)) {
                *size = numbers.next()?;
            }
        }
        extra = rest;
    }
    Some(sizes)
}

/// `count` bytes from `at` on, which the file is known to have.
fn read_at(file: &mut File, at: u64, count: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; count as usize];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}
