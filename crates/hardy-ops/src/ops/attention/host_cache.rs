//! The host's cache: one buffer, mapped once, in which memory that no token has come to is not touched: the system hands its
//! pages out, zeroed, to the threads that write them first.

use memmap2::MmapMut;

use super::{
    buffer::{KvPass, Slots},
    cache::{Growing, Piece},
    places::{Held, Places},
};

/// The keys and values of many sequences in all layers.
#[derive(Debug)]
pub struct HostCache {
    /// The places of prompts, then those of samples.
    data: MmapMut,
    prompts: Places,
    samples: Places,
}

impl HostCache {
    /// An empty cache with places for prompts, and for samples.
    ///
    /// # Panics
    /// If the system has no such memory.
    pub fn new([prompts, samples]: [Places; 2]) -> Self {
        let bytes = size_of::<f32>() * (prompts.elements() + samples.elements());
        let data = MmapMut::map_anon(bytes.max(1))
            .unwrap_or_else(|e| panic!("{bytes} bytes for keys and values: {e}"));
        Self { data, prompts, samples }
    }
}

impl<'a> KvPass<'a, HostCache> {
    /// What the prompt of every sequence holds, and its own place, about to grow.
    ///
    /// # Panics
    /// If a sequence occurs twice.
    pub(super) fn pieces(self) -> Vec<(Piece<'a>, Growing<'a>)> {
        let HostCache { data, prompts, samples } = self.cache;
        let elements = prompts.elements() + samples.elements();
        let data: &mut [f32] = bytemuck::cast_slice_mut(&mut data[..size_of::<f32>() * elements]);
        let (before, after) = data.split_at_mut(prompts.elements());
        match self.slots {
            Slots::Prompts(own) => {
                let own = growing(before, *prompts, self.layer, own.into_iter());
                own.into_iter().map(|own| (Piece::default(), own)).collect()
            }
            Slots::Samples(all) => {
                let before: &'a [f32] = before;
                let piece = |held| piece(before, *prompts, self.layer, held);
                let (pieces, own): (Vec<Piece>, Vec<Held>) = all
                    .into_iter()
                    .map(|(prompt, own)| (prompt.map_or_else(Piece::default, piece), own))
                    .unzip();
                pieces.into_iter().zip(growing(after, *samples, self.layer, own.into_iter())).collect()
            }
        }
    }
}

/// What a place holds in `layer`.
fn piece(data: &[f32], places: Places, layer: usize, Held { place, tokens }: Held) -> Piece<'_> {
    let (index, size) = (place * places.layers + layer, places.layer());
    let (keys, values) = data[index * size..][..size].split_at(places.keys());
    Piece::new(keys, values, tokens, places.width)
}

/// Some places in `layer`, each about to grow.
fn growing(
    data: &mut [f32],
    places: Places,
    layer: usize,
    held: impl Iterator<Item = Held>,
) -> Vec<Growing<'_>> {
    let all = data.chunks_mut(places.layer().max(1)).skip(layer).step_by(places.layers.max(1));
    let mut all: Vec<_> = all.map(Some).collect();
    let one = |Held { place, tokens }: Held| {
        let elements = all[place].take().expect("a place belongs to one sequence");
        let (keys, values) = elements.split_at_mut(places.keys());
        Growing { keys, values, length: tokens, width: places.width }
    };
    held.map(one).collect()
}
