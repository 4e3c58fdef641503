//! Plans on the command line: what is asked for is injected, measured, and addressed.

use std::path::Path;

use serde_json::Value;

use crate::support::{arg, command, hardy, json, read, refused, refuses, succeeded, text, write_tokens};

/// Three sequences for the built-in model, one of them padded.
fn batch(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("batch.safetensors");
    let ids: Vec<i32> = (0..96).map(|i| 5 + (i * 7) % 40).collect();
    let mask: Vec<i32> = (0..96).map(|i| i32::from(i < 90)).collect();
    write_tokens(&path, [3, 32], &[("input_ids", &ids), ("attention_mask", &mask)]);
    path
}

fn score(dir: &Path, extra: &[&str]) -> (Value, Vec<f32>) {
    let (from, to) = (batch(dir), dir.join("out.safetensors"));
    let arguments = ["score", "--model", "builtin:tiny", "--batch", arg(&from), "--out", arg(&to)];
    let said = json(&[&arguments[..], extra].concat());
    (said, read(&to).get("logprobs").unwrap().as_f32().unwrap())
}

const PLAN: &str = "\
seed = 3
[[noise]]
ops = [\"rms_norm\"]
at = \"weight\"
layers = \"1..3\"
error = { kind = \"absolute_gaussian\", scale = 0.01 }
";

#[test]
fn five_percent_asked_is_five_percent_in_the_receipt() {
    let dir = tempfile::tempdir().unwrap();
    let (clean, without) = score(dir.path(), &[]);
    assert_eq!(clean["receipts"], Value::Array(Vec::new()));
    let (said, with) = score(dir.path(), &["--noise", "0.05"]);
    assert_ne!(with, without);
    let receipts = said["receipts"].as_array().unwrap();
    let energy = |key: &str| receipts.iter().map(|receipt| receipt[key].as_f64().unwrap()).sum::<f64>();
    let measured = (energy("error_energy") / energy("signal_energy")).sqrt();
    assert!((0.049..0.051).contains(&measured), "{measured}");
    assert!(
        receipts.iter().all(|receipt| receipt["phase"] == "train" && receipt["elements"].as_u64() > Some(0))
    );
}

#[test]
fn noise_depends_on_seed_and_step_and_not_on_threads() {
    let dir = tempfile::tempdir().unwrap();
    let noisy = |extra: &[&str]| score(dir.path(), &[&["--noise", "0.05"], extra].concat()).1;
    let first = noisy(&["--seed", "1"]);
    assert_eq!(first, noisy(&["--seed", "1", "--threads", "1"]));
    assert_ne!(first, noisy(&["--seed", "2"]));
    assert_ne!(first, noisy(&["--seed", "1", "--step", "1"]));
}

#[test]
fn a_plan_in_the_environment_is_echoed_and_acts_like_one_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let plan = dir.path().join("plan.toml");
    std::fs::write(&plan, PLAN).unwrap();
    let (said, from_file) = score(dir.path(), &["--plan", arg(&plan)]);
    assert_eq!(said["seed"], 3);
    let (from, to) = (batch(dir.path()), dir.path().join("out.safetensors"));
    let arguments = ["score", "--model", "builtin:tiny", "--batch", arg(&from), "--out", arg(&to)];
    let output = command(&arguments).env("HARDY_NOISE", PLAN).output().unwrap();
    succeeded(&output);
    let echoed = text(&output.stderr);
    assert!(echoed.contains("HARDY_NOISE: 1 rule\n") && echoed.contains("rms_norm"), "{echoed}");
    assert_eq!(read(&to).get("logprobs").unwrap().as_f32().unwrap(), from_file);
    refused(
        &command(&arguments).env("HARDY_NOISE", PLAN.replace("layers", "layerz")).output().unwrap(),
        &["HARDY_NOISE:5: unknown key `layerz` in [[noise]]; did you mean `layers`?"],
    );
}

#[test]
fn backward_errors_change_gradients_and_need_them() {
    let dir = tempfile::tempdir().unwrap();
    let plan = dir.path().join("plan.toml");
    let backward = PLAN.replace("at = \"weight\"", "pass = [\"backward\"]").replace("rms_norm", "linear");
    std::fs::write(&plan, &backward).unwrap();
    let (from, to) = (batch(dir.path()), dir.path().join("never.safetensors"));
    let arguments =
        ["score", "--model", "builtin:tiny", "--batch", arg(&from), "--out", arg(&to), "--plan", arg(&plan)];
    refuses(&arguments, &["rule 1", "backward pass alone", "--grads"]);
    assert!(!to.exists());
    let (_, without) = score(dir.path(), &[]);
    let (said, with) = score(dir.path(), &["--grads", "--plan", arg(&plan)]);
    assert_eq!(with, without);
    assert!(said["receipts"].as_array().unwrap().iter().all(|receipt| receipt["pass"] == "backward"));
}

#[test]
fn samples_are_addressed_and_greedy_is_the_default() {
    let generate = |extra: &[&str]| {
        let arguments =
            ["generate", "--model", "builtin:tiny", "--prompt", "Tom has 3 apples.", "--max-new-tokens", "8"];
        json(&[&arguments[..], &["--ignore-eos"], extra].concat())
    };
    let ids = |said: &Value, sequence: usize| said["sequences"][sequence]["ids"].clone();
    let greedy = generate(&[]);
    assert_eq!(ids(&greedy, 0).as_array().unwrap().len(), 8);
    assert_eq!(ids(&greedy, 0), ids(&generate(&["--seed", "9"]), 0));
    let warm = generate(&["--temperature", "2", "--samples", "3", "--seed", "1"]);
    assert_ne!(ids(&warm, 0), ids(&warm, 1));
    assert_eq!(warm, generate(&["--temperature", "2", "--samples", "3", "--seed", "1", "--threads", "1"]));
    assert_eq!(ids(&warm, 0), ids(&generate(&["--temperature", "2", "--seed", "1"]), 0));
    let noisy = generate(&["--noise", "0.05"]);
    assert!(noisy["receipts"].as_array().unwrap().iter().all(|receipt| receipt["phase"] == "rollout"));
}

#[test]
fn evaluations_hold_their_plans_and_receipts() {
    let dir = tempfile::tempdir().unwrap();
    let plan = dir.path().join("norms.toml");
    std::fs::write(&plan, PLAN).unwrap();
    let common = ["eval", "--model", "builtin:tiny", "--data", "builtin:arith", "--n", "4"];
    let short = ["--max-new-tokens", "4", "--noise", "0,0.05", "--plan", arg(&plan)];
    let said = json(&[&common[..], &short].concat());
    let labels: Vec<&str> =
        said["levels"].as_array().unwrap().iter().map(|l| l["label"].as_str().unwrap()).collect();
    assert_eq!(labels, ["clean", "5 %", "norms"]);
    assert!(said["levels"][2]["receipts"].as_array().unwrap().iter().all(|r| r["op"] == "rms_norm"));
    assert_eq!(said["table"]["against"], "clean");
    let likelihood = json(&[&common[..], &["--metric", "nll", "--noise", "0,0.3"]].concat());
    let nll = |level: usize| likelihood["levels"][level]["nll"].as_f64().unwrap();
    assert!(nll(1) > nll(0));
    let text = hardy(&[&common[..], &["--metric", "nll"]].concat());
    succeeded(&text);
}

#[test]
fn draws_of_the_error_are_kept_apart_with_a_receipt_each() {
    let common =
        ["eval", "--model", "builtin:tiny", "--data", "builtin:arith", "--n", "4", "--max-new-tokens", "4"];
    let eval = |extra: &[&str]| json(&[&common[..], extra].concat());
    let said = eval(&["--noise", "0,0.5", "--draws", "3"]);
    let (clean, noisy) = (&said["levels"][0], &said["levels"][1]);
    assert!(clean.get("draws").is_none(), "nothing to draw again without errors");
    let draws = noisy["draws"].as_array().unwrap();
    assert_eq!(draws.iter().map(|draw| draw["draw"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    for draw in draws {
        assert_eq!(draw["problems"].as_array().unwrap().len(), 4);
        assert!(!draw["receipts"].as_array().unwrap().is_empty());
        assert_ne!(draw["problems"], noisy["problems"]);
    }
    assert_ne!(draws[0]["seed"], draws[1]["seed"]);
    // The first draw is the evaluation without further ones.
    let one = eval(&["--noise", "0,0.5"]);
    assert_eq!(one["levels"][1]["problems"], noisy["problems"]);
    assert_eq!(said["table"]["levels"][1]["draws"].as_array().unwrap().len(), 3);
    assert_eq!(said["table"]["levels"][1]["loss"]["columns"], 3);
    // Four tokens are too few: what is lost by that is said.
    assert_eq!(said["table"]["levels"][0]["cut_off"], 1.0);
    assert_eq!(said["conditions"]["max_new_tokens"], 4);
    let likelihood = eval(&["--noise", "0,0.5", "--draws", "2", "--metric", "nll"]);
    assert_eq!(likelihood["levels"][1]["receipts"].as_array().unwrap().len(), 2);
}

#[test]
fn an_error_that_strikes_nothing_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let plan = dir.path().join("seldom.toml");
    let rule =
        "[[noise]]\nops = [\"linear\"]\nerror = { kind = \"dead_zone\", scale = 1.0, sparsity = 1e-12 }\n";
    std::fs::write(&plan, rule).unwrap();
    let common =
        ["eval", "--model", "builtin:tiny", "--data", "builtin:arith", "--n", "2", "--noise", "0,0.05"];
    for metric in [&["--max-new-tokens", "4"][..], &["--metric", "nll"]] {
        let output = hardy(&[&common[..], metric, &["--plan", arg(&plan)]].concat());
        succeeded(&output);
        let said = text(&output.stderr);
        assert!(said.contains("warning: level seldom: rule 1 (dead_zone) changed none of the "), "{said}");
        assert_eq!(said.matches("changed none").count(), 1, "{said}");
    }
}
