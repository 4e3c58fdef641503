//! `--device vulkan`: an evaluation, a probe, a step of training and every site's values are those of the CPU, and a run goes on
//! where another device left it. Without a GPU the device is llvmpipe.

use std::{fs, path::Path};

use serde_json::Value;

use crate::support::{arg, command, hardy, json, refused, refuses, succeeded, text};

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
fn steps_of_training_on_the_device_are_those_of_the_cpu_and_either_goes_on_where_the_other_ended() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("short.toml");
    fs::write(&config, CONFIG).unwrap();
    let [cpu, vulkan] = ["cpu", "vulkan"].map(|device| dir.path().join(device));
    let run = |out: &Path, more: &[&str]| {
        succeeded(&hardy(&[&["run", arg(&config), "--out", arg(out)], more].concat()));
    };
    let longer = ["--extend", "--set", "train.steps=3"];
    run(&cpu, &["--device", "cpu"]);
    run(&vulkan, &["--device", "vulkan"]);
    // The same steps once more have the same hashes, to the bit.
    let again = json(&["replay", arg(&vulkan), "--step", "2", "--device", "vulkan"]);
    assert_eq!(again["same"], true, "{again}");
    run(&cpu, &[&longer[..], &["--device", "vulkan"]].concat());
    run(&vulkan, &[&longer[..], &["--device", "cpu"]].concat());
    let [cpu, vulkan] = [cpu, vulkan].map(|run| metrics(&run));
    assert_eq!(cpu.len(), 3);
    agree("metrics", &Value::Array(cpu), &Value::Array(vulkan));
}

#[test]
fn every_site_computes_on_the_device_what_it_computes_on_the_cpu() {
    let of = ["diverge", "--model", "builtin:tiny", "--data", "builtin:arith", "--n", "1", "--grads"];
    let tolerance = ["--devices", "cpu,vulkan", "--tolerance", "1e-4", "--json"];
    let output = hardy(&[&of[..], &tolerance].concat());
    let found: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    assert_eq!(
        (&found["verdict"]["kind"], output.status.code()),
        (&"equal".into(), Some(0)),
        "{}",
        found["verdict"]
    );
    let sites = found["sites"].as_array().unwrap();
    assert!(sites.len() > 150);
    let apart = |end: &str| {
        let of_kind = sites.iter().filter(|site| site["name"].as_str().unwrap().ends_with(end));
        of_kind.map(|site| site["differences"]["relative"].as_f64().unwrap()).fold(0.0, f64::max)
    };
    // What the device computed is compared, not what the host would have: without a fused multiply-add last bits differ.
    if on_llvmpipe() {
        for end in
            ["down_proj/linear/output", "values/matmul/output", "down_proj/linear/grad_input", "grad_weight"]
        {
            assert!(apart(end) > 0.0, "{end}");
        }
    }
}

#[test]
fn a_device_that_is_not_there_is_one_sentence() {
    let of = ["eval", "--model", "builtin:tiny", "--data", "builtin:arith", "--n", "1", "--device"];
    let without = |device| {
        let mut command = command(&[&of[..], &[device]].concat());
        for variable in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
            command.env(variable, "/nonexistent/icd.json");
        }
        command.output().unwrap()
    };
    refused(&without("vulkan"), &["no Vulkan device", "mesa-vulkan-drivers"]);
    refused(&without("vulkan:9"), &["no Vulkan device number 9"]);
    refuses(&[&of[..], &["vulkan:x"]].concat(), &["`x` is no number of a device"]);
    refuses(&[&of[..], &["abacus"]].concat(), &["unknown device", "vulkan"]);
    if cfg!(not(feature = "cuda")) {
        refuses(&[&of[..], &["cuda"]].concat(), &["not cuda", "--features cuda"]);
    }
}

#[test]
fn the_memory_of_a_device_is_told_before_a_run() {
    let found = json(&["doctor", "--estimate", "quickstart", "--device", "vulkan"]);
    assert_eq!(found["device"], "vulkan");
    assert!(found["peak_bytes"].as_u64().unwrap() > 1 << 20);
    // llvmpipe computes in the machine's memory, and so has some; a GPU of another vendor than NVIDIA does not tell.
    if on_llvmpipe() {
        assert_eq!(found["fits"], true, "{found}");
    }
}

fn on_llvmpipe() -> bool {
    json(&["doctor"])["devices"][1]["hardware"].as_str().unwrap().contains("llvmpipe")
}
