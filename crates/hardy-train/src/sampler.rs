//! The order of prompts: every epoch a new shuffle of all problems, a function of the seed and the epoch.
//!
//! A step takes the next `prompts_per_step` of its epoch. The last batch of an epoch is dropped if it is not full,
//! unless the problems do not fill a single batch, which then is all of them.

use crate::splitmix::{below, hash};

/// Tells the seed of further prompts from that of an epoch's order.
const FURTHER: u64 = 0x6675_7274_6865_7200;

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

/// The problems of `step` beyond those that [`prompts_at_step`] gives, in an order of the step's own: where some of
/// these are dropped, the next ones take their place. A function of seed and step alone, so that no state has to be
/// kept, and none comes twice, so that every address of noise is used once.
///
/// # Panics
///
/// If `n` or `prompts_per_step` is 0.
pub fn further_prompts(n: usize, prompts_per_step: usize, seed: u64, step: usize) -> Vec<usize> {
    let first = prompts_at_step(n, prompts_per_step, seed, step);
    let mut further = epoch_order(n, hash(&[seed, FURTHER]), step);
    further.retain(|index| !first.contains(index));
    further
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

    #[test]
    fn every_step_has_further_prompts_of_its_own() {
        assert_eq!(further_prompts(50, 8, 3, 1), further_prompts(50, 8, 3, 1));
        assert_ne!(further_prompts(50, 8, 3, 1)[..8], further_prompts(50, 8, 3, 2)[..8]);
        assert!(further_prompts(3, 8, 0, 5).is_empty());
    }

    proptest! {
        #[test]
        fn first_and_further_prompts_are_every_problem_once(
            n in 1usize..100, batch in 1usize..30, seed: u64, step in 0usize..20,
        ) {
            let mut all = prompts_at_step(n, batch, seed, step);
            all.extend(further_prompts(n, batch, seed, step));
            all.sort_unstable();
            prop_assert_eq!(all, (0..n).collect::<Vec<_>>());
        }

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
