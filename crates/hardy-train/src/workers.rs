//! Several processes that make one run: each computes a share of every step and knows what all computed, so that all make
//! the same decisions and hold the same bits. What goes between them goes through one operation, the exchange of bytes of
//! each with each, in which gathering, reducing and handing on are written.

mod identity;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "nccl")]
mod nccl;
mod reduce;
mod rendezvous;
mod tcp;

use std::{fmt::Debug, ops::Range, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

use crate::error::{Error, Result};

pub use identity::{Identity, agree, hash_of};
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
#[cfg(feature = "nccl")]
pub use nccl::Nccl;
pub use reduce::reduce;
pub use rendezvous::{Launched, launched};
pub use tcp::{Tcp, connect};

/// What carries bytes between workers.
pub trait Transport: Debug + Send + Sync {
    /// Which worker this is, from 0.
    fn rank(&self) -> usize;
    /// How many there are.
    fn size(&self) -> usize;
    /// Hands `outgoing[r]` to worker `r`, and gives what every worker has for this one, in their order.
    ///
    /// # Errors
    /// A worker that is gone, by its number and with its reason.
    fn exchange(&self, outgoing: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>>;
    /// Bytes and messages sent to others so far.
    fn sent(&self) -> [u64; 2];
    /// Tells the others why this worker ends early.
    fn farewell(&self, reason: &str);
}

/// The workers of a run.
#[derive(Clone, Debug)]
pub struct Workers(Option<Arc<dyn Transport>>);

/// One worker, which does everything.
pub static ALONE: Workers = Workers(None);

impl Workers {
    /// One worker, which does everything.
    #[must_use]
    pub fn alone() -> Self {
        Self(None)
    }

    /// Those that `transport` connects.
    #[must_use]
    pub fn over(transport: Arc<dyn Transport>) -> Self {
        Self(Some(transport))
    }

    /// Which this is, from 0.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.0.as_ref().map_or(0, |transport| transport.rank())
    }

    /// How many there are.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.as_ref().map_or(1, |transport| transport.size())
    }

    /// Whether this is the one that writes and speaks.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// This worker's share of `n` things: neighbours, and as many as any other has but for one. The first has the most.
    #[must_use]
    pub fn share(&self, n: usize) -> Range<usize> {
        self.share_of(self.rank(), n)
    }

    fn share_of(&self, rank: usize, n: usize) -> Range<usize> {
        let (each, more) = (n / self.size(), n % self.size());
        let start = |rank: usize| rank * each + rank.min(more);
        start(rank)..start(rank + 1)
    }

    /// What every worker has, in their order.
    ///
    /// # Errors
    /// A worker that is gone.
    ///
    /// # Panics
    /// If `own` can not be serialised.
    pub fn gather<T: Serialize + DeserializeOwned>(&self, own: T) -> Result<Vec<T>> {
        let Some(transport) = &self.0 else { return Ok(vec![own]) };
        let bytes = postcard::to_stdvec(&own).expect("plain data");
        let all = transport.exchange(vec![bytes; transport.size()])?;
        all.iter().map(|bytes| postcard::from_bytes(bytes).map_err(|_| unreadable())).collect()
    }

    /// As [`Workers::gather`], for records whose form says what it holds, as JSON does: those that flatten others, or read a
    /// missing number as one.
    ///
    /// # Errors
    /// A worker that is gone, or a record that has no such form.
    pub fn gather_records<T: Serialize + DeserializeOwned>(&self, own: T) -> Result<Vec<T>> {
        if self.0.is_none() {
            return Ok(vec![own]);
        }
        let wrong = |error: serde_json::Error| Error::Worker(format!("a record of a worker: {error}"));
        let all = self.gather(serde_json::to_vec(&own).map_err(wrong)?)?;
        all.iter().map(|json| serde_json::from_slice(json).map_err(wrong)).collect()
    }

    /// The lists of all workers, one after another.
    ///
    /// # Errors
    /// A worker that is gone.
    pub fn concat<T: Serialize + DeserializeOwned>(&self, own: Vec<T>) -> Result<Vec<T>> {
        Ok(self.gather(own)?.into_iter().flatten().collect())
    }

    /// The lists of all workers, one after another, for the first; nothing for the others.
    ///
    /// # Errors
    /// A worker that is gone.
    pub fn to_first(&self, own: Vec<f32>) -> Result<Vec<f32>> {
        let Some(transport) = &self.0 else { return Ok(own) };
        let mut outgoing = vec![Vec::new(); transport.size()];
        outgoing[0] = bytes(&own).to_vec();
        Ok(transport.exchange(outgoing)?.iter().flat_map(|bytes| floats(bytes)).collect())
    }

    /// What the first worker has.
    ///
    /// # Errors
    /// A worker that is gone.
    pub fn of_first<T: Serialize + DeserializeOwned>(&self, own: T) -> Result<T> {
        let Some(transport) = &self.0 else { return Ok(own) };
        let bytes = if self.is_first() { postcard::to_stdvec(&own).unwrap_or_default() } else { Vec::new() };
        let all = transport.exchange(vec![bytes; transport.size()])?;
        postcard::from_bytes(&all[0]).map_err(|_| unreadable())
    }

    /// Reduces vectors of one length: worker `r` has `own`, and `sum` adds up, at every place, what all have, which comes to
    /// it in the order of the workers. Every worker sums over its share of places and hands the result on, so that nobody
    /// sends more than twice a vector.
    ///
    /// # Errors
    /// A worker that is gone.
    pub fn reduce(
        &self,
        own: &[Vec<f32>],
        len: usize,
        sum: impl Fn(Vec<Vec<Vec<f32>>>) -> Vec<f32>,
    ) -> Result<Vec<f32>> {
        let Some(transport) = &self.0 else { return Ok(sum(vec![own.to_vec()])) };
        let part = |rank: usize| {
            let share = self.share_of(rank, len);
            own.iter().map(|vector| bytes(&vector[share.clone()])).collect::<Vec<_>>().concat()
        };
        let parts = transport.exchange((0..transport.size()).map(part).collect())?;
        let width = self.share(len).len();
        let vectors = |bytes: &Vec<u8>| -> Vec<Vec<f32>> {
            if width == 0 {
                Vec::new()
            } else {
                floats(bytes).chunks_exact(width).map(<[f32]>::to_vec).collect()
            }
        };
        let reduced = if width == 0 { Vec::new() } else { sum(parts.iter().map(vectors).collect()) };
        let all = transport.exchange(vec![bytes(&reduced).to_vec(); transport.size()])?;
        Ok(all.iter().flat_map(|bytes| floats(bytes)).collect())
    }

    /// Bytes and messages sent to others so far.
    #[must_use]
    pub fn sent(&self) -> [u64; 2] {
        self.0.as_ref().map_or([0; 2], |transport| transport.sent())
    }

    /// Tells the others why this worker ends early, so that they end with its number and reason.
    pub fn farewell(&self, reason: &str) {
        if let Some(transport) = &self.0 {
            transport.farewell(reason);
        }
    }
}

/// As they lie in memory: workers compute with one kind of processor, of one order of bytes.
fn bytes(floats: &[f32]) -> &[u8] {
    bytemuck::cast_slice(floats)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(bytes)
}

fn unreadable() -> Error {
    Error::Worker("a worker sent what can not be read; are all of one build?".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_worker_has_everything() {
        let alone = Workers::alone();
        assert_eq!((alone.share(7), alone.size(), alone.is_first()), (0..7, 1, true));
        assert_eq!(alone.gather(3u8).unwrap(), [3]);
        assert_eq!(alone.of_first(3u8).unwrap(), 3);
    }
}
