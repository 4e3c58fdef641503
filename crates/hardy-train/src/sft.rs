//! Supervised fine-tuning: the log-likelihood of worked answers, for warming up a base model, from a checkpoint or
//! from nothing.

mod config;
mod fresh;
mod record;
mod trainer;

pub use config::{NewModel, SftCheckpoint, SftConfig, SftModel, SftTrain};
pub use fresh::initial_weights;
pub use record::SftRecord;
pub use trainer::SftTrainer;
