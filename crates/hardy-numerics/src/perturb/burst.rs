//! Corruption as faulty logic makes it: several bits of a value at once, in values a fixed stride apart. Gate-level fault
//! injection on a GPU found that fewer than 40 % of the bit-flip events of silent data corruption strike a single bit, and that
//! the addresses of one event are periodic, as the lanes of a warp are (arXiv:2605.04213). Independent single bits
//! ([`super::Fault::BitFlip`]) have neither property.

use super::Image;
use super::apply::Piece;
use super::chance::{Chance, second_word};
use super::fault::flipped;
use crate::address::{NoiseKey, Row};
use crate::energy::{ErrorEnergy, Lanes};

/// Neighbouring elements of a row among which an event strikes; windows begin at multiples of it.
pub(super) const WINDOW: u64 = 1024;

/// Events that strike windows of a row, each with the probability `rate`. An event has a lane, uniform in 0..`period`, and
/// strikes every element of its window that is this lane modulo `period`. In all of them it flips the same 1 to `burst` bits,
/// every number as likely as another, which are drawn without repetition from `count` bits from `first` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bursts {
    pub rate: f64,
    pub period: u32,
    pub burst: u32,
    pub first: u32,
    pub count: u32,
    pub image: Image,
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Event {
    lane: u64,
    mask: u32,
}

impl Bursts {
    /// Strikes pieces of rows where their channels are faulty.
    pub fn strike<'a>(&self, sparsity: f64, pieces: impl Iterator<Item = Piece<'a>>) -> ErrorEnergy {
        let (chance, in_fault) = (Chance::new(self.rate), Chance::new(sparsity));
        let mut lanes = Lanes::new();
        for Piece { keys, row, element, channel, x } in pieces {
            let mut start = 0;
            while start < x.len() {
                let address = element + start as u64;
                let end = x.len().min(start + (WINDOW - address % WINDOW) as usize);
                let window = &mut x[start..end];
                match self.event(chance, keys.noise, row, address / WINDOW) {
                    None => lanes.replace(window, |_, x| x),
                    Some(event) => lanes.replace(window, |i, x| {
                        let faulty = || {
                            let channel = channel + (start + i) as u64;
                            let second = || second_word(keys.channels, Row::WEIGHT, channel);
                            sparsity >= 1.0 || in_fault.does(keys.channels.bits(Row::WEIGHT, channel), second)
                        };
                        let struck = (address + i as u64) % u64::from(self.period) == event.lane;
                        if struck && !x.is_nan() && faulty() { flipped(x, event.mask, self.image) } else { x }
                    }),
                }
                start = end;
            }
        }
        lanes.sum()
    }

    /// What happens to a window of a row.
    fn event(&self, chance: Chance, NoiseKey([low, high]): NoiseKey, row: Row, window: u64) -> Option<Event> {
        // A key of its own, whose words are numbered by window: whether, the lane, how many bits, then which.
        let key = NoiseKey([low ^ 0x510E_527F, high ^ 0x9B05_688C]);
        let word = |i: u64| key.bits(row, window * 64 + i);
        if !chance.does(word(0), || second_word(key, row, window * 64)) {
            return None;
        }
        let bits = 1 + below(word(2), self.burst);
        let mut free: Vec<u32> = (0..self.count).collect();
        let mask = (0..bits).fold(0, |mask, i| {
            let bit = free.swap_remove(below(word(3 + u64::from(i)), free.len() as u32) as usize);
            mask | 1 << bit
        });
        Some(Event { lane: u64::from(below(word(1), self.period)), mask: mask << self.first })
    }
}

/// A number below `limit` from a random word.
fn below(word: u32, limit: u32) -> u32 {
    ((u64::from(word) * u64::from(limit)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Keys;

    const KEY: NoiseKey = NoiseKey([3, 9]);

    fn bursts(rate: f64) -> Bursts {
        Bursts { rate, period: 32, burst: 3, first: 0, count: 32, image: Image::F32 }
    }

    /// What is flipped in each element of a row.
    fn masks(bursts: Bursts, sparsity: f64, position: u32, length: usize) -> Vec<u32> {
        let mut x = vec![1.0_f32; length];
        let keys = Keys { noise: KEY, channels: NoiseKey([7, 8]) };
        let row = Row { sequence: 1, position };
        bursts.strike(sparsity, std::iter::once(Piece { keys, row, element: 0, channel: 0, x: &mut x }));
        x.into_iter().map(|x| x.to_bits() ^ 1.0_f32.to_bits()).collect()
    }

    #[test]
    fn an_event_strikes_values_a_period_apart_in_the_same_bits() {
        for position in 0..50 {
            for window in masks(bursts(1.0), 1.0, position, 4096).chunks(WINDOW as usize) {
                let struck: Vec<usize> = (0..window.len()).filter(|&i| window[i] != 0).collect();
                assert_eq!(struck.len(), 32);
                assert!(struck.windows(2).all(|pair| pair[1] - pair[0] == 32), "{struck:?}");
                assert!(struck.iter().all(|&i| window[i] == window[struck[0]]));
                assert!((1..=3).contains(&window[struck[0]].count_ones()));
            }
        }
    }

    #[test]
    fn fewer_than_two_in_five_events_flip_a_single_bit_and_all_bits_and_lanes_are_struck() {
        let (mut by_count, mut bits, mut lanes) = ([0; 4], [0; 32], [0; 32]);
        for position in 0..3000 {
            let window = masks(bursts(1.0), 1.0, position, 32);
            let (lane, mask) = window.iter().enumerate().find(|(_, mask)| **mask != 0).unwrap();
            by_count[mask.count_ones() as usize] += 1;
            lanes[lane] += 1;
            (0..32).for_each(|bit| bits[bit] += mask >> bit & 1);
        }
        assert!(by_count[1..].iter().all(|count| (900..1100).contains(count)), "{by_count:?}");
        assert!(lanes.iter().all(|count| (50..150).contains(count)), "{lanes:?}");
        assert!(bits.iter().all(|count| (120..260).contains(count)), "{bits:?}");
    }

    #[test]
    fn events_are_as_rare_as_their_rate_and_channels_as_their_share() {
        let struck = |rate, sparsity| {
            let rows = (0..400).map(|position| masks(bursts(rate), sparsity, position, 10 * WINDOW as usize));
            rows.flatten().filter(|mask| *mask != 0).count() as f64
        };
        let (all, rare, sparse) = (struck(1.0, 1.0), struck(0.05, 1.0), struck(1.0, 0.25));
        assert_eq!(all, 400.0 * 10.0 * 32.0);
        assert!((rare / all - 0.05).abs() < 0.01, "{}", rare / all);
        assert!((sparse / all - 0.25).abs() < 0.02, "{}", sparse / all);
    }
}
