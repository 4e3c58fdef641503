//! The optimizer's state shared out among workers (ZeRO stage 1, arXiv:1910.02054 §5.1): each keeps the moments of its own
//! parameters, updates those, and hands them on. An element's update depends on itself alone, so that nothing else changes.

use std::ops::Range;

use burn_tensor::{Tensor, TensorData};
use hardy_ops::NoisyBackend;

use super::Trainer;
use crate::error::Result;

impl<B: NoisyBackend> Trainer<B> {
    /// Keeps the moments of this worker's parameters alone, from here on.
    pub fn shard_optimizer(&mut self) {
        let sizes: Vec<usize> =
            self.policy.decoder.trained().iter().map(|p| p.dims().iter().product()).collect();
        let own = share_by_size(&sizes, self.workers.size())[self.workers.rank()].clone();
        for (place, moments) in self.optimizer.moments.iter_mut().enumerate() {
            if !own.contains(&place) {
                moments.iter_mut().for_each(|moment| *moment = Tensor::zeros([1, 1], &moment.device()));
            }
        }
        self.own_parameters = Some(own);
    }

    /// Gives the first worker the moments of all, as a checkpoint has them, until [`Trainer::release_optimizer`].
    ///
    /// # Errors
    /// A worker that is gone.
    pub fn gather_optimizer(&mut self) -> Result<()> {
        let Some(own) = self.own_parameters.clone() else { return Ok(()) };
        let moments = self.optimizer.moments[own].iter().flatten();
        let all = self.workers.to_first(moments.flat_map(host).collect())?;
        let mut values = all.into_iter();
        if self.workers.is_first() {
            for (parameter, moments) in self.policy.decoder.trained().iter().zip(&mut self.optimizer.moments)
            {
                moments.iter_mut().for_each(|moment| *moment = next(&mut values, parameter));
            }
        }
        Ok(())
    }

    /// Shares the moments out again, where they were.
    pub fn release_optimizer(&mut self) {
        if self.own_parameters.is_some() {
            self.shard_optimizer();
        }
    }

    /// One step of the optimizer on this worker's parameters, or on all where it has all moments.
    pub(super) fn step_parameters(&mut self, gradients: Vec<Tensor<B, 2>>, rate: f64) -> Result<()> {
        let Some(own) = self.own_parameters.clone() else {
            self.optimizer.step(self.policy.decoder.trained_mut(), gradients, rate);
            return Ok(());
        };
        self.optimizer.step_some(self.policy.decoder.trained_mut(), gradients, rate, own.clone());
        let updated = self.policy.decoder.trained()[own].iter().flat_map(host).collect();
        let mut values = self.workers.concat(updated)?.into_iter();
        self.policy.decoder.trained_mut().iter_mut().for_each(|p| *p = next(&mut values, p));
        Ok(())
    }
}

fn host<B: NoisyBackend>(tensor: &Tensor<B, 2>) -> Vec<f32> {
    B::host(&tensor.clone().into_primitive().tensor()).to_vec()
}

/// The next values, as a tensor like `like`.
fn next<B: NoisyBackend>(values: &mut impl Iterator<Item = f32>, like: &Tensor<B, 2>) -> Tensor<B, 2> {
    let len = like.dims().iter().product();
    Tensor::from_data(TensorData::new(values.take(len).collect(), like.dims()), &like.device())
}

/// Neighbouring things of these sizes in so many shares, each ending where its part of the whole ends.
fn share_by_size(sizes: &[usize], shares: usize) -> Vec<Range<usize>> {
    let total: usize = sizes.iter().sum();
    let mut ends = sizes.iter().scan(0, |end, size| {
        *end += size;
        Some(*end)
    });
    let (mut place, mut reached) = (0, 0);
    let share = |index: usize| {
        let start = place;
        while place < sizes.len() && (reached < total * (index + 1) / shares || index + 1 == shares) {
            reached = ends.next().unwrap_or(total);
            place += 1;
        }
        start..place
    };
    (0..shares).map(share).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shares_cover_everything_once_and_none_exceeds_its_part_by_more_than_one_thing(
            sizes in prop::collection::vec(1usize..100, 1..40), shares in 1usize..9,
        ) {
            let found = share_by_size(&sizes, shares);
            prop_assert_eq!(found.iter().cloned().flatten().collect::<Vec<_>>(), (0..sizes.len()).collect::<Vec<_>>());
            let part = sizes.iter().sum::<usize>() / shares + 1;
            for share in found {
                prop_assert!(sizes[share].iter().sum::<usize>() <= part + sizes.iter().max().unwrap());
            }
        }
    }
}
