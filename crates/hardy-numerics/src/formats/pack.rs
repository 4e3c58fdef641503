//! Packed bytes of the block formats. Decoding what was encoded gives the fake-quantised values to the bit.
//!
//! A tensor is its scale (`nvfp4`: t as f32), then row after row, each padded with zeros to whole blocks. A block is its
//! scale, then its elements as sign and magnitude in order, low bits first, so that two elements of 4 bits share a byte
//! (the first in its low half) and four of 6 bits share three. All numbers are little-endian.
//!
//! | format | scale of a block | bytes of a block |
//! |---|---|---|
//! | MX | E8M0, 255 is NaN | 1 + 16, 24 or 32 |
//! | `nvfp4`, `nvfp4_block` | E4M3, its sign ignored | 1 + 8 |
//! | `hif4` | E6M2 (255 is NaN), 8 bits of the eights, 16 bits of the fours | 1 + 1 + 2 + 32 |
//! | `int4_g32` | f32 | 4 + 16 |

use super::bits::{MANTISSA_BITS, exp2};
use super::round::Minifloat;
use super::{Format, check_rows};
use std::fmt;

/// Why a tensor cannot be packed or unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PackError {
    /// The format has no blocks.
    NoBlocks(Format),
    /// The value at this index is NaN, which small elements cannot hold.
    Nan(usize),
    /// The number of bytes is not that of the shape.
    Length {
        /// Bytes that were given.
        found: usize,
        /// Rows of the tensor.
        rows: usize,
        /// Values in a row.
        width: usize,
    },
}

impl fmt::Display for PackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBlocks(format) => write!(f, "{} has no blocks to pack", format.name()),
            Self::Nan(index) => write!(f, "the value at index {index} is NaN, which cannot be packed"),
            Self::Length { found, rows, width } => {
                write!(f, "{found} bytes are not a packed tensor of {rows} rows of {width}")
            }
        }
    }
}

impl std::error::Error for PackError {}

impl Format {
    /// Bytes of a packed tensor [`rows`, `width`]; `None` for a format without blocks or a size beyond `usize`.
    pub fn packed_len(&self, rows: usize, width: usize) -> Option<usize> {
        let blocks = width.div_ceil(self.block()).checked_mul(rows)?;
        blocks.checked_mul(self.methods().packed?)?.checked_add(self.header())
    }

    /// Bytes of the tensor's scale.
    fn header(self) -> usize {
        if self.methods().tensor_scale.is_some() { 4 } else { 0 }
    }

    /// Packs `x` [rows, `width`], rounding to nearest.
    ///
    /// # Errors
    ///
    /// If the format has no blocks or `x` holds a NaN.
    ///
    /// # Panics
    ///
    /// If `x` is no whole number of rows.
    pub fn encode(&self, x: &[f32], width: usize) -> Result<Vec<u8>, PackError> {
        let block_bytes = self.methods().packed.ok_or(PackError::NoBlocks(*self))?;
        if let Some(index) = x.iter().position(|v| v.is_nan()) {
            return Err(PackError::Nan(index));
        }
        let mut out = Bits::default();
        let t = self.tensor_scale(x);
        if self.header() > 0 {
            out.bytes.extend(t.to_le_bytes());
        }
        if x.is_empty() {
            return Ok(out.bytes);
        }
        check_rows(x.len(), width);
        out.bytes.reserve(x.len().div_ceil(self.block()) * block_bytes);
        for block in x.chunks(width).flat_map(|row| row.chunks(self.block())) {
            let end = out.bytes.len() + block_bytes;
            (self.methods().encode)(block, t, &mut out);
            out.flush();
            out.bytes.resize(end, 0);
        }
        Ok(out.bytes)
    }

    /// Unpacks a tensor [`rows`, `width`]. Any bytes of the right number are a tensor.
    ///
    /// # Errors
    ///
    /// If the format has no blocks or the number of bytes is not that of the shape.
    pub fn decode(&self, bytes: &[u8], rows: usize, width: usize) -> Result<Vec<f32>, PackError> {
        let block_bytes = self.methods().packed.ok_or(PackError::NoBlocks(*self))?;
        if self.packed_len(rows, width) != Some(bytes.len()) {
            return Err(PackError::Length { found: bytes.len(), rows, width });
        }
        let (header, bytes) = bytes.split_at(self.header());
        let t = header.try_into().map_or(1.0, f32::from_le_bytes);
        let mut x = Vec::with_capacity(rows * width);
        let row_bytes = block_bytes.saturating_mul(width.div_ceil(self.block())).max(1);
        for row in bytes.chunks(row_bytes) {
            let end = x.len() + width;
            row.chunks(block_bytes).for_each(|block| (self.methods().decode)(block, t, &mut x));
            x.truncate(end);
        }
        Ok(x)
    }
}

/// The code of a magnitude on the grid of `E`.
pub(super) fn code<E: Minifloat>(q: f32) -> u32 {
    let smallest = exp2(E::MIN_EXPONENT);
    if q < smallest {
        return (q / exp2(E::MIN_EXPONENT - E::MANTISSA as i32)) as u32;
    }
    (q.to_bits() >> (MANTISSA_BITS - E::MANTISSA)) - (((E::MIN_EXPONENT + 126) as u32) << E::MANTISSA)
}

/// The magnitude of a code of `E`; beyond the largest number, NaN and (E5M2) infinity.
pub(super) fn value<E: Minifloat>(code: u32) -> f32 {
    if code < 1 << E::MANTISSA {
        return code as f32 * exp2(E::MIN_EXPONENT - E::MANTISSA as i32);
    }
    let bits = (code + (((E::MIN_EXPONENT + 126) as u32) << E::MANTISSA)) << (MANTISSA_BITS - E::MANTISSA);
    let value = f32::from_bits(bits);
    match value {
        v if v <= E::MAX => v,
        v if E::EXPONENT == 5 && v == 65536.0 => f32::INFINITY,
        _ => f32::NAN,
    }
}

/// The value of a code whose sign is the bit above `magnitude` bits.
pub(super) fn signed(code: u32, magnitude: u32, value: impl Fn(u32) -> f32) -> f32 {
    let a = value(code & ((1 << magnitude) - 1));
    if code >> magnitude == 0 { a } else { -a }
}

/// The codes of `width` bits in `bytes`, low bits first.
pub(super) fn codes(bytes: &[u8], width: u32) -> impl Iterator<Item = u32> + '_ {
    (0..bytes.len() * 8 / width as usize).map(move |i| {
        let bit = i * width as usize;
        let low = u32::from(bytes[bit / 8]);
        let high = bytes.get(bit / 8 + 1).map_or(0, |&byte| u32::from(byte));
        ((low | high << 8) >> (bit % 8)) & ((1 << width) - 1)
    })
}

/// Bytes under construction.
#[derive(Default)]
pub(crate) struct Bits {
    pub(super) bytes: Vec<u8>,
    pending: u32,
    count: u32,
}

impl Bits {
    /// Appends the sign of `v` above `magnitude` bits of `code`.
    pub(super) fn element(&mut self, v: f32, code: u32, magnitude: u32) {
        let code = code | u32::from(v.is_sign_negative()) << magnitude;
        self.pending |= code << self.count;
        self.count += magnitude + 1;
        while self.count >= 8 {
            self.bytes.push(self.pending as u8);
            self.pending >>= 8;
            self.count -= 8;
        }
    }

    /// Ends a block: fills the last byte with zeros.
    fn flush(&mut self) {
        if self.count > 0 {
            self.bytes.push(self.pending as u8);
        }
        (self.pending, self.count) = (0, 0);
    }
}
