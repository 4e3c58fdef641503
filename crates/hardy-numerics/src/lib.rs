//! What a numerical error is: addressed noise, perturbations and error metrics, as plain functions on slices.
//!
//! Noise is addressed, not drawn: a value is a pure function of where it enters (see [`address`]), so results do not
//! depend on threads, on batching or on the SIMD level of the machine. Nothing here knows of tensors or devices.
//!
//! ```
//! use hardy_numerics::{NoiseKey, Perturbation, Row};
//!
//! let key = NoiseKey::new(0, "rollout", 7, "model.layers.3.mlp.down_proj/linear/output/forward/0");
//! let five_percent = Perturbation::RelativeGaussian { scale: 0.05 };
//! let mut activations = vec![1.0; 4096];
//! let energy = five_percent.apply(key, Row { sequence: 1, position: 0 }, 0, &mut activations);
//! assert!((energy.relative() - 0.05).abs() < 0.005);
//! ```

pub mod address;
mod energy;
pub mod formats;
pub mod gaussian;
pub mod math;
pub mod metrics;
pub mod perturb;
pub mod philox;
mod precision;
mod random;
pub mod simd;

pub use address::{Keys, NoiseKey, Row};
pub use energy::ErrorEnergy;
pub use formats::Format;
pub use formats::pack::PackError;
pub use gaussian::fill_gaussian;
pub use metrics::{ErrorMetrics, ErrorSums};
pub use perturb::{
    Accumulation, Bits, Blocks, Chance, Fault, Image, OptionError, Options, Partial, Perturbation,
    Quantization, Rounding,
};
pub use precision::Precision;
pub use random::fill_uniform;
