//! Receipts as a table for people: what was injected, and the measured error beside the asked one.

use hardy_lab::{
    format,
    text_table::{Align, TextTable},
};
use hardy_ops::{Receipt, group_receipts};

/// A row for every group of sites; empty where nothing was asked for.
pub fn render(receipts: &[Receipt]) -> String {
    if receipts.is_empty() {
        return String::new();
    }
    use Align::{Left, Right};
    let columns = [
        ("injected", Left),
        ("into", Left),
        ("phase", Left),
        ("elements", Right),
        ("asked", Right),
        ("measured", Right),
    ];
    let mut table = TextTable::new(&columns);
    for receipt in group_receipts(receipts) {
        table.row([
            receipt.kind.clone(),
            format!("{} {} of {}", receipt.op.name(), receipt.point.name(), receipt.site),
            receipt.phase.name().to_owned(),
            format::count(receipt.elements),
            receipt.asked.map_or_else(|| "–".to_owned(), |asked| format::significant(asked, 4)),
            format::significant(receipt.measured, 4),
        ]);
    }
    table.render()
}
