//! `hardy doctor --estimate`: the memory that a run will take, part by part, beside what the machine has.

use hardy_train::{config::RunConfig, memory::MemoryEstimate};
use serde::Serialize;

use super::{GIB, MIB, gib};
use crate::{
    device::{Device, Kind},
    failure::Failure,
    output::Output,
};

/// The estimate of one arm.
#[derive(Serialize)]
struct Arm {
    name: String,
    #[serde(flatten)]
    bytes: MemoryEstimate,
}

#[derive(Serialize)]
struct Outcome {
    device: String,
    arms: Vec<Arm>,
    peak_bytes: usize,
    available_gib: Option<f64>,
    fits: Option<bool>,
}

/// Estimates every arm of a configuration.
///
/// # Errors
/// A configuration, model or data that can not be used.
pub fn run(config: &str, set: &[String], device: Device, output: Output) -> Result<(), Failure> {
    let arm = |arm: &RunConfig| Ok(Arm { name: arm.name.clone(), bytes: MemoryEstimate::new(arm)? });
    let arms = RunConfig::load(config, set)?.arms()?;
    let arms = arms.iter().map(arm).collect::<Result<Vec<_>, hardy_train::error::Error>>()?;
    let peak_bytes = arms.iter().map(|arm| arm.bytes.peak).max().unwrap_or_default();
    let available_gib = available(device);
    let fits = available_gib.map(|available| peak_bytes as f64 <= available * GIB);
    let outcome = Outcome { device: device.to_string(), arms, peak_bytes, available_gib, fits };
    output.show(&outcome, |_| text(&outcome))
}

/// The memory of a device that nobody uses, in GiB; `None` where it does not tell.
fn available(device: Device) -> Option<f64> {
    match device.kind {
        Kind::Cpu => gib("MemAvailable"),
        #[cfg(feature = "vulkan")]
        Kind::Vulkan if on_processor(device.index) => gib("MemAvailable"),
        #[cfg(any(feature = "cuda", feature = "vulkan"))]
        _ => of_gpu(device.index.unwrap_or_default()),
    }
}

/// Whether a Vulkan device computes in the machine's own memory.
#[cfg(feature = "vulkan")]
fn on_processor(index: Option<usize>) -> bool {
    use hardy_ops::device::{open_vulkan, opened_vulkan};
    open_vulkan(index)
        .ok()
        .and_then(|device| opened_vulkan(&device))
        .is_some_and(|opened| opened.on_processor)
}

/// What NVIDIA's driver says of a GPU.
#[cfg(any(feature = "cuda", feature = "vulkan"))]
fn of_gpu(index: usize) -> Option<f64> {
    let mut query = std::process::Command::new("nvidia-smi");
    query.args(["--query-gpu=memory.free", "--format=csv,noheader,nounits", "-i", &index.to_string()]);
    let said = String::from_utf8(query.output().ok()?.stdout).ok()?;
    Some(said.trim().parse::<f64>().ok()? * MIB / GIB)
}

fn text(outcome: &Outcome) -> String {
    let mut out = String::new();
    for Arm { name, bytes } in &outcome.arms {
        let rows = [
            ("parameters", bytes.parameters),
            ("AdamW's moments", bytes.optimizer),
            ("rollout: weights for decoding", bytes.frozen_weights),
            ("evaluation: weights as saved", bytes.saved_weights),
            ("rollout: KV cache", bytes.kv_cache),
            ("rollout: prefill", bytes.prefill),
            ("training: gradients", bytes.gradients),
            ("training: activations", bytes.activations),
            ("training: scratch", bytes.scratch),
            ("pages that the allocator keeps", bytes.kept_pages),
            ("the process itself", bytes.base),
            ("peak", bytes.peak),
        ];
        out += &format!("{name} (prompts of up to {} tokens)\n", bytes.longest_prompt);
        for (part, bytes) in rows {
            out += &format!("  {part:<30} {:>10.1} MiB\n", bytes as f64 / MIB);
        }
    }
    if let (Some(available), Some(fits)) = (outcome.available_gib, outcome.fits) {
        let verdict = if fits { "it fits" } else { "it does not fit" };
        out += &format!("{verdict}: {available:.1} GiB are available on {}\n", outcome.device);
    } else {
        out += &format!("{} does not tell how much memory it has\n", outcome.device);
    }
    if outcome.fits == Some(false) {
        out += "less: train.micro_batch_tokens, train.activation_checkpointing = true, train.rollout_batch, train.gradient_blocks\n";
    }
    out
}
