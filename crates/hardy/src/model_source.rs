//! Naming a model on the command line: a Hugging Face directory, or `builtin:tiny`.

use std::path::PathBuf;

use clap::Args;
use hardy_model::Decoder;
use hardy_numerics::Precision;
use hardy_train::{
    encode::most_positions,
    policy::{Policy, decoder_as_stored, decoder_from_dir},
};

use crate::{
    checkpoint_run,
    device::{DeviceArgs, Engine},
    failure::Failure,
    number_args::whole,
};

/// Which model, on which device.
#[derive(Clone, Debug, Args)]
pub struct ModelArgs {
    /// The model: a Hugging Face directory, adapters in PEFT's layout, or `builtin:tiny`
    #[arg(long = "model", value_name = "DIR")]
    pub spec: String,
    /// The longest sequence, in tokens [default: max_position_embeddings in the model's config.json]
    #[arg(long, value_name = "N", value_parser = whole::<usize>("model.max_positions"))]
    pub max_positions: Option<usize>,
    /// What the operands of every product are rounded to, f32 or bf16 [default: as the run whose checkpoint the model is, else
    /// f32]
    #[arg(long, value_name = "PRECISION")]
    pub precision: Option<Precision>,
    #[command(flatten)]
    pub device: DeviceArgs,
}

impl ModelArgs {
    /// The directory with the model's files.
    ///
    /// # Errors
    /// An unknown `builtin:` name.
    pub fn directory(&self) -> Result<PathBuf, Failure> {
        Ok(hardy_train::builtin::resolve(&self.spec)?)
    }

    /// The arithmetic of products: as asked, else that of the run whose checkpoint the model is.
    ///
    /// # Errors
    /// An unknown `builtin:` name, or a run's configuration that can not be read.
    pub fn precision(&self) -> Result<Precision, Failure> {
        let of_run = || Ok(checkpoint_run::precision(&self.directory()?)?.unwrap_or_default());
        self.precision.map_or_else(of_run, Ok)
    }

    /// Reads the decoder.
    ///
    /// # Errors
    /// Files that are missing, truncated, or do not fit each other; a device that can not be used.
    pub fn decoder<B: Engine>(&self) -> Result<Decoder<B>, Failure> {
        let decoder = decoder_from_dir(&self.directory()?, &B::open(self.device.device)?)?;
        Ok(decoder.in_precision(self.precision()?))
    }

    /// Reads the decoder to be read and not to be trained: in half the memory where it is stored in bfloat16.
    ///
    /// # Errors
    /// As [`ModelArgs::decoder`].
    pub fn decoder_as_stored<B: Engine>(&self) -> Result<Decoder<B>, Failure> {
        let decoder = decoder_as_stored(&self.directory()?, &B::open(self.device.device)?)?;
        Ok(decoder.in_precision(self.precision()?))
    }

    /// The same of a policy.
    ///
    /// # Errors
    /// As [`ModelArgs::decoder`].
    pub fn policy_as_stored<B: Engine>(&self) -> Result<Policy<B>, Failure> {
        let policy = Policy::as_stored(&self.directory()?, &B::open(self.device.device)?)?;
        Ok(policy.with_max_positions(self.max_positions).in_precision(self.precision()?))
    }

    /// Reads the policy: the decoder, its tokenizer and its chat template.
    ///
    /// # Errors
    /// As [`ModelArgs::decoder`].
    pub fn policy<B: Engine>(&self) -> Result<Policy<B>, Failure> {
        let policy = Policy::from_dir(&self.directory()?, &B::open(self.device.device)?)?;
        Ok(policy.with_max_positions(self.max_positions).in_precision(self.precision()?))
    }

    /// Refuses sequences of `longest` tokens where they are longer than the model can be given; `what` has them.
    ///
    /// # Errors
    /// They are.
    pub fn refuse_longer<B: Engine>(
        &self,
        decoder: &Decoder<B>,
        longest: usize,
        what: &str,
    ) -> Result<(), Failure> {
        let most = self.max_positions.unwrap_or(decoder.blueprint.config.max_positions);
        if longest <= most {
            return Ok(());
        }
        Err(Failure::input(format!("{what} has {longest} tokens, {}", most_positions(most))))
    }
}
