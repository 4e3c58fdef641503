//! A dump: what a machine computed at named sites, with what is known of the model, the tokens and the machine. Hardy's
//! own are safetensors files whose header holds the rest.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use hardy_model::{
    HostTensor,
    files::{IntegerTensor, write_described},
};
use serde::Serialize;

use super::{
    name::Place,
    readers::{self, Array, Numbers},
};
use crate::error::LabError;

/// The key that says that a file is a dump of Hardy's, and of which layout.
pub const LAYOUT: &str = "hardy_dump";
/// The key that lists the tensors in the order in which they were computed, as JSON.
pub const ORDER: &str = "order";
/// The tensors of tokens.
pub const TOKENS: [&str; 3] = ["input_ids", "attention_mask", "loss_mask"];

/// What is kept of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Its elements, row by row.
    Elements(Vec<f32>),
    /// The file that holds them alone.
    File(PathBuf),
    /// Some numbers about them.
    Statistics(Statistics),
}

/// Some numbers about a tensor; what was not written is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Statistics {
    /// The largest element.
    pub max: Option<f64>,
    /// The smallest.
    pub min: Option<f64>,
    /// Their mean.
    pub mean: Option<f64>,
    /// ‖x‖₂.
    pub norm: Option<f64>,
}

impl Statistics {
    /// Those of `x`.
    pub fn of(x: &[f32]) -> Self {
        let values = || x.iter().map(|&x| f64::from(x));
        let count = x.len().max(1) as f64;
        Self {
            max: values().reduce(f64::max),
            min: values().reduce(f64::min),
            mean: Some(values().sum::<f64>() / count),
            norm: Some(values().map(|x| x * x).sum::<f64>().sqrt()),
        }
    }

    /// Those that are known, with their names.
    pub fn known(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let all = [("max", self.max), ("min", self.min), ("mean", self.mean), ("norm", self.norm)];
        all.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

/// The precision in which a tensor was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    /// 24 bits of significand or more.
    F32,
    /// 11.
    F16,
    /// 8.
    Bf16,
}

impl From<hardy_numerics::Precision> for Precision {
    /// That of the operands of products.
    fn from(precision: hardy_numerics::Precision) -> Self {
        match precision {
            hardy_numerics::Precision::F32 => Self::F32,
            hardy_numerics::Precision::Bf16 => Self::Bf16,
        }
    }
}

impl Precision {
    /// The name of its type.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }
}

/// One tensor of a dump.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name in the file.
    pub name: String,
    /// What it is of.
    pub place: Place,
    /// Its extents, outermost first.
    pub shape: Vec<usize>,
    /// What is kept of it.
    pub values: Values,
    /// How precisely it was stored.
    pub precision: Precision,
}

impl Entry {
    /// A tensor of f32 whose place its name says.
    pub fn new(name: String, shape: Vec<usize>, values: Vec<f32>) -> Self {
        let (place, precision) = (Place::parse(&name), Precision::F32);
        Self { name, place, shape, values: Values::Elements(values), precision }
    }

    /// Its elements, read where they are in a file; `None` where only statistics were kept.
    ///
    /// # Errors
    /// A file that can not be read, or holds another tensor.
    pub fn elements(&self) -> Result<Option<Cow<'_, [f32]>>, LabError> {
        let path = match &self.values {
            Values::Elements(values) => return Ok(Some(Cow::Borrowed(values))),
            Values::Statistics(_) => return Ok(None),
            Values::File(path) => path,
        };
        let reason = match readers::arrays(path)?.into_iter().next() {
            Some(Array { numbers: Numbers::Floats(values, _), shape, .. }) if shape == self.shape => {
                return Ok(Some(Cow::Owned(values)));
            }
            Some(array) => format!("is {:?}, but the dump says {:?}", array.shape, self.shape),
            None => "holds no tensor".to_owned(),
        };
        Err(LabError::Dump { path: path.clone(), reason })
    }
}

/// A matrix of whole numbers, `[rows, width]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Its elements, row by row.
    pub values: Vec<i64>,
    /// Its columns.
    pub width: usize,
}

/// What a machine computed.
#[derive(Clone, Debug, Default)]
pub struct Dump {
    /// Where it is from, as messages call it.
    pub source: String,
    /// What is known of model and machine: `fingerprint`, `device`, `plan` and the like.
    pub facts: BTreeMap<String, String>,
    /// The tokens, `[B, T]`.
    pub ids: Option<Matrix>,
    /// Which of them count, `[B, T]`.
    pub mask: Option<Matrix>,
    /// The tensors: in the order in which they were computed if `ordered`.
    pub entries: Vec<Entry>,
    /// Whether that is known.
    pub ordered: bool,
}

impl Dump {
    /// What is known under `key`.
    pub fn fact(&self, key: &str) -> Option<&str> {
        self.facts.get(key).map(String::as_str)
    }

    /// Writes a dump of Hardy's, whole or not at all; `loss_mask` says which tokens the loss counts.
    ///
    /// # Errors
    /// A file that can not be written.
    pub fn write(&self, path: &Path, loss_mask: &Matrix) -> Result<(), LabError> {
        let order: Vec<&str> = self.entries.iter().map(|entry| entry.name.as_str()).collect();
        let order = serde_json::to_string(&order).unwrap_or_default();
        let mut facts = self.facts.clone();
        facts.extend([(LAYOUT.to_owned(), "1".to_owned()), (ORDER.to_owned(), order)]);
        let tensors = self.entries.iter().filter_map(|entry| match &entry.values {
            Values::Elements(data) => {
                Some(HostTensor { name: entry.name.clone(), shape: entry.shape.clone(), data: data.clone() })
            }
            Values::File(_) | Values::Statistics(_) => None,
        });
        let tokens = TOKENS.into_iter().zip([self.ids.as_ref(), self.mask.as_ref(), Some(loss_mask)]);
        let tokens = tokens.filter_map(|(name, matrix)| Some((name, matrix?)));
        let integers = tokens.map(|(name, matrix)| IntegerTensor {
            name: name.to_owned(),
            shape: vec![matrix.values.len() / matrix.width.max(1), matrix.width],
            data: matrix.values.clone(),
        });
        let (tensors, integers): (Vec<_>, Vec<_>) = (tensors.collect(), integers.collect());
        Ok(write_described(path, &tensors, &integers, facts).map_err(hardy_train::error::Error::from)?)
    }
}
