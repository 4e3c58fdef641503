//! The decoder of Qwen2, Llama and Qwen3, one code path for rollouts, training and evaluation: the same operators
//! on the same sites, with or without a tape, with or without a cache.

use std::{path::Path, sync::Arc};

use burn::{
    backend::Autodiff,
    tensor::{Tensor, TensorData, backend::Backend},
};
use hardy_ops::{
    At, Noise, NoisyBackend, Row, Rows, SiteId,
    ops::{
        attention::{AttentionAt, LayerCache, Segments, attention, cached_attention},
        embedding::embedding,
        gather::gather_rows,
        gelu::gelu,
        linear::linear,
        rms_norm::rms_norm,
        rotary::{Angles, rotary},
        silu::silu,
    },
};

use crate::{
    Result,
    config::ModelConfig,
    files::{HostTensor, read_checkpoint},
    sites::{Blueprint, Layer, Linear, Norm},
};

/// Tokens of several sequences, packed one after another without padding.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Token ids, `[tokens]`.
    pub ids: Vec<u32>,
    /// The address of every token; its position is also that of the rotary embedding.
    pub rows: Rows,
    /// Where the sequences begin and end.
    pub segments: Segments,
}

impl Batch {
    /// Packs sequences, each given by its tokens and their addresses.
    ///
    /// # Panics
    /// If a sequence has not as many addresses as tokens.
    pub fn pack<'a>(sequences: impl IntoIterator<Item = (&'a [u32], &'a [Row])>) -> Self {
        let (mut ids, mut rows, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        for (tokens, addresses) in sequences {
            assert_eq!(tokens.len(), addresses.len(), "one address a token");
            ids.extend_from_slice(tokens);
            rows.extend_from_slice(addresses);
            lengths.push(tokens.len());
        }
        Self { ids, rows: rows.into(), segments: Segments::from_lengths(lengths) }
    }
}

/// The addresses of the tokens of one sequence: those of the prompt carry the prompt's id, the rest the sample's.
pub fn sequence_rows(prompt: u64, sample: u64, prompt_length: usize, length: usize) -> Vec<Row> {
    let id = |position: usize| if position < prompt_length { prompt } else { sample };
    (0..length).map(|position| Row { sequence: id(position), position: position as u32 }).collect()
}

/// The keys and values of one sequence, for every layer.
#[derive(Clone, Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
}

impl KvCache {
    /// An empty cache for a model with `layers` layers.
    pub fn new(layers: usize) -> Self {
        Self { layers: vec![LayerCache::default(); layers] }
    }
}

/// A decoder with its parameters, all `[rows, width]`, vectors as `[1, width]`.
#[derive(Clone, Debug)]
pub struct Decoder<B: Backend> {
    /// What the decoder is made of.
    pub blueprint: Arc<Blueprint>,
    /// The parameters, in the order of [`Blueprint::parameters`].
    pub parameters: Vec<Tensor<B, 2>>,
}

impl<B: NoisyBackend> Decoder<B> {
    /// Reads a Hugging Face directory.
    ///
    /// # Errors
    /// Files that are missing, truncated, or do not fit each other.
    pub fn from_dir(dir: &Path, device: &B::Device) -> Result<Self> {
        let blueprint = Blueprint::new(&ModelConfig::from_dir(dir)?);
        let tensors = read_checkpoint(dir, &blueprint.parameters)?;
        Ok(Self::from_host(blueprint, tensors, device))
    }

    /// A decoder with the given parameters, in the order of `blueprint.parameters`.
    ///
    /// # Panics
    /// If they do not have the shapes that the blueprint says.
    pub fn from_host(blueprint: Blueprint, tensors: Vec<HostTensor>, device: &B::Device) -> Self {
        assert_eq!(tensors.len(), blueprint.parameters.len(), "one tensor a parameter");
        let upload = |tensor: HostTensor| {
            let width = *tensor.shape.last().unwrap_or(&1);
            let shape = [tensor.data.len() / width.max(1), width];
            Tensor::from_data(TensorData::new(tensor.data, shape), device)
        };
        Self { blueprint: Arc::new(blueprint), parameters: tensors.into_iter().map(upload).collect() }
    }

    /// The parameters on the host, under their Hugging Face names.
    pub fn to_host(&self) -> Vec<HostTensor> {
        let specs = self.blueprint.parameters.iter();
        let download = |(spec, tensor): (&crate::ParameterSpec, &Tensor<B, 2>)| HostTensor {
            name: spec.name.clone(),
            shape: spec.shape.clone(),
            data: B::host(&tensor.clone().into_primitive().tensor()).to_vec(),
        };
        specs.zip(&self.parameters).map(download).collect()
    }

    /// The same decoder on a tape: gradients are recorded for every parameter.
    pub fn tracked(&self) -> Decoder<Autodiff<B>> {
        let track = |tensor: &Tensor<B, 2>| Tensor::from_inner(tensor.clone()).require_grad();
        Decoder {
            blueprint: Arc::clone(&self.blueprint),
            parameters: self.parameters.iter().map(track).collect(),
        }
    }

    /// The hidden states after the last norm, `[tokens, hidden]`.
    pub fn hidden(&self, batch: &Batch, noise: &Noise) -> Tensor<B, 2> {
        self.run(batch, noise, None)
    }

    /// The same for tokens that continue what `caches` hold, one cache a sequence.
    pub fn hidden_cached(&self, batch: &Batch, noise: &Noise, caches: &mut [&mut KvCache]) -> Tensor<B, 2> {
        self.run(batch, noise, Some(caches))
    }

    /// The logits of some rows of the hidden states, `[rows, vocab]`; the head computes no others.
    pub fn logits(&self, hidden: Tensor<B, 2>, batch: &Batch, rows: &[u32], noise: &Noise) -> Tensor<B, 2> {
        let all = rows.len() == batch.ids.len() && rows.iter().enumerate().all(|(i, &row)| i == row as usize);
        let chosen = if all { hidden } else { gather_rows(hidden, rows) };
        let addresses: Rows = rows.iter().map(|&row| batch.rows[row as usize]).collect();
        self.linear(&self.blueprint.head, chosen, &noise.at(self.blueprint.head.site, &addresses))
    }

    fn run(&self, batch: &Batch, noise: &Noise, mut caches: Option<&mut [&mut KvCache]>) -> Tensor<B, 2> {
        let at = |site: SiteId| noise.at(site, &batch.rows);
        let frequencies = self.blueprint.config.inverse_frequencies();
        let angles = Angles::new(batch.rows.iter().map(|row| row.position), &frequencies);
        let table = &self.blueprint.embedding;
        let mut x = embedding(self.parameters[table.weight].clone(), &batch.ids, &at(table.site));
        for (index, layer) in self.blueprint.layers.iter().enumerate() {
            let caches: Option<Vec<&mut LayerCache>> = caches
                .as_deref_mut()
                .map(|all| all.iter_mut().map(|cache| &mut cache.layers[index]).collect());
            let normed = self.norm(&layer.input_norm, x.clone(), &at);
            x = x + self.attention(layer, &normed, batch, &angles, &at, caches);
            let normed = self.norm(&layer.post_norm, x.clone(), &at);
            x = x + self.mlp(layer, normed, &at);
        }
        self.norm(&self.blueprint.norm, x, &at)
    }

    fn attention(
        &self,
        layer: &Layer,
        x: &Tensor<B, 2>,
        batch: &Batch,
        angles: &Angles,
        at: &impl Fn(SiteId) -> At,
        caches: Option<Vec<&mut LayerCache>>,
    ) -> Tensor<B, 2> {
        let [mut q, mut k, v] =
            [&layer.q, &layer.k, &layer.v].map(|part| self.linear_at(part, x.clone(), at));
        if let Some([q_norm, k_norm]) = &layer.qk_norm {
            (q, k) = (self.norm(q_norm, q, at), self.norm(k_norm, k, at));
        }
        let (q, k) = (rotary(q, angles), rotary(k, angles));
        let sites =
            AttentionAt { scores: at(layer.scores), softmax: at(layer.softmax), values: at(layer.values) };
        let heads = self.blueprint.heads;
        let mixed = match caches {
            None => attention(q, k, v, heads, &batch.segments, &sites),
            Some(mut caches) => cached_attention(q, k, v, &mut caches, heads, &batch.segments, &sites),
        };
        self.linear_at(&layer.o, mixed, at)
    }

    fn mlp(&self, layer: &Layer, x: Tensor<B, 2>, at: &impl Fn(SiteId) -> At) -> Tensor<B, 2> {
        let gate = self.linear_at(&layer.gate, x.clone(), at);
        let up = self.linear_at(&layer.up, x, at);
        let gate = match layer.act.gelu {
            None => silu(gate, &at(layer.act.site)),
            Some(approximation) => gelu(gate, approximation, &at(layer.act.site)),
        };
        self.linear_at(&layer.down, gate * up, at)
    }

    fn norm(&self, norm: &Norm, x: Tensor<B, 2>, at: &impl Fn(SiteId) -> At) -> Tensor<B, 2> {
        rms_norm(x, self.parameters[norm.weight].clone(), self.blueprint.config.rms_norm_eps, &at(norm.site))
    }

    fn linear_at(&self, part: &Linear, x: Tensor<B, 2>, at: &impl Fn(SiteId) -> At) -> Tensor<B, 2> {
        self.linear(part, x, &at(part.site))
    }

    fn linear(&self, part: &Linear, x: Tensor<B, 2>, at: &At) -> Tensor<B, 2> {
        let bias = part.bias.map(|bias| self.parameters[bias].clone());
        linear(x, self.parameters[part.weight].clone(), bias, at)
    }
}
