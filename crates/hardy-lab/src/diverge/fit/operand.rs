//! Linear layers of a dump together with what they read: the tensor of that name where the dump has it (msprobe's inputs),
//! else the output of what stands before them in a decoder's layer.

use std::collections::HashMap;

use burn_tensor::{Tensor, TensorData};
use hardy_model::Decoder;
use hardy_ops::{At, Noise, NoisyBackend, Op, Row, Rows, SiteId, ops::linear::linear};

use super::{Class, Kind, Own, noise_of};
use crate::{
    diverge::{
        dump::{Dump, Entry, Matrix},
        name::{Place, Side, bare},
    },
    error::LabError,
};

/// A linear layer with what it read and wrote, `[tokens, in]` and `[tokens, out]`, padding left out.
pub struct Product<'a, B: NoisyBackend> {
    pub module: String,
    pub layer: Option<usize>,
    decoder: &'a Decoder<B>,
    site: SiteId,
    weight: Tensor<B, 2>,
    bias: Option<Tensor<B, 2>>,
    x: Tensor<B, 2>,
    rows: Rows,
    /// What the machine wrote.
    pub seen: Vec<f32>,
    /// What Hardy makes of the same input, without errors.
    pub exact: Vec<f32>,
}

impl<B: NoisyBackend> Product<'_, B> {
    /// What Hardy makes of the same input under `kind`.
    ///
    /// # Errors
    /// A kind that can not be at a linear layer.
    pub fn under(&self, kind: &Kind) -> Result<Vec<f32>, LabError> {
        let class = if self.layer.is_some() { Class::Linear } else { Class::Head };
        let mut rules = kind.rules(class);
        rules.iter_mut().for_each(|rule| rule.modules.clone_from(&self.module));
        let noise = noise_of(rules, &self.decoder.blueprint.sites)?;
        Ok(self.compute(&self.decoder.at(&noise, self.site, &self.rows)))
    }

    fn compute(&self, at: &At) -> Vec<f32> {
        let y = linear(self.x.clone(), self.weight.clone(), self.bias.clone(), at);
        B::host(&y.into_primitive().tensor()).to_vec()
    }

    /// ‖seen − exact‖₂/‖exact‖₂.
    pub fn relative(&self) -> f64 {
        hardy_numerics::ErrorMetrics::measure(&self.exact, &self.seen).relative_rms
    }

    /// The operator's own error.
    pub fn own(&self) -> Own {
        Own { module: self.module.clone(), layer: self.layer, op: Op::Linear, relative: self.relative() }
    }
}

/// The linear layers of `decoder` that `dump` holds with what they read.
pub fn products<'a, B: NoisyBackend>(
    decoder: &'a Decoder<B>,
    dump: &Dump,
) -> Result<Vec<Product<'a, B>>, LabError> {
    let entries: HashMap<(&str, Side), &Entry> = dump
        .entries
        .iter()
        .rev()
        .filter(|entry| entry.place.index == 0)
        .map(|entry| {
            let Place { module, side, .. } = &entry.place;
            ((module.as_str(), *side), entry)
        })
        .collect();
    let blueprint = &decoder.blueprint;
    let device = decoder.parameters[0].device();
    let mut found = Vec::new();
    for (id, weight, bias) in blueprint.weights() {
        let site = &blueprint.sites[id.0];
        let module = bare(&site.module);
        if site.op != Op::Linear || module.contains(".experts.") || module.contains(".lora_") {
            continue;
        }
        let Some(seen) = entries.get(&(module.as_str(), Side::Output)) else { continue };
        let Some(x) = input(&entries, &module, dump.mask.as_ref())? else { continue };
        let Some(seen) = rows_of(seen, dump.mask.as_ref())? else { continue };
        let [outer, inner] = [0, 1].map(|axis| blueprint.parameters[weight].shape[axis]);
        let tokens = x.len() / inner.max(1);
        if tokens * inner != x.len() || tokens * outer != seen.len() {
            return Err(LabError::Diverge(format!(
                "{}: {} reads {} values and writes {}, which is no [tokens, {inner}] and [tokens, {outer}] of this model",
                dump.source,
                site.module,
                x.len(),
                seen.len()
            )));
        }
        let rows: Rows = (0..tokens as u32).map(|position| Row { sequence: 0, position }).collect();
        let mut product = Product {
            module: site.module.clone(),
            layer: site.layer,
            decoder,
            site: id,
            weight: decoder.weight_at(id, weight),
            bias: bias.map(|bias| decoder.parameters[bias].clone()),
            x: Tensor::from_data(TensorData::new(x, [tokens, inner]), &device),
            rows,
            seen,
            exact: Vec::new(),
        };
        product.exact = product.compute(&decoder.at(&Noise::clean(), id, &product.rows));
        found.push(product);
    }
    Ok(found)
}

/// What `module` reads.
fn input(
    entries: &HashMap<(&str, Side), &Entry>,
    module: &str,
    mask: Option<&Matrix>,
) -> Result<Option<Vec<f32>>, LabError> {
    let of = |module: &str, side| entries.get(&(module, side)).map_or(Ok(None), |entry| rows_of(entry, mask));
    if let Some(x) = of(module, Side::Input)? {
        return Ok(Some(x));
    }
    let (parent, name) = module.rsplit_once('.').unwrap_or(("", module));
    let layer = parent.rsplit_once('.').map_or("", |(layer, _)| layer);
    match name {
        "q_proj" | "k_proj" | "v_proj" => of(&format!("{layer}.input_layernorm"), Side::Output),
        "o_proj" => of(&format!("{parent}.values"), Side::Output),
        "gate_proj" | "up_proj" => of(&format!("{layer}.post_attention_layernorm"), Side::Output),
        "down_proj" => {
            let [act, up] = [format!("{parent}.act_fn"), format!("{parent}.up_proj")];
            let (Some(act), Some(up)) = (of(&act, Side::Output)?, of(&up, Side::Output)?) else {
                return Ok(None);
            };
            Ok((act.len() == up.len()).then(|| act.iter().zip(&up).map(|(a, b)| a * b).collect()))
        }
        "lm_head" => of("norm", Side::Output),
        _ => Ok(None),
    }
}

/// The rows of a tensor that the mask shows; `None` where only statistics were kept.
fn rows_of(entry: &Entry, mask: Option<&Matrix>) -> Result<Option<Vec<f32>>, LabError> {
    let Some(values) = entry.elements()? else { return Ok(None) };
    let packed = mask.and_then(|mask| crate::diverge::matching::pack(&values, &entry.shape, mask));
    Ok(Some(packed.unwrap_or_else(|| values.into_owned())))
}
