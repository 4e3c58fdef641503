//! One pass through the machine with everything that its sites gave kept.

use std::{collections::BTreeMap, sync::Arc};

use burn_tensor::{Tensor, TensorData};
use hardy_model::Decoder;
use hardy_numerics::{NoiseKey, Perturbation, Row};
use hardy_ops::{Noise, NoisyBackend, Tap, TapKey, TapRow, TapValues};
use hardy_train::sequence::{Packed, Sequence, parts};

/// Tokens of a pass.
const TOKENS: usize = 4096;

/// What the rows of one site gave, in the order of their addresses and heads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Output {
    /// The first key that each row sees, where the row is a head's query, else 0.
    pub first: Vec<usize>,
    /// The rows.
    pub rows: Vec<Vec<f32>>,
}

/// Everything of one pass.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// By site.
    pub outputs: BTreeMap<usize, Output>,
    /// What goes into every layer, and what the last gives.
    pub states: Vec<Vec<f32>>,
    /// Of all of it.
    pub hash: u64,
}

impl Snapshot {
    /// The largest magnitude of what a site gave; 0 of nothing.
    pub fn largest(&self, site: usize) -> f64 {
        let values = self.outputs.get(&site).into_iter().flat_map(|output| output.rows.iter().flatten());
        f64::from(values.fold(0.0_f32, |max, x| max.max(x.abs())))
    }
}

/// A decoder on some device, and the text that goes through it.
pub(crate) struct Machine<'a, B: NoisyBackend> {
    decoder: &'a Decoder<B>,
    parts: Vec<Packed>,
}

impl<'a, B: NoisyBackend> Machine<'a, B> {
    pub fn new(decoder: &'a Decoder<B>, sequences: &[Sequence]) -> Self {
        Self { decoder, parts: parts(sequences, TOKENS, true).map(|(_, packed)| packed).collect() }
    }

    /// How many tokens go through it.
    pub fn tokens(&self) -> usize {
        self.parts.iter().map(|packed| packed.batch.ids.len()).sum()
    }

    /// One pass under `noise`, with the embedding disturbed by that share of every value.
    pub fn pass(&self, noise: &Noise, disturbance: Option<f64>) -> Snapshot {
        let layers = self.decoder.layers();
        let tap = Arc::new(Tap::new(vec![[true, false]; self.decoder.blueprint.sites.len()]));
        let noise = noise.clone().tapped(&tap);
        let mut states = vec![Vec::new(); layers + 1];
        for packed in &self.parts {
            let batch = &packed.batch;
            let scene = self.decoder.scene(batch, &noise);
            let mut x = self.decoder.embed(batch, &noise);
            if let Some(scale) = disturbance {
                x = disturbed(&x, &batch.rows, scale);
            }
            states[0].extend(host(&x));
            for layer in 0..layers {
                x = self.decoder.layer(layer, x, &scene);
                states[layer + 1].extend(host(&x));
            }
            let hidden = self.decoder.last_norm(x, batch, &noise);
            // What the head gives is kept by the tap.
            let _ = self.decoder.logits(hidden, batch, &packed.rows, &noise);
        }
        let outputs = outputs(tap.take());
        let hash = hash(&states, &outputs);
        Snapshot { outputs, states, hash }
    }
}

/// The values of `x`, row by row.
pub(super) fn host<B: NoisyBackend>(x: &Tensor<B, 2>) -> Vec<f32> {
    B::host(&x.clone().into_primitive().tensor()).to_vec()
}

/// `x` `[tokens, hidden]` with relative noise at the addresses of its rows.
fn disturbed<B: NoisyBackend>(x: &Tensor<B, 2>, rows: &[Row], scale: f64) -> Tensor<B, 2> {
    let ([tokens, width], device) = (x.dims(), x.device());
    let mut data = host(x);
    let key = NoiseKey::new(0, "find", 0, "disturbance");
    Perturbation::RelativeGaussian { scale }.apply_rows(key, rows, 0, width, &mut data);
    Tensor::from_data(TensorData::new(data, [tokens, width]), &device)
}

/// In the order of sites; within a site of tokens and heads, whatever thread kept them first.
fn outputs(kept: BTreeMap<TapKey, TapValues>) -> BTreeMap<usize, Output> {
    kept.into_iter().map(|(key, values)| (key.site.0, output(&values))).collect()
}

fn output(kept: &TapValues) -> Output {
    let mut rest = &kept.values[..];
    let mut rows: Vec<(&TapRow, &[f32])> = Vec::new();
    for row in &kept.rows {
        let (own, after) = rest.split_at(row.width);
        rest = after;
        rows.push((row, own));
    }
    rows.sort_by_key(|(row, _)| (row.row.sequence, row.row.position, row.head));
    Output {
        first: rows.iter().map(|(row, _)| row.head.map_or(0, |(_, first)| first)).collect(),
        rows: rows.iter().map(|(_, values)| values.to_vec()).collect(),
    }
}

/// FNV-1a over the bits of everything (Fowler, Noll & Vo), word by word.
fn hash(states: &[Vec<f32>], outputs: &BTreeMap<usize, Output>) -> u64 {
    let add = |hash: u64, x: &f32| (hash ^ u64::from(x.to_bits())).wrapping_mul(0x0100_0000_01b3);
    let values =
        states.iter().flatten().chain(outputs.values().flat_map(|output| output.rows.iter().flatten()));
    values.fold(0xcbf2_9ce4_8422_2325, add)
}
