//! Where tensors live and are computed.

use burn_flex::{Flex, FlexDevice};
use clap::Args;

/// The tensor engine of this build.
pub type Backend = Flex;

/// The devices that other builds of Hardy have.
const ELSEWHERE: [&str; 4] = ["cuda", "vulkan", "metal", "rocm"];

/// Which device to use.
#[derive(Clone, Debug, Args)]
pub struct DeviceArgs {
    /// The device to compute on; this build has `cpu`
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = parse)]
    device: FlexDevice,
}

impl DeviceArgs {
    /// The device, as the tensor engine knows it.
    pub fn device(&self) -> FlexDevice {
        self.device
    }
}

fn parse(name: &str) -> Result<FlexDevice, String> {
    let kind = name.split(':').next().unwrap_or(name);
    match kind {
        "cpu" => Ok(FlexDevice),
        _ if ELSEWHERE.contains(&kind) => Err(format!("this build has only the CPU, not {kind}; use cpu")),
        _ => Err("unknown device; this build has cpu".to_owned()),
    }
}
