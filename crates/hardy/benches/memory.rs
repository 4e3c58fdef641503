//! The estimate of `hardy doctor --estimate` beside the peak that the same run takes, for some sizes of its parts.
//! The peak is the kernel's (`VmHWM`), read while the run is alive, so this works on Linux only.

use std::{
    fs,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

const HARDY: &str = env!("CARGO_BIN_EXE_hardy");
const MIB: f64 = 1024.0 * 1024.0;
/// Two steps and a short evaluation of the preset `baseline`, with these changes.
const RUNS: [&[&str]; 4] = [
    &[],
    &["train.micro_batch_tokens=32768"],
    &["train.micro_batch_tokens=32768", "train.activation_checkpointing=true"],
    &["train.kl_coefficient=0.01", "train.rollout_batch=32"],
];

fn main() {
    println!("{:<78} {:>9} {:>9} {:>6}", "baseline, two steps", "estimate", "measured", "ratio");
    for changes in RUNS {
        let mut set = vec!["train.steps=2", "eval.n=32", "eval.noise_levels=[0.0]"];
        set.extend(changes);
        let (estimate, measured) = (estimate(&set), measured(&set));
        let ratio = estimate / measured;
        let name = if changes.is_empty() { "as it is".to_owned() } else { changes.join(" ") };
        println!("{name:<78} {estimate:>5.0} MiB {measured:>5.0} MiB {ratio:>6.2}");
    }
}

fn hardy(arguments: &[&str], set: &[&str]) -> Command {
    let mut command = Command::new(HARDY);
    command.args(arguments).args(set.iter().flat_map(|change| ["--set", change]));
    command
}

fn estimate(set: &[&str]) -> f64 {
    let output = hardy(&["doctor", "--json", "--estimate", "baseline"], set).output().expect("hardy runs");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    json["peak_bytes"].as_f64().expect("a number") / MIB
}

fn measured(set: &[&str]) -> f64 {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = dir.path().join("run");
    let mut command = hardy(&["run", "baseline", "--out", out.to_str().expect("a path in UTF-8")], set);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("hardy runs");
    let mut peak = 0.0_f64;
    while child.try_wait().expect("a child").is_none() {
        peak = peak.max(high_water(&child));
        sleep(Duration::from_millis(10));
    }
    peak
}

/// The most memory that the process has had so far, in MiB.
fn high_water(child: &Child) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    kib.unwrap_or_default() / 1024.0
}
