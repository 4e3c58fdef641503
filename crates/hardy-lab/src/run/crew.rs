//! The workers of a run, and what they must have in common before it begins.

use hardy_ops::NoisyBackend;
use hardy_train::{
    data::Problem,
    policy::Policy,
    workers::{ALONE, Identity, Workers, agree, hash_of},
};
use toml::Table;

use crate::error::LabError;

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
}

impl Default for Crew {
    /// One worker.
    fn default() -> Self {
        Self {
            workers: ALONE.clone(),
            processor: hardy_numerics::simd::level().to_owned(),
            mixed: false,
            shard_optimizer: false,
        }
    }
}

impl Crew {
    /// Refuses workers that differ in what they were asked (`lines`, one for each thing), in a build, in the weights of
    /// `policy`, or in `problems`.
    ///
    /// # Errors
    /// One sentence that names the worker and what differs.
    pub fn agree<'a, B: NoisyBackend>(
        &self,
        build: Option<&Table>,
        lines: String,
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
            config: lines,
            model: hash_of(weights),
            data: hash_of(problems.map(|problem| (problem.id, &problem.question, &problem.truth))),
        };
        Ok(agree(&self.workers, own, self.mixed)?)
    }
}
