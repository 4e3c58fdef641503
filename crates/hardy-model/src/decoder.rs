//! The decoder of every family, one code path for rollouts, training and evaluation: the same operators
//! on the same sites, with or without a tape, with or without a cache.

mod mixture;
mod scene;
mod stages;
mod weights;

use std::{path::Path, sync::Arc};

use burn_autodiff::Autodiff;
use burn_tensor::{Tensor, TensorData, TensorPrimitive, backend::Backend};
use hardy_numerics::Precision;
use hardy_ops::{
    Address, At, Indices, Noise, NoisyBackend, Op, Row, Rows, SiteId,
    ops::{
        attention::{AttentionAt, Places, Segments, attention, cached_attention},
        gather::gather_rows,
        gelu::gelu,
        head::head,
        residual::residual,
        rms_norm::rms_norm,
        scale::scale,
        silu::silu_up,
    },
};

use crate::{
    Result,
    config::ModelConfig,
    files::{Elements, HostTensor, read_as_stored, read_checkpoint},
    lora::Dropout,
    sites::{Blueprint, Gated, Layer, Linear, Mlp, Norm},
};

pub use scene::Scene;
pub(crate) use weights::Weights;

/// Tokens of several sequences, packed one after another without padding.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Token ids, `[tokens]`.
    pub ids: Indices,
    /// The address of every token; its position is also that of the rotary embedding.
    pub rows: Rows,
    /// Where the sequences begin and end.
    pub segments: Segments,
    /// The dropout of adapters, in training.
    pub dropout: Option<Dropout>,
}

impl Batch {
    /// Packs sequences, each given by its tokens and their addresses; the gradients of its rows have the id of the last.
    ///
    /// # Panics
    /// If a sequence has not as many addresses as tokens.
    pub fn pack<'a>(sequences: impl IntoIterator<Item = (&'a [u32], &'a [Row])>) -> Self {
        let (mut ids, mut rows, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        for (group, (tokens, addresses)) in (0..).zip(sequences) {
            assert_eq!(tokens.len(), addresses.len(), "one address a token");
            let sequence = addresses.last().map_or(0, |row| row.sequence);
            rows.extend(addresses.iter().map(|&row| {
                let gradient = Row { sequence, ..row };
                Address { row, gradient, repeated: false, group }
            }));
            ids.extend_from_slice(tokens);
            lengths.push(tokens.len());
        }
        Self {
            ids: ids.into(),
            rows: rows.into_iter().collect(),
            segments: Segments::from_lengths(lengths),
            dropout: None,
        }
    }
}

/// The addresses of the tokens of one sequence: those of the prompt carry the prompt's id, the rest the sample's.
pub fn sequence_rows(prompt: u64, sample: u64, prompt_length: usize, length: usize) -> Vec<Row> {
    let id = |position: usize| if position < prompt_length { prompt } else { sample };
    (0..length).map(|position| Row { sequence: id(position), position: position as u32 }).collect()
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

    /// The same, to be read and not to be trained: matrices that are stored in bfloat16 stay in 16 bits where the device has
    /// such storage. It computes the same, to the bit.
    ///
    /// # Errors
    /// As [`Decoder::from_dir`].
    pub fn as_stored(dir: &Path, device: &B::Device) -> Result<Self> {
        let blueprint = Blueprint::new(&ModelConfig::from_dir(dir)?);
        let tensors = read_as_stored(dir, &blueprint.parameters)?;
        let upload = |tensor: HostTensor<Elements>| {
            let shape = matrix(&tensor.shape);
            match tensor.data {
                Elements::Wide(data) => Tensor::from_data(TensorData::new(data, shape), device),
                Elements::Narrow(data) => {
                    let own = B::upload_narrow(data, shape, device);
                    Tensor::from_primitive(TensorPrimitive::Float(own))
                }
            }
        };
        Ok(Self { blueprint: Arc::new(blueprint), parameters: tensors.into_iter().map(upload).collect() })
    }

    /// A decoder with the given parameters, in the order of `blueprint.parameters`.
    ///
    /// # Panics
    /// If they do not have the shapes that the blueprint says.
    pub fn from_host(blueprint: Blueprint, tensors: Vec<HostTensor>, device: &B::Device) -> Self {
        assert_eq!(tensors.len(), blueprint.parameters.len(), "one tensor a parameter");
        let upload = |tensor: HostTensor| {
            let shape = matrix(&tensor.shape);
            Tensor::from_data(TensorData::new(tensor.data, shape), device)
        };
        Self { blueprint: Arc::new(blueprint), parameters: tensors.into_iter().map(upload).collect() }
    }

    /// The same decoder, whose products are computed in `precision`.
    #[must_use]
    pub fn in_precision(mut self, precision: Precision) -> Self {
        if self.blueprint.precision != precision {
            Arc::make_mut(&mut self.blueprint).precision = precision;
        }
        self
    }

    /// What of `noise` falls on `site`, and how it multiplies, for an activation whose rows have the addresses `rows`.
    pub fn at(&self, noise: &Noise, site: SiteId, rows: &Rows) -> At {
        noise.at(site, rows).in_precision(self.blueprint.precision)
    }

    /// The parameters that are trained.
    pub fn trained(&self) -> &[Tensor<B, 2>] {
        &self.parameters[self.blueprint.frozen..]
    }

    /// The parameters that are trained, to be changed.
    pub fn trained_mut(&mut self) -> &mut [Tensor<B, 2>] {
        let frozen = self.blueprint.frozen;
        &mut self.parameters[frozen..]
    }

    /// How many layers there are.
    pub fn layers(&self) -> usize {
        self.blueprint.layers.len()
    }

    /// Places of a [`KvBuffer`] for `count` sequences of up to `tokens` tokens.
    pub fn kv_places(&self, count: usize, tokens: usize) -> Places {
        let config = &self.blueprint.config;
        Places { count, tokens, layers: config.layers, width: config.kv_heads * config.head_dim }
    }

    /// The parameters on the host, under their Hugging Face names.
    pub fn to_host(&self) -> Vec<HostTensor> {
        self.to_host_from(0)
    }

    /// Those from parameter `first` on.
    pub(crate) fn to_host_from(&self, first: usize) -> Vec<HostTensor> {
        let specs = self.blueprint.parameters[first..].iter();
        let download = |(spec, tensor): (&crate::ParameterSpec, &Tensor<B, 2>)| HostTensor {
            name: spec.name.clone(),
            shape: spec.shape.clone(),
            data: B::host(&tensor.clone().into_primitive().tensor()).to_vec(),
        };
        specs.zip(&self.parameters[first..]).map(download).collect()
    }

    /// The same decoder on a tape: gradients are recorded for every parameter that is not frozen.
    pub fn tracked(&self) -> Decoder<Autodiff<B>> {
        let (frozen, trained) = self.parameters.split_at(self.blueprint.frozen);
        let frozen = frozen.iter().map(|tensor| Tensor::from_inner(tensor.clone()));
        let trained = trained.iter().map(|tensor| Tensor::from_inner(tensor.clone()).require_grad());
        Decoder { blueprint: Arc::clone(&self.blueprint), parameters: frozen.chain(trained).collect() }
    }

    /// The hidden states after the last norm, `[tokens, hidden]`.
    pub fn hidden(&self, batch: &Batch, noise: &Noise) -> Tensor<B, 2> {
        self.run(&self.scene(batch, noise))
    }

    /// The logits of some rows of the hidden states, `[rows, vocab]`; the head computes no others.
    pub fn logits(
        &self,
        hidden: Tensor<B, 2>,
        batch: &Batch,
        rows: impl Into<Indices>,
        noise: &Noise,
    ) -> Tensor<B, 2> {
        self.head(hidden, batch, &rows.into(), noise, &Weights::stored(self))
    }

    /// The log-probability of `targets`, one for each of some rows, and the entropy of the row, `[rows, 2]`; no
    /// logits are kept.
    pub fn log_probs(
        &self,
        hidden: Tensor<B, 2>,
        batch: &Batch,
        rows: impl Into<Indices>,
        (targets, temperature): (impl Into<Indices>, f32),
        noise: &Noise,
    ) -> Tensor<B, 2> {
        let (x, addresses) = select(hidden, batch, &rows.into());
        let part = &self.blueprint.head;
        head(
            x,
            self.parameters[part.weight].clone(),
            targets,
            temperature,
            &self.at(noise, part.site, &addresses),
        )
    }

    pub(crate) fn head(
        &self,
        hidden: Tensor<B, 2>,
        batch: &Batch,
        rows: &Indices,
        noise: &Noise,
        weights: &Weights<B>,
    ) -> Tensor<B, 2> {
        let (chosen, addresses) = select(hidden, batch, rows);
        weights.linear(&self.blueprint.head, chosen, &self.at(noise, self.blueprint.head.site, &addresses))
    }

    /// The hidden states after the last norm.
    pub(crate) fn run(&self, scene: &Scene<B>) -> Tensor<B, 2> {
        self.run_from(self.embed_by(&scene.weights, scene.batch, scene.noise), scene)
    }

    /// The same from what goes into the first layer.
    pub(crate) fn run_from(&self, mut x: Tensor<B, 2>, scene: &Scene<B>) -> Tensor<B, 2> {
        for index in 0..self.layers() {
            x = self.layer(index, x, scene);
        }
        self.last_norm(x, scene.batch, scene.noise)
    }

    /// What goes into the first layer, `[tokens, hidden]`.
    pub fn embed(&self, batch: &Batch, noise: &Noise) -> Tensor<B, 2> {
        self.embed_by(&Weights::stored(self), batch, noise)
    }

    fn embed_by(&self, weights: &Weights<B>, batch: &Batch, noise: &Noise) -> Tensor<B, 2> {
        let x = weights.embedding(&batch.ids, &self.at(noise, self.blueprint.embedding.site, &batch.rows));
        self.scaled(x)
    }

    /// Rows of the embedding as they go into the first layer.
    pub(crate) fn scaled(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        match self.blueprint.config.embedding_scale {
            None => x,
            Some(factor) => scale(x, factor.into()),
        }
    }

    /// Layer `index` on `x` `[tokens, hidden]`.
    pub fn layer(&self, index: usize, x: Tensor<B, 2>, scene: &Scene<B>) -> Tensor<B, 2> {
        let x = self.attention_half(index, x, scene);
        self.mlp_half(index, x, scene)
    }

    /// The hidden states after the last norm, from the output of the last layer.
    pub fn last_norm(&self, x: Tensor<B, 2>, batch: &Batch, noise: &Noise) -> Tensor<B, 2> {
        self.norm(&self.blueprint.norm, x, &|site| self.at(noise, site, &batch.rows))
    }

    fn attention_half(&self, index: usize, x: Tensor<B, 2>, scene: &Scene<B>) -> Tensor<B, 2> {
        let layer = &self.blueprint.layers[index];
        let normed = self.norm(&layer.input_norm, x.clone(), &|site| scene.at(site));
        residual(x, self.attention(index, layer, &normed, scene))
    }

    fn mlp_half(&self, index: usize, x: Tensor<B, 2>, scene: &Scene<B>) -> Tensor<B, 2> {
        let layer = &self.blueprint.layers[index];
        let normed = self.norm(&layer.post_norm, x.clone(), &|site| scene.at(site));
        let branch = match &layer.mlp {
            Mlp::Dense(mlp) => self.gated(mlp, normed, scene),
            Mlp::Mixture(mixture) => self.mixture(mixture, &normed, scene),
        };
        residual(x, branch)
    }

    fn attention(&self, index: usize, layer: &Layer, x: &Tensor<B, 2>, scene: &Scene<B>) -> Tensor<B, 2> {
        let [mut q, mut k, v] =
            [&layer.q, &layer.k, &layer.v].map(|part| self.adapted(part, x.clone(), scene));
        let at = |site: SiteId| scene.at(site);
        if let Some([q_norm, k_norm]) = &layer.qk_norm {
            (q, k) = (self.norm(q_norm, q, &at), self.norm(k_norm, k, &at));
        }
        let sites =
            AttentionAt { scores: at(layer.scores), softmax: at(layer.softmax), values: at(layer.values) };
        let angles = if layer.kind.rotary { &scene.angles } else { &scene.still };
        let (heads, segments) = (self.blueprint.heads, &scene.batch.segments.within(layer.kind.window));
        let mixed = match &scene.continuing {
            None => attention([q, k, v], angles, heads, segments, &sites),
            Some(all) => {
                let mut cache = all.cache.borrow_mut();
                let cache = cache.layer(index, all.sequences);
                cached_attention([q, k, v], cache, angles, heads, segments, &sites)
            }
        };
        self.adapted(&layer.o, mixed, scene)
    }

    fn gated(&self, mlp: &Gated, x: Tensor<B, 2>, scene: &Scene<B>) -> Tensor<B, 2> {
        let gate = self.adapted(&mlp.gate, x.clone(), scene);
        let up = self.adapted(&mlp.up, x, scene);
        let gated = match mlp.act.gelu {
            None => silu_up(gate, up, &scene.at(mlp.act.site)),
            Some(approximation) => gelu(gate, approximation, &scene.at(mlp.act.site)) * up,
        };
        self.adapted(&mlp.down, gated, scene)
    }

    fn norm(&self, norm: &Norm, x: Tensor<B, 2>, at: &dyn Fn(SiteId) -> At) -> Tensor<B, 2> {
        rms_norm(
            x,
            self.weight_at(norm.site, norm.weight),
            self.blueprint.config.rms_norm_eps,
            &at(norm.site),
        )
    }

    /// A parameter as `site` multiplies by it, before errors enter.
    pub fn weight_at(&self, SiteId(site): SiteId, parameter: usize) -> Tensor<B, 2> {
        let weight = self.parameters[parameter].clone();
        let offset = self.blueprint.config.unit_offset_norms && self.blueprint.sites[site].op == Op::RmsNorm;
        if offset { weight + 1.0 } else { weight }
    }

    /// A linear layer with its adapter.
    fn adapted(&self, part: &Linear, x: Tensor<B, 2>, scene: &Scene<B>) -> Tensor<B, 2> {
        let linear = |part: &Linear, x| scene.weights.linear(part, x, &scene.at(part.site));
        let y = linear(part, x.clone());
        self.adapt(part, x, y, (&scene.batch.rows, scene.batch.dropout), linear)
    }
}

impl<B: NoisyBackend> Decoder<Autodiff<B>> {
    /// The same decoder without a tape.
    pub fn inner(&self) -> Decoder<B> {
        let parameters = self.parameters.iter().map(|tensor| tensor.clone().inner()).collect();
        Decoder { blueprint: Arc::clone(&self.blueprint), parameters }
    }
}

/// A parameter's shape as `[rows, width]`, a vector's as `[1, width]`.
fn matrix(shape: &[usize]) -> [usize; 2] {
    let (width, outer) = shape.split_last().unwrap_or((&1, &[]));
    [outer.iter().product(), *width]
}

/// Some rows of the hidden states, and their addresses.
fn select<B: NoisyBackend>(hidden: Tensor<B, 2>, batch: &Batch, rows: &Indices) -> (Tensor<B, 2>, Rows) {
    let all = rows.len() == batch.ids.len() && rows.iter().enumerate().all(|(i, &row)| i == row as usize);
    if all {
        return (hidden, batch.rows.clone());
    }
    (gather_rows(hidden, rows), batch.rows.chosen(rows))
}
