//! Places of one kind in a key-value buffer: their size, which of them are free, and how many tokens each holds.

use std::collections::BTreeSet;

use super::cache::{BLOCK, Growing, Piece};

/// How many places of one kind a buffer has, and how large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// How many there are.
    pub count: usize,
    /// Tokens that each has room for.
    pub tokens: usize,
    /// Layers of the model.
    pub layers: usize,
    /// Width of a token's keys in a layer, `kv_heads·d`, which is that of its values too.
    pub width: usize,
}

impl Places {
    /// The elements of all places, `[count, layers, keys | values]`.
    pub fn elements(&self) -> usize {
        self.count * self.layers * self.layer()
    }

    /// The elements of one layer of a place.
    fn layer(&self) -> usize {
        self.keys() + self.tokens * self.width
    }

    /// The elements of its keys, which lie in whole blocks.
    fn keys(&self) -> usize {
        self.tokens.next_multiple_of(BLOCK) * self.width
    }
}

/// The places themselves, but for what they hold: that is in `data` `[elements]`, which the buffer hands in.
#[derive(Debug)]
pub(super) struct Shelf {
    pub places: Places,
    /// Tokens held, `[count, layers]`.
    lengths: Vec<usize>,
    free: BTreeSet<usize>,
}

impl Shelf {
    pub fn new(places: Places) -> Self {
        Self { places, lengths: vec![0; places.count * places.layers], free: (0..places.count).collect() }
    }

    /// The lowest free place.
    pub fn take(&mut self) -> Option<usize> {
        self.free.pop_first()
    }

    /// Empties a place for the next one who takes it.
    ///
    /// # Panics
    /// If it is free already.
    pub fn give_back(&mut self, place: usize) {
        assert!(self.free.insert(place), "a place is given back once");
        let layers = self.places.layers;
        self.lengths[place * layers..][..layers].fill(0);
    }

    /// What `place` holds in `layer`.
    pub fn piece<'a>(&self, data: &'a [f32], place: usize, layer: usize) -> Piece<'a> {
        let (index, size) = (place * self.places.layers + layer, self.places.layer());
        let (keys, values) = data[index * size..][..size].split_at(self.places.keys());
        Piece::new(keys, values, self.lengths[index], self.places.width)
    }

    /// Some places in `layer`, each about to grow by a number of tokens.
    ///
    /// # Panics
    /// If a place occurs twice, or is too small.
    pub fn grow<'a>(
        &mut self,
        data: &'a mut [f32],
        layer: usize,
        by: impl Iterator<Item = (usize, usize)>,
    ) -> Vec<Growing<'a>> {
        let Self { places, lengths, .. } = self;
        let all = data.chunks_mut(places.layer().max(1)).skip(layer).step_by(places.layers.max(1));
        let mut all: Vec<_> = all.map(Some).collect();
        let one = |(place, added): (usize, usize)| {
            let length = &mut lengths[place * places.layers + layer];
            let held = std::mem::replace(length, *length + added);
            let room = places.tokens;
            assert!(*length <= room, "a place for {room} tokens, of which it holds {held}, is given {added}");
            let elements = all[place].take().expect("a place belongs to one sequence");
            let (keys, values) = elements.split_at_mut(places.keys());
            Growing { keys, values, length: held, width: places.width }
        };
        by.map(one).collect()
    }
}
