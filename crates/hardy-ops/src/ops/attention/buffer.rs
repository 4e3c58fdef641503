//! The key-value cache of a whole generation: places for prompts and places for the sequences that continue them. A
//! place is taken and given back, the lowest free one first, and never moves. Which sequence lives where is kept here, on
//! the host; the keys and values themselves are the backend's.

use super::{
    MOST_KEYS,
    places::{Held, Places, Shelf},
};
use crate::backend::{NoisyBackend, Primitive};

/// Where the keys and values of many sequences in all layers are, and the backend's cache that holds them.
#[derive(Debug)]
pub struct KvBuffer<B: NoisyBackend> {
    prompts: Shelf,
    samples: Shelf,
    /// Samples of the prompt in a place that have not finished, `[prompts]`.
    unfinished: Vec<usize>,
    /// Allocated once, when the first keys come.
    cache: Option<B::Cache>,
}

/// Where the keys and values of one sequence are in a buffer.
#[derive(Clone, Copy, Debug)]
pub struct KvSequence(Of);

#[derive(Clone, Copy, Debug)]
enum Of {
    Prompt(usize),
    /// Its own place, and that of the prompt which it continues.
    Sample(usize, Option<usize>),
}

impl<B: NoisyBackend> KvBuffer<B> {
    /// An empty buffer with places for prompts, and for samples that continue one or stand alone.
    ///
    /// # Panics
    /// If they are not for the same model, or have room for more than 2²⁰ keys that a query sees.
    pub fn new(prompts: Places, samples: Places) -> Self {
        let model = |places: Places| (places.layers, places.width);
        assert_eq!(model(prompts), model(samples), "places for one model");
        let keys = prompts.tokens.saturating_add(samples.tokens);
        assert!(keys <= MOST_KEYS, "room for {keys} tokens, but attention sees at most {MOST_KEYS}");
        let unfinished = vec![0; prompts.count];
        Self { prompts: Shelf::new(prompts), samples: Shelf::new(samples), unfinished, cache: None }
    }

    /// An empty buffer for sequences that stand alone.
    pub fn for_sequences(places: Places) -> Self {
        Self::new(Places { count: 0, tokens: 0, ..places }, places)
    }

    /// Takes a place for a prompt; the last of its `samples` gives it back.
    ///
    /// # Panics
    /// If no such place is free, or the prompt has no samples.
    pub fn prompt(&mut self, samples: usize) -> KvSequence {
        assert!(samples > 0, "a prompt is kept for its samples");
        let place = self.prompts.take().expect("a free place for a prompt");
        self.unfinished[place] = samples;
        KvSequence(Of::Prompt(place))
    }

    /// Takes a place for a sequence that continues `prompt`, or stands alone.
    ///
    /// # Panics
    /// If no such place is free, or `prompt` is none.
    pub fn sample(&mut self, prompt: Option<KvSequence>) -> KvSequence {
        let prompt = prompt.map(|KvSequence(prompt)| match prompt {
            Of::Prompt(place) => place,
            Of::Sample(..) => panic!("a sample continues a prompt"),
        });
        KvSequence(Of::Sample(self.samples.take().expect("a free place for a sample"), prompt))
    }

    /// Gives back the place of a sample, and with a prompt's last sample the prompt's.
    ///
    /// # Panics
    /// If it was given back already, or is a prompt.
    pub fn finish(&mut self, KvSequence(sample): KvSequence) {
        let Of::Sample(own, prompt) = sample else { panic!("a prompt finishes with its last sample") };
        self.samples.give_back(own);
        if let Some(prompt) = prompt {
            self.unfinished[prompt] -= 1;
            if self.unfinished[prompt] == 0 {
                self.prompts.give_back(prompt);
            }
        }
    }

    /// One layer for a pass over `sequences`.
    pub fn layer<'a>(&'a mut self, layer: usize, sequences: &'a [KvSequence]) -> KvLayer<'a, B> {
        KvLayer { buffer: self, layer, sequences }
    }
}

/// One layer of a buffer, and the sequences of a pass, either all prompts or all samples.
#[derive(Debug)]
pub struct KvLayer<'a, B: NoisyBackend> {
    buffer: &'a mut KvBuffer<B>,
    layer: usize,
    sequences: &'a [KvSequence],
}

/// What a pass adds to one layer of a backend's cache, and what it finds there.
#[derive(Debug)]
pub struct KvPass<'a, C> {
    /// The cache.
    pub cache: &'a mut C,
    /// The layer.
    pub layer: usize,
    /// Where each sequence is.
    pub slots: Slots,
}

/// Where the sequences of a pass are.
#[derive(Clone, Debug)]
pub enum Slots {
    /// The places of prompts.
    Prompts(Vec<Held>),
    /// The places of samples, and that of the prompt which each continues.
    Samples(Vec<(Option<Held>, Held)>),
}

impl Slots {
    /// How many sequences there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Prompts(own) => own.len(),
            Self::Samples(all) => all.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a, B: NoisyBackend> KvLayer<'a, B> {
    /// The pass in which every sequence grows by a number of tokens, on the device of `like`.
    ///
    /// # Panics
    /// If keys are not `width` wide, there is not one number a sequence, prompts and samples are mixed, a sequence occurs
    /// twice, or a place is too small.
    pub(crate) fn grow(
        self,
        by: impl ExactSizeIterator<Item = usize>,
        width: usize,
        like: &Primitive<B>,
    ) -> KvPass<'a, B::Cache> {
        let Self { buffer: KvBuffer { prompts, samples, cache, .. }, layer, sequences } = self;
        assert_eq!(samples.places.width, width, "the width of the buffer's keys");
        assert_eq!(by.len(), sequences.len(), "one cache a sequence");
        let slots = match sequences.first() {
            Some(KvSequence(Of::Prompt(_))) => Slots::Prompts(grow_prompts(prompts, layer, sequences, by)),
            _ => Slots::Samples(grow_samples([prompts, samples], layer, sequences, by)),
        };
        let places = [prompts.places, samples.places];
        KvPass { cache: cache.get_or_insert_with(|| B::new_cache(places, like)), layer, slots }
    }
}

fn grow_prompts(
    prompts: &mut Shelf,
    layer: usize,
    sequences: &[KvSequence],
    by: impl Iterator<Item = usize>,
) -> Vec<Held> {
    let own = |(KvSequence(sequence), by): (&KvSequence, usize)| match sequence {
        Of::Prompt(place) => prompts.grow(*place, layer, by),
        Of::Sample(..) => panic!("a pass over prompts has no samples"),
    };
    sequences.iter().zip(by).map(own).collect()
}

fn grow_samples(
    [prompts, samples]: [&mut Shelf; 2],
    layer: usize,
    sequences: &[KvSequence],
    by: impl Iterator<Item = usize>,
) -> Vec<(Option<Held>, Held)> {
    let both = |(KvSequence(sequence), by): (&KvSequence, usize)| match sequence {
        Of::Sample(own, prompt) => {
            (prompt.map(|prompt| prompts.held(prompt, layer)), samples.grow(*own, layer, by))
        }
        Of::Prompt(_) => panic!("a pass over samples has no prompts"),
    };
    sequences.iter().zip(by).map(both).collect()
}

#[cfg(test)]
mod tests {
    use burn_flex::Flex;
    use burn_tensor::Tensor;

    use super::{super::cache::Cached, *};

    fn buffer(prompts: usize, samples: usize) -> KvBuffer<Flex> {
        let places = |count, tokens| Places { count, tokens, layers: 3, width: 2 };
        KvBuffer::new(places(prompts, 20), places(samples, 5))
    }

    /// Adds a token whose key and value are `value`; gives all keys that the sequence sees.
    fn add(buffer: &mut KvBuffer<Flex>, layer: usize, sequence: KvSequence, value: f32) -> Vec<f32> {
        let sequences = [sequence];
        let like = Tensor::<Flex, 2>::zeros([1, 1], &Default::default()).into_primitive().tensor();
        let pass = buffer.layer(layer, &sequences).grow([1].into_iter(), 2, &like);
        let [(before, own)] = pass.pieces().try_into().unwrap();
        let [keys, values] = Cached::new(before, own.append(&[value; 2], &[value; 2])).rows();
        assert_eq!(keys, values);
        keys.chunks(2).map(|key| key[0]).collect()
    }

    #[test]
    fn samples_see_their_prompt_and_themselves_layer_by_layer() {
        let mut buffer = buffer(1, 2);
        let prompt = buffer.prompt(2);
        for layer in 0..3 {
            for token in 0..18 {
                add(&mut buffer, layer, prompt, (100 * layer + token) as f32);
            }
        }
        let samples = [0; 2].map(|_| buffer.sample(Some(prompt)));
        for layer in 0..3 {
            let mut expected: Vec<f32> = (0..18).map(|token| (100 * layer + token) as f32).collect();
            expected.push(-1.0);
            assert_eq!(add(&mut buffer, layer, samples[0], -1.0), expected);
            expected[18] = -2.0;
            assert_eq!(add(&mut buffer, layer, samples[1], -2.0), expected);
            expected.push(-3.0);
            assert_eq!(add(&mut buffer, layer, samples[1], -3.0), expected);
        }
    }

    #[test]
    fn a_prompts_place_is_free_after_its_last_sample_and_is_taken_again_empty() {
        let mut buffer = buffer(1, 2);
        let prompt = buffer.prompt(2);
        add(&mut buffer, 0, prompt, 1.0);
        let samples = [0; 2].map(|_| buffer.sample(Some(prompt)));
        add(&mut buffer, 0, samples[0], 2.0);
        buffer.finish(samples[0]);
        assert!(buffer.prompts.take().is_none(), "the other sample reads it");
        let alone = buffer.sample(None);
        assert_eq!(add(&mut buffer, 0, alone, 3.0), [3.0]);
        buffer.finish(samples[1]);
        let prompt = buffer.prompt(1);
        assert_eq!(add(&mut buffer, 0, prompt, 4.0), [4.0]);
    }

    #[test]
    #[should_panic(expected = "a place for 5 tokens, of which it holds 5, is given 1")]
    fn a_place_that_is_too_small_says_so() {
        let mut buffer = buffer(0, 1);
        let alone = buffer.sample(None);
        for _ in 0..6 {
            add(&mut buffer, 2, alone, 1.0);
        }
    }

    #[test]
    #[should_panic(expected = "a free place for a prompt")]
    fn more_prompts_than_places_are_refused() {
        let mut buffer = buffer(1, 1);
        let _ = [0; 2].map(|_| buffer.prompt(1));
    }
}
