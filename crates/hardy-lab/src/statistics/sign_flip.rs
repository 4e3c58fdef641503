//! The exact paired test for several runs of each side on the same problems. The problem is the unit, since its runs are
//! not independent: if neither side is better, the sign of its difference is a fair coin (Fisher's randomisation test,
//! *The Design of Experiments*, 1935, §21). With one run a side it is McNemar's exact test.

/// The two-sided p-value of `differences`, for every problem the runs in which the first side is right minus those in
/// which the second is: P(|Σ ±|d|| ≥ |Σ d|) over all signs. 1 where no problem differs.
#[must_use]
pub fn sign_flip_exact(differences: &[i64]) -> f64 {
    let reach = differences.iter().map(|d| d.unsigned_abs() as usize).sum::<usize>();
    let seen = differences.iter().sum::<i64>().unsigned_abs() as usize;
    // chance[s] is that of the sum s − reach.
    let mut chance = vec![0.0; 2 * reach + 1];
    chance[reach] = 1.0;
    let mut spread = 0;
    for d in differences.iter().map(|d| d.unsigned_abs() as usize).filter(|&d| d > 0) {
        let mut next = vec![0.0; chance.len()];
        for s in reach - spread..=reach + spread {
            next[s - d] += 0.5 * chance[s];
            next[s + d] += 0.5 * chance[s];
        }
        chance = next;
        spread += d;
    }
    if seen == 0 {
        return 1.0;
    }
    (2.0 * chance[..=reach - seen].iter().sum::<f64>()).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::mcnemar_exact;
    use proptest::prelude::*;

    #[test]
    fn a_worked_example() {
        // ±2 ±1 ±1 is 4 or −4 with one set of signs each, of 8.
        assert_eq!(sign_flip_exact(&[2, 1, 1, 0]), 0.25);
        assert_eq!(sign_flip_exact(&[1, -1]), 1.0);
        assert_eq!(sign_flip_exact(&[]), 1.0);
    }

    proptest! {
        #[test]
        fn with_one_run_it_is_mcnemar(b in 0usize..40, c in 0usize..40) {
            let d: Vec<i64> = std::iter::repeat_n(1, b).chain(std::iter::repeat_n(-1, c)).collect();
            let right = mcnemar_exact(b as u64, c as u64);
            prop_assert!((sign_flip_exact(&d) - right).abs() < 1e-9);
        }

        #[test]
        fn is_the_same_from_both_sides(d in proptest::collection::vec(-3i64..=3, 0..30)) {
            let flipped: Vec<i64> = d.iter().map(|d| -d).collect();
            prop_assert_eq!(sign_flip_exact(&d), sign_flip_exact(&flipped));
        }
    }
}
