//! `hardy doctor`: what this build and this machine have, and what is missing.

mod estimate;

use std::{env, fs, io::IsTerminal, path::PathBuf};

use clap::Args;
use hardy_lab::text_table::wrap;
use hardy_numerics::simd;
use hardy_train::machine;
use serde::Serialize;

use crate::{
    build_info,
    device::{DeviceArgs, KINDS},
    failure::Failure,
    output::Output,
};

const EXAMPLE: &str = "\
Examples: this machine; and whether a run fits into its memory
  hardy doctor --json
  hardy doctor --estimate e5b --set train.micro_batch_tokens=8192";

const MIB: f64 = 1024.0 * 1024.0;
const GIB: f64 = 1024.0 * MIB;

/// Arguments of `hardy doctor`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Arguments {
    /// Print the memory that a run will take instead: a configuration file or the name of a preset
    #[arg(long, value_name = "CONFIG")]
    estimate: Option<String>,
    /// Change a key of that configuration
    #[arg(long, value_name = "KEY=VALUE", requires = "estimate")]
    set: Vec<String>,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Everything that was found.
#[derive(Serialize)]
struct Findings {
    versions: Versions,
    devices: Vec<Device>,
    missing_backends: Vec<&'static str>,
    threads: usize,
    cores: Option<usize>,
    simd: &'static str,
    memory_gib: Option<f64>,
    available_memory_gib: Option<f64>,
    terminal: Terminal,
    golden: Golden,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct Versions {
    hardy: &'static str,
    revision: &'static str,
    burn: &'static str,
    rustc: &'static str,
    target: &'static str,
    debug_build: bool,
}

#[derive(Serialize)]
struct Device {
    name: &'static str,
    backend: &'static str,
    hardware: Option<String>,
    /// Whether products in bfloat16 run on tensor cores.
    bf16_on_tensor_cores: bool,
}

#[derive(Serialize)]
struct Terminal {
    stdout: bool,
    stderr: bool,
    term: Option<String>,
    columns: Option<u16>,
}

/// Reference data that only tests read.
#[derive(Serialize)]
struct Golden {
    path: Option<PathBuf>,
    found: bool,
}

/// Looks around.
///
/// # Errors
/// Standard output that can not be written; a configuration that can not be used.
pub fn run(args: &Arguments, output: Output) -> Result<(), Failure> {
    if let Some(config) = &args.estimate {
        return estimate::run(config, &args.set, args.device.device, output);
    }
    let findings = Findings::new();
    output.show(&findings, |width| findings.text(width))
}

impl Findings {
    fn new() -> Self {
        let golden = env::var_os("HARDY_GOLDEN").map(PathBuf::from);
        let mut findings = Self {
            versions: Versions {
                hardy: build_info::HARDY,
                revision: build_info::REVISION,
                burn: build_info::BURN,
                rustc: build_info::RUSTC,
                target: build_info::TARGET,
                debug_build: cfg!(debug_assertions),
            },
            devices: Vec::new(),
            missing_backends: KINDS.iter().filter(|(_, here)| !here).map(|(name, _)| *name).collect(),
            threads: rayon::current_num_threads(),
            cores: std::thread::available_parallelism().ok().map(usize::from),
            simd: simd::level(),
            memory_gib: gib("MemTotal"),
            available_memory_gib: gib("MemAvailable"),
            terminal: Terminal {
                stdout: std::io::stdout().is_terminal(),
                stderr: std::io::stderr().is_terminal(),
                term: env::var("TERM").ok(),
                columns: terminal_size::terminal_size().map(|(width, _)| width.0),
            },
            golden: Golden { found: golden.as_ref().is_some_and(|path| path.is_dir()), path: golden },
            notes: Vec::new(),
        };
        findings.notes = findings.remarks();
        let (devices, missing) = devices();
        findings.devices = devices;
        findings.notes.extend(missing);
        findings
    }

    /// What would make this better.
    fn remarks(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.versions.debug_build {
            notes.push("this is a debug build, several times slower; build with --release".to_owned());
        }
        if self.cores.is_some_and(|cores| self.threads < cores) {
            notes.push(format!("{} threads on {} cores", self.threads, self.cores.unwrap_or_default()));
        }
        if let Some(name) = simd::forced() {
            notes.push(format!("{}={name} forces the SIMD level", simd::VARIABLE));
        } else if self.simd == "scalar" {
            notes.push("no vector instructions beyond the baseline of the target".to_owned());
        }
        if !self.missing_backends.is_empty() {
            let (list, flags) = (self.missing_backends.join(", "), self.missing_backends.join(","));
            notes.push(format!(
                "no {list} in this build; `cargo build --release --features {flags}` makes one"
            ));
        }
        notes
    }

    fn text(&self, width: usize) -> String {
        let Self { versions, terminal, golden, .. } = self;
        let gib =
            |size: Option<f64>| size.map_or_else(|| "unknown".to_owned(), |size| format!("{size:.1} GiB"));
        let device = |device: &Device| {
            let hardware = device.hardware.as_deref().unwrap_or("unknown processor");
            format!("{} ({}, {hardware})", device.name, device.backend)
        };
        let devices: Vec<String> = self.devices.iter().map(device).collect();
        let bf16: Vec<String> = self.devices.iter().map(Device::bf16).collect();
        let yes = |yes: bool| if yes { "yes" } else { "no" };
        let golden = match &golden.path {
            Some(path) => format!("{}: {}", path.display(), if golden.found { "found" } else { "not found" }),
            None => "HARDY_GOLDEN is not set (only tests read it)".to_owned(),
        };
        let rows = [
            ("hardy", format!("{}, revision {}", versions.hardy, versions.revision)),
            ("burn", versions.burn.to_owned()),
            ("rustc", format!("{}, {}", versions.rustc, versions.target)),
            ("devices", devices.join(", ")),
            ("bf16", bf16.join(", ")),
            ("threads", format!("{} of {} cores", self.threads, self.cores.unwrap_or(self.threads))),
            ("SIMD", self.simd.to_owned()),
            ("memory", format!("{}, {} available", gib(self.memory_gib), gib(self.available_memory_gib))),
            (
                "terminal",
                format!("{}, TERM {}", yes(terminal.stdout), terminal.term.as_deref().unwrap_or("unset")),
            ),
            ("golden data", golden),
        ];
        let mut out: String = rows.iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect();
        for note in &self.notes {
            out += &wrap(&format!("note: {note}"), width, 0);
        }
        out
    }
}

impl Device {
    fn new(name: &'static str, backend: &'static str, hardware: Option<String>) -> Self {
        Self { name, backend, hardware, bf16_on_tensor_cores: false }
    }

    /// What computes products in bfloat16.
    fn bf16(&self) -> String {
        let how = if self.bf16_on_tensor_cores { "on tensor cores" } else { "as f32, of rounded operands" };
        format!("{} {how}", self.name)
    }
}

/// The devices that this build can compute on here, and what is missing for the others that it knows.
fn devices() -> (Vec<Device>, Vec<String>) {
    #[cfg_attr(
        not(any(feature = "cuda", feature = "vulkan")),
        allow(unused_mut, reason = "devices add to it")
    )]
    let (mut found, mut missing) = (vec![Device::new("cpu", "Flex", processor())], Vec::new());
    #[cfg(feature = "cuda")]
    match hardy_ops::device::open_cuda(None) {
        Ok(device) => {
            let here = Device::new("cuda", "CUDA", Some(format!("{device:?}")));
            found.push(Device {
                bf16_on_tensor_cores: tensor_cores::<hardy_ops::device::Cuda>(&device),
                ..here
            });
            missing.extend(hardy_ops::device::missing_for_tensor_cores());
        }
        Err(why) => missing.push(why),
    }
    #[cfg(feature = "vulkan")]
    match hardy_ops::device::open_vulkan(None) {
        Ok(device) => {
            let hardware = hardy_ops::device::opened_vulkan(&device).map(|opened| opened.name);
            let here = Device::new("vulkan", "Vulkan", hardware);
            found.push(Device {
                bf16_on_tensor_cores: tensor_cores::<hardy_ops::device::Vulkan>(&device),
                ..here
            });
        }
        Err(why) => missing.push(why),
    }
    (found, missing)
}

/// Whether products in bfloat16 run on tensor cores.
#[cfg(any(feature = "cuda", feature = "vulkan"))]
fn tensor_cores<B: hardy_ops::device::Kernels>(device: &B::Device) -> bool {
    hardy_ops::device::caught(|| B::uses_tensor_cores(device)).unwrap_or(false)
}

/// The processor's name, where the system tells it.
fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map(|(_, name)| name.trim().to_owned())
}

/// A size of the machine's memory in GiB.
fn gib(key: &str) -> Option<f64> {
    machine::memory(key).map(|bytes| bytes as f64 / GIB)
}
