//! The decoder: what a model is made of, how its files are read and written, and how it computes and generates.
//!
//! A [`Blueprint`] lists every parameter and every site of a model; a [`Decoder`] runs it on any backend that has
//! Hardy's instrumented operators, with the same code in rollouts, in training and in evaluation.

mod bind;
pub mod chat;
pub mod config;
pub mod decoder;
pub mod error;
pub mod files;
pub mod frozen;
pub mod generate;
pub mod lora;
mod narrow;
pub mod sites;
pub mod tokenizer;

pub use chat::{ChatTemplate, Message};
pub use config::{
    Activation, Architecture, Experts, LayerKind, ModelConfig, ParameterSpec, Qwen2Sizes, Rope, RopeScaling,
    Yarn,
};
pub use decoder::{Batch, Decoder, sequence_rows};
pub use error::{Error, Result};
pub use files::{Dtype, HostTensor, NamedTensor, TensorData, TensorFile};
pub use frozen::Frozen;
pub use generate::{Generation, Prompt, Sample, generate};
pub use hardy_ops::ops::sample::Sampler;
pub use lora::{Adapters, Dropout, Lora};
pub use sites::Blueprint;
pub use tokenizer::Tokenizer;
