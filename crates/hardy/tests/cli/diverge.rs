//! `dump` and `diverge`: what a model computes, held against what another machine does.

use std::{fs, path::Path};

use serde_json::Value;

use crate::support::{arg, golden, hardy, read, refuses, succeeded, text, write_tokens};

const TINY: [&str; 6] = ["--model", "builtin:tiny", "--data", "builtin:arith", "--n", "2"];

/// Runs `diverge`; gives its JSON and its exit code.
fn diverge(arguments: &[&str]) -> (Value, i32) {
    let output = hardy(&[&["diverge"], arguments, &["--json"]].concat());
    assert_ne!(output.status.code(), Some(2), "{}", text(&output.stderr));
    (serde_json::from_slice(&output.stdout).unwrap(), output.status.code().unwrap())
}

fn dump(out: &Path, arguments: &[&str]) {
    succeeded(&hardy(&[&["dump", "--out", arg(out)], arguments].concat()));
}

fn msprobe(kind: &str) -> String {
    format!("{}/tests/data/msprobe/{kind}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_dump_holds_every_site_and_is_itself_a_batch() {
    let dir = tempfile::tempdir().unwrap();
    let [all, again] = ["all.safetensors", "again.safetensors"].map(|name| dir.path().join(name));
    dump(&all, &[&TINY[..], &["--grads"]].concat());
    let file = read(&all);
    let [rows, time] = file.get("input_ids").unwrap().shape[..] else { panic!("a matrix") };
    for (name, width) in [("mlp.gate_proj/linear/output", 384), ("self_attn.values/matmul/output", 128)] {
        let found = file.get(&format!("model.layers.3.{name}")).unwrap();
        assert_eq!(found.shape, [rows, time, width], "{name}");
    }
    let softmax = file.get("model.layers.0.self_attn.softmax/softmax/output").unwrap();
    assert_eq!((softmax.shape[0], softmax.shape[2..].to_vec()), (rows, vec![time, time]));
    let p = softmax.as_f32().unwrap();
    let shown = file.get("attention_mask").unwrap().as_i64().unwrap();
    for (index, row) in p.chunks(time).enumerate() {
        let (b, t) = (index / (softmax.shape[1] * time), index % time);
        let expected = if shown[b * time + t] != 0 { 1.0 } else { 0.0 };
        assert!((row.iter().sum::<f32>() - expected).abs() < 1e-5, "{b} {t}");
        assert!(row[t + 1..].iter().all(|&p| p == 0.0), "a query sees itself and what precedes it");
    }
    for point in ["grad_input", "grad_weight", "grad_bias", "output"] {
        assert!(file.tensors.iter().any(|tensor| tensor.name.ends_with(point)), "{point}");
    }
    assert_eq!(file.metadata["device"], "cpu");
    dump(&again, &["--model", "builtin:tiny", "--batch", arg(&all)]);
    let (found, code) = diverge(&[arg(&all), arg(&again)]);
    assert_eq!((found["verdict"]["kind"].as_str(), code), (Some("equal"), 0));
}

#[test]
fn the_gradients_of_a_dump_are_those_of_score() {
    let Some(root) = golden() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (out, model) = (dir.path().join("dump.safetensors"), root.join("qwen2"));
    let numbers = model.join("golden.safetensors");
    dump(&out, &["--model", arg(&model), "--batch", arg(&numbers), "--grads", "--sites", "*/grad_*"]);
    // PyTorch's gradients of the same parameters, on the same batch.
    let (found, code) = diverge(&[arg(&out), arg(&numbers), "--tolerance", "1e-4"]);
    assert_eq!((found["verdict"]["kind"].as_str(), code), (Some("equal"), 0), "{}", found["verdict"]);
    assert!(found["sites"].as_array().unwrap().len() > 30);
}

#[test]
fn threads_do_not_matter_and_an_error_is_found_where_it_is() {
    let (found, code) = diverge(&[&TINY[..], &["--between", "cpu", "cpu,threads=1", "--grads"]].concat());
    assert_eq!((found["verdict"]["kind"].as_str(), code), (Some("equal"), 0));
    assert!(found["sites"].as_array().unwrap().len() > 150);
    let dir = tempfile::tempdir().unwrap();
    let plan = dir.path().join("plan.toml");
    let rule = "[[noise]]\nops = [\"linear\"]\nlayers = [2]\nmodules = \"*up_proj\"\nerror = { kind = \"relative_gaussian\", \
                scale = 0.05 }\n";
    fs::write(&plan, rule).unwrap();
    let side = format!("cpu,plan={}", plan.display());
    let (found, code) = diverge(&[&TINY[..], &["--between", "cpu", &side]].concat());
    let verdict = &found["verdict"];
    assert_eq!((verdict["kind"].as_str(), code), (Some("localised"), 1));
    assert_eq!(verdict["first"], "model.layers.2.mlp.up_proj/linear/output");
    let sites = found["sites"].as_array().unwrap();
    let first = sites.iter().find(|site| site["name"] == verdict["first"]).unwrap();
    let relative = first["differences"]["relative"].as_f64().unwrap();
    assert!((relative - 0.05).abs() < 0.005, "{relative}");
    assert_eq!(first["floor"], 0.0);
}

#[test]
fn a_dump_that_msprobe_made_of_a_transformers_model_is_read_and_agrees() {
    let Some(root) = golden() else { return };
    let dir = tempfile::tempdir().unwrap();
    let [batch, out] = ["batch.safetensors", "hardy.safetensors"].map(|name| dir.path().join(name));
    write_tokens(&batch, [1, 5], &[("input_ids", &[17, 402, 33, 760, 5])]);
    let model = root.join("qwen2");
    dump(&out, &["--model", arg(&model), "--batch", arg(&batch), "--grads"]);
    for kind in ["tensor", "statistics"] {
        let (found, code) = diverge(&[arg(&out), &msprobe(kind)]);
        assert_eq!((found["verdict"]["kind"].as_str(), code), (Some("equal"), 0), "{}", found["verdict"]);
        let names: Vec<&str> =
            found["sites"].as_array().unwrap().iter().map(|site| site["name"].as_str().unwrap()).collect();
        for name in [
            "model.embed_tokens/embedding/output",
            "model.layers.0.self_attn.softmax/softmax/output",
            "model.layers.0.mlp.down_proj/linear/output",
            "model.layers.0.self_attn.k_proj/linear/grad_bias",
        ] {
            assert!(names.contains(&name), "{kind}: {name} is not in {names:?}");
        }
        let unmatched = found["only_b"].as_array().unwrap();
        assert!(
            unmatched.iter().any(|name| name.as_str().unwrap().contains("Qwen2DecoderLayer")),
            "{unmatched:?}"
        );
    }
}

#[test]
fn other_tokens_other_models_and_other_shapes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b, c] = ["a.safetensors", "b.safetensors", "c.safetensors"].map(|name| dir.path().join(name));
    let batch = dir.path().join("batch.safetensors");
    dump(&a, &TINY);
    dump(&b, &["--model", "builtin:tiny", "--data", "builtin:arith", "--n", "1"]);
    refuses(&["diverge", arg(&a), arg(&b)], &["different tokens"]);
    let Some(root) = golden() else { return };
    write_tokens(&batch, [1, 4], &[("input_ids", &[5, 6, 7, 8])]);
    for (model, out) in [("qwen2", &b), ("llama", &c)] {
        dump(out, &["--model", arg(&root.join(model)), "--batch", arg(&batch)]);
    }
    refuses(&["diverge", arg(&b), arg(&c)], &["different parameters", "--any-model"]);
    refuses(&["diverge", arg(&b), &msprobe("tensor")], &["different tokens"]);
}

#[test]
fn what_is_no_dump_is_refused_in_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let a = dir.path().join("a.safetensors");
    dump(&a, &TINY);
    let mut bytes = fs::read(&a).unwrap();
    bytes.truncate(bytes.len() - 100);
    let cut = dir.path().join("cut.safetensors");
    fs::write(&cut, bytes).unwrap();
    refuses(&["diverge", arg(&a), arg(&cut)], &["cut.safetensors", "cut short"]);
    let evil = dir.path().join("evil.pt");
    fs::write(&evil, b"\x80\x02cposix\nsystem\nq\x00X\x04\x00\x00\x00trueq\x01\x85q\x02Rq\x03.").unwrap();
    refuses(&["diverge", arg(&a), arg(&evil)], &["evil.pt", "`posix.system`", "nothing is run"]);
    let words = dir.path().join("words.txt");
    fs::write(&words, "words").unwrap();
    refuses(&["diverge", arg(&a), arg(&words)], &["words.txt", "none of the kinds"]);
    refuses(&["diverge", arg(&a), arg(&dir.path().join("none.npy"))], &["none.npy"]);
    refuses(&["diverge", arg(&a), arg(dir.path())], &["holds no dump.json"]);
    refuses(&["diverge", arg(&a)], &["what against what"]);
    refuses(
        &[&["diverge"], &TINY[..], &["--between", "cpu", "cpu,thread=1"]].concat(),
        &["unknown key `thread`", "threads"],
    );
    refuses(&[&["diverge"], &TINY[..], &["--devices", "cpu"]].concat(), &["need two sides"]);
    refuses(
        &[&["dump", "--out", "x.safetensors"], &TINY[..], &["--sites", "nothing*"]].concat(),
        &["matches no site"],
    );
    refuses(&["dump", "--out", "x.safetensors", "--model", "builtin:tiny"], &["which tokens?"]);
}

#[test]
fn a_tensor_that_lies_outside_of_its_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let a = dir.path().join("a.safetensors");
    dump(&a, &TINY);
    let rank = dir.path().join("step0/rank0");
    fs::create_dir_all(rank.join("dump_tensor_data")).unwrap();
    let with = |data_name: &str| {
        let tensor = serde_json::json!({"dtype": "torch.float32", "shape": [2], "data_name": data_name});
        let data = serde_json::json!({"Module.norm.RMSNorm.forward.0": {"output": [tensor]}});
        fs::write(rank.join("dump.json"), serde_json::json!({ "data": data }).to_string()).unwrap();
    };
    for leaving in ["../../../secret.pt", "/etc/passwd", "..", "a/../../b.pt", "..\\b.pt"] {
        with(leaving);
        refuses(&["diverge", arg(&a), arg(dir.path())], &["leaves the directory"]);
    }
    with("gone.pt");
    refuses(&["diverge", arg(&a), arg(dir.path())], &["gone.pt", "is not there"]);
    fs::write(rank.join("dump.json"), "{\"data\": {\"Module").unwrap();
    refuses(&["diverge", arg(&a), arg(dir.path())], &["dump.json:1"]);
}

#[test]
fn the_error_model_of_a_simulated_machine_is_recovered() {
    let dir = tempfile::tempdir().unwrap();
    let [clean, machine, plan, fitted] =
        ["clean.safetensors", "machine.safetensors", "plan.toml", "fitted.toml"]
            .map(|name| dir.path().join(name));
    dump(&clean, &TINY);
    let rule = |rest: &str| format!("[[noise]]\nops = [\"linear\"]\nexclude = [\"lm_head\"]\n{rest}\n");
    for (truth, kind, scale) in [
        (
            rule("error = { kind = \"relative_gaussian\", scale = 0.03 }"),
            "relative_gaussian at output, scale",
            Some(0.03),
        ),
        (
            rule("error = { kind = \"absolute_gaussian\", scale = 0.02 }"),
            "absolute_gaussian at output, scale",
            Some(0.02),
        ),
        (rule("at = \"weight\"\nerror = { kind = \"mxfp4\" }"), "mxfp4 at weight", None),
        (rule("error = { kind = \"accumulate_bf16\", chunk = 32 }"), "accumulate_bf16, chunk 32", None),
    ] {
        fs::write(&plan, &truth).unwrap();
        dump(&machine, &[&TINY[..], &["--plan", arg(&plan), "--seed", "7"]].concat());
        let arguments = [arg(&clean), arg(&machine), "--model", "builtin:tiny", "--fit", arg(&fitted)];
        let (found, _) = diverge(&arguments);
        let classes = found["error_model"]["classes"].as_array().unwrap();
        let class = |name: &str| classes.iter().find(|class| class["class"] == name).unwrap();
        let linear = class("linear");
        assert!(linear["kind"].as_str().unwrap().starts_with(kind), "{linear}");
        assert_eq!(class("head")["kind"], "none");
        match scale {
            Some(scale) => {
                let [low, high] = ["low", "high"].map(|end| linear["scale"][1][end].as_f64().unwrap());
                // The interval is a 95 % one: twice its width is not missed by chance.
                let half = high - low;
                assert!((linear["scale"][0].as_f64().unwrap() - scale).abs() < half, "{linear}");
                assert!(linear["distance"].as_f64().unwrap() < 0.02, "{linear}");
            }
            None => assert!(linear["explained"].as_f64().unwrap() > 0.999, "{linear}"),
        }
        let ratio = found["error_model"]["simulation"]["median_ratio"].as_f64().unwrap();
        assert!((ratio - 1.0).abs() < 0.2, "{ratio}");
        let again = fs::read_to_string(&fitted).unwrap();
        assert!(again.contains("[[noise]]"), "{again}");
        succeeded(&hardy(&[&["dump", "--out", arg(&machine), "--plan", arg(&fitted)], &TINY[..]].concat()));
    }
}
