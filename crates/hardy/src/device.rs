//! Where tensors live and are computed.

use std::fmt;

use burn_flex::{Flex, FlexDevice};
use clap::Args;
use hardy_ops::{NoisyBackend, device};

use crate::failure::Failure;

/// The tensor engine of commands that know the CPU only.
pub type Backend = Flex;

/// Every kind of device that a build of Hardy may have, and whether this one has it.
pub const KINDS: [(&str, bool); 3] =
    [("cpu", true), ("cuda", cfg!(feature = "cuda")), ("vulkan", cfg!(feature = "vulkan"))];

/// Which device to use.
#[derive(Clone, Debug, Args)]
pub struct DeviceArgs {
    /// The device to compute on: cpu, cuda or vulkan, where the build has them; the second of several is cuda:1
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = parse)]
    pub device: Device,
}

impl DeviceArgs {
    /// The device of a name.
    ///
    /// # Errors
    /// A device that this build does not have.
    pub fn named(name: &str) -> Result<Self, String> {
        Ok(Self { device: parse(name)? })
    }
}

/// A device by its kind and, where there are several, its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// The kind.
    pub kind: Kind,
    /// The number; the system's choice where it is left out.
    pub index: Option<usize>,
}

/// The kinds of devices of this build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The processor.
    Cpu,
    /// A GPU of NVIDIA.
    #[cfg(feature = "cuda")]
    Cuda,
    /// A GPU with a Vulkan driver, or the processor through llvmpipe.
    #[cfg(feature = "vulkan")]
    Vulkan,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            #[cfg(feature = "cuda")]
            Self::Cuda => "cuda",
            #[cfg(feature = "vulkan")]
            Self::Vulkan => "vulkan",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        let all = [
            Self::Cpu,
            #[cfg(feature = "cuda")]
            Self::Cuda,
            #[cfg(feature = "vulkan")]
            Self::Vulkan,
        ];
        all.into_iter().find(|kind| kind.name() == name)
    }
}

impl Device {
    /// Whether it is a GPU of NVIDIA.
    pub fn is_cuda(self) -> bool {
        #[cfg(feature = "cuda")]
        return self.kind == Kind::Cuda;
        #[cfg(not(feature = "cuda"))]
        false
    }

    /// Its number: the one given, else that of this process among those that torchrun started on this machine.
    ///
    /// # Errors
    /// A `LOCAL_RANK` that is no number.
    #[cfg(feature = "cuda")]
    pub fn gpu(self) -> Result<Option<usize>, Failure> {
        let Some(text) = self.index.is_none().then(|| std::env::var("LOCAL_RANK").ok()).flatten() else {
            return Ok(self.index);
        };
        let wrong = |_| Failure::input(format!("LOCAL_RANK is `{text}`, which is no whole number"));
        text.trim().parse().map(Some).map_err(wrong)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            Some(index) => write!(f, "{}:{index}", self.kind.name()),
            None => f.write_str(self.kind.name()),
        }
    }
}

fn parse(text: &str) -> Result<Device, String> {
    let (name, index) = text.split_once(':').map_or((text, None), |(name, index)| (name, Some(index)));
    let own: Vec<&str> = KINDS.iter().filter(|(_, here)| *here).map(|(name, _)| *name).collect();
    let Some(kind) = Kind::from_name(name) else {
        return Err(match KINDS.iter().find(|(kind, _)| *kind == name) {
            Some(_) if own.len() == 1 => {
                format!("this build has only the CPU, not {name}; build it with `--features {name}`")
            }
            Some(_) => {
                format!("this build has {}, not {name}; build it with `--features {name}`", own.join(" and "))
            }
            None => format!("unknown device; this build has {}", own.join(", ")),
        });
    };
    let index = index.map(|index| index.parse().map_err(|_| format!("`{index}` is no number of a device")));
    Ok(Device { kind, index: index.transpose()? })
}

/// A backend on which a command can compute.
pub trait Engine: NoisyBackend {
    /// Opens a device.
    ///
    /// # Errors
    /// A device that is not there or can not be used, with what is missing.
    fn open(device: Device) -> Result<Self::Device, Failure>;
}

impl Engine for Flex {
    fn open(device: Device) -> Result<FlexDevice, Failure> {
        match (device.kind, device.index) {
            (Kind::Cpu, None | Some(0)) => Ok(FlexDevice),
            (Kind::Cpu, Some(_)) => Err(Failure::input("there is one cpu; leave its number out")),
            #[cfg(any(feature = "cuda", feature = "vulkan"))]
            _ => {
                Err(Failure::input(format!("this command computes on the CPU; leave out --device {device}")))
            }
        }
    }
}

#[cfg(feature = "vulkan")]
impl Engine for device::Vulkan {
    fn open(device: Device) -> Result<device::WgpuDevice, Failure> {
        device::open_vulkan(device.index).map_err(Failure::input)
    }
}

#[cfg(feature = "cuda")]
impl Engine for device::Cuda {
    fn open(device: Device) -> Result<device::CudaDevice, Failure> {
        device::open_cuda(device.gpu()?).map_err(Failure::input)
    }
}

/// Runs a function that is generic over [`Engine`] with the backend of a device.
macro_rules! on_device {
    ($device:expr, $run:ident($($argument:expr),*)) => {
        match $device.kind {
            $crate::device::Kind::Cpu => $run::<burn_flex::Flex>($($argument),*),
            #[cfg(feature = "cuda")]
            $crate::device::Kind::Cuda => {
                $crate::device::guarded($device, || $run::<hardy_ops::device::Cuda>($($argument),*))
            }
            #[cfg(feature = "vulkan")]
            $crate::device::Kind::Vulkan => {
                $crate::device::guarded($device, || $run::<hardy_ops::device::Vulkan>($($argument),*))
            }
        }
    };
}
pub(crate) use on_device;

/// Runs what computes on a device. One that is lost, or a kernel that does not compile, panics in the midst of the engine;
/// the command then ends as one that failed, and says where a run can go on.
#[cfg_attr(not(any(feature = "cuda", feature = "vulkan")), allow(dead_code, reason = "devices call it"))]
pub fn guarded<T>(on: Device, run: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    device::caught(run).unwrap_or_else(|said| {
        Err(Failure::run(format!(
            "{on} failed ({said}); a run goes on from its last checkpoint with --resume, also on another --device"
        )))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_lost_ends_the_command_as_a_failed_run() {
        let device = Device { kind: Kind::Cpu, index: None };
        let lost = guarded(device, || -> Result<(), Failure> { panic!("device lost") });
        let Err(Failure::Run(said)) = lost else { panic!("{lost:?}") };
        assert!(said.contains("device lost") && said.contains("--resume"), "{said}");
        assert!(guarded(device, || Ok(7)).is_ok_and(|seven| seven == 7));
    }

    #[test]
    fn devices_are_told_by_kind_and_number() {
        assert_eq!(parse("cpu"), Ok(Device { kind: Kind::Cpu, index: None }));
        assert_eq!(parse("cpu:1").map(|device| device.to_string()), Ok("cpu:1".to_owned()));
        assert!(
            parse("cpu:x").is_err() && parse("abacus").is_err_and(|said| said.contains("this build has cpu"))
        );
    }
}
