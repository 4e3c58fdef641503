//! An array from a file of another machine, and the making of a dump from several.

use std::path::Path;

use half::{bf16, f16};

use crate::diverge::{
    dump::{Dump, Entry, Matrix, Precision, TOKENS, Values},
    name::Place,
};

/// What an element is stored as, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
    /// A whole number of so many bytes, with a sign or without.
    Integer(usize, bool),
}

impl Kind {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Integer(size, _) => size,
        }
    }
}

/// The elements of an array.
#[derive(Clone, Debug, PartialEq)]
pub enum Numbers {
    /// Floating-point numbers, rounded to f32 where they are wider.
    Floats(Vec<f32>, Precision),
    /// Whole numbers.
    Integers(Vec<i64>),
}

impl Numbers {
    /// Reads elements from as many bytes as they take.
    pub fn decode(kind: Kind, bytes: &[u8]) -> Self {
        let elements = bytes.chunks_exact(kind.size());
        let f32s = |of: fn(&[u8]) -> f32| elements.clone().map(of).collect();
        match kind {
            Kind::F64 => Self::Floats(f32s(|x| f64::from_le_bytes(fixed(x)) as f32), Precision::F32),
            Kind::F32 => Self::Floats(f32s(|x| f32::from_le_bytes(fixed(x))), Precision::F32),
            Kind::F16 => Self::Floats(f32s(|x| f16::from_le_bytes(fixed(x)).to_f32()), Precision::F16),
            Kind::Bf16 => Self::Floats(f32s(|x| bf16::from_le_bytes(fixed(x)).to_f32()), Precision::Bf16),
            Kind::Integer(size, signed) => {
                Self::Integers(elements.map(|x| integer(x, size, signed)).collect())
            }
        }
    }

    /// Those of the places `order`.
    pub fn select(&self, order: impl Iterator<Item = usize>) -> Self {
        match self {
            Self::Floats(x, precision) => Self::Floats(order.map(|i| x[i]).collect(), *precision),
            Self::Integers(x) => Self::Integers(order.map(|i| x[i]).collect()),
        }
    }
}

fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    std::array::from_fn(|i| bytes[i])
}

fn integer(bytes: &[u8], size: usize, signed: bool) -> i64 {
    let fill = if signed && bytes[size - 1] >= 0x80 { 0xff } else { 0 };
    i64::from_le_bytes(std::array::from_fn(|i| bytes.get(i).copied().unwrap_or(fill)))
}

/// An array with its name in its file.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Its name; a bare one has its file's.
    pub name: String,
    /// Its extents, outermost first.
    pub shape: Vec<usize>,
    /// Its elements, as many as the product of `shape`.
    pub numbers: Numbers,
}

/// The places of an array `shape` whose axes lie `strides` apart from `offset` on, in the order of its elements; `None`
/// where they leave the `available` ones.
pub fn places(shape: &[usize], strides: &[usize], offset: usize, available: usize) -> Option<Vec<usize>> {
    let count = shape.iter().try_fold(1_usize, |product, &n| product.checked_mul(n))?;
    if count == 0 {
        return Some(Vec::new());
    }
    let reach = shape
        .iter()
        .zip(strides)
        .try_fold(offset, |sum, (&n, &stride)| sum.checked_add((n - 1).checked_mul(stride)?))?;
    if shape.len() != strides.len() || reach >= available || count > available {
        return None;
    }
    let mut places = vec![offset];
    for (&n, &stride) in shape.iter().zip(strides) {
        places = places.iter().flat_map(|&at| (0..n).map(move |i| at + i * stride)).collect();
    }
    Some(places)
}

/// A dump of arrays: matrices of whole numbers called as tokens are are the tokens, others are of no site.
pub fn dump(path: &Path, arrays: Vec<Array>) -> Dump {
    let mut dump = Dump { source: path.display().to_string(), ..Dump::default() };
    for Array { name, shape, numbers } in arrays {
        match numbers {
            Numbers::Floats(values, precision) => {
                let (place, values) = (Place::parse(&name), Values::Elements(values));
                dump.entries.push(Entry { name, place, shape, values, precision });
            }
            Numbers::Integers(values) => {
                let matrix = shape.last().filter(|_| shape.len() == 2).map(|&width| Matrix { values, width });
                match matrix {
                    Some(matrix) if name == TOKENS[0] => dump.ids = Some(matrix),
                    Some(matrix) if name == TOKENS[1] => dump.mask = Some(matrix),
                    _ => {}
                }
            }
        }
    }
    dump
}
