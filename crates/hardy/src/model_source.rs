//! Naming a model on the command line: a Hugging Face directory, or `builtin:tiny`.

use std::path::PathBuf;

use clap::Args;
use hardy_model::Decoder;
use hardy_train::policy::decoder_from_dir;

use crate::{
    device::{Backend, DeviceArgs},
    failure::Failure,
};

/// Which model, on which device.
#[derive(Clone, Debug, Args)]
pub struct ModelArgs {
    /// The model: a Hugging Face directory, adapters in PEFT's layout, or `builtin:tiny`
    #[arg(long = "model", value_name = "DIR")]
    pub spec: String,
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

    /// Reads the decoder.
    ///
    /// # Errors
    /// Files that are missing, truncated, or do not fit each other.
    pub fn decoder(&self) -> Result<Decoder<Backend>, Failure> {
        Ok(decoder_from_dir(&self.directory()?, &self.device.device())?)
    }
}
