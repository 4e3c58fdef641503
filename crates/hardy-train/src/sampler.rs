//! The order of prompts: every epoch a new shuffle of all problems, a function of the seed and the epoch.
//!
//! A step takes the next `prompts_per_step` of its epoch. The last batch of an epoch is dropped if it is not full,
//! unless the problems do not fill a single batch, which then is all of them.

use crate::splitmix::{below, hash};

/// A shuffle of `0..n`, the same for the same seed and epoch.
pub fn epoch_order(n: usize, seed: u64, epoch: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        let bits = hash(&[seed, epoch as u64, i as u64]);
        order.swap(i, below(bits, i as u64 + 1) as usize);
    }
    order
}

/// How many steps an epoch of `n` problems has.
///
/// # Panics
///
/// If `n` or `prompts_per_step` is 0.
pub fn steps_per_epoch(n: usize, prompts_per_step: usize) -> usize {
    assert!(n > 0 && prompts_per_step > 0, "{n} problems in steps of {prompts_per_step}");
    (n / prompts_per_step).max(1)
}

/// The problems of `step`, counted from 0 over all epochs: `prompts_per_step` indices below `n`, or all `n` if fewer.
///
/// # Panics
///
/// If `n` or `prompts_per_step` is 0.
pub fn prompts_at_step(n: usize, prompts_per_step: usize, seed: u64, step: usize) -> Vec<usize> {
    let steps = steps_per_epoch(n, prompts_per_step);
    let order = epoch_order(n, seed, step / steps);
    let first = step % steps * prompts_per_step;
    order.into_iter().skip(first).take(prompts_per_step).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn epochs_and_seeds_have_their_own_orders() {
        let order = epoch_order(100, 1, 0);
        assert_eq!(order, epoch_order(100, 1, 0));
        assert_ne!(order, epoch_order(100, 1, 1));
        assert_ne!(order, epoch_order(100, 2, 0));
    }

    #[test]
    fn every_problem_is_equally_likely_to_come_first() {
        let mut first = [0usize; 4];
        for epoch in 0..4000 {
            first[epoch_order(4, 7, epoch)[0]] += 1;
        }
        assert!(first.iter().all(|&count| (850..1150).contains(&count)), "{first:?}");
    }

    #[test]
    fn few_problems_make_one_small_batch() {
        assert_eq!(steps_per_epoch(3, 8), 1);
        let mut prompts = prompts_at_step(3, 8, 0, 5);
        prompts.sort_unstable();
        assert_eq!(prompts, [0, 1, 2]);
    }

    proptest! {
        #[test]
        fn an_epoch_takes_every_problem_at_most_once_in_full_batches(
            n in 1usize..200, batch in 1usize..50, seed: u64, epoch in 0usize..5,
        ) {
            let steps = steps_per_epoch(n, batch);
            let mut seen = vec![0usize; n];
            for step in epoch * steps..(epoch + 1) * steps {
                let prompts = prompts_at_step(n, batch, seed, step);
                prop_assert_eq!(prompts.len(), batch.min(n));
                prompts.into_iter().for_each(|i| seen[i] += 1);
            }
            prop_assert!(seen.iter().all(|&count| count <= 1));
            prop_assert_eq!(seen.iter().sum::<usize>(), steps * batch.min(n));
        }
    }
}
