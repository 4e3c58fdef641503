//! `precision = "bf16"`: a run, what goes on from it, and what is made of its checkpoints.

use std::{fs, path::Path};

use serde_json::Value;

use crate::support::{arg, hardy, json, refuses, succeeded};

const CONFIG: &str = "\
name = \"short\"
precision = \"bf16\"
[model]
path = \"builtin:tiny\"
[data]
train_problems = 8
[train]
steps = 2
prompts_per_step = 4
samples_per_prompt = 4
learning_rate = 1e-4
max_new_tokens = 48
[eval]
n = 2
noise_levels = [0.0, 0.05]
[checkpoint]
every = 1
[[noise]]
error = { kind = \"relative_gaussian\", scale = 0.05 }
ops = [\"linear\", \"matmul\"]
pass = [\"forward\", \"backward\"]
";

/// What every step drew, its gradients and the weights after it, as hashes.
fn hashes(run: &Path) -> Vec<[String; 3]> {
    let line = |line: &str| {
        let record: Value = serde_json::from_str(line).unwrap();
        ["rollouts_hash", "gradients_hash", "weights_hash"].map(|key| record[key].to_string())
    };
    fs::read_to_string(run.join("metrics.jsonl")).unwrap().lines().map(line).collect()
}

#[test]
fn a_run_in_bfloat16_is_resumed_replayed_and_judged_in_bfloat16() {
    let dir = tempfile::tempdir().unwrap();
    let (config, path) = (dir.path().join("short.toml"), |name: &str| dir.path().join(name));
    fs::write(&config, CONFIG).unwrap();
    let run = |out: &Path, more: &[&str]| {
        succeeded(&hardy(&[&["run", arg(&config), "--out", arg(out)], more].concat()));
    };
    let [narrow, wide] = ["narrow", "wide"].map(path);
    run(&narrow, &["--threads", "1"]);
    run(&wide, &["--set", "precision=f32"]);
    let [first, other] = [&narrow, &wide].map(|run| hashes(run).remove(0));
    assert!(
        first.iter().zip(&other).all(|(a, b)| a != b),
        "the rounding shows in a step: {first:?} {other:?}"
    );
    let replayed = json(&["replay", arg(&narrow), "--step", "2", "--threads", "2"]);
    assert_eq!(replayed["same"], true, "{replayed}");
    refuses(
        &["run", arg(&config), "--out", arg(&narrow), "--resume", "--set", "precision=f32"],
        &["precision"],
    );
    run(&narrow, &["--extend", "--set", "train.steps=3"]);
    let whole = path("whole");
    run(&whole, &["--set", "train.steps=3"]);
    assert_eq!(hashes(&narrow), hashes(&whole), "a run that was extended");

    let kept: Value =
        serde_json::from_slice(&fs::read(narrow.join("eval/step-000002.json")).unwrap()).unwrap();
    assert_eq!(kept["conditions"]["precision"], "bf16");
    let checkpoint = narrow.join("checkpoints/step-000002");
    let eval = |more: &[&str]| {
        let of = ["eval", "--model", arg(&checkpoint), "--noise", "0,0.05"];
        json(&[&of[..], more].concat())
    };
    let judged = eval(&[]);
    assert_eq!(judged["conditions"], kept["conditions"]);
    assert_eq!(judged["levels"][0]["problems"], kept["levels"][0]["problems"]);
    assert_eq!(eval(&["--precision", "f32"])["conditions"]["precision"], "f32");
    refuses(&["compare", arg(&narrow), arg(&wide), "--step", "2"], &["precision is", "--allow precision"]);
    succeeded(&hardy(&["compare", arg(&narrow), arg(&wide), "--step", "2", "--allow", "precision"]));
}

#[test]
fn commands_compute_in_the_precision_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let model = ["--model", "builtin:tiny", "--data", "builtin:arith", "--n", "1"];
    let narrow = ["--precision", "bf16"];
    let path = dir.path().join("dump.safetensors");
    succeeded(&hardy(&[&["dump"], &model[..], &narrow, &["--out", arg(&path)]].concat()));
    assert_eq!(crate::support::read(&path).metadata["precision"], "bfloat16");
    let between = |a: &str, b: &str| {
        let of = [&["diverge"], &model[..], &["--between", a, b, "--grads", "--json"]].concat();
        serde_json::from_slice::<Value>(&hardy(&of).stdout).unwrap()
    };
    let same = between("cpu,precision=bf16", "cpu,precision=bf16,threads=1");
    assert_eq!((&same["verdict"]["kind"], &same["tolerance"]), (&"equal".into(), &0.0.into()));
    let apart = between("cpu", "cpu,precision=bf16");
    let first = &apart["sites"].as_array().unwrap()[1];
    let relative = first["differences"]["relative"].as_f64().unwrap();
    assert!(first["name"].as_str().unwrap().contains("layers.0"), "{first}");
    assert!((0.0..0.02).contains(&relative), "{first}");
    let linear = apart["sites"]
        .as_array()
        .unwrap()
        .iter()
        .find(|site| site["name"].as_str().unwrap().ends_with("q_proj/linear/output"));
    assert!(linear.unwrap()["differences"]["relative"].as_f64().unwrap() > 1e-4, "products differ");
    let probed =
        json(&[&["probe"], &model[..], &narrow, &["--operators", "linear", "--layers", "0"]].concat());
    assert_eq!(probed["precision"], "bf16");
    let found = json(&[&["find"], &model[..], &narrow].concat());
    assert!(found["findings"].as_array().unwrap().is_empty() && found["precision"] == "bf16", "{found}");
    refuses(&[&["eval"], &model[..], &["--precision", "tf32"]].concat(), &["tf32", "f32 and bf16"]);
}
