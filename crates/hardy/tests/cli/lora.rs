//! Low-rank adapters from a run to its export: PEFT's layout, resuming to the bit, merging, and what is refused.

use std::{fs, path::Path};

use crate::support::{arg, hardy, json, refuses, succeeded};

const CONFIG: &str = "\
name = \"adapters\"
[model]
path = \"builtin:tiny\"
[data]
train_problems = 8
[train]
steps = 4
prompts_per_step = 2
samples_per_prompt = 4
learning_rate = 1e-2
max_new_tokens = 24
reward = \"flexible\"
kl_coefficient = 0.01
[lora]
rank = 4
alpha = 8
dropout = 0.1
target_modules = [\"q_proj\", \"v_proj\"]
[[noise]]
ops = [\"linear\"]
at = \"weight\"
during = [\"rollout\", \"train\"]
error = { kind = \"mxfp4\" }
[eval]
every = 2
n = 4
noise_levels = [0.0]
[checkpoint]
optimizer = \"all\"
";

fn checkpoint(run: &Path, step: u64) -> std::path::PathBuf {
    run.join(format!("checkpoints/step-{step:06}"))
}

fn adapter(run: &Path, step: u64) -> Vec<u8> {
    fs::read(checkpoint(run, step).join("adapter_model.safetensors")).unwrap()
}

#[test]
fn adapters_are_trained_saved_resumed_and_merged() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("adapters.toml"), CONFIG).unwrap();
    succeeded(&hardy(&["run", arg(&path("adapters.toml")), "--out", arg(&path("run"))]));
    let last = checkpoint(&path("run"), 4);
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(last.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!((&config["peft_type"], &config["r"]), (&"LORA".into(), &4.into()));
    assert_eq!(config["base_model_name_or_path"], "builtin:tiny");
    assert!(!last.join("model.safetensors").exists(), "the base is not copied");
    assert_ne!(adapter(&path("run"), 2), adapter(&path("run"), 4), "something was learned");

    // Cut off after the second step, as a kill between checkpoints would leave it.
    fs::remove_dir_all(&last).unwrap();
    fs::remove_file(path("run/eval/step-000004.json")).unwrap();
    let before = fs::read(path("run/checkpoints/step-000002/adapter_model.safetensors")).unwrap();
    succeeded(&hardy(&["run", arg(&path("adapters.toml")), "--out", arg(&path("run")), "--resume"]));
    succeeded(&hardy(&["run", arg(&path("adapters.toml")), "--out", arg(&path("whole"))]));
    assert_eq!(before, adapter(&path("whole"), 2));
    assert_eq!(adapter(&path("run"), 4), adapter(&path("whole"), 4));

    succeeded(&hardy(&["export", arg(&path("run")), "--out", arg(&path("merged"))]));
    let ask = |model: &Path| {
        let out = hardy(&[
            "generate",
            "--model",
            arg(model),
            "--prompt",
            "Tom has 3 apples",
            "--max-new-tokens",
            "12",
        ]);
        succeeded(&out);
        out.stdout
    };
    assert_eq!(ask(&path("merged")), ask(&checkpoint(&path("run"), 4)));
}

#[test]
fn adapters_that_do_not_fit_are_refused_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("adapters.toml"), CONFIG).unwrap();
    let out = path("run");
    for (change, sentence) in [
        ("lora.rank=100", "`rank` is 100, larger than the matrix of model.layers.0.self_attn.v_proj"),
        ("lora.rank=0", "`lora.rank` is 0, but must be a whole number from 1"),
        ("lora.target_modules=[\"query\"]", "`target_modules` names `query`"),
        ("lora.width=3", "width"),
    ] {
        refuses(&["run", arg(&path("adapters.toml")), "--out", arg(&out), "--set", change], &[sentence]);
        assert!(!out.exists(), "{change}");
    }
    succeeded(&hardy(&["run", arg(&path("adapters.toml")), "--out", arg(&out), "--set", "train.steps=1"]));
    let (on, again) = (format!("model.path={}", arg(&checkpoint(&out, 1))), path("again"));
    refuses(
        &["run", arg(&path("adapters.toml")), "--out", arg(&again), "--set", &on],
        &["holds adapters for builtin:tiny already"],
    );
    assert!(!again.exists());
    let config = checkpoint(&out, 1).join("adapter_config.json");
    let text = fs::read_to_string(&config).unwrap();
    let other = text.replacen("\"hardy_base_fingerprint\": \"", "\"hardy_base_fingerprint\": \"0", 1);
    assert_ne!(text, other);
    fs::write(&config, other).unwrap();
    refuses(
        &["generate", "--model", arg(&checkpoint(&out, 1)), "--prompt", "x", "--max-new-tokens", "2"],
        &["is an adapter for builtin:tiny with the fingerprint 0"],
    );
}

#[test]
fn adapters_are_estimated_with_their_base_and_named_where_it_is_not_to_be_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("adapters.toml"), CONFIG).unwrap();
    let short = ["--set", "train.steps=1", "--set", "eval.every=1"];
    succeeded(&hardy(
        &[&["run", arg(&path("adapters.toml")), "--out", arg(&path("run"))][..], &short].concat(),
    ));
    let last = checkpoint(&path("run"), 1);

    let goes_on = CONFIG.replace("builtin:tiny", arg(&last));
    let (before, after) = (goes_on.find("[lora]").unwrap(), goes_on.find("[[noise]]").unwrap());
    fs::write(path("on.toml"), [&goes_on[..before], &goes_on[after..]].concat()).unwrap();
    let said = json(&["doctor", "--estimate", arg(&path("on.toml"))]);
    let moments = said["arms"][0]["optimizer"].as_u64().unwrap();
    assert!((1..1 << 20).contains(&moments), "those of the adapters alone: {moments}");

    let config = last.join("adapter_config.json");
    fs::write(&config, fs::read_to_string(&config).unwrap().replace("builtin:tiny", "else/where")).unwrap();
    refuses(
        &["generate", "--model", arg(&last), "--prompt", "x", "--max-new-tokens", "1"],
        &["the adapters' base is `else/where`, and no model is there"],
    );
}
