//! Operators on devices that are not the host. A device brings some fifteen primitives, [`Kernels`]; every operator is one
//! composition of them, and errors enter between them. What a pass needs of tables is uploaded once, and the energies of
//! receipts stay on the device until somebody reads them.
//!
//! What no kernel does goes through the host: a rule that sums in a narrow format, a format in square blocks of an
//! activation, sites whose magnitudes or rounding errors somebody watches. The values are the same. A tap is shown what the
//! device computed.

pub mod attention;
#[cfg(feature = "cube")]
mod cube;
pub mod embedding;
pub mod head;
mod inject;
mod kernels;
pub mod linear;
pub mod norm;
mod open;
mod product;
pub mod silu;
mod tables;

pub use kernels::{Kernels, Layout, Place};
pub use open::*;
pub use product::{Ending, Noise};
pub(crate) use tables::OnDevice;
pub use tables::uploads;

#[cfg(feature = "cuda")]
pub use burn_cuda::{Cuda, CudaDevice};
#[cfg(feature = "vulkan")]
pub use burn_wgpu::{Vulkan, WgpuDevice};

use crate::{at::At, site::Point};

/// Whether the host has to compute an operator: sums that are rounded on the way, or somebody who watches what only it shows.
fn is_for_host(at: &At) -> bool {
    let sums = [Point::Output, Point::GradInput, Point::GradWeight];
    at.watch().is_of_host() || sums.into_iter().any(|point| at.accumulation(point).is_some())
}
