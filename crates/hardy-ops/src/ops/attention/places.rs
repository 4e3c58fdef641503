//! Places of one kind in a key-value buffer: their size, which of them are free, and how many tokens each holds.

use std::collections::BTreeSet;

use super::cache::BLOCK;

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

/// A place, and the tokens that it holds in one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The index among the places of its kind.
    pub place: usize,
    /// Tokens held.
    pub tokens: usize,
}

impl Places {
    /// The elements of all places, `[count, layers, keys | values]`.
    pub fn elements(&self) -> usize {
        self.count * self.layers * self.layer()
    }

    /// The elements of one layer of a place.
    pub(super) fn layer(&self) -> usize {
        self.keys() + self.tokens * self.width
    }

    /// The elements of its keys, which lie in whole blocks.
    pub(super) fn keys(&self) -> usize {
        self.tokens.next_multiple_of(BLOCK) * self.width
    }
}

/// Which places of one kind are free, and how many tokens each holds in every layer.
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

    /// A place as it is in `layer`.
    pub fn held(&self, place: usize, layer: usize) -> Held {
        Held { place, tokens: self.lengths[place * self.places.layers + layer] }
    }

    /// Notes that a place grows by `added` tokens in `layer`; gives it as it was before.
    ///
    /// # Panics
    /// If it is too small.
    pub fn grow(&mut self, place: usize, layer: usize, added: usize) -> Held {
        let (before, room) = (self.held(place, layer), self.places.tokens);
        let held = before.tokens;
        assert!(
            held + added <= room,
            "a place for {room} tokens, of which it holds {held}, is given {added}"
        );
        self.lengths[place * self.places.layers + layer] += added;
        before
    }
}
