//! `run` and what follows it: a few steps, then comparing, reporting and exporting.

use std::{fs, path::Path, process::Stdio};

use crate::support::{arg, command, golden, hardy, json, refuses, succeeded, text};

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
n = 4
noise_levels = [0.0, 0.05]
[[arm]]
name = \"clean\"
[[arm]]
name = \"noise\"
[[arm.noise]]
error = { kind = \"relative_gaussian\", scale = 0.05 }
ops = [\"linear\"]
pass = [\"forward\", \"backward\"]
";

fn config(dir: &Path, text: &str) -> std::path::PathBuf {
    let path = dir.join("short.toml");
    fs::write(&path, text).unwrap();
    path
}

/// `metrics.jsonl` without what a clock says.
fn metrics(run: &Path) -> Vec<serde_json::Value> {
    let line = |line: &str| {
        let mut metrics: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
        metrics.retain(|key, _| !key.ends_with("_seconds") && !key.ends_with("_per_second"));
        serde_json::Value::Object(metrics)
    };
    fs::read_to_string(run.join("metrics.jsonl")).unwrap().lines().map(line).collect()
}

#[test]
fn a_run_is_the_same_with_any_number_of_threads_and_can_be_compared_reported_and_exported() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), CONFIG);
    let path = |name: &str| dir.path().join(name);
    let said = json(&["run", arg(&config), "--out", arg(&path("one")), "--threads", "1"]);
    assert_eq!(said["arms"].as_array().unwrap().len(), 2);
    assert!(said["comparison"].is_object() && path("one/report.html").exists());
    succeeded(&hardy(&["run", arg(&config), "--out", arg(&path("two")), "--threads", "2"]));
    for arm in ["clean", "noise"] {
        let (one, two) = (path("one").join(arm), path("two").join(arm));
        assert_eq!(metrics(&one).len(), 2);
        assert_eq!(metrics(&one), metrics(&two));
        assert!(fs::read_to_string(one.join("config.toml")).unwrap().contains("revision"));
    }
    refuses(&["run", arg(&config), "--out", arg(&path("one"))], &["exists and is never overwritten"]);
    let (clean, noise) = (path("one/clean"), path("one/noise"));
    let compared = json(&["compare", arg(&clean), arg(&noise)]);
    assert_eq!(compared["runs"][0]["levels"].as_array().unwrap().len(), 2);
    succeeded(&hardy(&["compare", arg(&clean), arg(&noise), "--step", "0"]));
    refuses(&["compare", arg(&clean), arg(&noise), "--step", "1"], &["no evaluation at step 1", "0, 2"]);
    let checkpoint = noise.join("checkpoints/step-000002");
    let output = hardy(&["eval", "--model", arg(&checkpoint), "--noise", "0,0.05", "--json"]);
    succeeded(&output);
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(text(&output.stderr).contains("4 problems, wording"), "{}", text(&output.stderr));
    let kept: serde_json::Value =
        serde_json::from_slice(&fs::read(noise.join("eval/step-000002.json")).unwrap()).unwrap();
    assert_eq!(said["conditions"], kept["conditions"]);
    assert_eq!(said["levels"][0]["problems"], kept["levels"][0]["problems"]);
    let other = json(&["eval", "--model", arg(&checkpoint), "--prompt", "Q: {question}"]);
    assert_eq!(other["conditions"]["wording"], "Q: {question}");
    fs::create_dir_all(path("asked/eval")).unwrap();
    fs::copy(noise.join("config.toml"), path("asked/config.toml")).unwrap();
    let mut record = kept;
    record["conditions"]["wording"] = "Q: {question}".into();
    fs::write(path("asked/eval/step-000002.json"), record.to_string()).unwrap();
    let asked = path("asked");
    refuses(&["compare", arg(&clean), arg(&asked)], &["wording is", "--allow wording"]);
    succeeded(&hardy(&["compare", arg(&clean), arg(&asked), "--allow", "wording"]));
    let page = path("page.html");
    succeeded(&hardy(&["report", arg(&clean), arg(&noise), "--out", arg(&page)]));
    assert!(fs::read_to_string(page).unwrap().contains("</html>"));
    let exported = path("exported");
    succeeded(&hardy(&["export", arg(&noise), "--out", arg(&exported), "--dtype", "bf16"]));
    json(&["generate", "--model", arg(&exported), "--prompt", "x", "--max-new-tokens", "1"]);
    refuses(&["export", arg(&noise), "--out", arg(&exported)], &["exists and is never overwritten"]);
    refuses(&["export", arg(&noise), "--out", arg(&path("other")), "--step", "7"], &["checkpoint of step 7"]);
}

/// The names of the files under `directory`, but for logs that hold the time.
fn files(directory: &Path) -> Vec<String> {
    let mut found: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![arg(&path).to_owned()] })
        .filter(|path| !path.contains("tensorboard") && !path.ends_with(".tmp"))
        .collect();
    found.sort();
    found
}

/// What a run of six steps says, and the means to go on from each of them.
fn six_steps(more: &str) -> String {
    let own = CONFIG.split("[[arm]]").next().unwrap().replace("steps = 2", "steps = 6");
    format!("{own}every = 3\n[checkpoint]\nevery = 1\nkeep = 2\nbest = \"worst\"\n{more}")
}

/// Kills a run of `config` at several moments, resumes it every time, and holds what it leaves against one that was left alone,
/// whose directory is given.
fn survives_kills(dir: &Path, config: &Path) -> std::path::PathBuf {
    let path = |name: &str| dir.join(name);
    succeeded(&hardy(&["run", arg(config), "--out", arg(&path("whole"))]));
    let killed = path("killed");
    let arguments = ["run", arg(config), "--out", arg(&killed)];
    let quiet =
        |arguments: &[&str]| command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut run = quiet(&arguments);
    for moment in [700, 60, 250, 500, 800] {
        std::thread::sleep(std::time::Duration::from_millis(moment));
        run.kill().unwrap();
        run.wait().unwrap();
        run = quiet(&[&arguments[..], &["--resume"]].concat());
    }
    assert!(run.wait().unwrap().success());
    assert_eq!(metrics(&path("killed")), metrics(&path("whole")));
    let names = |run: &str| -> Vec<String> {
        files(&path(run)).into_iter().map(|name| name.replace(arg(&path(run)), "")).collect()
    };
    assert_eq!(names("killed"), names("whole"));
    let timed = |name: &String| name.ends_with("metrics.jsonl") || name.ends_with("report.html");
    for name in names("whole").into_iter().filter(|name| !timed(name)) {
        let read = |run: &str| fs::read(format!("{}{name}", arg(&path(run)))).unwrap();
        assert!(read("killed") == read("whole"), "{name}");
    }
    path("whole")
}

#[test]
fn a_run_that_is_killed_at_any_moment_goes_on_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    survives_kills(dir.path(), &config(dir.path(), &six_steps("")));
}

#[test]
fn so_does_one_under_flipped_bits_that_make_values_infinite() {
    let dir = tempfile::tempdir().unwrap();
    let flips = "[[noise]]\nops = [\"linear\"]\nduring = [\"rollout\", \"train\"]\npass = [\"forward\", \"backward\"]\n\
        error = { kind = \"bit_flip\", rate = 5e-6, bits = \"exponent\" }\n";
    let text = six_steps(flips)
        .replace("[train]\n", "[train]\non_nonfinite = \"skip\"\nreward = \"flexible\"\nminibatches = 2\n");
    let whole = survives_kills(dir.path(), &config(dir.path(), &text));
    let count = |key: &str| metrics(&whole).iter().map(|line| line[key].as_u64().unwrap()).sum::<u64>();
    assert!(
        count("skipped_updates") > 0 && count("updates") > 0,
        "{} {}",
        count("skipped_updates"),
        count("updates")
    );
    let receipts: serde_json::Value =
        serde_json::from_slice(&fs::read(whole.join("receipts.json")).unwrap()).unwrap();
    let non_finite =
        receipts.as_array().unwrap().iter().map(|receipt| receipt["non_finite"].as_u64().unwrap());
    assert!(non_finite.sum::<u64>() > 0);
}

/// Waits until somebody has locked `directory` by its file `name`.
fn wait_for_lock(directory: &Path, name: &str) {
    let held = || fs::read_to_string(directory.join(name)).is_ok_and(|text| text.ends_with('\n'));
    let start = std::time::Instant::now();
    while !held() {
        assert!(start.elapsed().as_secs() < 120, "nobody came");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn the_second_of_two_processes_in_a_directory_is_told_of_the_first_and_a_dead_one_keeps_nobody_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let run = CONFIG.split("[[arm]]").next().unwrap().replace("steps = 2", "steps = 10000");
    let arms = CONFIG.replace("steps = 2", "steps = 10000");
    let sft = "name = \"warm\"\neval_problems = 0\n[model]\npath = \"builtin:tiny\"\n[data]\ntrain_problems = 8\n\
        [train]\nsteps = 10000\nbatch = 2\n[checkpoint]\nevery = 1\n";
    fs::write(path("clean.toml"), format!("name = \"clean\"\n{}", &run[run.find("[model]").unwrap()..]))
        .unwrap();
    let suite = "name = \"s\"\npresets = [\"clean.toml\"]\nseeds = [0]\nbaseline = \"clean.toml\"\n";
    for (of, text, resume, name) in [
        ("run", &run[..], &["--resume"][..], "run.lock"),
        ("run", &arms, &["--resume"], "run.lock"),
        ("run", &run, &["--extend", "--set", "train.steps=10001"], "run.lock"),
        ("sft", sft, &["--resume"], "run.lock"),
        ("suite", suite, &[], "suite.lock"),
    ] {
        let (file, out) = (path("a.toml"), path("out"));
        fs::write(&file, text).unwrap();
        let start = [of, arg(&file), "--out", arg(&out)];
        let first = command(&start).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_for_lock(&out, name);
        let lock = fs::read_to_string(out.join(name)).unwrap();
        let who = format!("process {} on ", first.id());
        assert!(lock.starts_with(&who), "{lock}");
        // What is in the directory decides only once it is there.
        let config = if of == "run" && text == run { "config.toml" } else { name };
        while !out.join(config).exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        refuses(&[&start[..], resume].concat(), &["out: ", &who, "is at work there"]);
        let (mut first, held) = (first, fs::read_to_string(out.join(name)).unwrap());
        assert_eq!(held, lock, "the second has left its name");
        first.kill().unwrap();
        first.wait().unwrap();
        let mut next = command(&[&start[..], resume].concat())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let start = std::time::Instant::now();
        while fs::read_to_string(out.join(name)).unwrap() == lock {
            assert!(start.elapsed().as_secs() < 120, "{of}: a dead process keeps others out");
            assert!(next.try_wait().unwrap().is_none(), "{of}: it did not go on");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        next.kill().unwrap();
        next.wait().unwrap();
        fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn a_dry_run_writes_nothing_and_finds_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let path = config(dir.path(), CONFIG);
    let planned = json(&["run", arg(&path), "--dry-run", "--out", arg(&out), "--set", "train.steps=7"]);
    assert_eq!((&planned[1]["name"], &planned[1]["steps"]), (&"noise".into(), &7.into()));
    assert!(!out.exists());
    let refuses_config = |text: &str, parts: &[&str]| {
        refuses(&["run", arg(&config(dir.path(), text)), "--out", arg(&out)], parts);
        assert!(!out.exists());
    };
    let unknown = CONFIG.replace("prompts_per_step", "promts_per_step");
    refuses_config(
        &unknown,
        &["short.toml:8: unknown key `promts_per_step` in [train]; did you mean `prompts_per_step`?"],
    );
    refuses_config(&CONFIG.replace("scale = 0.05", "scale = -1.0"), &["scale"]);
    let train = |line: &str| CONFIG.replace("[train]", &format!("[train]\n{line}"));
    refuses_config(&train("tis_cap = -1.0"), &["`train.tis_cap` is -1, but must be above 0"]);
    refuses_config(&train("algorithm = \"dapoo\""), &["short.toml:7: unknown value `dapoo`", "`dapo`"]);
    refuses_config(&CONFIG.replace("ops = [\"linear\"]", "ops = [\"gelu\"]"), &["matches no site"]);
    let data = dir.path().join("data.jsonl");
    let with_data = CONFIG.replace("[data]", &format!("[data]\ntrain = {0:?}\neval = {0:?}", arg(&data)));
    fs::write(&data, "").unwrap();
    refuses_config(&with_data, &["data.jsonl"]);
    fs::write(&data, "{\"question\": \"1+1?\", \"answer\": \"#### 2\"}\nno JSON\n").unwrap();
    refuses_config(&with_data, &["data.jsonl:2"]);
    fs::write(&data, "{\"question\": \"1+1?\"}\n").unwrap();
    refuses_config(&with_data, &["data.jsonl:1", "answer"]);
    refuses(&["run", "no-such-preset"], &["no-such-preset", "quickstart"]);
}

#[test]
fn a_rule_in_the_environment_reaches_every_arm() {
    let dir = tempfile::tempdir().unwrap();
    let path = config(dir.path(), CONFIG);
    let out = dir.path().join("out");
    let arguments = ["run", arg(&path), "--out", arg(&out), "--dry-run"];
    let wrong = "[[noise]]\nlayers = [99]\nerror = { kind = \"truncation\", scale = 0.5 }\n";
    let output = command(&arguments).env("HARDY_NOISE", wrong).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("matches no site"), "{}", text(&output.stderr));
}

#[test]
fn supervised_training_writes_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let (path, out) = (dir.path().join("sft.toml"), dir.path().join("warm"));
    let text = "name = \"warm\"\neval_problems = 2\n[model]\npath = \"builtin:tiny\"\n[data]\ntrain_problems = 8\n\
        [train]\nsteps = 2\nbatch = 2\n";
    fs::write(&path, text).unwrap();
    let said = json(&["sft", arg(&path), "--out", arg(&out)]);
    assert_eq!(said["last"]["step"], 2);
    assert_eq!(fs::read_to_string(out.join("sft.jsonl")).unwrap().lines().count(), 2);
    json(&["generate", "--model", arg(&out), "--prompt", "x", "--max-new-tokens", "1"]);
    refuses(&["sft", arg(&path), "--out", arg(&out)], &["exists and is never overwritten"]);
}

#[test]
fn supervised_adapters_go_on_from_a_checkpoint_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (config, whole, cut) = (path("sft.toml"), path("whole"), path("cut"));
    let text = "name = \"warm\"\neval_problems = 0\n[model]\npath = \"builtin:tiny\"\n[data]\ntrain_problems = 8\n\
        [train]\nsteps = 4\nbatch = 2\nlearning_rate = 1e-3\n[lora]\nrank = 2\ndropout = 0.1\n\
        [checkpoint]\nevery = 1\nkeep = 2\n";
    fs::write(&config, text).unwrap();
    let refused = ["sft", arg(&config), "--out", arg(&whole), "--resume", "--set", "seed=1"];
    succeeded(&hardy(&["sft", arg(&config), "--out", arg(&whole)]));
    refuses(&refused, &["was started with another configuration"]);
    let steps = |run: &Path| -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(run.join("checkpoints"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(steps(&whole), ["step-000002", "step-000003"]);
    // As if killed in the last step.
    let system = std::process::Command::new("cp").arg("-r").arg(&whole).arg(&cut).status();
    assert!(system.unwrap().success());
    fs::remove_file(cut.join("adapter_model.safetensors")).unwrap();
    let lines = fs::read_to_string(cut.join("sft.jsonl")).unwrap();
    fs::write(cut.join("sft.jsonl"), &lines[..lines.len() - 40]).unwrap();
    succeeded(&hardy(&["sft", arg(&config), "--out", arg(&cut), "--resume"]));
    let adapter = |run: &Path| fs::read(run.join("adapter_model.safetensors")).unwrap();
    assert!(adapter(&cut) == adapter(&whole));
    assert_eq!(fs::read_to_string(cut.join("sft.jsonl")).unwrap().lines().count(), 4);
    json(&["generate", "--model", arg(&cut), "--prompt", "x", "--max-new-tokens", "1"]);
}

#[test]
fn golden_checkpoints_can_be_trained_on_real_problems() {
    let Some(root) = golden() else { return };
    let (model, beside) = (root.join("qwen2"), root.join("../gsm8k/train.jsonl"));
    let usual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/gsm8k/train.jsonl");
    let problems = if beside.exists() { beside } else { usual };
    if !model.exists() || !problems.exists() {
        println!("skipped: no {} or no {}", model.display(), problems.display());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (path, out) = (config(dir.path(), CONFIG), dir.path().join("out"));
    let set = |key: &str, path: &Path| format!("{key}={:?}", arg(path));
    let (model, train, eval) =
        (set("model.path", &model), set("data.train", &problems), set("data.eval", &problems));
    let said =
        json(&["run", arg(&path), "--out", arg(&out), "--set", &model, "--set", &train, "--set", &eval]);
    assert_eq!(said["arms"].as_array().unwrap().len(), 2);
    assert_eq!(metrics(&out.join("noise")).len(), 2);
}

#[test]
fn a_scale_says_what_is_missing_and_that_it_is_unknown() {
    refuses(&["run", "e5b", "--scale", "1.5b", "--dry-run"], &["`model.path` is missing"]);
    let without_data = ["run", "e6a", "--scale", "1.5b", "--set", "model.path=builtin:tiny", "--dry-run"];
    refuses(&without_data, &["`data.train` is missing", "GSM8K-style"]);
    let unknown = ["run", "e5b", "--scale", "7b", "--dry-run"];
    refuses(&unknown, &["unknown scale \"7b\"", "the scales are tiny, 1.5b"]);
}
