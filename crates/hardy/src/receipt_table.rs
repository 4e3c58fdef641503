//! Receipts as a table for people: what was injected, and the measured error beside the asked one, grouped as the
//! report groups them. What is not finite is told below it.

use hardy_lab::{
    format,
    receipt::non_finite,
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
    let groups = group_receipts(receipts);
    for group in &groups {
        let receipt = &group.sum;
        table.row([
            receipt.kind.clone(),
            place(receipt),
            receipt.phase.name().to_owned(),
            format::count(receipt.elements),
            receipt.asked.map_or_else(|| "–".to_owned(), |asked| format::significant(asked, 4)),
            format::significant(receipt.measured, 4),
        ]);
    }
    let notes = groups.iter().filter_map(|group| {
        let note = non_finite(&group.sum)?;
        Some(format!(
            "{note}, {} in {}, left out of what is measured\n",
            place(&group.sum),
            group.sum.phase.name()
        ))
    });
    table.render() + &notes.collect::<String>()
}

fn place(receipt: &Receipt) -> String {
    format!("{} {} of {}", receipt.op.name(), receipt.point.name(), receipt.site)
}
