//! The estimate of `hardy doctor --estimate` beside the peak that the same run takes, for models from 0.8 M to 0.5 B
//! parameters. The peak is the kernel's (`VmHWM`), read while the run is alive, so this works on Linux only.
//!
//! The models are random, of the true shape of Qwen2.5-0.5B and of a tenth of it, in bfloat16. Largest takes 12 GiB of memory
//! and 10 GB of disk; a name on the command line picks the runs that have it in theirs, as in `-- tiny`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use hardy_model::{Dtype, ModelConfig, Qwen2Sizes, files::write_each};

const HARDY: &str = env!("CARGO_BIN_EXE_hardy");
const MIB: f64 = 1024.0 * 1024.0;
/// Two steps and a short evaluation of the preset `baseline`, with the changes of a run.
const ALL: [&str; 3] = ["train.steps=2", "eval.n=16", "eval.noise_levels=[0.0]"];
/// Micro-batches of 1,024 tokens, as long answers and few of them give.
const LARGE: [&str; 5] = [
    "checkpoint.dtype=bfloat16",
    "train.micro_batch_tokens=1024",
    "train.prompts_per_step=4",
    "train.samples_per_prompt=4",
    "train.max_new_tokens=128",
];

/// A model and what is done to it.
struct Run {
    name: &'static str,
    model: Option<[usize; 6]>,
    changes: &'static [&'static str],
}

/// Hidden, MLP, layers, query heads, key-value heads, vocabulary.
const HALF: [usize; 6] = [896, 4864, 24, 14, 2, 151_936];
const TENTH: [usize; 6] = [512, 1408, 8, 8, 2, 32_000];

const RUNS: [Run; 6] = [
    Run { name: "tiny, 0.8 M", model: None, changes: &[] },
    Run { name: "tiny, one large batch", model: None, changes: &["train.micro_batch_tokens=32768"] },
    Run { name: "tiny, KL", model: None, changes: &["train.kl_coefficient=0.01", "train.rollout_batch=32"] },
    Run { name: "a tenth, 39 M", model: Some(TENTH), changes: &[] },
    Run { name: "half, 494 M, LoRA", model: Some(HALF), changes: &["lora.rank=16"] },
    // Every level of the tree over blocks holds the gradients once more, 2.4 GiB of them.
    Run { name: "half, 494 M", model: Some(HALF), changes: &["train.gradient_blocks=1"] },
];

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    println!("{:<24} {:>11} {:>11} {:>6}", "two steps", "estimate", "measured", "ratio");
    for run in RUNS.iter().filter(|run| asked.iter().all(|asked| run.name.contains(asked.as_str()))) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut set: Vec<String> = ALL.iter().chain(run.changes).map(|change| (*change).to_owned()).collect();
        if let Some(sizes) = run.model {
            set.push(format!("model.path={}", model(dir.path(), sizes).display()));
            set.extend(LARGE.iter().map(|change| (*change).to_owned()));
        }
        let (estimate, measured) = (estimate(&set), measured(&set, &dir.path().join("run")));
        let ratio = estimate / measured;
        println!("{:<24} {estimate:>7.0} MiB {measured:>7.0} MiB {ratio:>6.2}", run.name);
    }
}

/// A random model of these sizes with the tokenizer of the built-in one.
fn model(dir: &Path, [hidden, mlp, layers, heads, kv_heads, vocab]: [usize; 6]) -> PathBuf {
    let (from, to) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/tiny"), dir.join("model"));
    fs::create_dir(&to).expect("a new directory");
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        fs::copy(from.join(name), to.join(name)).expect("the files of the tiny model");
    }
    let mut config = ModelConfig::qwen2(&Qwen2Sizes {
        vocab_size: vocab,
        hidden_size: hidden,
        intermediate_size: mlp,
        layers,
        heads,
        kv_heads,
        max_positions: 4096,
        rope_theta: 1e6,
        tied_embeddings: true,
        initializer_range: 0.02,
    })
    .expect("sizes that fit");
    config.dtype = Dtype::Bf16;
    config.save(&to).expect("a configuration");
    let specs = config.parameters();
    let values = |index: usize| -> Vec<f32> {
        let norm = specs[index].name.ends_with("norm.weight");
        let value = |i: usize| if norm { 1.0 } else { 0.04 * ((i as f32 * 0.754_8).fract() - 0.5) };
        (0..specs[index].shape.iter().product()).map(value).collect()
    };
    write_each(&to.join("model.safetensors"), &specs, Dtype::Bf16, values).expect("weights");
    to
}

fn hardy(arguments: &[&str], set: &[String]) -> Command {
    let mut command = Command::new(HARDY);
    command.args(arguments).args(set.iter().flat_map(|change| ["--set", change]));
    command
}

fn estimate(set: &[String]) -> f64 {
    let output = hardy(&["doctor", "--json", "--estimate", "baseline"], set).output().expect("hardy runs");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    json["peak_bytes"].as_f64().expect("a number") / MIB
}

fn measured(set: &[String], out: &Path) -> f64 {
    let mut command = hardy(&["run", "baseline", "--out", out.to_str().expect("a path in UTF-8")], set);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("hardy runs");
    let mut peak = 0.0_f64;
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        peak = peak.max(high_water(&child));
        sleep(Duration::from_millis(10));
    };
    assert!(status.success(), "the run failed: {set:?}");
    peak
}

/// The most memory that the process has had so far, in MiB.
fn high_water(child: &Child) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    kib.unwrap_or_default() / 1024.0
}
