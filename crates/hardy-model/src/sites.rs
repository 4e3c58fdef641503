//! Every parameter and every site of a decoder, listed from its configuration: the map by which the forward pass
//! finds its weights and its errors, and by which a plan is bound.

use std::collections::HashMap;

use hardy_numerics::Precision;
use hardy_ops::{
    Op, Site, SiteId,
    ops::{attention::Heads, gelu::Approximation},
};

use crate::{
    Error, Result,
    config::{Activation, Experts, LayerKind, ModelConfig, ParameterSpec},
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

/// An MLP whose gate decides what of its other input goes on: one layer's, or one expert's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gated {
    pub gate: Linear,
    pub act: Act,
    pub up: Linear,
    pub down: Linear,
}

/// A mixture of experts: the router, its softmax, the experts, and the one that all tokens share with its gate.
#[derive(Clone, Debug)]
pub(crate) struct Mixture {
    pub router: Linear,
    pub softmax: SiteId,
    pub experts: Vec<Gated>,
    pub shared: Option<(Gated, Linear)>,
    pub per_token: usize,
    pub normalised: bool,
}

/// What follows attention in a layer.
#[derive(Clone, Debug)]
pub(crate) enum Mlp {
    Dense(Gated),
    Mixture(Mixture),
}

/// One decoder layer.
#[derive(Clone, Debug)]
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
    pub mlp: Mlp,
    /// What it has that other layers may not have.
    pub kind: LayerKind,
}

impl Gated {
    fn linears_mut(&mut self) -> [&mut Linear; 3] {
        [&mut self.gate, &mut self.up, &mut self.down]
    }
}

impl Layer {
    /// Its linear layers, adapters left out.
    fn linears(&self) -> Vec<Linear> {
        self.clone().linears_mut().into_iter().map(|part| *part).collect()
    }

    fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut all = vec![&mut self.q, &mut self.k, &mut self.v, &mut self.o];
        match &mut self.mlp {
            Mlp::Dense(mlp) => all.extend(mlp.linears_mut()),
            Mlp::Mixture(Mixture { router, experts, shared, .. }) => {
                all.push(router);
                all.extend(experts.iter_mut().flat_map(Gated::linears_mut));
                if let Some((mlp, gate)) = shared {
                    all.extend(mlp.linears_mut());
                    all.push(gate);
                }
            }
        }
        all
    }

    /// Those that adapters may stand beside: all but the router and the shared expert's gate.
    fn adaptable(&mut self) -> Vec<&mut Linear> {
        let fixed: Vec<SiteId> = match &self.mlp {
            Mlp::Dense(_) => Vec::new(),
            Mlp::Mixture(mixture) => {
                let gate = mixture.shared.as_ref().map(|(_, gate)| gate.site);
                std::iter::once(mixture.router.site).chain(gate).collect()
            }
        };
        self.linears_mut().into_iter().filter(|part| !fixed.contains(&part.site)).collect()
    }
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
    /// The arithmetic of its products.
    pub precision: Precision,
    pub(crate) embedding: Norm,
    pub(crate) layers: Vec<Layer>,
    pub(crate) norm: Norm,
    pub(crate) head: Linear,
    pub(crate) heads: Heads,
}

impl Blueprint {
    /// Lists the parameters and sites of a decoder.
    pub fn new(config: &ModelConfig) -> Self {
        let parameters = config.parameters();
        let places = parameters.iter().enumerate().map(|(at, spec)| (spec.name.clone(), at)).collect();
        let mut list = Lister { places, sites: Vec::new() };
        let embedding = list.norm("model.embed_tokens", Op::Embedding, None);
        let layers = (0..config.layers).map(|layer| list.layer(layer, config)).collect();
        let norm = list.norm("model.norm", Op::RmsNorm, None);
        let head = list.head(config.tied_embeddings);
        let heads = Heads { query: config.heads, kv: config.kv_heads, dim: config.head_dim };
        let sites = list.sites;
        let (config, frozen, adapters, precision) = (config.clone(), 0, None, Precision::F32);
        Self { config, parameters, sites, frozen, adapters, precision, embedding, layers, norm, head, heads }
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
            for part in layer.adaptable() {
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
        let linears = self.layers.iter().flat_map(|layer| {
            let last = |part: &mut Linear| self.sites[part.site.0].module.rsplit('.').next();
            layer.clone().adaptable().into_iter().filter_map(last).collect::<Vec<&str>>()
        });
        let mut known: Vec<&str> = Vec::new();
        linears.for_each(|name| {
            if !known.contains(&name) {
                known.push(name)
            }
        });
        let exists = |target: &&String| *target == ALL_LINEAR || known.contains(&target.as_str());
        match lora.target_modules.iter().find(|target| !exists(target)) {
            None => Ok(()),
            Some(target) => Err(Error::Lora(format!(
                "`target_modules` names `{target}`, but the linear layers are {}, or {ALL_LINEAR} for all",
                known.join(", ")
            ))),
        }
    }

    /// The site of the embedding.
    pub fn embedding_site(&self) -> SiteId {
        self.embedding.site
    }

    /// Every site with a weight, in their order, with the places of its weight and bias among the parameters.
    pub fn weights(&self) -> Vec<(SiteId, usize, Option<usize>)> {
        let norms = self.layers.iter().flat_map(|layer| {
            let Layer { input_norm, post_norm, qk_norm, .. } = layer;
            [*input_norm, *post_norm].into_iter().chain(qk_norm.iter().flatten().copied())
        });
        let norms = norms.chain([self.embedding, self.norm]).map(|norm| (norm.site, norm.weight, None));
        let factors = |part: &Linear| part.adapter.into_iter().flat_map(|adapter| [adapter.a, adapter.b]);
        let linears = self.linears().flat_map(|part| {
            std::iter::once(part).chain(factors(&part).map(Factor::linear)).collect::<Vec<_>>()
        });
        let linears = linears.map(|part| (part.site, part.weight, part.bias));
        let mut weights: Vec<_> = norms.chain(linears).collect();
        weights.sort_by_key(|(site, ..)| *site);
        weights
    }

    /// Every linear layer, adapters left out, the head last.
    pub(crate) fn linears(&self) -> impl Iterator<Item = Linear> {
        self.layers.iter().flat_map(Layer::linears).chain([self.head])
    }
}

/// The lists under construction.
struct Lister {
    /// Where every parameter stands, by name.
    places: HashMap<String, usize>,
    sites: Vec<Site>,
}

impl Lister {
    fn site(&mut self, module: &str, op: Op, layer: Option<usize>) -> SiteId {
        self.sites.push(Site { module: module.to_owned(), op, layer });
        SiteId(self.sites.len() - 1)
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.places.get(name).copied()
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
            mlp: self.mlp(&path("mlp"), layer, config),
            kind: config.per_layer[layer],
        }
    }

    fn mlp(&mut self, path: &str, layer: usize, config: &ModelConfig) -> Mlp {
        match config.experts {
            Some(experts) if config.per_layer[layer].sparse => {
                Mlp::Mixture(self.mixture(path, layer, (config, experts)))
            }
            _ => Mlp::Dense(self.gated(path, layer, config)),
        }
    }

    fn gated(&mut self, path: &str, layer: usize, config: &ModelConfig) -> Gated {
        Gated {
            gate: self.linear(&format!("{path}.gate_proj"), layer),
            act: self.act(&format!("{path}.act_fn"), config.activation, Some(layer)),
            up: self.linear(&format!("{path}.up_proj"), layer),
            down: self.linear(&format!("{path}.down_proj"), layer),
        }
    }

    fn mixture(&mut self, path: &str, layer: usize, (config, experts): (&ModelConfig, Experts)) -> Mixture {
        let router = self.linear(&format!("{path}.gate"), layer);
        let softmax = self.site(&format!("{path}.softmax"), Op::Softmax, Some(layer));
        let one = |expert| self.gated(&format!("{path}.experts.{expert}"), layer, config);
        let all = (0..experts.count).map(one).collect();
        let shared = experts.shared_width.map(|_| {
            let mlp = self.gated(&format!("{path}.shared_expert"), layer, config);
            (mlp, self.linear(&format!("{path}.shared_expert_gate"), layer))
        });
        let Experts { per_token, normalised, .. } = experts;
        Mixture { router, softmax, experts: all, shared, per_token, normalised }
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
