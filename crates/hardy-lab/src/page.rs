//! Everything that one page claims, decided together: what each level of its evaluations loses, and how its runs differ.

use crate::compare::Comparison;
use crate::robustness::RobustnessTable;
use crate::statistics::decide;

/// Corrects all claims of tables and comparisons that are shown together (Holm), and says anew what is resolved.
pub fn decide_together<'a>(
    tables: impl IntoIterator<Item = &'a mut RobustnessTable>,
    comparisons: impl IntoIterator<Item = &'a mut Comparison>,
) {
    let mut tables: Vec<_> = tables.into_iter().collect();
    let mut comparisons: Vec<_> = comparisons.into_iter().collect();
    let losses = tables.iter_mut().flat_map(|table| table.losses()).map(|loss| &mut loss.test.claim);
    let differences = comparisons.iter_mut().flat_map(|one| one.levels()).map(|level| &mut level.test.claim);
    decide(losses.chain(differences));
    tables.iter_mut().flat_map(|table| table.losses()).for_each(|loss| loss.settle());
    comparisons.iter_mut().for_each(|comparison| comparison.settle());
}
