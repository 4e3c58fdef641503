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

use super::bits::{MANTISSA_BITS, amax, amax_bits, exp2};
use super::mx::ScaleRule;
use super::round::{E2m1, E2m3, E3m2, E4m3, E5m2, Minifloat, Nearest};
use super::{Format, check_rows, hif4, int, mx, nvfp4, tensor_amax};
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
    /// Bytes of a block; `None` for a format without blocks.
    fn block_bytes(self) -> Option<usize> {
        Some(match self {
            Self::Mxfp4 | Self::Mxfp4Rceil => 17,
            Self::Mxfp6E2m3 | Self::Mxfp6E3m2 => 25,
            Self::Mxfp8E4m3 | Self::Mxfp8E5m2 => 33,
            Self::Nvfp4 | Self::Nvfp4Block => 9,
            Self::Hif4 => 36,
            Self::Int4G32 => 20,
            Self::Fp8E4m3 | Self::Fp8E5m2 | Self::Int8 | Self::Bf16 | Self::Fp16 | Self::Tf32 => return None,
        })
    }

    /// Bytes of a packed tensor [`rows`, `width`]; `None` for a format without blocks or a size beyond `usize`.
    pub fn packed_len(&self, rows: usize, width: usize) -> Option<usize> {
        let blocks = width.div_ceil(self.block()).checked_mul(rows)?;
        blocks.checked_mul(self.block_bytes()?)?.checked_add(self.header())
    }

    /// Bytes of the tensor's scale.
    fn header(self) -> usize {
        if self == Self::Nvfp4 { 4 } else { 0 }
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
        let block_bytes = self.block_bytes().ok_or(PackError::NoBlocks(*self))?;
        if let Some(index) = x.iter().position(|v| v.is_nan()) {
            return Err(PackError::Nan(index));
        }
        let mut out = Bits::default();
        let t = if *self == Self::Nvfp4 { nvfp4::tensor_scale(tensor_amax(x)) } else { 1.0 };
        if *self == Self::Nvfp4 {
            out.bytes.extend(t.to_le_bytes());
        }
        if x.is_empty() {
            return Ok(out.bytes);
        }
        check_rows(x.len(), width);
        out.bytes.reserve(x.len().div_ceil(self.block()) * block_bytes);
        for block in x.chunks(width).flat_map(|row| row.chunks(self.block())) {
            let end = out.bytes.len() + block_bytes;
            self.encode_block(block, t, &mut out);
            out.flush();
            out.bytes.resize(end, 0);
        }
        Ok(out.bytes)
    }

    fn encode_block(self, block: &[f32], t: f32, out: &mut Bits) {
        use ScaleRule::{Ceil, Floor};
        match self {
            Self::Mxfp4 => encode_mx::<E2m1>(block, Floor, out),
            Self::Mxfp4Rceil => encode_mx::<E2m1>(block, Ceil, out),
            Self::Mxfp6E2m3 => encode_mx::<E2m3>(block, Floor, out),
            Self::Mxfp6E3m2 => encode_mx::<E3m2>(block, Floor, out),
            Self::Mxfp8E4m3 => encode_mx::<E4m3>(block, Floor, out),
            Self::Mxfp8E5m2 => encode_mx::<E5m2>(block, Floor, out),
            Self::Hif4 => encode_hif4(block, out),
            Self::Int4G32 => {
                let s = int::scale(amax(block), int::INT4);
                out.bytes.extend(s.to_le_bytes());
                for &v in block {
                    out.element(v, int::element(Nearest, 0, v, s, int::INT4) as u32, 3);
                }
            }
            _ => encode_nvfp4(block, t, out),
        }
    }

    /// Unpacks a tensor [`rows`, `width`]. Any bytes of the right number are a tensor.
    ///
    /// # Errors
    ///
    /// If the format has no blocks or the number of bytes is not that of the shape.
    pub fn decode(&self, bytes: &[u8], rows: usize, width: usize) -> Result<Vec<f32>, PackError> {
        let block_bytes = self.block_bytes().ok_or(PackError::NoBlocks(*self))?;
        if self.packed_len(rows, width) != Some(bytes.len()) {
            return Err(PackError::Length { found: bytes.len(), rows, width });
        }
        let (header, bytes) = bytes.split_at(self.header());
        let t = header.try_into().map_or(1.0, f32::from_le_bytes);
        let mut x = Vec::with_capacity(rows * width);
        let row_bytes = block_bytes.saturating_mul(width.div_ceil(self.block())).max(1);
        for row in bytes.chunks(row_bytes) {
            let end = x.len() + width;
            row.chunks(block_bytes).for_each(|block| self.decode_block(block, t, &mut x));
            x.truncate(end);
        }
        Ok(x)
    }

    fn decode_block(self, bytes: &[u8], t: f32, x: &mut Vec<f32>) {
        match self {
            Self::Mxfp4 | Self::Mxfp4Rceil => decode_mx::<E2m1>(bytes, x),
            Self::Mxfp6E2m3 => decode_mx::<E2m3>(bytes, x),
            Self::Mxfp6E3m2 => decode_mx::<E3m2>(bytes, x),
            Self::Mxfp8E4m3 => decode_mx::<E4m3>(bytes, x),
            Self::Mxfp8E5m2 => decode_mx::<E5m2>(bytes, x),
            Self::Hif4 => decode_hif4(bytes, x),
            Self::Int4G32 => {
                let (scale, elements) = bytes.split_at(4);
                let s = scale.try_into().map_or(f32::NAN, f32::from_le_bytes);
                x.extend(codes(elements, 4).map(|code| signed(code, 3, |q| q as f32 * s)));
            }
            _ if t == 0.0 => x.extend([0.0; nvfp4::BLOCK]),
            _ => {
                let up = value::<E4m3>(u32::from(bytes[0] & 0x7F)) * t;
                x.extend(codes(&bytes[1..], 4).map(|code| signed(code, 3, |q| value::<E2m1>(q) * up)));
            }
        }
    }
}

fn encode_mx<E: Minifloat>(block: &[f32], rule: ScaleRule, out: &mut Bits) {
    let k = mx::exponent::<E>(amax_bits(block), rule);
    out.bytes.push((k + 127) as u8);
    for &v in block {
        out.element(v, code::<E>(mx::element::<E, _>(Nearest, 0, v, exp2(-k))), E::EXPONENT + E::MANTISSA);
    }
}

fn decode_mx<E: Minifloat>(bytes: &[u8], x: &mut Vec<f32>) {
    let up = if bytes[0] == 255 { f32::NAN } else { exp2(i32::from(bytes[0]) - 127) };
    let magnitude = E::EXPONENT + E::MANTISSA;
    x.extend(codes(&bytes[1..], magnitude + 1).map(|code| signed(code, magnitude, |q| value::<E>(q) * up)));
}

fn encode_nvfp4(block: &[f32], t: f32, out: &mut Bits) {
    let s = if t == 0.0 { nvfp4::SMALLEST_SCALE } else { nvfp4::block_scale(amax(block), t) };
    out.bytes.push(code::<E4m3>(s) as u8);
    for &v in block {
        out.element(v, code::<E2m1>(nvfp4::element(Nearest, 0, v, nvfp4::down(s, t))), 3);
    }
}

/// E6M2 has the bias 48 and no sign.
const E6M2_BIAS: u32 = 48;

fn encode_hif4(group: &[f32], out: &mut Bits) {
    let base = hif4::base_scale(amax(group));
    out.bytes.push(((base.to_bits() >> (MANTISSA_BITS - 2)) - ((127 - E6M2_BIAS) << 2)) as u8);
    let reciprocal = hif4::reciprocal(base);
    let (coarse, fine) = hif4::exponents(&hif4::largest_of_fours(group), reciprocal);
    out.bytes.push(coarse.iter().rev().fold(0, |bits, &bit| bits << 1 | bit as u8));
    out.bytes.extend(fine.iter().rev().fold(0, |bits, &bit| bits << 1 | bit as u16).to_le_bytes());
    for (i, &v) in group.iter().enumerate() {
        let factor = hif4::factor(coarse[i / 8], fine[i / 4]);
        let q = hif4::element(Nearest, i, v, reciprocal / factor);
        let v = if v == 0.0 { 0.0 } else { v };
        out.element(v, (q * 4.0) as u32, 3);
    }
}

fn decode_hif4(bytes: &[u8], x: &mut Vec<f32>) {
    let base = match bytes[0] {
        255 => f32::NAN,
        code => f32::from_bits((u32::from(code) + ((127 - E6M2_BIAS) << 2)) << (MANTISSA_BITS - 2)),
    };
    let (coarse, fine) = (u32::from(bytes[1]), u32::from(u16::from_le_bytes([bytes[2], bytes[3]])));
    x.extend(codes(&bytes[4..], 4).enumerate().map(|(i, code)| {
        let factor = hif4::factor(coarse >> (i / 8) & 1, fine >> (i / 4) & 1);
        signed(code, 3, |q| q as f32 * 0.25 * (base * factor))
    }));
}

/// The code of a magnitude on the grid of `E`.
fn code<E: Minifloat>(q: f32) -> u32 {
    let smallest = exp2(E::MIN_EXPONENT);
    if q < smallest {
        return (q / exp2(E::MIN_EXPONENT - E::MANTISSA as i32)) as u32;
    }
    (q.to_bits() >> (MANTISSA_BITS - E::MANTISSA)) - (((E::MIN_EXPONENT + 126) as u32) << E::MANTISSA)
}

/// The magnitude of a code of `E`; beyond the largest number, NaN and (E5M2) infinity.
fn value<E: Minifloat>(code: u32) -> f32 {
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
fn signed(code: u32, magnitude: u32, value: impl Fn(u32) -> f32) -> f32 {
    let a = value(code & ((1 << magnitude) - 1));
    if code >> magnitude == 0 { a } else { -a }
}

/// The codes of `width` bits in `bytes`, low bits first.
fn codes(bytes: &[u8], width: u32) -> impl Iterator<Item = u32> + '_ {
    (0..bytes.len() * 8 / width as usize).map(move |i| {
        let bit = i * width as usize;
        let low = u32::from(bytes[bit / 8]);
        let high = bytes.get(bit / 8 + 1).map_or(0, |&byte| u32::from(byte));
        ((low | high << 8) >> (bit % 8)) & ((1 << width) - 1)
    })
}

/// Bytes under construction.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    pending: u32,
    count: u32,
}

impl Bits {
    /// Appends the sign of `v` above `magnitude` bits of `code`.
    fn element(&mut self, v: f32, code: u32, magnitude: u32) {
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
