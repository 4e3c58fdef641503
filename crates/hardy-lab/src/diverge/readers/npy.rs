//! NumPy's `.npy` (NEP 1: magic, version, a header that is a Python dictionary of three keys, the elements) and `.npz`,
//! an archive of them.

use std::path::Path;

use super::{
    array::{Array, Kind, Numbers, places},
    wrong,
    zip::Archive,
};
use crate::error::LabError;

/// Reads an array, which is called as its file.
///
/// # Errors
/// A file that is cut off, or holds what can not be read.
pub fn read(path: &Path) -> Result<Array, LabError> {
    let bytes = std::fs::read(path).map_err(LabError::file(path))?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    parse(&bytes, name).map_err(|reason| wrong(path, reason))
}

/// Reads the arrays of a `.npz`.
///
/// # Errors
/// As [`read`].
pub fn read_all(path: &Path) -> Result<Vec<Array>, LabError> {
    let mut archive = Archive::open(path)?;
    let members = archive.members.clone();
    let one = |member| {
        let bytes = archive.read(member)?;
        let name = member.name.strip_suffix(".npy").unwrap_or(&member.name).to_owned();
        parse(&bytes, name).map_err(|reason| wrong(path, format!("`{}` {reason}", member.name)))
    };
    members.iter().map(one).collect()
}

/// An array of the bytes of a file.
fn parse(bytes: &[u8], name: String) -> Result<Array, String> {
    let cut = || format!("is cut short: it has {} bytes", bytes.len());
    let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or("is no .npy: it does not begin with \\x93NUMPY")?;
    let (length, rest) = match *rest {
        [1, _, a, b, ref rest @ ..] => (usize::from(u16::from_le_bytes([a, b])), rest),
        [2 | 3, _, a, b, c, d, ref rest @ ..] => (u32::from_le_bytes([a, b, c, d]) as usize, rest),
        [version, _, ..] => return Err(format!("is of version {version} of the format; 1 to 3 are read")),
        _ => return Err(cut()),
    };
    let (header, data) = rest.split_at_checked(length).ok_or_else(cut)?;
    let header = String::from_utf8_lossy(header);
    let value = |key: &str| after(&header, key).ok_or(format!("has no `{key}` in its header"));
    let descr = quoted(value("descr")?).ok_or("holds records, not numbers")?;
    let kind = kind(descr)?;
    let fortran = value("fortran_order")?.starts_with("True");
    let shape = shape(value("shape")?).ok_or("has a shape that is no tuple of whole numbers")?;
    let count = shape.iter().try_fold(1_usize, |product, &n| product.checked_mul(n));
    let size = count.and_then(|count| count.checked_mul(kind.size()));
    if size != Some(data.len()) {
        return Err(format!(
            "should have {shape:?} elements of `{descr}`, but has {} bytes of them",
            data.len()
        ));
    }
    let numbers = Numbers::decode(kind, data);
    let numbers = if fortran && shape.len() > 1 { row_major(&numbers, &shape) } else { numbers };
    Ok(Array { name, shape, numbers })
}

/// The elements row by row of an array stored column by column.
fn row_major(numbers: &Numbers, shape: &[usize]) -> Numbers {
    let strides: Vec<usize> =
        shape.iter().scan(1, |next, &n| Some(std::mem::replace(next, *next * n))).collect();
    let places = places(shape, &strides, 0, shape.iter().product()).unwrap_or_default();
    numbers.select(places.into_iter())
}

/// What follows a key of the header.
fn after<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let at = ["'", "\""].iter().find_map(|quote| header.find(&format!("{quote}{key}{quote}")))?;
    Some(header[at + key.len() + 2..].trim_start().strip_prefix(':')?.trim_start())
}

fn quoted(text: &str) -> Option<&str> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text[1..].split(quote).next()
}

fn shape(text: &str) -> Option<Vec<usize>> {
    let inner = text.strip_prefix('(')?.split(')').next()?;
    inner.split(',').map(str::trim).filter(|part| !part.is_empty()).map(|part| part.parse().ok()).collect()
}

/// What a type of NumPy's is stored as.
fn kind(descr: &str) -> Result<Kind, String> {
    let (order, name) = descr.split_at_checked(1).unwrap_or(("", ""));
    if descr.contains('O') {
        return Err("holds Python objects, which are not read".to_owned());
    }
    if order == ">" {
        return Err(format!("holds `{descr}`, big-endian; save it as {}", descr.replace('>', "<")));
    }
    Ok(match name {
        "f8" => Kind::F64,
        "f4" => Kind::F32,
        "f2" => Kind::F16,
        "i8" => Kind::Integer(8, true),
        "i4" => Kind::Integer(4, true),
        "i2" => Kind::Integer(2, true),
        "i1" => Kind::Integer(1, true),
        "u4" => Kind::Integer(4, false),
        "u2" => Kind::Integer(2, false),
        "u1" | "b1" => Kind::Integer(1, false),
        _ if descr == "bfloat16" => Kind::Bf16,
        _ => return Err(format!("holds `{descr}`; floats of 16 to 64 bits and whole numbers are read")),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::diverge::dump::Precision;

    fn npy(header: &str, data: &[u8]) -> Vec<u8> {
        let length = (header.len() as u16).to_le_bytes();
        [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat()
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    #[test]
    fn arrays_are_read_row_by_row_however_they_are_stored() {
        let data = floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let header = |fortran| format!("{{'descr': '<f4', 'fortran_order': {fortran}, 'shape': (2, 3), }}\n");
        let numbers = |fortran| parse(&npy(&header(fortran), &data), "a".to_owned()).unwrap().numbers;
        let expected = |x: [f32; 6]| Numbers::Floats(x.to_vec(), Precision::F32);
        assert_eq!(numbers("False"), expected([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
        assert_eq!(numbers("True"), expected([1.0, 3.0, 5.0, 2.0, 4.0, 6.0]));
        let scalar = parse(
            &npy("{'descr': '<i2', 'fortran_order': False, 'shape': ()}", &[0xfe, 0xff]),
            String::new(),
        );
        assert_eq!(scalar.unwrap().numbers, Numbers::Integers(vec![-2]));
    }

    #[test]
    fn what_is_no_array_of_numbers_is_refused() {
        let refused = |bytes: &[u8]| parse(bytes, String::new()).unwrap_err();
        let with = |descr: &str| {
            npy(&format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (1,)}}"), &[0; 4])
        };
        assert!(refused(&with("|O")).contains("Python objects"));
        assert!(refused(&with(">f4")).contains("big-endian"));
        assert!(refused(&with("<f8")).contains("has 4 bytes"));
        assert!(refused(&with("<f4")[..20]).contains("cut short"));
        assert!(refused(b"PK\x03\x04").contains("is no .npy"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0_usize..100) {
            let _ = parse(&bytes, String::new());
            let mut header = npy("{'descr': '<f4', 'fortran_order': True, 'shape': (99999999999, 7)}", &bytes);
            header.truncate(header.len().saturating_sub(cut));
            let _ = parse(&header, String::new());
        }
    }
}
