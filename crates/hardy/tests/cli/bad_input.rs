//! Bad input: one clear sentence, exit code 2, and what was on disk as it was.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::support::{
    arg, hardy, json, read, refuses, succeeded, text, tiny_model as model, write, write_tokens,
};

fn generate_refuses(model: &Path, parts: &[&str]) {
    refuses(&["generate", "--model", arg(model), "--prompt", "x", "--max-new-tokens", "1"], parts);
}

#[test]
fn models_that_can_not_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    generate_refuses(&dir.path().join("absent"), &["absent", "config.json", "cannot be read"]);
    generate_refuses(Path::new("builtin:huge"), &["builtin:huge", "builtin:tiny"]);
    let model = model(dir.path());
    let weights = model.join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    generate_refuses(&model, &["model.safetensors", "is not a whole safetensors file"]);
    fs::remove_file(&weights).unwrap();
    generate_refuses(&model, &["holds neither model.safetensors nor"]);
    write(&weights, &[("model.embed_tokens.weight", &[1, 2], vec![0.0; 2])]);
    generate_refuses(&model, &["model.safetensors"]);
    let config = fs::read_to_string(model.join("config.json")).unwrap();
    fs::write(
        model.join("config.json"),
        config.replace("Qwen2ForCausalLM", "MambaForCausalLM").replace("qwen2", "mamba"),
    )
    .unwrap();
    generate_refuses(&model, &["config.json: unknown architecture", "ForCausalLM"]);
}

#[test]
fn a_tensor_of_the_wrong_shape_is_named_with_both_shapes() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let weights = model.join("model.safetensors");
    let tensors = read(&weights).tensors;
    let name = "model.layers.1.mlp.up_proj.weight";
    let rewritten: Vec<_> = tensors
        .iter()
        .map(|tensor| {
            let (mut shape, mut data) = (tensor.shape.clone(), tensor.as_f32().unwrap());
            if tensor.name == name {
                data.truncate(data.len() - shape[1]);
                shape[0] -= 1;
            }
            (tensor.name.as_str(), shape, data)
        })
        .collect();
    let borrowed: Vec<_> =
        rewritten.iter().map(|(name, shape, data)| (*name, &shape[..], data.clone())).collect();
    write(&weights, &borrowed);
    generate_refuses(&model, &["model.safetensors", name, "config.json asks for"]);
}

#[test]
fn batches_that_can_not_be_scored_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("in.safetensors"), dir.path().join("out.safetensors"));
    let with = |tensors: &[(&str, &[i32])], shape: [usize; 2], parts: &[&str]| {
        write_tokens(&from, shape, tensors);
        refuses(&["score", "--model", "builtin:tiny", "--batch", arg(&from), "--out", arg(&to)], parts);
        assert!(!to.exists());
    };
    with(&[("prompt_ids", &[1, 2])], [1, 2], &["`input_ids` is missing", "`prompt_ids`"]);
    with(
        &[("input_ids", &[1, 2, 999_999, 3])],
        [2, 2],
        &["`input_ids`[1, 0] is 999999", "a token from 0 to"],
    );
    with(&[("input_ids", &[1, -2])], [1, 2], &["`input_ids`[0, 1] is -2"]);
    with(
        &[("input_ids", &[1, 2]), ("attention_mask", &[1, 3])],
        [1, 2],
        &["`attention_mask`[0, 1] is 3", "0 or 1"],
    );
    with(&[("input_ids", &[1, 2]), ("attention_mask", &[1, 0])], [1, 2], &["nothing to score"]);
    with(&[("input_ids", &[])], [0, 4], &["holds nothing"]);
    write(&from, &[("input_ids", &[1, 2], vec![1.0, 2.0])]);
    let arguments = ["score", "--model", "builtin:tiny", "--batch", arg(&from), "--out", arg(&to)];
    refuses(&arguments, &["`input_ids` has dtype F32"]);
}

#[test]
fn plans_that_can_not_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let plan = dir.path().join("plan.toml");
    let generate = ["generate", "--model", "builtin:tiny", "--prompt", "x", "--max-new-tokens", "1"];
    let with = |text: &str, parts: &[&str]| {
        fs::write(&plan, text).unwrap();
        refuses(&[&generate[..], &["--plan", arg(&plan)]].concat(), parts);
    };
    let rule = "[[noise]]\nerror = { kind = \"relative_gaussian\", scale = 0.1 }\n";
    with(
        &format!("{rule}layerz = [1]\n"),
        &["plan.toml:3: unknown key `layerz` in [[noise]]; did you mean `layers`?"],
    );
    with(&format!("{rule}layers = [99]\n"), &["rule 1 matches no site", "layers 0..="]);
    with(&rule.replace("0.1", "-0.1"), &["plan.toml:1: [[noise]]: error scale is -0.1"]);
    with(&rule.replace("relative_gaussian", "gaussian"), &["plan.toml:2: unknown value `gaussian`"]);
    with(&format!("{rule}during = [\"eval\"]\n"), &["no rule of the plan acts in the phase rollout"]);
    with("[[noise]\n", &["plan.toml:1: "]);
    for scale in ["-0.05", "nan", "much"] {
        refuses(&[&generate[..], &["--noise", scale]].concat(), &["--noise", "must be from 0"]);
    }
    refuses(&[&generate[..], &["--plan", "absent.toml"]].concat(), &["absent.toml"]);
}

#[test]
fn bad_usage_is_said_with_what_would_be_right() {
    refuses(
        &["generate", "--model", "builtin:tiny", "--prompt", "", "--max-new-tokens", "1"],
        &["--prompt is empty"],
    );
    refuses(
        &["generate", "--model", "builtin:tiny", "--prompt", "x", "--max-new-tokens", "0"],
        &["--max-new-tokens"],
    );
    refuses(&["generate", "--model", "builtin:tiny", "--max-new-tokens", "1"], &["--prompt", "--batch"]);
    let on = ["generate", "--model", "builtin:tiny", "--prompt", "x", "--max-new-tokens", "1", "--device"];
    if cfg!(not(feature = "cuda")) {
        refuses(&[&on[..], &["cuda"]].concat(), &["this build has", "build it with `--features cuda`"]);
    }
    refuses(&[&on[..], &["abacus"]].concat(), &["unknown device"]);
    refuses(&["doctor", "--threads", "0"], &["--threads", "from 1 to"]);
    refuses(&["schedule", "--kind", "constant"], &["--kind constant needs --sigma"]);
    refuses(&["schedule", "--kind", "constant", "--sigma", "-1"], &["`sigma` is -1"]);
    refuses(
        &["schedule", "--kind", "constant", "--sigma", "1", "--epochs", "2"],
        &["--epochs means nothing"],
    );
    refuses(&["schedule", "--kind", "linear"], &["linear", "epoch_aware"]);
    let endless =
        ["--sigma-start", "1", "--sigma-end", "0.1", "--stages-per-epoch", "2", "--steps-per-epoch"];
    let most = usize::MAX.to_string();
    let epochs = ["schedule", "--kind", "epoch_aware", "--epochs", "4"];
    refuses(&[&epochs[..], &endless, &[&most]].concat(), &["more than 10,000,000 steps"]);
}

#[test]
fn a_loss_that_is_not_finite_is_a_failed_run_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let weights = model.join("model.safetensors");
    let tensors = read(&weights).tensors;
    let broken = |x: &hardy_model::NamedTensor| {
        let mut data = x.as_f32().unwrap();
        if x.name == "model.norm.weight" {
            data[0] = f32::NAN;
        }
        data
    };
    let tensors: Vec<_> = tensors.iter().map(|x| (x.name.as_str(), &x.shape[..], broken(x))).collect();
    write(&weights, &tensors);
    let (from, to) = (dir.path().join("in.safetensors"), dir.path().join("out.safetensors"));
    write_tokens(&from, [1, 3], &[("input_ids", &[5, 6, 7])]);
    let output = hardy(&["score", "--model", arg(&model), "--batch", arg(&from), "--out", arg(&to)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("error: the loss is NaN"));
    assert!(!to.exists());
}

/// The built-in model with one weight of its last norm replaced.
fn broken_model(dir: &Path, value: f32) -> PathBuf {
    let model = model(dir);
    let weights = model.join("model.safetensors");
    let tensors = read(&weights).tensors.into_iter().map(|tensor| {
        let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
        let mut data = tensor.into_f32().unwrap();
        if name == "model.norm.weight" {
            data[0] = value;
        }
        (name, shape, data)
    });
    let tensors: Vec<_> = tensors.collect();
    let parts: Vec<_> =
        tensors.iter().map(|(name, shape, data)| (&name[..], &shape[..], data.clone())).collect();
    write(&weights, &parts);
    model
}

#[test]
fn a_model_that_is_not_finite_is_not_judged_as_if_it_were() {
    let dir = tempfile::tempdir().unwrap();
    let model = broken_model(dir.path(), f32::NAN);
    let on = |command: &[&'static str]| {
        [command, &["--model", arg(&model), "--data", "builtin:arith", "--n", "3"]].concat()
    };
    for command in [
        &["eval", "--metric", "nll"][..],
        &["probe"],
        &["probe", "--metric", "accuracy"],
        &["probe", "--passes", "backward"],
        &["scan", "--format", "mxfp4"],
    ] {
        let output = hardy(&on(command));
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("is not finite without any error; the model itself is broken"), "{said}");
        assert!(output.stdout.is_empty());
    }
    // Answers end there, and are neither cut off nor wrong like others.
    let output = hardy(&on(&["eval", "--max-new-tokens", "4", "--noise", "0"]));
    succeeded(&output);
    let table = text(&output.stdout);
    assert!(table.contains("not finite: answers that") && table.contains("  0.0 %     100.0 %"), "{table}");
    let sampled = json(&on(&["eval", "--max-new-tokens", "4", "--noise", "0,0.1"]));
    for row in sampled["table"]["levels"].as_array().unwrap() {
        assert_eq!((&row["cut_off"], &row["non_finite"]), (&0.0.into(), &1.0.into()));
    }
}

#[test]
fn a_format_that_overflows_is_flagged_and_its_scan_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (broken_model(dir.path(), 1e30), dir.path().join("scan.json"));
    let scan = ["scan", "--model", arg(&model), "--data", "builtin:arith", "--format", "fp16", "--n", "2"];
    let found = json(&[&scan[..], &["--out", arg(&out)]].concat());
    let rows = found["rows"].as_array().unwrap();
    let head = rows.iter().find(|row| row["module"] == "lm_head").unwrap();
    assert!(head["sqnr_db"].as_f64().unwrap() < 0.0 && head["relative_error"].is_null(), "{head}");
    assert!(head["reasons"].to_string().contains("SQNR"), "{head}");
    hardy_train::scan_file::ScanFile::read(&out).unwrap();
}
