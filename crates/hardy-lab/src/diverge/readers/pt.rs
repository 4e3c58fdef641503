//! PyTorch's `.pt`: an archive with a pickle and the bytes of its storages (since PyTorch 1.6), or the older single stream of
//! pickles. Read are tensors, and dictionaries, lists and tuples of them; their names are the keys on the way.

use std::{collections::HashMap, fs::File, io::Read, path::Path};

use super::{
    array::{Array, Kind, Numbers, places},
    pickle::{Id, Known, Pickled, Unpickled, unpickle},
    wrong,
    zip::Archive,
};
use crate::error::LabError;

/// How deep containers may stand in each other, and how many values there may be in all.
const DEPTH: usize = 64;
const MOST: usize = 1 << 20;
/// What an old file begins with: a pickled number.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// The bytes of storages by key.
type Storages = HashMap<String, Vec<u8>>;

/// Reads the tensors of a file; a bare one is called as the file.
///
/// # Errors
/// A file that is cut off, or that asks for more than data.
pub fn read(path: &Path) -> Result<Vec<Array>, LabError> {
    let mut start = [0; 2];
    let mut file = File::open(path).map_err(LabError::file(path))?;
    let zipped = file.read_exact(&mut start).is_ok() && &start == b"PK";
    let (pickle, storages) = if zipped { archived(path)? } else { streamed(path)? };
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut found = Found { path, pickle: &pickle, storages: &storages, arrays: Vec::new(), visited: 0 };
    found.collect(pickle.root, &stem, true, 0)?;
    Ok(found.arrays)
}

fn archived(path: &Path) -> Result<(Unpickled, Storages), LabError> {
    let mut archive = Archive::open(path)?;
    let members = archive.members.clone();
    let ends = |ending: &str| {
        members.iter().find(|member| member.name == ending || member.name.ends_with(&format!("/{ending}")))
    };
    let pickle =
        ends("data.pkl").ok_or_else(|| wrong(path, "holds no data.pkl, as what torch.save writes does"))?;
    if let Some(order) = ends("byteorder")
        && archive.read(order)? != b"little"
    {
        return Err(wrong(path, "is big-endian; save it on a little-endian machine"));
    }
    let folder = pickle.name.strip_suffix("data.pkl").unwrap_or_default().to_owned();
    let pickle = archive.read(pickle)?;
    let pickle = unpickle(&pickle).map_err(|reason| wrong(path, reason))?;
    let mut storages = Storages::new();
    for member in &members {
        if let Some(key) = member.name.strip_prefix(&folder).and_then(|name| name.strip_prefix("data/")) {
            storages.insert(key.to_owned(), archive.read(member)?);
        }
    }
    Ok((pickle, storages))
}

/// The old format: the magic number, the protocol's, facts of the system, the object, the keys of its storages; then of
/// every storage its elements, counted.
fn streamed(path: &Path) -> Result<(Unpickled, Storages), LabError> {
    let bytes = std::fs::read(path).map_err(LabError::file(path))?;
    let reason = |reason: String| wrong(path, reason);
    let mut rest = &bytes[..];
    let mut next = || -> Result<Unpickled, LabError> {
        let read = unpickle(rest).map_err(reason)?;
        rest = &rest[read.length..];
        Ok(read)
    };
    let magic = next()?;
    if magic.values[magic.root] != Pickled::Long(MAGIC.to_vec()) {
        return Err(wrong(path, "is not what torch.save writes"));
    }
    next()?;
    next()?;
    let (pickle, keys) = (next()?, next()?);
    let kinds = storage_kinds(&pickle);
    let Pickled::List(ids) = &keys.values[keys.root] else { return Err(wrong(path, "lists no storages")) };
    let mut storages = Storages::new();
    for id in ids {
        let Pickled::Text(key) = &keys.values[*id] else {
            return Err(wrong(path, "lists a storage without a key"));
        };
        let cut = || wrong(path, format!("is cut short: storage {key} is not whole"));
        let (count, data) = rest.split_at_checked(8).ok_or_else(cut)?;
        let count = u64::from_le_bytes(std::array::from_fn(|i| count[i]));
        let size = kinds.get(key).map_or(1, |kind| kind.size());
        let length = usize::try_from(count).ok().and_then(|count| count.checked_mul(size)).ok_or_else(cut)?;
        let (data, others) = data.split_at_checked(length).ok_or_else(cut)?;
        storages.insert(key.clone(), data.to_vec());
        rest = others;
    }
    Ok((pickle, storages))
}

fn storage_kinds(pickle: &Unpickled) -> HashMap<String, Kind> {
    let storages = pickle.values.iter().filter_map(|value| match value {
        Pickled::Storage(id) => storage(pickle, *id).ok(),
        _ => None,
    });
    storages.collect()
}

/// The key and the kind of a storage, from its persistent id: `("storage", type, key, device, elements)`.
fn storage(pickle: &Unpickled, id: Id) -> Result<(String, Kind), String> {
    let Pickled::Tuple(items) = &pickle.values[id] else {
        return Err("has a storage without a description".to_owned());
    };
    let item = |i: usize| items.get(i).map(|&id| &pickle.values[id]);
    let (Some(Pickled::Known(Known::StorageType(name))), Some(Pickled::Text(key))) = (item(1), item(2))
    else {
        return Err("has a storage without a type or key".to_owned());
    };
    Ok((key.clone(), kind(name)?))
}

fn kind(storage: &str) -> Result<Kind, String> {
    Ok(match storage {
        "DoubleStorage" => Kind::F64,
        "FloatStorage" => Kind::F32,
        "HalfStorage" => Kind::F16,
        "BFloat16Storage" => Kind::Bf16,
        "LongStorage" => Kind::Integer(8, true),
        "IntStorage" => Kind::Integer(4, true),
        "ShortStorage" => Kind::Integer(2, true),
        "CharStorage" => Kind::Integer(1, true),
        "ByteStorage" | "BoolStorage" => Kind::Integer(1, false),
        other => {
            return Err(format!(
                "holds a tensor of `torch.{other}`; floats of 16 to 64 bits and whole numbers are read"
            ));
        }
    })
}

/// The tensors of a pickle.
struct Found<'a> {
    path: &'a Path,
    pickle: &'a Unpickled,
    storages: &'a Storages,
    arrays: Vec<Array>,
    visited: usize,
}

impl Found<'_> {
    fn collect(&mut self, id: Id, name: &str, bare: bool, depth: usize) -> Result<(), LabError> {
        self.visited += 1;
        if depth > DEPTH || self.visited > MOST {
            return Err(wrong(
                self.path,
                format!("nests deeper than {DEPTH} or holds more than {MOST} values"),
            ));
        }
        let below = |key: &str| if bare { key.to_owned() } else { format!("{name}.{key}") };
        let pickle = self.pickle;
        match &pickle.values[id] {
            Pickled::Tensor(arguments) => {
                let array = self.tensor(arguments, name).map_err(|reason| wrong(self.path, reason))?;
                self.arrays.push(array);
            }
            Pickled::Dict(pairs) => {
                for (key, value) in pairs {
                    let key = match &pickle.values[*key] {
                        Pickled::Text(text) => text.clone(),
                        Pickled::Int(number) => number.to_string(),
                        _ => {
                            return Err(wrong(
                                self.path,
                                "holds a dictionary whose keys are neither text nor numbers",
                            ));
                        }
                    };
                    self.collect(*value, &below(&key), false, depth + 1)?;
                }
            }
            Pickled::List(items) | Pickled::Tuple(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.collect(*item, &below(&index.to_string()), false, depth + 1)?;
                }
            }
            // Numbers and words beside tensors say nothing of a site.
            _ => {}
        }
        Ok(())
    }

    /// A tensor of its arguments: storage, offset, shape, strides.
    fn tensor(&self, arguments: &[Id], name: &str) -> Result<Array, String> {
        let values = &self.pickle.values;
        let number = |id: Id| match values[id] {
            Pickled::Int(number) => usize::try_from(number).ok(),
            _ => None,
        };
        let numbers = |id: Id| match &values[id] {
            Pickled::Tuple(items) | Pickled::List(items) => {
                items.iter().map(|&id| number(id)).collect::<Option<Vec<_>>>()
            }
            _ => None,
        };
        let damaged = || format!("is damaged: the tensor `{name}` has no storage, offset, shape and strides");
        let Pickled::Storage(id) = values[arguments[0]] else { return Err(damaged()) };
        let (key, kind) = storage(self.pickle, id)?;
        let bytes =
            self.storages.get(&key).ok_or(format!("is cut short: the storage of `{name}` is not there"))?;
        let (offset, shape, strides) = (number(arguments[1]), numbers(arguments[2]), numbers(arguments[3]));
        let (Some(offset), Some(shape), Some(strides)) = (offset, shape, strides) else {
            return Err(damaged());
        };
        let available = bytes.len() / kind.size();
        let contiguous: Vec<usize> =
            (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect();
        let places = places(&shape, &strides, offset, available).ok_or(format!(
            "holds `{name}` as {shape:?} with strides {strides:?}, which is more than its storage of {available} elements"
        ))?;
        let all = |bytes: &[u8]| Numbers::decode(kind, bytes);
        let numbers = if contiguous == strides {
            all(&bytes[offset * kind.size()..][..places.len() * kind.size()])
        } else {
            all(bytes).select(places.into_iter())
        };
        Ok(Array { name: name.to_owned(), shape, numbers })
    }
}
