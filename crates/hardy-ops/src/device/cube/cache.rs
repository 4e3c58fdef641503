//! The cache of keys and values on a device, a pair of buffers a layer, and attention over it. A layer whose errors no
//! kernel injects has the host's cache instead.

use std::fmt;

use burn_cubecl::{
    CubeRuntime,
    cubecl::{client::ComputeClient, server::Handle},
    tensor::CubeTensor,
};
use hardy_cube::attention::{self as kernels, Keys, slots::Slots as Tables};

use super::{
    X,
    attention::{Forward, seen, upload, with_window},
    dims, handle, tensor,
};
use crate::{
    at::At,
    device::Kernels,
    ops::attention::{AttentionAt, Heads, Held, HostCache, KvPass, Places, Segments, Slots},
    site::Pass,
};

/// The keys and values of many sequences in all layers.
#[derive(Debug)]
pub struct CubeCache {
    /// Of prompts and of samples.
    places: [Places; 2],
    layers: Vec<Option<LayerCache>>,
}

/// Those of one layer; which it is its first pass decides.
enum LayerCache {
    /// Keys and values, `[rows, kv_heads·d]` each: the places of prompts, then those of samples.
    Device([Handle; 2]),
    Host(HostCache),
}

impl fmt::Debug for LayerCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::Device(_)) { "on the device" } else { "on the host" })
    }
}

impl CubeCache {
    /// An empty cache.
    pub fn new(places: [Places; 2]) -> Self {
        Self { places, layers: (0..places[1].layers).map(|_| None).collect() }
    }

    /// Rows of a buffer.
    fn rows(&self) -> usize {
        self.places.iter().map(|places| places.count * places.tokens).sum()
    }

    /// The first row of a place, and how many it holds.
    fn place(&self, kind: usize, Held { place, tokens }: Held) -> [u32; 2] {
        let before = if kind == 0 { 0 } else { self.places[0].count * self.places[0].tokens };
        [before + place * self.places[kind].tokens, tokens].map(|word| word as u32)
    }

    /// Of every sequence `[4]`: where its prompt lies and how much of it, and where itself.
    fn table(&self, slots: &Slots) -> Vec<[u32; 4]> {
        let row = |prompt: Option<Held>, kind, own| {
            let [first, held] = prompt.map_or([0, 0], |prompt| self.place(0, prompt));
            let [own, before] = self.place(kind, own);
            [first, held, own, before]
        };
        match slots {
            Slots::Prompts(own) => own.iter().map(|own| row(None, 0, *own)).collect(),
            Slots::Samples(all) => all.iter().map(|(prompt, own)| row(*prompt, 1, *own)).collect(),
        }
    }
}

/// The host's cache of a layer whose passes stay there.
///
/// # Panics
/// If the layer was on the device before.
pub fn host_cache(KvPass { cache, layer, slots }: KvPass<CubeCache>) -> KvPass<HostCache> {
    let places = cache.places.map(|places| Places { layers: 1, ..places });
    match cache.layers[layer].get_or_insert_with(|| LayerCache::Host(HostCache::new(places))) {
        LayerCache::Host(cache) => KvPass { cache, layer: 0, slots },
        LayerCache::Device(_) => panic!("a layer stays where it began"),
    }
}

/// Attention of turned queries and keys over the cache, to which keys and values are added.
///
/// # Panics
/// If the layer was on the host before.
pub fn attention<R: CubeRuntime, B>(
    qkv: [X<R>; 3],
    KvPass { cache, layer, slots }: KvPass<CubeCache>,
    heads: Heads,
    segments: &Segments,
    at: &AttentionAt,
) -> CubeTensor<R>
where
    B: Kernels<FloatTensorPrimitive = CubeTensor<R>, IntTensorPrimitive = CubeTensor<R>, Device = R::Device>,
{
    let (rows, table) = (cache.rows(), cache.table(&slots));
    let bytes = 4 * (rows * heads.kv * heads.dim).max(1);
    let empty = || LayerCache::Device([0; 2].map(|_| qkv[0].client.empty(bytes)));
    match cache.layers[layer].get_or_insert_with(empty) {
        LayerCache::Device(buffers) => on_device::<R, B>(qkv, (buffers, rows), &table, heads, segments, at),
        LayerCache::Host(_) => panic!("a layer stays where it began"),
    }
}

/// The tables of a pass that continues what a cache holds.
#[derive(Clone)]
struct Continued {
    places: Vec<[u32; 4]>,
    slots: Tables,
}

impl Continued {
    fn new<R: CubeRuntime>(
        client: &ComputeClient<R>,
        segments: &Segments,
        places: &[[u32; 4]],
        tokens: usize,
    ) -> Self {
        let lengths =
            segments.ranges().zip(places).map(|(rows, place)| place[1] + place[3] + rows.len() as u32);
        let longest = lengths.max().unwrap_or_default() as usize;
        let [table, words] =
            [&segments.words()[..], places.as_flattened()].map(|words| upload(client, words));
        let slots = Tables::cached(client, (&table, segments.len()), &words, tokens, longest);
        Self { places: places.to_vec(), slots }
    }
}

fn on_device<R: CubeRuntime, B>(
    [q, k, v]: [X<R>; 3],
    (buffers, rows): (&[Handle; 2], usize),
    places: &[[u32; 4]],
    heads: Heads,
    segments: &Segments,
    at: &AttentionAt,
) -> CubeTensor<R>
where
    B: Kernels<FloatTensorPrimitive = CubeTensor<R>, IntTensorPrimitive = CubeTensor<R>, Device = R::Device>,
{
    let (client, device) = (&q.client, &q.device);
    let before = |index: usize| (places[index][1] + places[index][3]) as usize;
    let new = || Continued::new(client, segments, places, dims(q)[0]);
    // All layers of a pass have the same places; another pass over the same segments may have others.
    let kept = segments.on_device().get(device, new);
    let Continued { slots, .. } = if kept.places == places { kept } else { new() };
    for (x, buffer) in [k, v].into_iter().zip(buffers) {
        slots.store(client, &handle(x), buffer, rows, dims(x)[1]);
    }
    let elements = |at: &At| seen(heads, segments, before, at, Pass::Forward);
    let errors = Forward::new::<R, B>(at, elements, device);
    let addresses = at.values.rows().table::<B>(Pass::Forward, device);
    let y = kernels::attention(
        client,
        &handle(q),
        buffers.each_ref().map(|data| Keys { data, rows }),
        with_window(heads, segments, at),
        &slots,
        &handle(&addresses),
        &errors.errors(),
    );
    tensor(y, dims(q), q)
}
