//! The run that a model is a checkpoint of: `RUN/checkpoints/step-N`, and what that run asked its model.

use std::path::{Path, PathBuf};

use hardy_numerics::Precision;
use hardy_train::{config::RunConfig, sft::SftConfig};

use crate::failure::Failure;

/// The run of a checkpoint.
#[derive(Debug)]
pub struct CheckpointRun {
    /// Its directory.
    pub directory: PathBuf,
    /// Its configuration.
    pub config: RunConfig,
}

impl CheckpointRun {
    /// The run that `model` is a checkpoint of; `None` where it is none.
    ///
    /// # Errors
    /// A configuration that can not be read.
    pub fn of(model: &Path) -> Result<Option<Self>, Failure> {
        let Ok(model) = model.canonicalize() else { return Ok(None) };
        let Some(folder) = model.parent().filter(|folder| folder.ends_with("checkpoints")) else {
            return Ok(None);
        };
        let Some(directory) = folder.parent().filter(|run| run.join("config.toml").is_file()) else {
            return Ok(None);
        };
        let config = RunConfig::load(&directory.join("config.toml").display().to_string(), &[])?;
        Ok(Some(Self { directory: directory.to_owned(), config }))
    }
}

/// The arithmetic of the run that `model` is a checkpoint of, or that `hardy sft` made it in; `None` where it is of none.
///
/// # Errors
/// A configuration that can not be read.
pub fn precision(model: &Path) -> Result<Option<Precision>, Failure> {
    if let Some(run) = CheckpointRun::of(model)? {
        return Ok(Some(run.config.precision));
    }
    let Ok(model) = model.canonicalize() else { return Ok(None) };
    let on_the_way = model.parent().filter(|folder| folder.ends_with("checkpoints")).and_then(Path::parent);
    let files =
        std::iter::once(model.as_path()).chain(on_the_way).map(|directory| directory.join("sft.toml"));
    let file = files.into_iter().find(|file| file.is_file());
    Ok(file
        .map(|file| SftConfig::load(&file.display().to_string(), &[]))
        .transpose()?
        .map(|sft| sft.precision))
}
