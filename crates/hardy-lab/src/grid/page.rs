//! A grid as one HTML page that needs nothing from outside: a heat map for each block, light and dark, the cells in order of
//! what they lose, and what each injected.

use std::fmt::Write;

use hardy_ops::Pass;

use super::{
    CellRecord, GridRecord,
    table::{Block, blocks, heat, loss, loss_in_words, measure},
};
use crate::{
    format::{claim_clause, significant},
    html::{escape, page, section, table},
};

/// Steps of colour.
const STEPS: usize = 6;
/// Cells of the ranking.
const RANKED: usize = 30;

/// The page of a grid; `below` is HTML that follows it.
#[must_use]
pub fn html(grid: &GridRecord, below: &str) -> String {
    let title = format!("Where errors hurt {}", grid.model);
    let mut body = format!(
        "<p class=\"brand\">hardy probe</p><h1>{}</h1><p>{} of {} problems of {}: {} without error. A star marks what is \
         resolved at 5 % over the whole grid (Holm).</p>",
        escape(&title),
        if grid.metric == "nll" { "Mean negative log-likelihood of a token, in nats," } else { "Accuracy" },
        grid.n,
        escape(&grid.data),
        measure(grid, grid.clean),
    );
    for block in blocks(grid) {
        body += &section(&block.title, &heat_map(grid, &block));
    }
    for pass in [Pass::Forward, Pass::Backward] {
        body += &section(&format!("What hurts most, {} pass", pass.name()), &ranking(grid, pass));
    }
    page(&title, &(body + below))
}

fn heat_map(grid: &GridRecord, block: &Block<'_>) -> String {
    let mut out = String::from("<div class=\"scroll\"><table class=\"heat\"><thead><tr><th>layer</th>");
    block.columns.iter().for_each(|op| {
        let _ = write!(out, "<th class=\"num\">{}</th>", op.name());
    });
    out.push_str("</tr></thead><tbody>");
    for row in &block.rows {
        let _ = write!(out, "<tr><th scope=\"row\">{}</th>", escape(row));
        for op in &block.columns {
            out += &cell(grid, block.cell(row, *op));
        }
        out.push_str("</tr>");
    }
    out + "</tbody></table></div>"
}

fn cell(grid: &GridRecord, cell: Option<&CellRecord>) -> String {
    let Some(cell) = cell else { return "<td class=\"num\">–</td>".to_owned() };
    let star = if cell.claim.resolved { " ★" } else { "" };
    let about = format!("{}: {}, {}", cell.cell, loss_in_words(grid, cell), claim_clause(&cell.claim));
    format!(
        "<td class=\"num h{}\" title=\"{}\">{}{star}</td>",
        heat(grid, cell, STEPS),
        escape(&about),
        escape(&loss(grid, cell))
    )
}

fn ranking(grid: &GridRecord, pass: Pass) -> String {
    let ranked = grid.ranked(pass);
    if ranked.is_empty() {
        return String::new();
    }
    let row = |cell: &&CellRecord| {
        vec![
            escape(&cell.cell.place()),
            escape(&cell.cell.strength()),
            escape(&loss_in_words(grid, cell)),
            escape(&claim_clause(&cell.claim)),
            if cell.claim.resolved { "yes" } else { "no" }.to_owned(),
            format!("{} %", significant(100.0 * cell.measured, 3)),
        ]
    };
    let rows: Vec<Vec<String>> = ranked.iter().take(RANKED).map(row).collect();
    table(&["place", "error", "lost", "p", "resolved", "#error measured"], &rows)
}

#[cfg(test)]
mod tests {
    use super::super::record::made_up::grid;
    use super::*;

    #[test]
    fn a_page_has_a_heat_map_with_every_cell_and_nothing_from_outside() {
        let page = html(&grid(), "");
        assert_eq!(page.matches("<td class=\"num h").count(), 4);
        assert!(page.contains(" ★</td>") && page.contains("title=\"layer 1, linear output at 5 %"), "{page}");
        assert!(!page.contains("http") && !page.contains("<script"));
    }
}
