//! `scan`, and runs whose AQN it guides.

use std::fs;

use crate::support::{arg, hardy, json, refuses, succeeded};

const RUN: &str = "\
name = \"guided\"
[model]
path = \"builtin:tiny\"
[data]
train_problems = 4
[train]
steps = 1
prompts_per_step = 2
samples_per_prompt = 2
learning_rate = 1e-4
max_new_tokens = 8
[eval]
n = 2
noise_levels = [0.0]
[aqn]
schedule = \"constant\"
sigma = 0.01
guide = \"variable\"
";

#[test]
fn a_scan_finds_what_a_coarse_format_hurts_and_nothing_in_a_fine_one() {
    let scan = |format: &str| {
        json(&["scan", "--model", "builtin:tiny", "--data", "builtin:arith", "--n", "4", "--format", format])
    };
    let coarse = scan("mxfp4");
    let rows = coarse["rows"].as_array().unwrap();
    // Seven linear layers in each of four layers with weights, and a head tied to the embedding without.
    assert_eq!(rows.len(), 4 * 7 * 2 + 1);
    assert!(!coarse["flagged_layers"].as_array().unwrap().is_empty());
    let flagged = |row: &&serde_json::Value| !row["reasons"].as_array().unwrap().is_empty();
    for row in rows.iter().filter(flagged) {
        assert!(row["sqnr_db"].as_f64().unwrap() < 40.0, "{row}");
    }
    let fine = scan("fp16");
    assert_eq!((&fine["recommendation"], &fine["flagged_layers"]), (&"none".into(), &serde_json::json!([])));
    let usual = ["scan", "--model", "builtin:tiny", "--data", "builtin:arith"];
    refuses(&[&usual[..], &["--format", "fp3"]].concat(), &["fp3", "mxfp4"]);
}

#[test]
fn a_guided_run_gives_every_layer_its_sigma_and_refuses_the_scan_of_another_model() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (config, out, scan) = (path("guided.toml"), path("out"), path("scan.json"));
    fs::write(&config, RUN).unwrap();
    refuses(&["run", arg(&config), "--out", arg(&out)], &["aqn.scan"]);
    succeeded(&hardy(&["run", arg(&config), "--out", arg(&out), "--set", "aqn.scan=auto"]));
    let text = fs::read_to_string(out.join("scan.json")).unwrap();
    let receipts: Vec<serde_json::Value> =
        serde_json::from_slice(&fs::read(out.join("receipts.json")).unwrap()).unwrap();
    let asked = |layer: usize| {
        let site = format!("model.layers.{layer}.input_layernorm");
        receipts.iter().find(|receipt| receipt["site"] == *site).unwrap()["asked"].as_f64().unwrap()
    };
    let mean = (0..4).map(asked).sum::<f64>() / 4.0;
    assert!((mean - 0.01).abs() < 1e-9 && asked(0) != asked(1), "{mean}");
    let other = text.replacen("\"fingerprint\": \"", "\"fingerprint\": \"0", 1);
    fs::write(&scan, other).unwrap();
    let set = format!("aqn.scan={:?}", arg(&scan));
    refuses(&["run", arg(&config), "--out", arg(&path("no")), "--set", &set], &["another model"]);
    assert!(!path("no").exists());
    fs::write(&scan, text).unwrap();
    succeeded(&hardy(&["run", arg(&config), "--out", arg(&path("yes")), "--set", &set]));
}
