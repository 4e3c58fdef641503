//! Learning: from problems to rewards, from rewards to advantages, from log-probabilities to a loss and its derivative.
//!
//! Everything in these modules is a plain function of numbers: no tensors, no devices, no global state. What is drawn
//! at random is a function of a seed and an index.

pub mod advantage;
pub mod data;
pub mod learning_rate;
pub mod objective;
pub mod reward;
pub mod sampler;
pub mod schedule;
mod splitmix;
