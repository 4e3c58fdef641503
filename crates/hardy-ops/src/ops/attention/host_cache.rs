//! The host's cache: a place's memory is taken when a sequence first comes to it, from the allocator, so that what one
//! generation frees the next has without the system's help; nothing is written before there is something to keep.

use std::mem::MaybeUninit;

use super::{
    buffer::{KvPass, Slots},
    cache::{Growing, Piece},
    places::{Held, Places},
};

/// The keys and values of many sequences in all layers.
#[derive(Debug)]
pub struct HostCache {
    prompts: Store,
    samples: Store,
}

/// The places of one kind.
#[derive(Debug)]
struct Store {
    places: Places,
    memory: Vec<Memory>,
}

/// What one place holds.
#[derive(Clone, Debug, Default)]
struct Memory {
    /// `[layers, keys | values]`; empty until a sequence comes.
    data: Box<[MaybeUninit<f32>]>,
    /// Positions that were ever written, `[layers]`.
    written: Box<[usize]>,
}

impl HostCache {
    /// An empty cache with places for prompts, and for samples.
    pub fn new([prompts, samples]: [Places; 2]) -> Self {
        Self { prompts: Store::new(prompts), samples: Store::new(samples) }
    }
}

impl<'a> KvPass<'a, HostCache> {
    /// What the prompt of every sequence holds, and its own place, about to grow.
    ///
    /// # Panics
    /// If a sequence occurs twice.
    pub(super) fn pieces(self) -> Vec<(Piece<'a>, Growing<'a>)> {
        let HostCache { prompts, samples } = self.cache;
        match self.slots {
            Slots::Prompts(own) => {
                let own = prompts.growing(self.layer, own.into_iter());
                own.into_iter().map(|own| (Piece::default(), own)).collect()
            }
            Slots::Samples(all) => {
                let prompts: &'a Store = prompts;
                let piece = |held| prompts.piece(self.layer, held);
                let (pieces, own): (Vec<Piece>, Vec<Held>) = all
                    .into_iter()
                    .map(|(prompt, own)| (prompt.map_or_else(Piece::default, piece), own))
                    .unzip();
                pieces.into_iter().zip(samples.growing(self.layer, own.into_iter())).collect()
            }
        }
    }
}

impl Store {
    fn new(places: Places) -> Self {
        Self { places, memory: vec![Memory::default(); places.count] }
    }

    /// What a place holds in `layer`.
    ///
    /// # Panics
    /// If it holds less.
    fn piece(&self, layer: usize, Held { place, tokens }: Held) -> Piece<'_> {
        let (places, memory) = (self.places, &self.memory[place]);
        if tokens == 0 {
            return Piece::default();
        }
        assert!(tokens <= memory.written[layer], "{tokens} positions of a place that were never written");
        let (keys, values) = memory.data[layer * places.layer()..][..places.layer()].split_at(places.keys());
        // SAFETY: so many positions were written, and keys in whole blocks.
        unsafe { Piece::new(keys, values, tokens, places.width) }
    }

    /// Some places in `layer`, each about to grow.
    ///
    /// # Panics
    /// If a place occurs twice, or holds less than is said.
    fn growing(&mut self, layer: usize, held: impl Iterator<Item = Held>) -> Vec<Growing<'_>> {
        let places = self.places;
        let mut all: Vec<Option<&mut Memory>> = self.memory.iter_mut().map(Some).collect();
        let one = |Held { place, tokens }: Held| {
            let memory = all[place].take().expect("a place belongs to one sequence");
            if memory.written.is_empty() {
                memory.data = Box::new_uninit_slice(places.layers * places.layer());
                memory.written = vec![0; places.layers].into();
            }
            let written = &mut memory.written[layer];
            assert!(tokens <= *written, "{tokens} positions of a place that were never written");
            let data = &mut memory.data[layer * places.layer()..][..places.layer()];
            let (keys, values) = data.split_at_mut(places.keys());
            Growing { keys, values, written, length: tokens, width: places.width }
        };
        held.map(one).collect()
    }
}
