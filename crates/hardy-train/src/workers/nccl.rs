//! Workers over NCCL, one process a GPU. Large messages go from memory to memory of the GPUs, over NVLink or InfiniBand, each
//! with each in one group of sends and receives; small ones, and the reasons of workers that end early, over the TCP
//! connections by which the processes met. The libraries are loaded when they are first asked for.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use cudarc::{
    driver::{CudaContext, CudaSlice, DriverError},
    nccl::{Comm, Id, group_end, group_start, result::NcclError},
};

use super::{Tcp, Transport};
use crate::error::{Error, Result};

/// Bytes of a message, at most, that goes over TCP with its length.
const SMALL: usize = 1 << 16;
/// Bytes of NCCL's identifier of a group.
const ID: usize = 128;

/// Workers over NCCL.
pub struct Nccl {
    tcp: Tcp,
    group: Mutex<Group>,
    /// How long an exchange may take before the others are given up.
    patience: Duration,
    bytes: AtomicU64,
    messages: AtomicU64,
}

/// The communicator of all, on a stream of its own.
struct Group(Comm);

// SAFETY: NCCL takes the calls on a communicator from any thread, one at a time, which the mutex around it ensures.
unsafe impl Send for Group {}

impl std::fmt::Debug for Nccl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Nccl({} of {})", self.rank(), self.size())
    }
}

impl Nccl {
    /// The workers that `tcp` connects, this one on the GPU of number `gpu`. An exchange may take as long as `patience`.
    ///
    /// # Errors
    /// A library that can not be loaded, a GPU that can not be used, or a worker that is gone; the others are told.
    pub fn over(tcp: Tcp, gpu: usize, patience: Duration) -> Result<Self> {
        let group = Group::new(&tcp, gpu).inspect_err(|error| {
            tcp.farewell(&format!("worker {}: {error}", tcp.rank()));
        })?;
        let [bytes, messages] = [0, 0].map(AtomicU64::new);
        Ok(Self { tcp, group: Mutex::new(group), patience, bytes, messages })
    }
}

impl Group {
    fn new(tcp: &Tcp, gpu: usize) -> Result<Self> {
        refuse_missing_libraries()?;
        let of_gpu = |error: DriverError| Error::config(format!("GPU {gpu}: {error}"));
        let stream = CudaContext::new(gpu).and_then(|context| context.new_stream()).map_err(of_gpu)?;
        let own = if tcp.rank() == 0 {
            Id::new().map_err(said)?.internal().map(|c| c as u8).to_vec()
        } else {
            Vec::new()
        };
        let ids = tcp.exchange(vec![own; tcp.size()])?;
        let id: [u8; ID] = ids[0].as_slice().try_into().map_err(|_| {
            Error::Worker("worker 0 sent no identifier of NCCL; do all speak NCCL?".to_owned())
        })?;
        let id = Id::uninit(id.map(|byte| byte as std::ffi::c_char));
        Ok(Self(Comm::from_rank(stream, tcp.rank(), tcp.size(), id).map_err(said)?))
    }

    /// Hands every worker of `outgoing` its bytes, and gives as many bytes as `incoming` says of each worker there.
    fn swap(
        &self,
        outgoing: &[(usize, Vec<u8>)],
        incoming: &[(usize, usize)],
        patience: Duration,
    ) -> Result<Vec<Vec<u8>>> {
        let (comm, stream) = (&self.0, self.0.stream());
        let upload = |(_, bytes): &(usize, Vec<u8>)| stream.clone_htod(bytes);
        let sent = outgoing
            .iter()
            .map(upload)
            .collect::<std::result::Result<Vec<CudaSlice<u8>>, _>>()
            .map_err(lost)?;
        let room = |&(_, len): &(usize, usize)| stream.alloc_zeros::<u8>(len);
        let mut received =
            incoming.iter().map(room).collect::<std::result::Result<Vec<_>, _>>().map_err(lost)?;
        group_start().map_err(said)?;
        for ((peer, _), buffer) in outgoing.iter().zip(&sent) {
            comm.send(buffer, *peer as i32).map_err(said)?;
        }
        for (&(peer, _), buffer) in incoming.iter().zip(&mut received) {
            comm.recv(buffer, peer as i32).map_err(said)?;
        }
        group_end().map_err(said)?;
        let (done, until) = (stream.record_event(None).map_err(lost)?, Instant::now() + patience);
        while !done.is_complete() {
            // NCCL would wait for ever for a worker that died in the midst of an exchange.
            if Instant::now() > until {
                let seconds = patience.as_secs();
                return Err(Error::Worker(format!(
                    "an exchange over NCCL was not finished within {seconds} s"
                )));
            }
            thread::sleep(Duration::from_micros(20));
        }
        let host =
            received.iter().map(|buffer| stream.clone_dtoh(buffer)).collect::<std::result::Result<_, _>>();
        host.and_then(|host| stream.synchronize().map(|()| host)).map_err(lost)
    }
}

impl Transport for Nccl {
    fn rank(&self) -> usize {
        self.tcp.rank()
    }

    fn size(&self) -> usize {
        self.tcp.size()
    }

    fn exchange(&self, mut outgoing: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        let rank = self.rank();
        let own = std::mem::take(&mut outgoing[rank]);
        let heads = outgoing.iter().map(|bytes| head(bytes)).collect();
        let mut incoming = Vec::with_capacity(outgoing.len());
        let mut awaited = Vec::new();
        for (peer, bytes) in self.tcp.exchange(heads)?.into_iter().enumerate() {
            let (len, small) = opened(&bytes).ok_or_else(|| {
                Error::Worker(format!("worker {peer} sent what can not be read; do all speak NCCL?"))
            })?;
            if len > SMALL {
                awaited.push((peer, len));
            }
            incoming.push(small);
        }
        let large: Vec<(usize, Vec<u8>)> =
            outgoing.into_iter().enumerate().filter(|(_, bytes)| bytes.len() > SMALL).collect();
        if !(large.is_empty() && awaited.is_empty()) {
            self.bytes.fetch_add(large.iter().map(|(_, bytes)| bytes.len() as u64).sum(), Ordering::Relaxed);
            self.messages.fetch_add(large.len() as u64, Ordering::Relaxed);
            let group = self.group.lock().unwrap_or_else(PoisonError::into_inner);
            let found = group.swap(&large, &awaited, self.patience).inspect_err(|error| {
                self.tcp.farewell(&format!("worker {rank}: {error}"));
            })?;
            for ((peer, _), bytes) in awaited.iter().zip(found) {
                incoming[*peer] = bytes;
            }
        }
        incoming[rank] = own;
        Ok(incoming)
    }

    fn sent(&self) -> [u64; 2] {
        let [bytes, messages] = self.tcp.sent();
        [bytes + self.bytes.load(Ordering::Relaxed), messages + self.messages.load(Ordering::Relaxed)]
    }

    fn farewell(&self, reason: &str) {
        self.tcp.farewell(reason);
    }
}

/// What goes over TCP of a message: its length, and where it is small all of it.
fn head(bytes: &[u8]) -> Vec<u8> {
    let mut head = (bytes.len() as u64).to_le_bytes().to_vec();
    if bytes.len() <= SMALL {
        head.extend(bytes);
    }
    head
}

/// The length of a message, and where it is small the message.
fn opened(head: &[u8]) -> Option<(usize, Vec<u8>)> {
    let (len, rest) = head.split_first_chunk()?;
    let len = u64::from_le_bytes(*len) as usize;
    (rest.len() == if len <= SMALL { len } else { 0 }).then(|| (len, rest.to_vec()))
}

/// Refuses to go on without what is loaded at run time; a call would end in a panic.
fn refuse_missing_libraries() -> Result<()> {
    // SAFETY: this only looks for the library; loading it runs its initialisers, which are NVIDIA's own.
    let [driver, nccl] =
        unsafe { [cudarc::driver::sys::is_culib_present(), cudarc::nccl::sys::is_culib_present()] };
    let missing = match (driver, nccl) {
        (true, true) => return Ok(()),
        (false, _) => "libcuda.so (the driver of NVIDIA)",
        (true, false) => {
            "libnccl.so (Debian and Ubuntu: libnccl-dev; PyPI: nvidia-nccl-cu12, as libnccl.so in LD_LIBRARY_PATH)"
        }
    };
    Err(Error::config(format!(
        "{missing} can not be loaded, so that workers can not speak NCCL; install it, or set HARDY_TRANSPORT=tcp"
    )))
}

/// What NCCL said.
fn said(NcclError(what): NcclError) -> Error {
    Error::Worker(format!("NCCL failed ({what:?}); NCCL_DEBUG=INFO says more"))
}

fn lost(error: DriverError) -> Error {
    Error::Worker(format!("the GPU failed in an exchange: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_messages_travel_with_their_length_and_large_ones_by_themselves() {
        for len in [0, 1, SMALL, SMALL + 1] {
            let bytes = vec![7; len];
            let small = if len <= SMALL { bytes.clone() } else { Vec::new() };
            assert_eq!(opened(&head(&bytes)), Some((len, small)));
        }
        assert!(opened(&[1, 2]).is_none() && opened(&[&5u64.to_le_bytes()[..], &[0]].concat()).is_none());
    }
}
