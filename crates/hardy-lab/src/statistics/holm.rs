//! Holm's step-down correction for several tests at once (Holm 1979, Scand. J. Statist. 6: 65–70): the chance that any
//! of them is resolved although nothing differs stays at the level, whatever their dependence.

/// The adjusted p-values, in the order of `p`: of the k-th smallest of m the running maximum of (m − k + 1)·p, at most
/// 1.
#[must_use]
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]).then(a.cmp(&b)));
    let mut adjusted = vec![1.0; p.len()];
    let mut largest = 0.0_f64;
    for (rank, &test) in order.iter().enumerate() {
        largest = largest.max((p.len() - rank) as f64 * p[test]).min(1.0);
        adjusted[test] = largest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_worked_example() {
        let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (found, right) in adjusted.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert!((found - right).abs() < 1e-12, "{adjusted:?}");
        }
        assert_eq!(holm(&[0.2]), [0.2]);
        assert!(holm(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn never_below_the_raw_value_nor_above_bonferroni(p in proptest::collection::vec(0.0..=1.0_f64, 1..12)) {
            for (raw, adjusted) in p.iter().zip(holm(&p)) {
                prop_assert!(adjusted >= *raw && adjusted <= (raw * p.len() as f64).min(1.0));
            }
        }
    }
}
