//! A comparison as text: the verdict, what to do next, and the sites.

use hardy_lab::{
    diverge::{Compared, Divergence},
    format::{percent, significant},
    text_table::{Align, TextTable, wrap},
};

/// Rows of the table without --all.
const SHOWN: usize = 24;
/// Names listed of what could not be matched.
const NAMES: usize = 4;
const WIDTH: usize = 100;

/// The whole text; with `all` every site.
pub fn text(found: &Divergence, all: bool) -> String {
    let differs = |site: &&Compared| all || site.error() > 0.0;
    let rows: Vec<&Compared> = found.sites.iter().filter(differs).collect();
    let mut out = format!("{} against {}: {}\n", found.b, found.a, found.verdict.kind.name().to_uppercase());
    out += &wrap(&format!("{}.", found.verdict.reason), WIDTH, 0);
    out += &wrap(
        &format!(
            "{} sites compared; tolerance {:e} ({})",
            found.sites.len(),
            found.tolerance,
            found.tolerance_reason
        ),
        WIDTH,
        0,
    );
    if let Some(first) = found.first_bit.as_ref().filter(|first| found.verdict.first.as_ref() != Some(first))
    {
        out += &format!("The first bit that differs is in {first}\n");
    }
    if !rows.is_empty() {
        let limit = if all { usize::MAX } else { SHOWN };
        out += &format!("\n{}", table(&rows[..rows.len().min(limit)], found.tolerance));
        if rows.len() > limit {
            out += &format!("… and {} more sites that differ (--all, or --json)\n", rows.len() - limit);
        }
    }
    for (side, names) in [(&found.a, &found.only_a), (&found.b, &found.only_b)] {
        if !names.is_empty() {
            let more = if names.len() > NAMES {
                format!(" and {} more", names.len() - NAMES)
            } else {
                String::new()
            };
            let some = names[..names.len().min(NAMES)].join(", ");
            out += &wrap(&format!("Only in {side}, not compared: {some}{more}"), WIDTH, 0);
        }
    }
    out + "\n" + &wrap(&format!("Next: {}.", found.verdict.next), WIDTH, 0)
}

fn table(rows: &[&Compared], tolerance: f64) -> String {
    use Align::{Left, Right};
    let with_floor = rows.iter().any(|row| row.floor.is_some());
    let mut columns = vec![
        ("", Left),
        ("site", Left),
        ("max |Δ|", Right),
        ("mean |Δ|", Right),
        ("relative", Right),
        ("MAPE", Right),
        ("cosine", Right),
        ("correl.", Right),
        (">1e-3", Right),
        (">5e-3", Right),
    ];
    if with_floor {
        columns.push(("floor", Right));
    }
    let mut table = TextTable::new(&columns);
    for row in rows {
        let mark = if row.error() > tolerance { "*" } else { "" };
        let mut cells = vec![mark.to_owned(), row.name.clone()];
        match (&row.differences, row.statistics) {
            (Some(d), _) => {
                cells.extend([d.max_absolute, d.mean_absolute, d.relative].map(|x| significant(x, 3)));
                cells.push(percent(d.mape));
                cells.extend([d.cosine, d.correlation].map(|x| format!("{x:.5}")));
                cells.extend([d.beyond_one_thousandth, d.beyond_five_thousandths].map(percent));
            }
            (None, statistics) => {
                let relative = statistics.map_or_else(|| "–".to_owned(), |x| significant(x, 3));
                cells.extend(["–".to_owned(), "–".to_owned(), relative]);
                cells.extend(std::iter::repeat_n("–".to_owned(), 5));
            }
        }
        if with_floor {
            cells.push(row.floor.map_or_else(|| "–".to_owned(), |x| significant(x, 3)));
        }
        table.row(cells);
    }
    table.render()
}
