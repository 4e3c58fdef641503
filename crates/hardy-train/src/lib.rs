//! Learning: from problems to rewards, from rewards to advantages, from log-probabilities to a loss and its derivative.
//!
//! The pure parts (rewards, advantages, objectives, schedules, samplers) are plain functions of numbers: no tensors, no
//! devices, no global state. [`trainer`] and [`sft`] are the loops that use them, each to be read from top to bottom.

pub mod adamw;
pub mod admission;
pub mod advantage;
pub mod algorithm;
pub mod builtin;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod diagnosis;
pub mod digest;
pub mod early_word;
pub mod encode;
pub mod error;
pub mod gradients;
pub mod learned_sigma;
pub mod learning_rate;
pub mod machine;
pub mod memory;
pub mod objective;
pub mod plan_file;
pub mod policy;
pub mod presets;
pub mod recording;
pub mod reward;
pub mod rollout;
pub mod sampler;
pub mod scan_file;
pub mod schedule;
pub mod sequence;
pub mod sft;
pub mod splitmix;
pub mod step_record;
pub mod toml_errors;
pub mod trainer;
pub mod tree;
pub mod workers;
