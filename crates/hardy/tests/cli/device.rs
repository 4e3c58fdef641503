//! `--device vulkan`: an evaluation, a probe and a step of training are those of the CPU, and a run goes on where another
//! device left it. Without a GPU the device is llvmpipe.

use std::{fs, path::Path};

use serde_json::Value;

use crate::support::{arg, hardy, json, succeeded};

/// Asserts that two documents are one but for the last digits of their numbers.
fn agree(path: &str, ours: &Value, theirs: &Value) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            assert!(ours.keys().eq(theirs.keys()), "{path}: other keys");
            ours.iter().for_each(|(key, value)| agree(&format!("{path}.{key}"), value, &theirs[key]));
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            assert_eq!(ours.len(), theirs.len(), "{path}");
            ours.iter().zip(theirs).enumerate().for_each(|(i, (a, b))| agree(&format!("{path}[{i}]"), a, b));
        }
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!((a - b).abs() <= 1e-3 * a.abs().max(b.abs()) + 1e-6, "{path}: {a} and {b}");
        }
        _ => assert_eq!(ours, theirs, "{path}"),
    }
}

fn on_both(arguments: &[&str]) -> [Value; 2] {
    ["cpu", "vulkan"].map(|device| json(&[arguments, &["--device", device]].concat()))
}

#[test]
fn an_evaluation_on_the_device_is_that_of_the_cpu() {
    let of = ["eval", "--model", "builtin:tiny", "--data", "builtin:arith", "--noise", "0,0.05", "--n", "4"];
    let [ours, theirs] = on_both(&[&of[..], &["--max-new-tokens", "48"]].concat());
    agree("table", &ours["table"], &theirs["table"]);
}

#[test]
fn a_probe_on_the_device_is_that_of_the_cpu() {
    let of = ["probe", "--model", "builtin:tiny", "--data", "builtin:arith", "--n", "2", "--magnitudes"];
    let [ours, theirs] = on_both(&of);
    agree("probe", &ours, &theirs);
}

const CONFIG: &str = "\
name = \"short\"
[model]
path = \"builtin:tiny\"
[data]
train_problems = 8
[train]
steps = 2
prompts_per_step = 2
samples_per_prompt = 2
learning_rate = 1e-4
max_new_tokens = 8
[eval]
n = 2
noise_levels = [0.0, 0.05]
[[noise]]
error = { kind = \"relative_gaussian\", scale = 0.05 }
ops = [\"linear\", \"matmul\"]
pass = [\"forward\", \"backward\"]
";

/// The lines of `metrics.jsonl` without what a clock says and what names the bits.
fn metrics(run: &Path) -> Vec<Value> {
    let line = |line: &str| {
        let mut metrics: serde_json::Map<String, Value> = serde_json::from_str(line).unwrap();
        let kept = |key: &str| !["_seconds", "_per_second", "_hash"].iter().any(|end| key.ends_with(end));
        metrics.retain(|key, _| kept(key));
        Value::Object(metrics)
    };
    fs::read_to_string(run.join("metrics.jsonl")).unwrap().lines().map(line).collect()
}

#[test]
fn steps_of_training_on_the_device_are_those_of_the_cpu() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("short.toml");
    fs::write(&config, CONFIG).unwrap();
    let runs = ["cpu", "vulkan"].map(|device| {
        let out = dir.path().join(device);
        succeeded(&hardy(&["run", arg(&config), "--out", arg(&out), "--device", device]));
        metrics(&out)
    });
    assert_eq!(runs[0].len(), 2);
    agree("metrics", &Value::Array(runs[0].clone()), &Value::Array(runs[1].clone()));
}
