//! Low-rank adapters (LoRA, arXiv:2106.09685): beside a frozen linear layer a second path `(alpha/rank)·B·A·x` that is
//! trained in its stead. Names, shapes and initialisation are PEFT's.

use burn_tensor::{Tensor, TensorData, backend::Backend};
use hardy_numerics::{NoiseKey, Row, fill_uniform};
use hardy_ops::{
    NoisyBackend, Rows,
    ops::{
        residual::residual,
        scale::{masked, scale},
    },
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    decoder::Decoder,
    files::HostTensor,
    narrow::narrow,
    sites::{Blueprint, Linear},
};

/// The target that stands for every linear layer of the decoder's layers.
pub const ALL_LINEAR: &str = "all-linear";

/// What adapters look like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lora {
    /// The inner width of an adapter.
    pub rank: usize,
    /// The adapter's output is scaled by `alpha / rank`.
    pub alpha: f64,
    /// The share of inputs that an adapter does not see in training.
    pub dropout: f64,
    /// The linear layers that have one, by the last part of their path, or `all-linear`.
    pub target_modules: Vec<String>,
}

impl Default for Lora {
    fn default() -> Self {
        Self { rank: 16, alpha: 16.0, dropout: 0.0, target_modules: vec![ALL_LINEAR.to_owned()] }
    }
}

impl Lora {
    /// `alpha / rank`.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// Checks what can be known without a model.
    ///
    /// # Errors
    /// One sentence that names the key, what it is and what it must be.
    pub fn validate(&self) -> Result<()> {
        let wrong = |key: &str, found: String, wanted: &str| {
            Err(Error::Lora(format!("`{key}` is {found}, but must be {wanted}")))
        };
        if self.rank == 0 {
            return wrong("rank", "0".to_owned(), "at least 1");
        }
        if !(self.alpha > 0.0 && self.alpha.is_finite()) {
            return wrong("alpha", self.alpha.to_string(), "above 0");
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return wrong("dropout", self.dropout.to_string(), "at least 0 and below 1");
        }
        if self.target_modules.is_empty() {
            return wrong("target_modules", "empty".to_owned(), "at least one module, or [\"all-linear\"]");
        }
        Ok(())
    }

    pub(crate) fn targets(&self, module: &str) -> bool {
        let last = module.rsplit('.').next().unwrap_or(module);
        self.target_modules.iter().any(|target| target == ALL_LINEAR || target == last)
    }
}

/// The adapters of a decoder, and the base that they belong to.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapters {
    /// What they look like.
    pub lora: Lora,
    /// The base model, as it was named.
    pub base: String,
    /// The fingerprint of its parameters.
    pub fingerprint: String,
}

/// What decides which inputs dropout takes away in one step of training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropout {
    /// The run's seed.
    pub seed: u64,
    /// The step.
    pub step: u64,
}

impl Dropout {
    /// What the input `[rows, width]` of `module` is multiplied by: 0 for a share of `dropout`, else `1/(1 − dropout)`.
    pub(crate) fn mask<B: Backend>(
        self,
        module: &str,
        rows: &[Row],
        width: usize,
        dropout: f64,
        device: &B::Device,
    ) -> Tensor<B, 2> {
        let key = NoiseKey::new(self.seed, "dropout", self.step, module);
        let (share, kept) = (dropout as f32, (1.0 / (1.0 - dropout)) as f32);
        let mut mask = vec![0.0; rows.len() * width];
        mask.par_chunks_mut(width.max(1)).zip(rows).for_each(|(mask, row)| {
            fill_uniform(key, *row, 0, mask);
            mask.iter_mut().for_each(|x| *x = if *x < share { 0.0 } else { kept });
        });
        Tensor::from_data(TensorData::new(mask, [rows.len(), width]), device)
    }
}

impl<B: NoisyBackend> Decoder<B> {
    /// The same decoder with new adapters, which change nothing yet: A is uniform within ±1/√in, B is 0. `base` names
    /// this model.
    ///
    /// # Errors
    /// Adapters that do not fit: a rank larger than a matrix, or a module that does not exist; a model that has some
    /// already, since new ones would stand on a base that is no model of its own.
    pub fn with_lora(self, lora: &Lora, base: &str, seed: u64) -> Result<Self> {
        if let Some(held) = &self.blueprint.adapters {
            return Err(Error::Lora(format!(
                "{base} holds adapters for {} already; leave out [lora] to train those further, or start from the model \
                 that `hardy export` merges",
                held.base
            )));
        }
        let adapters =
            Adapters { lora: lora.clone(), base: base.to_owned(), fingerprint: self.fingerprint() };
        let blueprint = Blueprint::with_adapters(&self.blueprint.config, adapters)?;
        let initial = blueprint.parameters[blueprint.frozen..].iter().map(|spec| {
            let mut data = vec![0.0; spec.shape.iter().product()];
            if spec.name.ends_with("lora_A.weight") {
                let bound = 1.0 / (spec.shape[1] as f32).sqrt();
                fill_uniform(NoiseKey::new(seed, "lora", 0, &spec.name), Row::WEIGHT, 0, &mut data);
                data.iter_mut().for_each(|x| *x = (2.0 * *x - 1.0) * bound);
            }
            HostTensor { name: spec.name.clone(), shape: spec.shape.clone(), data }
        });
        Ok(self.with_adapter_tensors(initial.collect(), blueprint))
    }

    /// The same decoder with adapters whose tensors are given in the order of `blueprint`. Its own parameters go to 16 bits
    /// one after another, so that both kinds are never there as a whole.
    pub(crate) fn with_adapter_tensors(mut self, tensors: Vec<HostTensor>, blueprint: Blueprint) -> Self {
        let blueprint = Blueprint { precision: self.blueprint.precision, ..blueprint };
        let device = self.parameters[0].device();
        let upload = |tensor: HostTensor| {
            let shape = [tensor.shape[0], tensor.shape[1]];
            Tensor::from_data(TensorData::new(tensor.data, shape), &device)
        };
        self.parameters.truncate(blueprint.frozen);
        let mut parameters = self.parameters;
        parameters.iter_mut().for_each(narrow);
        parameters.extend(tensors.into_iter().map(upload));
        Self { blueprint: blueprint.into(), parameters }
    }

    /// The decoder without its adapters; the parameters are shared, not copied.
    #[must_use]
    pub fn base(&self) -> Self {
        if self.blueprint.adapters.is_none() {
            return self.clone();
        }
        let parameters = self.parameters[..self.blueprint.frozen].to_vec();
        let own = Self { blueprint: Blueprint::new(&self.blueprint.config).into(), parameters };
        own.in_precision(self.blueprint.precision)
    }

    /// The decoder with its adapters added to the weights that they stand beside, in f64.
    #[must_use]
    pub fn merged(&self) -> Self {
        let mut merged = self.base();
        let Some(adapters) = &self.blueprint.adapters else { return merged };
        for Linear { weight, adapter, .. } in self.blueprint.linears() {
            let Some(adapter) = adapter else { continue };
            let [w, a, b] = [weight, adapter.a.weight, adapter.b.weight].map(|at| &self.parameters[at]);
            merged.parameters[weight] = sum(w, a, b, adapters.lora.scale());
        }
        merged
    }

    /// `y` with what the adapter beside `part` makes of `x`, the input of both.
    pub(crate) fn adapt(
        &self,
        part: &Linear,
        x: Tensor<B, 2>,
        y: Tensor<B, 2>,
        (rows, dropout): (&Rows, Option<Dropout>),
        linear: impl Fn(&Linear, Tensor<B, 2>) -> Tensor<B, 2>,
    ) -> Tensor<B, 2> {
        let (Some(adapter), Some(Adapters { lora, .. })) = (part.adapter, &self.blueprint.adapters) else {
            return y;
        };
        let x = match dropout {
            Some(dropout) if lora.dropout > 0.0 => {
                let module = &self.blueprint.sites[adapter.a.site.0].module;
                let (width, device) = (x.dims()[1], x.device());
                masked(x, dropout.mask::<B>(module, rows, width, lora.dropout, &device))
            }
            _ => x,
        };
        let inner = linear(&adapter.a.linear(), x);
        residual(y, scale(linear(&adapter.b.linear(), inner), lora.scale()))
    }
}

/// `w + scale·b·a`.
fn sum<B: NoisyBackend>(w: &Tensor<B, 2>, a: &Tensor<B, 2>, b: &Tensor<B, 2>, scale: f64) -> Tensor<B, 2> {
    let host = |x: &Tensor<B, 2>| B::host(&x.clone().into_primitive().tensor()).to_vec();
    let ([rows, width], [rank, _]) = (w.dims(), a.dims());
    let (mut w_host, a_host, b_host) = (host(w), host(a), host(b));
    w_host.par_chunks_mut(width).enumerate().for_each(|(row, w)| {
        for (column, w) in w.iter_mut().enumerate() {
            let term = |k: usize| f64::from(b_host[row * rank + k]) * f64::from(a_host[k * width + column]);
            *w = (f64::from(*w) + scale * (0..rank).map(term).sum::<f64>()) as f32;
        }
    });
    Tensor::from_data(TensorData::new(w_host, [rows, width]), &w.device())
}
