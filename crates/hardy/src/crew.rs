//! Meeting the other workers of a run, as the launcher says, and ending all where one ends early.

use std::{env, sync::Arc, time::Duration};

use clap::Args;
use hardy_lab::{LabError, run::Crew};
use hardy_train::{
    error::Error,
    workers::{Launched, Workers, connect, launched as read},
};

use crate::{allocator, device::Device, failure::Failure};

/// Seconds within which all workers must come.
const PATIENCE: u64 = 300;

/// Which workers are taken.
#[derive(Clone, Copy, Debug, Args)]
pub struct CrewArgs {
    /// Take workers on different kinds of processors, on which last bits may differ
    #[arg(long)]
    allow_mixed_processors: bool,
}

impl CrewArgs {
    /// The workers that the environment speaks of, each computing on its `device`, after they have met.
    ///
    /// # Errors
    /// Variables that do not fit together, a launcher that this build does not speak to, workers that do not come.
    pub fn launched(self, device: Device) -> Result<Crew, Failure> {
        let alone = Crew {
            mixed: self.allow_mixed_processors,
            return_freed_memory: allocator::return_freed_pages,
            ..Crew::default()
        };
        let workers = match read(variable)? {
            Launched::Alone => return Ok(alone),
            Launched::Mpi(size) => over_mpi(size)?,
            Launched::Meeting { rank, size, address, port } => {
                let (nccl, patience) = (speaks_nccl(device)?, patience()?);
                let tcp = connect([rank, size], &address, port, patience)?;
                match nccl {
                    #[cfg(feature = "nccl")]
                    true => over_nccl(tcp, device, patience)?,
                    _ => Workers::over(Arc::new(tcp)),
                }
            }
        };
        Ok(Crew { workers, ..alone })
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok()
}

/// How long the first worker waits for the others.
fn patience() -> Result<Duration, Failure> {
    let Some(text) = variable("HARDY_PATIENCE_SECONDS") else { return Ok(Duration::from_secs(PATIENCE)) };
    let seconds = text.trim().parse().map_err(|_| {
        Failure::input(format!("HARDY_PATIENCE_SECONDS is `{text}`, which is no whole number of seconds"))
    })?;
    Ok(Duration::from_secs(seconds))
}

/// Refuses to be one of several workers, each of which would do all of `what`.
///
/// # Errors
/// A launcher that started several.
pub fn refuse_company(what: &str) -> Result<(), Failure> {
    match read(variable)? {
        Launched::Alone => Ok(()),
        _ => Err(Failure::input(format!("{what} is not shared out among workers; start it as one process"))),
    }
}

/// Whether workers speak NCCL: as `HARDY_TRANSPORT` says, else those of builds that have it on GPUs of NVIDIA.
fn speaks_nccl(device: Device) -> Result<bool, Failure> {
    let built = cfg!(feature = "nccl");
    match variable("HARDY_TRANSPORT").as_deref() {
        None => Ok(built && device.is_cuda()),
        Some("tcp") => Ok(false),
        Some("nccl") if built => Ok(true),
        Some("nccl") => Err(Failure::input(
            "HARDY_TRANSPORT is nccl, but this build has no NCCL: build with --features nccl, or set it to tcp",
        )),
        Some(other) => Err(Failure::input(format!("HARDY_TRANSPORT is `{other}`, but must be tcp or nccl"))),
    }
}

#[cfg(feature = "nccl")]
fn over_nccl(tcp: hardy_train::workers::Tcp, device: Device, patience: Duration) -> Result<Workers, Failure> {
    let gpu = device.gpu()?.unwrap_or(0);
    Ok(Workers::over(Arc::new(hardy_train::workers::Nccl::over(tcp, gpu, patience)?)))
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
