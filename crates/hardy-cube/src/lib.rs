//! The kernels of devices: what hardy-numerics and hardy-ops do on slices, in CubeCL. The same errors enter at the same
//! addresses: random integers and number formats are equal to the bit, and so is every sum that has one order.
//!
//! A kernel is a function of a client, handles and sizes that gives handles; nothing waits for the device. The crate is
//! empty without the feature `kernels`; `vulkan` and `cuda` bring a runtime to run them on.
#![cfg(feature = "kernels")]
// The language of kernels has fewer methods than Rust, and conditions of two kinds: of compilation, and of the run.
#![allow(
    clippy::assign_op_pattern,
    clippy::collapsible_if,
    clippy::manual_div_ceil,
    clippy::manual_is_multiple_of
)]

pub mod attention;
pub mod device;
mod exact;
mod formats;
mod gaussian;
mod image;
mod lanes;
pub mod log_prob;
mod math;
pub mod matmul;
pub mod norm;
pub mod perturb;
mod philox;
mod precision;
pub mod rotary;
pub mod rows;
pub mod rule;
pub mod sample;
pub mod swiglu;
pub mod tally;
#[cfg(all(test, any(feature = "vulkan", feature = "cuda")))]
mod testing;

pub use exact::Arithmetic;
