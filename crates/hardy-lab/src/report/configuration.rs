//! The configurations: where several runs differ, key by key, and each in full.

use std::collections::BTreeMap;

use toml::Value;

use super::Entry;
use crate::html::{details, escape, table};

pub fn html(entries: &[Entry]) -> String {
    let full = entries.iter().map(|entry| {
        let text = format!("<pre>{}</pre>", escape(&entry.run.config_text));
        details(&format!("{}: config.toml", entry.name), false, &text)
    });
    format!("{}{}", differences(entries), full.collect::<String>())
}

/// A table of the keys whose values are not the same in all runs; empty for one run.
fn differences(entries: &[Entry]) -> String {
    if entries.len() < 2 {
        return String::new();
    }
    let flat: Vec<_> = entries.iter().map(|entry| flattened(&entry.run.config)).collect();
    let mut keys: Vec<&String> = flat.iter().flat_map(BTreeMap::keys).collect();
    keys.sort();
    keys.dedup();
    keys.retain(|key| key.as_str() != "name" && flat.iter().any(|one| one.get(*key) != flat[0].get(*key)));
    if keys.is_empty() {
        return "<p>The runs have the same configuration.</p>".into();
    }
    let cell = |value: Option<&String>| {
        value.map_or_else(|| "–".into(), |value| format!("<code>{}</code>", escape(value)))
    };
    let row = |key: &String| {
        let cells = flat.iter().map(|one| cell(one.get(key)));
        std::iter::once(format!("<code>{}</code>", escape(key))).chain(cells).collect::<Vec<_>>()
    };
    let rows: Vec<_> = keys.into_iter().map(row).collect();
    let columns: Vec<_> = std::iter::once("key").chain(entries.iter().map(|entry| entry.name)).collect();
    format!("<p class=\"quiet\">Where the runs differ:</p>{}", table(&columns, &rows))
}

/// `[train] epochs = 2` as `train.epochs` → `2`; tables in lists as `noise[0].at`.
fn flattened(config: &toml::Table) -> BTreeMap<String, String> {
    let mut flat = BTreeMap::new();
    config.iter().for_each(|(key, value)| flatten(key, value, &mut flat));
    flat
}

fn flatten(path: &str, value: &Value, flat: &mut BTreeMap<String, String>) {
    match value {
        Value::Table(table) => {
            table.iter().for_each(|(key, value)| flatten(&format!("{path}.{key}"), value, flat))
        }
        Value::Array(list) if list.iter().any(Value::is_table) => {
            list.iter().enumerate().for_each(|(i, value)| flatten(&format!("{path}[{i}]"), value, flat));
        }
        plain => {
            flat.insert(path.into(), plain.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_lists_become_paths() {
        let config = "seed = 1\n[[noise]]\nops = [\"linear\"]\nerror = { scale = 0.05 }\n".parse().unwrap();
        let flat: Vec<_> =
            flattened(&config).into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(flat, ["noise[0].error.scale=0.05", "noise[0].ops=[\"linear\"]", "seed=1"]);
    }
}
