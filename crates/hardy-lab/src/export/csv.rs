//! Every number over steps as comma-separated values, as `trackio.import_csv` and spreadsheets read them (RFC 4180): a row
//! a step, a column a quantity, evaluations as `eval/METRIC/LEVEL`, and nothing where a step has no such number.

use std::collections::{BTreeMap, BTreeSet};

use crate::run_records::RunRecords;

/// The table of a run, with its header.
#[must_use]
pub fn csv(run: &RunRecords) -> String {
    let mut rows: BTreeMap<u64, BTreeMap<String, f64>> = BTreeMap::new();
    for name in run.metrics.names().filter(|name| *name != "step") {
        for (step, value) in run.metrics.values(name) {
            rows.entry(step).or_default().insert(name.to_owned(), value);
        }
    }
    for (step, record) in &run.evaluations {
        let scalars = record.scalars().into_iter().map(|(name, value)| (format!("eval/{name}"), value));
        rows.entry(*step).or_default().extend(scalars);
    }
    let columns: BTreeSet<&String> = rows.values().flat_map(BTreeMap::keys).collect();
    let header = std::iter::once("step".to_owned()).chain(columns.iter().map(|name| quoted(name)));
    let mut out = header.collect::<Vec<_>>().join(",") + "\r\n";
    for (step, values) in &rows {
        let cell = |name: &&String| values.get(*name).map(|x| (x + 0.0).to_string()).unwrap_or_default();
        let cells = std::iter::once(step.to_string()).chain(columns.iter().map(cell));
        out += &(cells.collect::<Vec<_>>().join(",") + "\r\n");
    }
    out
}

fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}
