//! Every parameter and every site of a decoder, listed from its configuration: the map by which the forward pass
//! finds its weights and its errors, and by which a plan is bound.

use hardy_ops::{
    Op, Site, SiteId,
    ops::{attention::Heads, gelu::Approximation},
};

use crate::{
    Error, Result,
    config::{Activation, ModelConfig, ParameterSpec},
    lora::{ALL_LINEAR, Adapters, Lora},
};

/// A linear layer: the places of its weight and bias among the parameters, and its site.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linear {
    pub weight: usize,
    pub bias: Option<usize>,
    pub site: SiteId,
    pub adapter: Option<Adapter>,
}

/// A low-rank adapter beside a linear layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Adapter {
    pub a: Factor,
    pub b: Factor,
}

/// One of its two factors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Factor {
    pub weight: usize,
    pub site: SiteId,
}

impl Factor {
    pub fn linear(self) -> Linear {
        Linear { weight: self.weight, bias: None, site: self.site, adapter: None }
    }
}

/// A normalisation: the place of its weight, and its site.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Norm {
    pub weight: usize,
    pub site: SiteId,
}

/// The activation function between the products of an MLP, and its site.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Act {
    pub gelu: Option<Approximation>,
    pub site: SiteId,
}

/// One decoder layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layer {
    pub input_norm: Norm,
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    pub qk_norm: Option<[Norm; 2]>,
    pub scores: SiteId,
    pub softmax: SiteId,
    pub values: SiteId,
    pub o: Linear,
    pub post_norm: Norm,
    pub gate: Linear,
    pub act: Act,
    pub up: Linear,
    pub down: Linear,
}

/// The parameters and sites of a decoder, and how its layers use them.
#[derive(Clone, Debug)]
pub struct Blueprint {
    /// The configuration that it was made from.
    pub config: ModelConfig,
    /// The parameters, in Hugging Face names and order.
    pub parameters: Vec<ParameterSpec>,
    /// Every place where an error can enter, in the order of the forward pass; those of adapters come last.
    pub sites: Vec<Site>,
    /// How many of the parameters, the first ones, are never trained: with adapters all others, else none.
    pub frozen: usize,
    /// The low-rank adapters, if there are any.
    pub adapters: Option<Adapters>,
    pub(crate) embedding: Norm,
    pub(crate) layers: Vec<Layer>,
    pub(crate) norm: Norm,
    pub(crate) head: Linear,
    pub(crate) heads: Heads,
}

impl Blueprint {
    /// Lists the parameters and sites of a decoder.
    pub fn new(config: &ModelConfig) -> Self {
        let mut list = Lister { parameters: config.parameters(), sites: Vec::new() };
        let embedding = list.norm("model.embed_tokens", Op::Embedding, None);
        let layers = (0..config.layers).map(|layer| list.layer(layer, config)).collect();
        let norm = list.norm("model.norm", Op::RmsNorm, None);
        let head = list.head(config.tied_embeddings);
        let heads = Heads { query: config.heads, kv: config.kv_heads, dim: config.head_dim };
        let Lister { parameters, sites } = list;
        let (config, frozen, adapters) = (config.clone(), 0, None);
        Self { config, parameters, sites, frozen, adapters, embedding, layers, norm, head, heads }
    }

    /// Lists those of a decoder with adapters: its own, which are frozen, and then the adapters'.
    ///
    /// # Errors
    /// Adapters that do not fit: a rank larger than a matrix, or a module that does not exist.
    pub fn with_adapters(config: &ModelConfig, adapters: Adapters) -> Result<Self> {
        let mut blueprint = Self::new(config);
        let lora = &adapters.lora;
        lora.validate()?;
        blueprint.check_targets(lora)?;
        blueprint.frozen = blueprint.parameters.len();
        let Self { layers, parameters, sites, .. } = &mut blueprint;
        for layer in layers {
            for part in [
                &mut layer.q,
                &mut layer.k,
                &mut layer.v,
                &mut layer.o,
                &mut layer.gate,
                &mut layer.up,
                &mut layer.down,
            ] {
                let (site, shape) = (sites[part.site.0].clone(), parameters[part.weight].shape.clone());
                if !lora.targets(&site.module) {
                    continue;
                }
                if lora.rank > shape[0].min(shape[1]) {
                    return Err(Error::Lora(format!(
                        "`rank` is {}, larger than the matrix of {}, which is {shape:?}",
                        lora.rank, site.module
                    )));
                }
                let mut factor = |name: &str, shape: [usize; 2]| {
                    let module = format!("{}.{name}", site.module);
                    let name = format!("base_model.model.{module}.weight");
                    parameters.push(ParameterSpec { name, shape: shape.to_vec() });
                    sites.push(Site { module, ..site.clone() });
                    Factor { weight: parameters.len() - 1, site: SiteId(sites.len() - 1) }
                };
                let (a, b) =
                    (factor("lora_A", [lora.rank, shape[1]]), factor("lora_B", [shape[0], lora.rank]));
                part.adapter = Some(Adapter { a, b });
            }
        }
        blueprint.adapters = Some(adapters);
        Ok(blueprint)
    }

    /// Refuses targets that are no linear layer of the decoder's layers.
    fn check_targets(&self, lora: &Lora) -> Result<()> {
        let modules = self.layers.iter().take(1).flat_map(|layer| {
            let Layer { q, k, v, o, gate, up, down, .. } = layer;
            [q, k, v, o, gate, up, down].map(|part| self.sites[part.site.0].module.rsplit('.').next())
        });
        let known: Vec<&str> = modules.flatten().collect();
        let exists = |target: &&String| *target == ALL_LINEAR || known.contains(&target.as_str());
        match lora.target_modules.iter().find(|target| !exists(target)) {
            None => Ok(()),
            Some(target) => Err(Error::Lora(format!(
                "`target_modules` names `{target}`, but the linear layers are {}, or {ALL_LINEAR} for all",
                known.join(", ")
            ))),
        }
    }

    /// Every linear layer, adapters left out, the head last.
    pub(crate) fn linears(&self) -> impl Iterator<Item = Linear> {
        let of_layer = |layer: &'_ Layer| {
            let Layer { q, k, v, o, gate, up, down, .. } = layer;
            [*q, *k, *v, *o, *gate, *up, *down]
        };
        self.layers.iter().flat_map(of_layer).chain([self.head])
    }
}

/// The lists under construction.
struct Lister {
    parameters: Vec<ParameterSpec>,
    sites: Vec<Site>,
}

impl Lister {
    fn site(&mut self, module: &str, op: Op, layer: Option<usize>) -> SiteId {
        self.sites.push(Site { module: module.to_owned(), op, layer });
        SiteId(self.sites.len() - 1)
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.parameters.iter().position(|spec| spec.name == name)
    }

    fn weight(&self, module: &str) -> usize {
        let name = format!("{module}.weight");
        self.find(&name).unwrap_or_else(|| unreachable!("the configuration lists `{name}`"))
    }

    fn norm(&mut self, module: &str, op: Op, layer: Option<usize>) -> Norm {
        Norm { weight: self.weight(module), site: self.site(module, op, layer) }
    }

    fn linear(&mut self, module: &str, layer: usize) -> Linear {
        let bias = self.find(&format!("{module}.bias"));
        let site = self.site(module, Op::Linear, Some(layer));
        Linear { weight: self.weight(module), bias, site, adapter: None }
    }

    /// The head, whose weight is the embedding's where the two are tied.
    fn head(&mut self, tied: bool) -> Linear {
        let weight = self.weight(if tied { "model.embed_tokens" } else { "lm_head" });
        Linear { weight, bias: None, site: self.site("lm_head", Op::Linear, None), adapter: None }
    }

    fn layer(&mut self, layer: usize, config: &ModelConfig) -> Layer {
        let path = |module: &str| format!("model.layers.{layer}.{module}");
        let at = Some(layer);
        Layer {
            input_norm: self.norm(&path("input_layernorm"), Op::RmsNorm, at),
            q: self.linear(&path("self_attn.q_proj"), layer),
            k: self.linear(&path("self_attn.k_proj"), layer),
            v: self.linear(&path("self_attn.v_proj"), layer),
            qk_norm: config.qk_norm.then(|| {
                ["self_attn.q_norm", "self_attn.k_norm"].map(|norm| self.norm(&path(norm), Op::RmsNorm, at))
            }),
            scores: self.site(&path("self_attn.scores"), Op::Matmul, at),
            softmax: self.site(&path("self_attn.softmax"), Op::Softmax, at),
            values: self.site(&path("self_attn.values"), Op::Matmul, at),
            o: self.linear(&path("self_attn.o_proj"), layer),
            post_norm: self.norm(&path("post_attention_layernorm"), Op::RmsNorm, at),
            gate: self.linear(&path("mlp.gate_proj"), layer),
            act: self.act(&path("mlp.act_fn"), config.activation, at),
            up: self.linear(&path("mlp.up_proj"), layer),
            down: self.linear(&path("mlp.down_proj"), layer),
        }
    }

    fn act(&mut self, module: &str, activation: Activation, layer: Option<usize>) -> Act {
        let gelu = match activation {
            Activation::Silu => None,
            Activation::Gelu => Some(Approximation::Exact),
            Activation::GeluTanh => Some(Approximation::Tanh),
        };
        let op = if gelu.is_some() { Op::Gelu } else { Op::Silu };
        Act { gelu, site: self.site(module, op, layer) }
    }
}
