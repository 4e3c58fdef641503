//! Objectives: from the log-probabilities of the sampled tokens to a loss and its derivative.
//!
//! Tokens of all sequences lie flat, one sequence after the other, and only response tokens are in there. Every
//! aggregation is linear in the tokens' losses, so it is a weight per token ([`Mean::weights`]), and a batch can be
//! worked through in parts whose losses and derivatives add up.

mod aggregate;
mod clipped_surrogate;
mod entropy;
mod gspo;
mod importance;
mod kl;
mod score_centering;

pub use aggregate::Mean;
pub use clipped_surrogate::{Clip, Loss, Tokens, clipped_surrogate};
pub use entropy::add_entropy;
pub use gspo::gspo;
pub use importance::{Mismatch, masked_weights, truncated_weights};
pub use kl::{KlEstimator, add_kl, kl_penalty};
pub use score_centering::{Correction, Derivatives, centered};
