//! What was asked and what was measured, per phase, pass, operator and point: in training from `receipts.json`, in
//! the last evaluation from its own record.

use serde_json::Value;

use super::Entry;
use crate::format;
use crate::html::{details, escape, table};
use crate::receipt::{Receipt, ReceiptGroup, grouped};

pub fn html(entries: &[Entry]) -> String {
    let parts: Vec<_> = entries.iter().map(|entry| (entry.name, rows(entry))).collect();
    if parts.iter().all(|(_, rows)| rows.is_empty()) {
        return String::new();
    }
    let columns = [
        "phase",
        "pass",
        "operator",
        "point",
        "#sites",
        "#calls",
        "#elements",
        "#asked",
        "#measured",
        "#range",
    ];
    let note = "<p class=\"quiet\">Errors are ‖err‖/‖x‖, root mean square over elements; the range is over sites.</p>";
    let tables = parts.iter().map(|(name, rows)| match rows.is_empty() {
        true => {
            details(&format!("{name}: nothing was injected"), false, "<p class=\"quiet\">No receipts.</p>")
        }
        false => details(name, true, &table(&columns, rows)),
    });
    format!("{note}{}", tables.collect::<String>())
}

fn rows(entry: &Entry) -> Vec<Vec<String>> {
    let rows = |level: &str, receipts: &[Value]| -> Vec<_> {
        grouped(&Receipt::read_all(receipts)).iter().map(|group| row(level, group)).collect()
    };
    let mut all = rows("", &entry.run.receipts);
    for level in &entry.run.last().1.levels {
        all.extend(rows(&format!(" at {}", level.label), &level.receipts));
    }
    all
}

fn row(level: &str, group: &ReceiptGroup) -> Vec<String> {
    let error = |value: Option<f64>| value.map_or_else(|| "–".into(), error_percent);
    let range = match group.range {
        Some((low, high)) if group.sites > 1 => {
            format!("{} – {}", error_percent(low).trim_end_matches(" %"), error_percent(high))
        }
        _ => "–".into(),
    };
    vec![
        escape(&format!("{}{level}", group.phase)),
        escape(&group.pass),
        escape(&group.op),
        escape(&group.point),
        group.sites.to_string(),
        format::short_count(group.calls),
        format::short_count(group.elements),
        error(group.asked),
        error(group.measured),
        range,
    ]
}

/// A relative error in per cent: two decimals, or three digits where it is far below a tenth of a per cent.
fn error_percent(fraction: f64) -> String {
    let percent = 100.0 * fraction;
    if percent >= 0.1 { format!("{percent:.2} %") } else { format!("{} %", format::significant(percent, 3)) }
}
