//! The workers of a run, and what they must have in common before it begins.

use hardy_ops::NoisyBackend;
use hardy_train::{
    data::Problem,
    policy::Policy,
    workers::{ALONE, Identity, Workers, agree, hash_of},
};
use serde::{Serialize, de::DeserializeOwned};
use toml::Table;

use crate::{error::LabError, shard::Shard};

/// The workers of a run.
#[derive(Clone, Debug)]
pub struct Crew {
    /// They.
    pub workers: Workers,
    /// The kind of processor that this one computes with.
    pub processor: String,
    /// Whether they may compute with different kinds, on which last bits may differ.
    pub mixed: bool,
    /// Whether each keeps the optimizer's state of a share of the parameters alone.
    pub shard_optimizer: bool,
    /// See [`hardy_train::trainer::Trainer::return_freed_memory`].
    pub return_freed_memory: fn(),
}

impl Default for Crew {
    /// One worker.
    fn default() -> Self {
        Self {
            workers: ALONE.clone(),
            processor: hardy_numerics::simd::level().to_owned(),
            mixed: false,
            shard_optimizer: false,
            return_freed_memory: || (),
        }
    }
}

impl Crew {
    /// This worker's share of a list of cells; `None` where it is alone and has them all. Joined by [`Crew::join`].
    #[must_use]
    pub fn shard(&self) -> Option<Shard> {
        let size = self.workers.size();
        Shard::new(self.workers.rank() + 1, size).ok().filter(|_| size > 1)
    }

    /// The cells of this worker's share, in their order.
    pub fn select<T>(&self, cells: impl IntoIterator<Item = T>) -> Vec<T> {
        match self.shard() {
            Some(shard) => shard.select(cells).map(|(_, cell)| cell).collect(),
            None => cells.into_iter().collect(),
        }
    }

    /// What all workers found of their shares of a list, in the list's order.
    ///
    /// # Errors
    /// A worker that is gone.
    pub fn join<T: Serialize + DeserializeOwned>(&self, own: Vec<T>) -> Result<Vec<T>, LabError> {
        Ok(dealt(self.workers.gather(own)?))
    }

    /// As [`Crew::join`], for what has to be handed on as [`Workers::gather_records`] does.
    ///
    /// # Errors
    /// A worker that is gone.
    pub fn join_records<T: Serialize + DeserializeOwned>(&self, own: Vec<T>) -> Result<Vec<T>, LabError> {
        Ok(dealt(self.workers.gather_records(own)?))
    }

    /// Refuses workers that differ in what they were asked (`lines`, one for each thing), in a build, in the weights of
    /// `policy`, or in `problems`.
    ///
    /// # Errors
    /// One sentence that names the worker and what differs.
    pub fn agree<'a, B: NoisyBackend>(
        &self,
        build: Option<&Table>,
        lines: &str,
        policy: &Policy<B>,
        problems: impl Iterator<Item = &'a Problem>,
    ) -> Result<(), LabError> {
        if self.workers.size() == 1 {
            return Ok(());
        }
        let weights = policy.decoder.parameters.iter().map(|tensor| {
            let host = B::host(&tensor.clone().into_primitive().tensor());
            host.iter().fold(0u64, |hash, x| {
                (hash ^ u64::from(x.to_bits())).wrapping_mul(0x0100_0000_01b3).rotate_left(23)
            })
        });
        let build = build.map(ToString::to_string).unwrap_or_default();
        let own = Identity {
            build: build.replace('\n', " ").trim().to_owned(),
            processor: self.processor.clone(),
            config: format!("precision {}\n{lines}", policy.decoder.blueprint.precision),
            model: hash_of(weights),
            data: hash_of(problems.map(|problem| (problem.id, &problem.question, &problem.truth))),
        };
        Ok(agree(&self.workers, own, self.mixed)?)
    }
}

/// One list of what was dealt out one after another.
fn dealt<T>(shares: Vec<Vec<T>>) -> Vec<T> {
    let mut shares: Vec<_> = shares.into_iter().map(Vec::into_iter).collect();
    let rounds = shares.iter().map(ExactSizeIterator::len).max().unwrap_or_default();
    (0..rounds).flat_map(|_| shares.iter_mut().filter_map(Iterator::next).collect::<Vec<_>>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dealt_out_comes_back_in_its_order() {
        for (cells, size) in [(0, 3), (2, 3), (3, 3), (7, 3), (8, 1)] {
            let of =
                |rank| Shard::new(rank + 1, size).unwrap().select(0..cells).map(|(_, cell)| cell).collect();
            assert_eq!(dealt((0..size).map(of).collect()), (0..cells).collect::<Vec<_>>());
        }
    }
}
