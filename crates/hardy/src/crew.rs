//! Meeting the other workers of a run, as the launcher says, and ending all where one ends early.

use std::{env, sync::Arc, time::Duration};

use hardy_lab::{LabError, run::Crew};
use hardy_train::{
    error::Error,
    workers::{Launched, Workers, connect, launched as read},
};

use crate::failure::Failure;

/// Seconds within which all workers must come.
const PATIENCE: u64 = 300;

/// The workers that the environment speaks of, after they have met; `mixed` allows different kinds of processors,
/// `shard_optimizer` shares the optimizer's state out.
///
/// # Errors
/// Variables that do not fit together, a launcher that this build does not speak to, workers that do not come.
pub fn launched(mixed: bool, shard_optimizer: bool) -> Result<Crew, Failure> {
    let alone = Crew::default();
    let workers = match read(|name| env::var(name).ok())? {
        Launched::Alone => return Ok(alone),
        Launched::Mpi(size) => over_mpi(size)?,
        Launched::Meeting { rank, size, address, port } => {
            let seconds = env::var("HARDY_PATIENCE_SECONDS").ok().and_then(|text| text.parse().ok());
            let patience = Duration::from_secs(seconds.unwrap_or(PATIENCE));
            Workers::over(Arc::new(connect([rank, size], &address, port, patience)?))
        }
    };
    Ok(Crew { workers, mixed, shard_optimizer, ..alone })
}

#[cfg(feature = "mpi")]
fn over_mpi(_size: usize) -> Result<Workers, Failure> {
    Ok(Workers::over(Arc::new(hardy_train::workers::Mpi::start()?)))
}

#[cfg(not(feature = "mpi"))]
fn over_mpi(size: usize) -> Result<Workers, Failure> {
    Err(Failure::input(format!(
        "mpirun started {size} processes, but this build has no MPI: build with --features mpi, or set RANK and WORLD_SIZE, \
         as torchrun does, and start without mpirun"
    )))
}

/// What came of a run; where it failed here, the others are told.
///
/// # Errors
/// What failed.
pub fn ended<T>(crew: &Crew, outcome: Result<T, LabError>) -> Result<T, Failure> {
    outcome.map_err(|error| {
        // What another worker said is known to all.
        if !matches!(error, LabError::Train(Error::Worker(_))) {
            crew.workers.farewell(&format!("worker {}: {error}", crew.workers.rank()));
        }
        error.into()
    })
}
