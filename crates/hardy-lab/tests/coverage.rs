//! That intervals cover what they should and pages without differences claim none, on few made-up suites with known
//! truth; the bench `coverage` takes 10,000 of each kind.

mod made_up;

use rayon::prelude::*;

use made_up::{ANY, Draws, EDGES, KINDS, SCORED, Tally, World};

/// Suites of every world: enough that a share of 0.95 is told from 0.91.
const SUITES: usize = 250;

/// Suites of scores, of each of which the problems are drawn again 10,000 times.
const SCORED_SUITES: u64 = 120;

#[test]
fn intervals_of_scores_between_right_and_wrong_cover_the_truth() {
    for (place, accuracy_of) in [ANY, EDGES].into_iter().enumerate() {
        let one = |suite: u64| {
            World { columns: 1, scatter: 0.0 }.scored(accuracy_of, &mut Draws::new(suite << 8 | place as u64))
        };
        let found: Vec<[bool; SCORED.len()]> = (0..SCORED_SUITES).into_par_iter().map(one).collect();
        for (kind, name) in SCORED.iter().enumerate() {
            let share = found.iter().filter(|covered| covered[kind]).count() as f64 / SCORED_SUITES as f64;
            assert!(share > 0.90, "{name} covers {share}");
        }
    }
}

/// Over all worlds, where the shares are exact to about half a point.
#[test]
fn every_kind_of_interval_covers_the_truth_and_equal_presets_are_not_told_apart() {
    let mut all = Tally::default();
    for (columns, scatter) in [(1, 0.0), (2, 0.0), (2, 0.6), (3, 0.1), (3, 0.6), (5, 0.3)] {
        for (place, accuracy_of) in [ANY, EDGES].into_iter().enumerate() {
            let (mut tally, mut draws) = (Tally::default(), Draws::new((8 * columns + place) as u64));
            (0..SUITES).for_each(|_| World { columns, scatter }.suite(accuracy_of, &mut draws, &mut tally));
            for (kind, name) in KINDS.iter().enumerate() {
                let coverage = tally.coverage(kind);
                assert!(
                    coverage > 0.90,
                    "{name} covers {coverage} with {columns} columns of scatter {scatter}"
                );
                all.covered[kind] += tally.covered[kind];
                all.given[kind] += tally.given[kind];
            }
            all.suites += tally.suites;
            all.false_pages += tally.false_pages;
        }
    }
    for (kind, name) in KINDS.iter().enumerate() {
        assert!(all.coverage(kind) >= 0.94, "{name} covers {}", all.coverage(kind));
    }
    assert!(all.false_claims() <= 0.05, "{} of pages claim what is not there", all.false_claims());
}
