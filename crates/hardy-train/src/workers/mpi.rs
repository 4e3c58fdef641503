//! Workers over MPI, for `mpirun`, and `srun` where it speaks PMI. A worker that ends early aborts all, as MPI programs do.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use mpi::{
    Count, Threading,
    collective::SystemOperation,
    datatype::{Partition, PartitionMut},
    environment::Universe,
    topology::SimpleCommunicator,
    traits::{Communicator, CommunicatorCollectives},
};

use super::Transport;
use crate::error::{Error, Result};

/// Bytes for one worker in one call, at most: counts of MPI have 31 bits.
const CHUNK: usize = 1 << 24;

/// Workers over MPI.
pub struct Mpi {
    world: Mutex<World>,
    rank: usize,
    size: usize,
    bytes: AtomicU64,
    messages: AtomicU64,
}

/// The communicator of all, and what ends MPI when it is dropped.
struct World {
    world: SimpleCommunicator,
    _universe: Universe,
}

// SAFETY: MPI was initialised for calls from any thread, one at a time, which the mutex around it ensures.
unsafe impl Send for World {}

impl std::fmt::Debug for Mpi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mpi({} of {})", self.rank, self.size)
    }
}

impl Mpi {
    /// The workers that `mpirun` started.
    ///
    /// # Errors
    /// An MPI that can not be started, or takes no calls from threads.
    pub fn start() -> Result<Self> {
        let (universe, threading) = mpi::initialize_with_threading(Threading::Serialized)
            .ok_or_else(|| Error::Worker("MPI was started before".to_owned()))?;
        if threading < Threading::Serialized {
            return Err(Error::Worker("this MPI takes calls from the main thread alone".to_owned()));
        }
        let world = universe.world();
        let [rank, size] = [world.rank(), world.size()].map(|number| number as usize);
        let world = Mutex::new(World { world, _universe: universe });
        Ok(Self { world, rank, size, bytes: AtomicU64::new(0), messages: AtomicU64::new(0) })
    }
}

impl Transport for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn exchange(&self, outgoing: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        let guard = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        let world = &guard.world;
        let sends: Vec<u64> = outgoing.iter().map(|bytes| bytes.len() as u64).collect();
        let mut receives = vec![0u64; self.size];
        world.all_to_all_into(&sends[..], &mut receives[..]);
        let longest = sends.iter().chain(&receives).max().copied().unwrap_or_default();
        let mut most = 0u64;
        world.all_reduce_into(&longest, &mut most, SystemOperation::max());
        let mut incoming: Vec<Vec<u8>> =
            receives.iter().map(|&len| Vec::with_capacity(len as usize)).collect();
        for start in (0..most as usize).step_by(CHUNK) {
            let part = |len: usize| start.min(len)..(start + CHUNK).min(len);
            let chunks: Vec<&[u8]> = outgoing.iter().map(|bytes| &bytes[part(bytes.len())]).collect();
            let counts: Vec<Count> = chunks.iter().map(|chunk| chunk.len() as Count).collect();
            let own_counts: Vec<Count> =
                receives.iter().map(|&len| part(len as usize).len() as Count).collect();
            let [len, own_len] = [&counts, &own_counts].map(|counts| counts.iter().sum::<Count>() as usize);
            let [mut sent, mut received] = [len, own_len].map(with_room);
            chunks.iter().for_each(|chunk| sent.extend_from_slice(chunk));
            received.resize(own_len, 0u8);
            let (places, own_places) = (places(&counts), places(&own_counts));
            let from = Partition::new(&sent[..], &counts[..], &places[..]);
            let mut to = PartitionMut::new(&mut received[..], &own_counts[..], &own_places[..]);
            world.all_to_all_varcount_into(&from, &mut to);
            for ((bytes, &count), &place) in incoming.iter_mut().zip(&own_counts).zip(&own_places) {
                bytes.extend_from_slice(&received[place as usize..][..count as usize]);
            }
        }
        let others = sends.iter().enumerate().filter(|(rank, _)| *rank != self.rank);
        self.bytes.fetch_add(others.map(|(_, bytes)| bytes).sum(), Ordering::Relaxed);
        self.messages.fetch_add(self.size as u64 - 1, Ordering::Relaxed);
        Ok(incoming)
    }

    fn sent(&self) -> [u64; 2] {
        [&self.bytes, &self.messages].map(|count| count.load(Ordering::Relaxed))
    }

    fn farewell(&self, _reason: &str) {
        // The reason was said on standard error; MPI names the worker.
        self.world.lock().unwrap_or_else(PoisonError::into_inner).world.abort(1);
    }
}

/// Room for `len` bytes and one more: without memory of its own a vector lies at address 1, which is Open MPI's
/// `MPI_IN_PLACE`.
fn with_room(len: usize) -> Vec<u8> {
    Vec::with_capacity(len + 1)
}

/// Where each part begins.
fn places(counts: &[Count]) -> Vec<Count> {
    counts.iter().scan(0, |end, &count| Some(std::mem::replace(end, *end + count))).collect()
}
