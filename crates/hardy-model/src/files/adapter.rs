//! Low-rank adapters in PEFT's layout: `adapter_config.json` and `adapter_model.safetensors`, with the fingerprint of the
//! base model as one more key, which PEFT leaves alone.

use std::{ops::Deref, path::Path};

use hardy_ops::NoisyBackend;
use serde_json::{Map, Value, json};

use super::{Dtype, HostTensor, checkpoint::read_all, read_json, stored::Stored, write_json};
use crate::{
    Error, ParameterSpec, Result,
    decoder::Decoder,
    lora::{Adapters, Lora},
    sites::Blueprint,
};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const FINGERPRINT: &str = "hardy_base_fingerprint";

/// Whether `dir` holds adapters.
pub fn is_adapter(dir: &Path) -> bool {
    dir.join(CONFIG).exists()
}

/// What the adapters in `dir` look like, and the base that they name.
///
/// # Errors
/// A configuration that is missing, is not PEFT's, or asks for what is not supported.
pub fn read_adapter_config(dir: &Path) -> Result<Adapters> {
    let path = dir.join(CONFIG);
    let config = read_json(&path)?;
    refuse_unsupported(&path, &config)?;
    let number = |key: &str| {
        let wrong = || value(&path, key, &config, "a number");
        config.get(key).and_then(Value::as_f64).ok_or_else(wrong)
    };
    let text = |key: &str| config.get(key).and_then(Value::as_str).map(str::to_owned);
    let lora = Lora {
        rank: number("r")? as usize,
        alpha: number("lora_alpha")?,
        dropout: config.get("lora_dropout").and_then(Value::as_f64).unwrap_or(0.0),
        target_modules: target_modules(&path, &config)?,
    };
    lora.validate()?;
    let base = text("base_model_name_or_path")
        .ok_or_else(|| value(&path, "base_model_name_or_path", &config, "the base model"))?;
    Ok(Adapters { lora, base, fingerprint: text(FINGERPRINT).unwrap_or_default() })
}

fn target_modules(path: &Path, config: &Map<String, Value>) -> Result<Vec<String>> {
    let wrong = || value(path, "target_modules", config, "a list of module names, or \"all-linear\"");
    match config.get("target_modules") {
        Some(Value::String(all)) => Ok(vec![all.clone()]),
        Some(Value::Array(names)) => {
            names.iter().map(|name| name.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
        }
        _ => Err(wrong()),
    }
}

/// Refuses the kinds of PEFT that are not plain LoRA.
fn refuse_unsupported(path: &Path, config: &Map<String, Value>) -> Result<()> {
    let plain: [(&str, &[Value]); 7] = [
        ("peft_type", &[json!("LORA")]),
        ("bias", &[json!("none")]),
        ("use_dora", &[json!(false)]),
        ("use_rslora", &[json!(false)]),
        ("modules_to_save", &[json!(null), json!([])]),
        ("rank_pattern", &[json!({})]),
        ("alpha_pattern", &[json!({})]),
    ];
    for (key, allowed) in plain {
        if config.get(key).is_some_and(|found| !allowed.contains(found) && !found.is_null()) {
            return Err(value(path, key, config, &allowed[0].to_string()));
        }
    }
    Ok(())
}

/// Refuses a file with tensors besides `specs`, such as the biases of adapters: without them the logits would be others.
fn refuse_others(file: &Stored, specs: &[ParameterSpec]) -> Result<()> {
    match file.names().into_iter().find(|name| specs.iter().all(|spec| spec.name != *name)) {
        None => Ok(()),
        Some(name) => Err(Error::Lora(format!(
            "{}: holds `{name}`, but should hold only lora_A.weight and lora_B.weight of the target modules",
            file.path.display()
        ))),
    }
}

fn value(path: &Path, key: &str, config: &Map<String, Value>, wanted: &str) -> Error {
    let found = config.get(key).map_or_else(|| "missing".to_owned(), Value::to_string);
    Error::Value { path: path.to_owned(), key: key.to_owned(), found, wanted: wanted.to_owned() }
}

impl<B: NoisyBackend> Decoder<B> {
    /// The same decoder with the adapters in `dir`.
    ///
    /// # Errors
    /// Adapters that can not be read, do not fit, or were made for another base.
    pub fn with_adapter_from(self, dir: &Path) -> Result<Self> {
        let adapters = read_adapter_config(dir)?;
        let found = self.base().fingerprint();
        if !adapters.fingerprint.is_empty() && adapters.fingerprint != found {
            let (base, wanted) = (adapters.base, adapters.fingerprint);
            return Err(Error::OtherBase { path: dir.to_owned(), base, wanted, found });
        }
        let config = &self.blueprint.config;
        let blueprint = Blueprint::with_adapters(config, Adapters { fingerprint: found, ..adapters })?;
        let specs = &blueprint.parameters[blueprint.frozen..];
        let file = Stored::open(&dir.join(WEIGHTS))?;
        let tensors = read_all(&file, specs)?;
        refuse_others(&file, specs)?;
        Ok(self.with_adapter_tensors(tensors, blueprint))
    }

    /// Writes the adapters into `dir`, which exists; nothing without adapters.
    ///
    /// # Errors
    /// A file that can not be written.
    pub fn save_adapter(&self, dir: &Path) -> Result<()> {
        let Some(Adapters { lora, base, fingerprint }) = &self.blueprint.adapters else { return Ok(()) };
        let targets = match &lora.target_modules[..] {
            [all] if all == crate::lora::ALL_LINEAR => json!(all),
            names => json!(names),
        };
        let config = json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": lora.rank,
            "lora_alpha": lora.alpha,
            "lora_dropout": lora.dropout,
            "target_modules": targets,
            "bias": "none",
            "fan_in_fan_out": false,
            "init_lora_weights": true,
            "inference_mode": true,
            FINGERPRINT: fingerprint,
        });
        self.write_trained(&dir.join(WEIGHTS), Dtype::F32)?;
        write_json(&dir.join(CONFIG), &config)
    }
}

/// A fingerprint of parameters: 64 bits of FNV-1a over their names and the bits of their values.
#[must_use]
pub fn fingerprint(parameters: &[HostTensor]) -> String {
    fingerprint_of(parameters.iter().map(|parameter| (parameter.name.as_str(), parameter.data.as_slice())))
}

/// The same of parameters that come one by one.
pub(super) fn fingerprint_of<'a, D: Deref<Target = [f32]>>(
    parameters: impl Iterator<Item = (&'a str, D)>,
) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |word: u64| hash = (hash ^ word).wrapping_mul(0x0100_0000_01b3);
    for (name, data) in parameters {
        name.bytes().for_each(|byte| add(u64::from(byte)));
        data.iter().for_each(|value| add(u64::from(value.to_bits())));
    }
    format!("{hash:016x}")
}
