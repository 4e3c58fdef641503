//! `replay`: a step of a run comes out as it did, and what is another is found.

use std::fs;

use crate::support::{arg, hardy, json, refuses, succeeded, text};

const RUN: &str = "name = \"short\"\n[model]\npath = \"builtin:tiny\"\n[data]\ntrain = \"builtin:arith\"\neval = \
                   \"builtin:arith\"\n[train]\nalgorithm = \"grpo\"\nsteps = 3\nprompts_per_step = 2\nsamples_per_prompt = 4\n\
                   max_new_tokens = 24\n[eval]\nevery = 0\nn = 4\n";

#[test]
fn a_step_comes_out_the_same_with_other_threads_and_a_changed_one_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let (config, run) = (dir.path().join("short.toml"), dir.path().join("run"));
    fs::write(&config, RUN).unwrap();
    succeeded(&hardy(&["run", arg(&config), "--out", arg(&run)]));
    let again = json(&["replay", arg(&run), "--step", "2", "--threads", "1"]);
    assert_eq!((&again["same"], &again["from"], &again["replayed"]), (&true.into(), &0.into(), &2.into()));
    let metrics = run.join("metrics.jsonl");
    let lines = fs::read_to_string(&metrics).unwrap();
    assert!(lines.contains(again["weights_hash"].as_str().unwrap()));
    // One hexadecimal digit of the second step's gradients, and of one of their tensors.
    let hashes = run.join("hashes.jsonl");
    let change = |path: &std::path::Path, key: &str, skip: usize| {
        let text = fs::read_to_string(path).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let at = lines[1].find(&format!("\"{key}\":\"")).unwrap() + key.len() + 4 + skip;
        let digit = if lines[1].as_bytes()[at] == b'0' { "1" } else { "0" };
        lines[1].replace_range(at..=at, digit);
        fs::write(path, lines.join("\n") + "\n").unwrap();
    };
    change(&metrics, "gradients_hash", 0);
    change(&hashes, "gradients", 8);
    let output = hardy(&["replay", arg(&run), "--step", "3", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let difference = &found["difference"];
    assert_eq!((&difference["step"], &difference["stage"]), (&2.into(), &"gradients".into()), "{found}");
    assert_eq!(difference["tensors"], 1);
    assert_eq!(difference["tensor"], "model.layers.0.self_attn.q_proj.weight");
    refuses(&["replay", arg(&run), "--step", "4"], &["has made steps 1 to 3"]);
    refuses(&["replay", arg(&run), "--step", "0"], &["has made steps 1 to 3"]);
    refuses(&["replay", arg(dir.path()), "--step", "1"], &["is not a run directory"]);
    let without = lines.lines().map(|line| {
        let mut record: serde_json::Value = serde_json::from_str(line).unwrap();
        record.as_object_mut().unwrap().remove("weights_hash");
        format!("{record}\n")
    });
    fs::write(&metrics, without.collect::<String>()).unwrap();
    refuses(&["replay", arg(&run), "--step", "1"], &["metrics.jsonl:1", "weights_hash"]);
}
