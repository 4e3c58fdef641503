//! How the parts of a product go to threads: each begins with a share of neighbours, the same in every product, so that rows are
//! written and read again by one core; a thread whose share is done goes on with the others'.

use std::{
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Parts, in as many shares as there are threads.
pub(super) struct Shares {
    parts: usize,
    /// How many parts of each share are taken, or more.
    taken: Vec<AtomicUsize>,
}

impl Shares {
    pub fn new(parts: usize, threads: usize) -> Self {
        Self { parts, taken: (0..threads).map(|_| AtomicUsize::new(0)).collect() }
    }

    /// The parts that are left for the thread whose share is `own`: those of its own share, then those of the next ones.
    pub fn of(&self, own: usize) -> impl Iterator<Item = usize> {
        let count = self.taken.len();
        (own..own + count).flat_map(move |share| self.left(share % count))
    }

    /// What is left of one share.
    fn left(&self, share: usize) -> impl Iterator<Item = usize> {
        let Range { start, end } = self.range(share);
        std::iter::from_fn(move || {
            let part = start + self.taken[share].fetch_add(1, Relaxed);
            (part < end).then_some(part)
        })
    }

    fn range(&self, share: usize) -> Range<usize> {
        let first = |share: usize| share * self.parts / self.taken.len();
        first(share)..first(share + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::Shares;

    #[test]
    fn every_part_is_taken_once_whoever_takes_it() {
        for (parts, threads) in [(1, 1), (8, 2), (3, 5), (17, 4), (0, 2)] {
            let shares = Shares::new(parts, threads);
            let mut own: Vec<_> = (0..threads).map(|own| shares.of(own)).collect();
            let mut taken = Vec::new();
            // The first thread takes one part, the second two, and so on.
            for _ in 0..=parts {
                for (i, own) in own.iter_mut().enumerate() {
                    taken.extend(own.take(i + 1));
                }
            }
            taken.sort_unstable();
            assert_eq!(taken, (0..parts).collect::<Vec<_>>(), "{parts} on {threads}");
        }
    }

    #[test]
    fn a_thread_begins_with_its_own_share() {
        let shares = Shares::new(8, 2);
        assert_eq!(shares.of(1).take(3).collect::<Vec<_>>(), [4, 5, 6]);
        assert_eq!(shares.of(0).collect::<Vec<_>>(), [0, 1, 2, 3, 7]);
        assert_eq!(shares.of(1).next(), None);
    }
}
