//! Receipts for people: what they say of values that are not finite, and of errors without effect. The receipts themselves are
//! [`hardy_ops::Receipt`]s, and every table shows them as [`hardy_ops::group_receipts`] groups them.

use std::collections::BTreeMap;

use hardy_ops::{Pass, Phase, Receipt};

use crate::format::{count, short_count};

/// How many of the elements are not finite, as in "non-finite: 3 of 1.2 M"; `None` where all are.
#[must_use]
pub fn non_finite(receipt: &Receipt) -> Option<String> {
    let count = |n: u64| short_count(n as f64);
    (receipt.non_finite > 0)
        .then(|| format!("non-finite: {} of {}", count(receipt.non_finite), count(receipt.elements)))
}
/// What was injected into many elements and changed none: a sentence for each rule, phase and pass. It is what was asked for,
/// such as a fault in channels of which none was drawn, and would read like robustness.
#[must_use]
pub fn without_effect(receipts: &[Receipt]) -> Vec<String> {
    let mut sums: BTreeMap<(usize, Phase, Pass), (&str, u64, bool)> = BTreeMap::new();
    for receipt in receipts {
        let sum =
            sums.entry((receipt.rule, receipt.phase, receipt.pass)).or_insert((&receipt.kind, 0, false));
        sum.1 += receipt.elements;
        sum.2 |= receipt.error_energy > 0.0 || receipt.non_finite > 0;
    }
    let idle = sums.into_iter().filter(|(_, (_, elements, changed))| *elements > 0 && !changed);
    idle.map(|((rule, phase, pass), (kind, elements, _))| {
        let (phase, pass, elements) = (phase.name(), pass.name(), count(elements));
        format!(
            "rule {rule} ({kind}) changed none of the {elements} elements that it was on in {phase}, {pass}"
        )
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use hardy_ops::{Op, Point};

    use super::*;

    #[test]
    fn a_rule_that_changed_something_somewhere_is_not_told() {
        let receipt = |rule, error_energy, non_finite| Receipt {
            site: "model.layers.0.mlp.up_proj".into(),
            op: Op::Linear,
            point: Point::Output,
            phase: Phase::Eval,
            pass: Pass::Forward,
            rule,
            kind: "relative_gaussian".into(),
            calls: 1,
            elements: 1000,
            non_finite,
            asked: None,
            measured: 0.0,
            error_energy,
            signal_energy: 1.0,
        };
        let all = [
            receipt(1, 0.0, 0),
            receipt(2, 0.0, 0),
            receipt(1, 0.0, 0),
            receipt(2, 0.5, 0),
            receipt(3, 0.0, 4),
        ];
        let told = without_effect(&all);
        assert_eq!(
            told,
            ["rule 1 (relative_gaussian) changed none of the 2,000 elements that it was on in eval, forward"]
        );
        assert!(without_effect(&[Receipt { elements: 0, ..all[0].clone() }]).is_empty());
    }
}
