//! The parameters of a decoder: their names, as Hugging Face has them, and their shapes.

use super::{Experts, ModelConfig};

/// A parameter by name and shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterSpec {
    /// Such as `model.layers.0.mlp.up_proj.weight`.
    pub name: String,
    /// Extents, outermost first; a linear layer's weight is `[outputs, inputs]`.
    pub shape: Vec<usize>,
}

impl ModelConfig {
    /// Every parameter, in the order in which `transformers` registers them: embedding, layers, final norm, and the
    /// output projection unless it is the embedding.
    pub fn parameters(&self) -> Vec<ParameterSpec> {
        let mut list = List(Vec::new());
        list.push("model.embed_tokens.weight".to_owned(), &[self.vocab_size, self.hidden_size]);
        for layer in 0..self.layers {
            self.layer_parameters(layer, &mut list);
        }
        list.push("model.norm.weight".to_owned(), &[self.hidden_size]);
        if !self.tied_embeddings {
            list.push("lm_head.weight".to_owned(), &[self.vocab_size, self.hidden_size]);
        }
        list.0
    }

    /// The number of elements of all parameters together.
    pub fn parameter_count(&self) -> usize {
        let product =
            |shape: &[usize]| shape.iter().fold(1, |product: usize, &extent| product.saturating_mul(extent));
        self.parameters().iter().fold(0, |sum: usize, spec| sum.saturating_add(product(&spec.shape)))
    }

    fn layer_parameters(&self, layer: usize, list: &mut List) {
        let (hidden, layer_name) = (self.hidden_size, format!("model.layers.{layer}"));
        let (query, key) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let (attention, mlp) = (format!("{layer_name}.self_attn"), format!("{layer_name}.mlp"));
        list.linear(&attention, "q_proj", [query, hidden], self.qkv_bias);
        list.linear(&attention, "k_proj", [key, hidden], self.qkv_bias);
        list.linear(&attention, "v_proj", [key, hidden], self.qkv_bias);
        list.linear(&attention, "o_proj", [hidden, query], self.o_bias);
        if self.qk_norm {
            list.push(format!("{attention}.q_norm.weight"), &[self.head_dim]);
            list.push(format!("{attention}.k_norm.weight"), &[self.head_dim]);
        }
        match &self.experts {
            Some(experts) if self.per_layer[layer].sparse => self.mixture_parameters(&mlp, experts, list),
            _ => list.mlp(&mlp, [self.intermediate_size, hidden], self.mlp_bias),
        }
        list.push(format!("{layer_name}.input_layernorm.weight"), &[hidden]);
        list.push(format!("{layer_name}.post_attention_layernorm.weight"), &[hidden]);
    }

    fn mixture_parameters(&self, mlp: &str, experts: &Experts, list: &mut List) {
        let hidden = self.hidden_size;
        list.linear(mlp, "gate", [experts.count, hidden], false);
        for expert in 0..experts.count {
            list.mlp(&format!("{mlp}.experts.{expert}"), [experts.width, hidden], false);
        }
        if let Some(width) = experts.shared_width {
            list.mlp(&format!("{mlp}.shared_expert"), [width, hidden], false);
            list.linear(mlp, "shared_expert_gate", [1, hidden], false);
        }
    }
}

struct List(Vec<ParameterSpec>);

impl List {
    fn push(&mut self, name: String, shape: &[usize]) {
        self.0.push(ParameterSpec { name, shape: shape.to_vec() });
    }

    fn mlp(&mut self, parent: &str, [inner, hidden]: [usize; 2], bias: bool) {
        self.linear(parent, "gate_proj", [inner, hidden], bias);
        self.linear(parent, "up_proj", [inner, hidden], bias);
        self.linear(parent, "down_proj", [hidden, inner], bias);
    }

    fn linear(&mut self, parent: &str, name: &str, shape: [usize; 2], bias: bool) {
        self.push(format!("{parent}.{name}.weight"), &shape);
        if bias {
            self.push(format!("{parent}.{name}.bias"), &shape[..1]);
        }
    }
}
