//! A policy: a decoder with what turns problems into prompts and tokens into answers.

use std::path::{Path, PathBuf};

use burn_tensor::{Tensor, TensorData};
use hardy_model::{
    ChatTemplate, Decoder, Dtype, Tokenizer,
    files::{is_adapter, read_adapter_config},
};
use hardy_numerics::Precision;
use hardy_ops::{Noise, NoisyBackend};

use crate::{
    builtin,
    error::{Error, Result},
    sequence::Packed,
};

/// A decoder, its tokenizer and its chat template.
#[derive(Clone, Debug)]
pub struct Policy<B: NoisyBackend> {
    /// The decoder.
    pub decoder: Decoder<B>,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// How a question becomes a prompt; without one, the question is the prompt.
    pub template: Option<ChatTemplate>,
    /// The system's message, where a problem has none of its own.
    pub system: Option<String>,
    /// The longest sequence that it is given, in tokens: what the model was made for, or what somebody vouched for.
    pub max_positions: usize,
}

/// Reads the decoder in a Hugging Face directory, or that of adapters, in PEFT's layout, on the base that they name.
///
/// # Errors
/// Files that are missing, truncated, or do not fit each other; adapters for another base.
pub fn decoder_from_dir<B: NoisyBackend>(dir: &Path, device: &B::Device) -> Result<Decoder<B>> {
    with_adapters(dir, |base| Decoder::from_dir(base, device))
}

/// The same, to be read and not to be trained; see [`Decoder::as_stored`].
///
/// # Errors
/// As [`decoder_from_dir`].
pub fn decoder_as_stored<B: NoisyBackend>(dir: &Path, device: &B::Device) -> Result<Decoder<B>> {
    with_adapters(dir, |base| Decoder::as_stored(base, device))
}

fn with_adapters<B: NoisyBackend>(
    dir: &Path,
    read: impl Fn(&Path) -> hardy_model::Result<Decoder<B>>,
) -> Result<Decoder<B>> {
    if !is_adapter(dir) {
        return Ok(read(dir)?);
    }
    Ok(read(&base_dir(dir)?)?.with_adapter_from(dir)?)
}

/// The directory of the base that the adapters in `dir` name; as in PEFT, a relative one is sought from where the
/// program runs.
pub(crate) fn base_dir(dir: &Path) -> Result<PathBuf> {
    let base = read_adapter_config(dir)?.base;
    let resolved = builtin::resolve(&base)?;
    if resolved.join("config.json").exists() {
        return Ok(resolved);
    }
    Err(Error::config(format!(
        "{}: the adapters' base is `{base}`, and no model is there; call hardy from where that path leads to it, or \
         change `base_model_name_or_path` in adapter_config.json",
        dir.display()
    )))
}

impl<B: NoisyBackend> Policy<B> {
    /// Reads a Hugging Face directory, or one of adapters in PEFT's layout.
    ///
    /// # Errors
    /// Files that are missing, truncated, or do not fit each other.
    pub fn from_dir(dir: &Path, device: &B::Device) -> Result<Self> {
        Self::of(decoder_from_dir(dir, device)?, dir)
    }

    /// The same, to be read and not to be trained; see [`Decoder::as_stored`].
    ///
    /// # Errors
    /// As [`Policy::from_dir`].
    pub fn as_stored(dir: &Path, device: &B::Device) -> Result<Self> {
        Self::of(decoder_as_stored(dir, device)?, dir)
    }

    fn of(decoder: Decoder<B>, dir: &Path) -> Result<Self> {
        let own = |file: &str| dir.join(file).exists();
        let texts = if is_adapter(dir) && !own("tokenizer.json") { base_dir(dir)? } else { dir.to_owned() };
        Ok(Self {
            max_positions: decoder.blueprint.config.max_positions,
            decoder,
            tokenizer: Tokenizer::from_dir(&texts)?,
            template: ChatTemplate::from_dir(&texts)?,
            system: None,
        })
    }

    /// The same policy for sequences of up to `most` tokens, where that is given.
    #[must_use]
    pub fn with_max_positions(self, most: Option<usize>) -> Self {
        Self { max_positions: most.unwrap_or(self.max_positions), ..self }
    }

    /// The same policy, whose products are computed in `precision`.
    #[must_use]
    pub fn in_precision(self, precision: Precision) -> Self {
        Self { decoder: self.decoder.in_precision(precision), ..self }
    }

    /// The same policy, asked under a system's message.
    #[must_use]
    pub fn with_system(self, system: Option<String>) -> Self {
        Self { system, ..self }
    }

    /// Writes a directory that exists: a whole Hugging Face model, or only the adapters where there are any.
    ///
    /// # Errors
    /// A file that can not be written.
    pub fn save(&self, dir: &Path, dtype: Dtype) -> Result<()> {
        self.tokenizer.save(dir)?;
        if let Some(template) = &self.template {
            template.save(dir)?;
        }
        if self.decoder.blueprint.adapters.is_some() {
            return Ok(self.decoder.save_adapter(dir)?);
        }
        let mut config = self.decoder.blueprint.config.clone();
        config.dtype = dtype;
        config.save(dir)?;
        Ok(self.decoder.write_parameters(&dir.join("model.safetensors"), dtype)?)
    }

    /// The same policy with its weights as they would be after being written as `dtype`.
    #[must_use]
    pub fn stored_as(&self, dtype: Dtype) -> Self {
        Self { decoder: self.decoder.stored_as(dtype), ..self.clone() }
    }

    /// The same policy with its adapters merged into the weights.
    #[must_use]
    pub fn merged(self) -> Self {
        Self { decoder: self.decoder.merged(), ..self }
    }

    /// The tokens that end a response.
    pub fn stop(&self) -> Vec<u32> {
        let mut stop = self.decoder.blueprint.config.eos_token_ids.clone();
        stop.extend(self.tokenizer.eos().filter(|eos| !stop.contains(eos)));
        stop
    }
}

/// The log-probability of every response token of `packed` and the entropy, in nats, of the distribution that it
/// stands in: `[tokens, 2]`.
pub fn log_probs<B: NoisyBackend>(
    decoder: &Decoder<B>,
    packed: &Packed,
    noise: &Noise,
    temperature: f32,
) -> Tensor<B, 2> {
    let hidden = decoder.hidden(&packed.batch, noise);
    decoder.log_probs(hidden, &packed.batch, &packed.rows, (&packed.targets, temperature), noise)
}

/// The two columns of what [`log_probs`] gives, on the host.
pub fn columns<B: NoisyBackend>(x: &Tensor<B, 2>) -> [Vec<f32>; 2] {
    let host = B::host(&x.clone().into_primitive().tensor());
    [0, 1].map(|column| host.iter().skip(column).step_by(2).copied().collect())
}

/// A tensor `[tokens, 2]` of two columns; one that is missing is 0.
///
/// # Panics
/// If the columns differ in length.
pub fn from_columns<B: NoisyBackend>(
    first: &[f32],
    second: Option<&[f32]>,
    device: &B::Device,
) -> Tensor<B, 2> {
    assert!(second.is_none_or(|second| second.len() == first.len()), "columns of one length");
    let second = |row: usize| second.map_or(0.0, |second| second[row]);
    let pairs: Vec<f32> = first.iter().enumerate().flat_map(|(row, &x)| [x, second(row)]).collect();
    Tensor::from_data(TensorData::new(pairs, [first.len(), 2]), device)
}
