//! The defaults of settings: what the smallest configurations hold that say only what must be said.

use toml::{Table, Value};

use super::Kind;
use crate::{config::RunConfig, sft::SftConfig};

/// What must be said, with placeholders, and in sections that may be left out whole.
const RUN: &str = "name = 'x'\n[model]\npath = 'x'\n[aqn]\nschedule = 'constant'\nsigma = 0.1\n[lora]\n\
    [[reward]]\nkind = 'strict'\n[[noise]]\nerror = { kind = 'relative_gaussian', scale = 0.1 }\n";
const SFT: &str = "name = 'x'\n[model]\npath = 'x'\n[lora]\n[[noise]]\nerror = { kind = 'relative_gaussian', scale = 0.1 }\n";
/// The keys with placeholders.
const GIVEN: [&str; 7] = [
    "name",
    "model.path",
    "reward.kind",
    "aqn.schedule",
    "aqn.sigma_start",
    "noise.error.kind",
    "noise.error.scale",
];

/// The default of a key as TOML writes it.
pub(super) fn of(kind: Kind, key: &str) -> Option<String> {
    if GIVEN.contains(&key) {
        return None;
    }
    let table = match kind {
        Kind::Run => Table::try_from(toml::from_str::<RunConfig>(RUN).ok()?),
        Kind::Sft => Table::try_from(toml::from_str::<SftConfig>(SFT).ok()?),
    };
    let table = Value::Table(table.ok()?);
    key.split('.').try_fold(&table, |at, key| entry(at).get(key)).map(short)
}

/// The first of a list of tables; anything else is itself.
fn entry(value: &Value) -> &Value {
    match value {
        Value::Array(entries) => entries.first().unwrap_or(value),
        _ => value,
    }
}

/// A value on one line; numbers that were f32 in as few digits as say them.
fn short(value: &Value) -> String {
    match value {
        Value::Float(x) if f64::from(*x as f32) == *x => (*x as f32).to_string(),
        Value::Float(x) => super::range::spelled(*x),
        Value::Array(entries) => {
            format!("[{}]", entries.iter().map(short).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}
