//! Typed access to the keys of a JSON object. An error names the file, the key with the keys around it, the value and
//! what would be right; `null` counts as absent, as it does in `transformers`.

use std::{cell::RefCell, collections::BTreeSet, path::Path};

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::files::excerpt;

/// Larger sizes are taken for a mistake, so that products of two cannot overflow.
const LARGEST_SIZE: u64 = 1 << 30;
/// More layers are taken for a mistake.
const MOST_LAYERS: usize = 4096;

/// One object in a file. It remembers which of its keys were asked for.
pub(super) struct Fields<'a> {
    pub(super) path: &'a Path,
    prefix: String,
    map: &'a Map<String, Value>,
    read: RefCell<BTreeSet<String>>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(path: &'a Path, map: &'a Map<String, Value>) -> Self {
        Self { path, prefix: String::new(), map, read: RefCell::default() }
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.read.borrow_mut().insert(key.to_owned());
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// The keys that nobody asked for, and their values.
    pub(super) fn unread(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let unread = |(key, _): &(&String, _)| !self.read.borrow().contains(*key);
        self.map.iter().filter(unread).map(|(key, value)| (key.as_str(), value))
    }

    /// The object under `key`.
    pub(super) fn object(&self, key: &str) -> Result<Option<Self>> {
        let prefix = format!("{}{key}.", self.prefix);
        let inner = |map| Self { prefix: prefix.clone(), ..Self::new(self.path, map) };
        self.typed(key, "an object", |value| value.as_object().map(inner))
    }

    /// A size that must be there.
    pub(super) fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| self.missing(key, "a positive integer"))
    }

    pub(super) fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a positive integer below 2^30", |value| {
            let size = value.as_u64().filter(|size| (1..LARGEST_SIZE).contains(size))?;
            usize::try_from(size).ok()
        })
    }

    /// A layer, or the number of them.
    pub(super) fn optional_layer(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "an integer from 0", |value| usize::try_from(value.as_u64()?).ok())
    }

    pub(super) fn layers(&self) -> Result<usize> {
        const KEY: &str = "num_hidden_layers";
        match self.size(KEY)? {
            layers if layers > MOST_LAYERS => Err(self.wrong(KEY, "at most 4096")),
            layers => Ok(layers),
        }
    }

    /// A number greater than zero.
    pub(super) fn positive(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number above 0", |value| {
            value.as_f64().filter(|x| *x > 0.0 && (*x as f32) > 0.0 && (*x as f32).is_finite())
        })
    }

    /// A number greater than zero that must be there.
    pub(super) fn required_positive(&self, key: &str) -> Result<f64> {
        self.positive(key)?.ok_or_else(|| self.missing(key, "a number above 0"))
    }

    /// False where it is absent.
    pub(super) fn flag(&self, key: &str) -> Result<bool> {
        self.flag_or(key, false)
    }

    /// `default` where it is absent.
    pub(super) fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self.typed(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a string", Value::as_str)
    }

    /// The first string of a list, if it has one.
    pub(super) fn first_text(&self, key: &str) -> Result<Option<&'a str>> {
        let first = |value: &'a Value| match value.as_array()?.first() {
            None => Some(None),
            Some(first) => first.as_str().map(Some),
        };
        Ok(self.typed(key, "a list of strings", first)?.flatten())
    }

    /// A token; -1 stands for none in some files.
    pub(super) fn token_id(&self, key: &str) -> Result<Option<u32>> {
        if self.get(key).and_then(Value::as_i64) == Some(-1) {
            return Ok(None);
        }
        self.typed(key, "a token id", as_token)
    }

    /// A token or a list of them.
    pub(super) fn token_ids(&self, key: &str) -> Result<Vec<u32>> {
        let tokens = |value: &Value| match value {
            Value::Array(list) => list.iter().map(as_token).collect(),
            one => as_token(one).map(|id| vec![id]),
        };
        Ok(self.typed(key, "a token id or a list of them", tokens)?.unwrap_or_default())
    }

    fn typed<T>(&self, key: &str, wanted: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        self.get(key).map(|value| read(value).ok_or_else(|| self.wrong(key, wanted))).transpose()
    }

    pub(super) fn missing(&self, key: &str, wanted: &str) -> Error {
        Error::MissingKey { path: self.path.to_owned(), key: self.full(key), wanted: wanted.to_owned() }
    }

    pub(super) fn wrong(&self, key: &str, wanted: &str) -> Error {
        let found = self.map.get(key).map_or_else(|| "absent".to_owned(), excerpt);
        Error::Value { path: self.path.to_owned(), key: self.full(key), found, wanted: wanted.to_owned() }
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

fn as_token(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}
