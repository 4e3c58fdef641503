//! A grid as text: layers down, operators across, one block for each point, pass and level; what is resolved has a star, and
//! below stands what to look at next.

use std::fmt::Write;

use hardy_ops::{Op, Pass, Point};

use super::{CellRecord, GridRecord};
use crate::{
    format::{points, significant},
    text_table::wrap,
};

/// Characters of a column.
const WIDTH: usize = 13;
/// Green to red, of the 256 colours of terminals.
const HEAT: [u8; 5] = [34, 112, 220, 208, 196];

/// One block of a grid: the cells of one point, pass and level.
#[derive(Debug)]
pub(crate) struct Block<'a> {
    /// Its heading.
    pub title: String,
    /// Layers from the first to the last, then modules outside.
    pub rows: Vec<String>,
    /// The operators.
    pub columns: Vec<Op>,
    cells: Vec<&'a CellRecord>,
}

impl<'a> Block<'a> {
    /// The cell of a row and a column.
    pub fn cell(&self, row: &str, column: Op) -> Option<&'a CellRecord> {
        self.cells.iter().find(|cell| row_of(cell) == row && cell.cell.op == column).copied()
    }
}

/// The row of a cell: its layer, or outside of layers its module without the family's prefix.
fn row_of(cell: &CellRecord) -> String {
    let outside = || cell.cell.modules.trim_start_matches("model.").to_owned();
    cell.cell.layer.map_or_else(outside, |layer| layer.to_string())
}

/// The blocks of a grid, in the order of their first cells.
pub(crate) fn blocks(grid: &GridRecord) -> Vec<Block<'_>> {
    let key = |cell: &CellRecord| (cell.cell.point, cell.cell.pass, cell.cell.strength());
    let mut keys: Vec<(Point, Pass, String)> = Vec::new();
    for cell in &grid.cells {
        if !keys.contains(&key(cell)) {
            keys.push(key(cell));
        }
    }
    let block = |wanted: &(Point, Pass, String)| {
        let cells: Vec<&CellRecord> = grid.cells.iter().filter(|cell| key(cell) == *wanted).collect();
        let mut in_order = cells.clone();
        in_order.sort_by_key(|cell| cell.cell.layer.unwrap_or(usize::MAX));
        let mut rows: Vec<String> = in_order.iter().map(|cell| row_of(cell)).collect();
        rows.dedup();
        let columns = Op::ALL.into_iter().filter(|op| cells.iter().any(|cell| cell.cell.op == *op)).collect();
        let (point, pass, strength) = wanted;
        let what = if *pass == Pass::Backward { ", 1 − cosine with the clean gradient" } else { "" };
        let title = format!("{} of the {} pass, {strength}{what}", point.name(), pass.name());
        Block { title, rows, columns, cells }
    };
    keys.iter().map(block).collect()
}

/// The text of a grid; `coloured` for terminals, `width` columns.
#[must_use]
pub fn render(grid: &GridRecord, width: usize, coloured: bool) -> String {
    let (n, clean) = (grid.n, measure(grid, grid.clean));
    let mut out = format!(
        "{} on {}: {} of {n} problems, {clean} without error\n",
        grid.model,
        grid.data,
        if grid.metric == "nll" { "mean negative log-likelihood of a token, in nats," } else { "accuracy" },
    );
    for block in blocks(grid) {
        let _ = writeln!(out, "\n{}", block.title);
        let first = block.rows.iter().map(|row| row.chars().count()).max().unwrap_or(0).max(5);
        let _ = write!(out, "{:>first$}", "layer");
        block.columns.iter().for_each(|op| out += &format!("{:>WIDTH$}", op.name()));
        out.push('\n');
        for row in &block.rows {
            let _ = write!(out, "{row:>first$}");
            for op in &block.columns {
                out += &coloured_cell(grid, block.cell(row, *op), coloured);
            }
            out.push('\n');
        }
    }
    out.push('\n');
    out + &verdict(grid, width)
}

fn coloured_cell(grid: &GridRecord, cell: Option<&CellRecord>, coloured: bool) -> String {
    let Some(cell) = cell else { return format!("{:>WIDTH$}", "–") };
    let star = if cell.claim.resolved { "*" } else { " " };
    let text = format!("{:>WIDTH$}", format!("{}{star}", loss(grid, cell)));
    if !coloured {
        return text;
    }
    let heat = heat(grid, cell, HEAT.len());
    format!("\x1b[38;5;{}m{text}\x1b[0m", HEAT[heat])
}

/// From 0 up to, not including, `steps`: how much of the largest loss of its pass a cell is.
pub(crate) fn heat(grid: &GridRecord, cell: &CellRecord, steps: usize) -> usize {
    let same_pass = grid.cells.iter().filter(|other| other.cell.pass == cell.cell.pass);
    let largest = same_pass.map(|other| other.degradation).fold(0.0, f64::max);
    let share = (cell.degradation / largest.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0);
    ((share * steps as f64) as usize).min(steps - 1)
}

/// A measure with its unit.
pub(crate) fn measure(grid: &GridRecord, value: f64) -> String {
    if grid.metric == "nll" { significant(value, 4) } else { format!("{:.1} %", 100.0 * value) }
}

/// What a cell loses: nats, points, or 1 − cosine.
pub(crate) fn loss(grid: &GridRecord, cell: &CellRecord) -> String {
    match (cell.cell.pass, grid.metric.as_str()) {
        (Pass::Backward, _) => significant(cell.degradation, 3),
        (_, "nll") => format!("{:+.4}", cell.degradation),
        _ => points(-100.0 * cell.degradation),
    }
}

/// The same with its interval and unit.
pub(crate) fn loss_in_words(grid: &GridRecord, cell: &CellRecord) -> String {
    let (low, high) = (cell.interval.low, cell.interval.high);
    match (cell.cell.pass, grid.metric.as_str()) {
        (Pass::Backward, _) => {
            let norm = cell.norm_ratio.map(|ratio| format!(", its length {} times", significant(ratio, 3)));
            let cosine =
                format!("cosine {:.4} [{:.4}, {:.4}]", 1.0 - cell.degradation, 1.0 - high, 1.0 - low);
            cosine + &norm.unwrap_or_default()
        }
        (_, "nll") => format!("{:+.4} nats [{low:+.4}, {high:+.4}]", cell.degradation),
        _ => format!(
            "{} points [{}, {}]",
            points(-100.0 * cell.degradation),
            points(-100.0 * high),
            points(-100.0 * low)
        ),
    }
}

/// What the grid says, and what to do next.
fn verdict(grid: &GridRecord, width: usize) -> String {
    let resolved = grid.cells.iter().filter(|cell| cell.claim.resolved).count();
    let mut out = wrap(
        &format!(
            "* resolved: {resolved} of {} cells, at 5 % over the whole grid (Holm), in doubt of problems{}",
            grid.cells.len(),
            if grid.draws > 1 { " and draws" } else { "; --draws K doubts the draws of the error too" },
        ),
        width,
        0,
    );
    for pass in [Pass::Forward, Pass::Backward] {
        if let Some(worst) = grid.ranked(pass).first() {
            let words = loss_in_words(grid, worst);
            let pass = pass.name();
            out += &wrap(&format!("hurts most in the {pass} pass: {}: {words}", worst.cell), width, 0);
        }
    }
    let next = match grid.ranked(Pass::Forward).first() {
        Some(worst) if worst.claim.resolved => {
            "next: the level that each place tolerates and a plan with it: the same command with --advise PLAN.toml"
        }
        Some(_) => "next: more problems (--n), more draws (--draws) or higher levels (--levels) tell more",
        None => "next: add the forward pass with --passes forward,backward",
    };
    out + &wrap(next, width, 0)
}
