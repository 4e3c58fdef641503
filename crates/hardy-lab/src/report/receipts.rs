//! What was asked and what was measured, per phase, pass, operator, point and rule: in training from `receipts.json`, in
//! the last evaluation from its own record.

use hardy_ops::{Receipt, ReceiptGroup, group_receipts};

use super::Entry;
use crate::format;
use crate::html::{details, escape, table};
use crate::receipt::non_finite;

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
        "error",
        "#sites",
        "#calls",
        "#elements",
        "#asked",
        "#measured",
        "#range",
    ];
    let note = "<p class=\"quiet\">Errors are ‖err‖/‖x‖ over all values of the sites that are finite; the range is over sites.</p>";
    let tables = parts.iter().map(|(name, rows)| match rows.is_empty() {
        true => {
            details(&format!("{name}: nothing was injected"), false, "<p class=\"quiet\">No receipts.</p>")
        }
        false => details(name, true, &table(&columns, rows)),
    });
    format!("{note}{}", tables.collect::<String>())
}

fn rows(entry: &Entry) -> Vec<Vec<String>> {
    let rows = |level: &str, receipts: &[Receipt]| -> Vec<_> {
        group_receipts(receipts).iter().map(|group| row(level, group)).collect()
    };
    let mut all = rows("", &entry.run.receipts);
    for level in &entry.run.last().1.levels {
        all.extend(rows(&format!(" at {}", level.label), &level.receipts));
        for draw in &level.draws {
            all.extend(rows(&format!(" at {}, draw {}", level.label, draw.draw), &draw.receipts));
        }
    }
    all
}

fn row(level: &str, group: &ReceiptGroup) -> Vec<String> {
    let ReceiptGroup { sum, sites, range: (low, high) } = group;
    let range = match sites {
        1 => "–".into(),
        _ => format!("{} – {}", error_percent(*low).trim_end_matches(" %"), error_percent(*high)),
    };
    let elements = format::short_count(sum.elements as f64);
    let non_finite = non_finite(sum).map(|note| format!("<small>{note}</small>")).unwrap_or_default();
    vec![
        escape(&format!("{}{level}", sum.phase.name())),
        sum.pass.name().to_owned(),
        sum.op.name().to_owned(),
        sum.point.name().to_owned(),
        escape(&sum.kind),
        sites.to_string(),
        format::short_count(sum.calls as f64),
        elements + &non_finite,
        sum.asked.map_or_else(|| "–".into(), error_percent),
        error_percent(sum.measured),
        range,
    ]
}

/// A relative error in per cent: two decimals, or three digits where it is far below a tenth of a per cent; ∞ where the
/// values were all 0.
fn error_percent(fraction: f64) -> String {
    let percent = 100.0 * fraction;
    if percent.is_infinite() {
        return "∞".into();
    }
    if percent >= 0.1 { format!("{percent:.2} %") } else { format!("{} %", format::significant(percent, 3)) }
}
