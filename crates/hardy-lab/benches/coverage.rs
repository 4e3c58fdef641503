//! The table of coverage in the documentation of `hardy_lab::statistics`: `cargo bench -p hardy-lab --bench coverage`.

#[path = "../tests/made_up/mod.rs"]
mod made_up;

use rayon::prelude::*;

use made_up::{ANY, Draws, EDGES, KINDS, SCORED, Tally, World};

/// Suites of every row.
const SUITES: usize = 10_000;
/// Suites of scores, each of which is drawn again 10,000 times.
const SCORED_SUITES: u64 = 1_500;

fn main() {
    println!("| columns | scatter | accuracies | {} | false pages |", KINDS.join(" | "));
    println!("|---|---|---|{}---|", "---|".repeat(KINDS.len()));
    for (columns, scatter) in worlds() {
        for (name, accuracy_of) in [("2 to 98 %", ANY), ("edges", EDGES)] {
            let (mut tally, mut draws) = (Tally::default(), Draws::new(columns as u64));
            (0..SUITES).for_each(|_| World { columns, scatter }.suite(accuracy_of, &mut draws, &mut tally));
            let kinds: String =
                (0..KINDS.len()).map(|kind| format!("{:.1} | ", 100.0 * tally.coverage(kind))).collect();
            println!("| {columns} | {scatter} | {name} | {kinds}{:.1} |", 100.0 * tally.false_claims());
        }
    }
    scores();
}

/// The table of scores between right and wrong, of one column.
fn scores() {
    println!("\n| accuracies | {} |\n|---|---|---|", SCORED.join(" | "));
    for (place, (name, accuracy_of)) in [("2 to 98 %", ANY), ("edges", EDGES)].into_iter().enumerate() {
        let one = |suite: u64| {
            World { columns: 1, scatter: 0.0 }.scored(accuracy_of, &mut Draws::new(suite << 8 | place as u64))
        };
        let found: Vec<[bool; SCORED.len()]> = (0..SCORED_SUITES).into_par_iter().map(one).collect();
        let share =
            |kind: usize| found.iter().filter(|covered| covered[kind]).count() as f64 / SCORED_SUITES as f64;
        println!("| {name} | {:.1} | {:.1} |", 100.0 * share(0), 100.0 * share(1));
    }
}

/// One column has no scatter to doubt; several from none to one that is more than half of an answer's own.
fn worlds() -> Vec<(usize, f64)> {
    let several =
        [2, 3, 5].into_iter().flat_map(|columns| [0.0, 0.1, 0.3, 0.6].map(|scatter| (columns, scatter)));
    std::iter::once((1, 0.0)).chain(several).collect()
}
