//! Runs at the edges: errors that make values infinite, updates that are not finite, groups that teach nothing, and
//! plans that would change nothing.

use std::{fs, path::Path};

use burn_flex::Flex;
use hardy_lab::{
    LabError,
    run::{Event, dry_run, run},
};
use hardy_ops::Receipt;
use hardy_train::{checkpoint, config::RunConfig};
use serde_json::Value;

const CONFIG: &str = r#"
name = "edge"
[model]
path = "builtin:tiny"
[data]
train_problems = 24
[train]
steps = 1
prompts_per_step = 4
samples_per_prompt = 4
learning_rate = 3e-4
max_new_tokens = 32
reward = "flexible"
[eval]
every = 1
n = 2
noise_levels = [0.0]
"#;

const NOISE: &str = r#"
[[noise]]
ops = ["linear", "matmul"]
during = ["rollout", "train"]
pass = ["forward", "backward"]
error = { kind = "relative_gaussian", scale = 0.05 }
"#;

/// Bits of exponents, seldom enough that some updates survive.
const FLIPS: &str = r#"
[[noise]]
ops = ["linear"]
during = ["rollout", "train"]
pass = ["forward", "backward"]
error = { kind = "bit_flip", rate = 5e-6, bits = "exponent" }
"#;

/// Errors whose products are beyond the range of f32.
const OVERFLOW: &str = r#"
[[noise]]
ops = ["linear"]
during = ["train"]
error = { kind = "absolute_gaussian", scale = 1e30 }
"#;

fn config(tables: &str, changes: &[&str]) -> RunConfig {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.toml");
    fs::write(&path, format!("{CONFIG}{tables}")).unwrap();
    let changes: Vec<String> = changes.iter().map(|&change| change.to_owned()).collect();
    RunConfig::load(path.to_str().unwrap(), &changes).unwrap()
}

/// Runs, and gives what was warned of on the way.
fn go(config: &RunConfig, directory: &Path, resume: bool) -> (Result<(), LabError>, Vec<String>) {
    let mut warnings = Vec::new();
    let ran = run::<Flex>(config, directory, resume, &Default::default(), &mut |event| {
        if let Event::Warning(text) = event {
            warnings.push(text.to_owned());
        }
    });
    (ran.map(|_| ()), warnings)
}

fn refused(tables: &str, changes: &[&str]) -> String {
    dry_run::<Flex>(&config(tables, changes), &Default::default()).unwrap_err().to_string()
}

/// `metrics.jsonl` without durations and rates; none of its numbers may be missing for not being finite.
fn metrics(directory: &Path) -> Vec<Value> {
    let text = fs::read_to_string(directory.join("metrics.jsonl")).unwrap();
    let line = |line: &str| {
        let mut value: Value = serde_json::from_str(line).unwrap();
        let timed = |key: &str| key.ends_with("_seconds") || key.ends_with("_per_second");
        let line = value.as_object_mut().unwrap();
        assert!(line.values().all(|value| !value.is_null()), "{line:?}");
        line.retain(|key, _| !timed(key));
        value
    };
    text.lines().map(line).collect()
}

fn metrics_of(tables: &str, changes: &[&str]) -> Vec<Value> {
    let dir = tempfile::tempdir().unwrap();
    go(&config(tables, changes), dir.path(), false).0.unwrap();
    metrics(dir.path())
}

fn count(line: &Value, key: &str) -> u64 {
    line[key].as_u64().unwrap_or_else(|| panic!("no {key} in {line}"))
}

fn number(line: &Value, key: &str) -> f64 {
    line[key].as_f64().unwrap_or_else(|| panic!("no {key} in {line}"))
}

fn file(directory: &Path, step: u64, name: &str) -> Vec<u8> {
    fs::read(checkpoint::directory(directory, step).join(name)).unwrap()
}

/// A copy of a run that was killed after `step`.
fn killed_after(directory: &Path, step: u64, last: u64) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let system =
        std::process::Command::new("cp").arg("-r").arg(directory.join(".")).arg(copy.path()).status();
    assert!(system.unwrap().success());
    for later in step + 1..=last {
        let _ = fs::remove_dir_all(checkpoint::directory(copy.path(), later));
        let _ = fs::remove_file(copy.path().join(format!("eval/step-{later:06}.json")));
    }
    copy
}

#[test]
fn a_run_under_bit_flips_counts_what_is_not_finite_and_goes_on_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(
        FLIPS,
        &[
            "train.steps=4",
            "train.minibatches=4",
            "train.on_nonfinite=skip",
            "train.kl_coefficient=0.1",
            "checkpoint.optimizer=all",
        ],
    );
    go(&config, dir.path(), false).0.unwrap();
    let receipts = |directory: &Path| -> Vec<Receipt> {
        serde_json::from_slice(&fs::read(directory.join("receipts.json")).unwrap()).unwrap()
    };
    let whole = receipts(dir.path());
    assert!(whole.iter().any(|receipt| receipt.non_finite > 0), "the flips are too tame to test anything");
    assert!(
        whole
            .iter()
            .all(|receipt| receipt.error_energy.is_finite() && receipt.non_finite <= receipt.elements)
    );
    let lines = metrics(dir.path());
    assert!(lines.iter().map(|line| count(line, "skipped_updates")).sum::<u64>() > 0, "{lines:?}");
    assert!(lines.iter().map(|line| count(line, "updates")).sum::<u64>() > 0, "{lines:?}");
    let copy = killed_after(dir.path(), 2, 4);
    go(&config, copy.path(), true).0.unwrap();
    assert_eq!(metrics(copy.path()), lines);
    assert_eq!(receipts(copy.path()), whole);
    assert_eq!(file(copy.path(), 4, "model.safetensors"), file(dir.path(), 4, "model.safetensors"));
}

#[test]
fn a_checkpoint_with_energies_that_were_not_finite_is_read_with_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(NOISE, &["train.steps=2", "checkpoint.optimizer=all"]);
    go(&config, dir.path(), false).0.unwrap();
    let copy = killed_after(dir.path(), 1, 2);
    let path = checkpoint::directory(copy.path(), 1).join("state.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let receipt = state["receipts"][0].as_object_mut().unwrap();
    receipt.remove("non_finite");
    for key in ["measured", "error_energy", "signal_energy"] {
        receipt[key] = Value::Null;
    }
    fs::write(&path, state.to_string()).unwrap();
    let (ran, warnings) = go(&config, copy.path(), true);
    ran.unwrap();
    assert!(warnings.iter().any(|warning| warning.contains("the error of 1 of ")), "{warnings:?}");
    assert_eq!(metrics(copy.path()), metrics(dir.path()));
}

#[test]
fn an_update_that_is_not_finite_stops_the_run_unless_it_is_to_be_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let message = go(&config(OVERFLOW, &[]), dir.path(), false).0.unwrap_err().to_string();
    assert!(message.starts_with("step 1: the loss is not finite"), "{message}");

    let dir = tempfile::tempdir().unwrap();
    let skip = [
        "train.on_nonfinite=skip",
        "train.max_nonfinite_updates=3",
        "train.steps=2",
        "checkpoint.optimizer=all",
    ];
    let error = go(&config(OVERFLOW, &skip), dir.path(), false).0.unwrap_err();
    assert!(!error.is_input());
    let message = error.to_string();
    assert!(message.starts_with("no update was made in 2 steps: all 2"), "{message}");
    for line in metrics(dir.path()) {
        assert_eq!((count(&line, "updates"), count(&line, "skipped_updates")), (0, 1));
    }
    assert_eq!(file(dir.path(), 0, "model.safetensors"), file(dir.path(), 2, "model.safetensors"));
    for name in ["master.safetensors", "optimizer.safetensors"] {
        assert_eq!(file(dir.path(), 1, name), file(dir.path(), 2, name), "{name} changed");
    }
}

#[test]
fn too_many_updates_in_a_row_that_are_not_finite_end_the_run_also_across_a_resume() {
    let dir = tempfile::tempdir().unwrap();
    let skip = ["train.on_nonfinite=skip", "train.max_nonfinite_updates=3", "train.steps=4"];
    let config = config(OVERFLOW, &skip);
    let message = go(&config, dir.path(), false).0.unwrap_err().to_string();
    assert!(
        message.starts_with("step 3: the loss, the last of 3 updates in a row, is not finite"),
        "{message}"
    );
    assert!(message.contains("the last good checkpoint is") && message.contains("step-000002"), "{message}");
    let again = go(&config, dir.path(), true).0.unwrap_err().to_string();
    assert_eq!(again, message, "the count goes on where it was");
}

#[test]
fn the_diagnosis_does_not_depend_on_how_the_batch_is_split() {
    let site = |tokens: &str| {
        let dir = tempfile::tempdir().unwrap();
        let tokens = format!("train.micro_batch_tokens={tokens}");
        let message = go(&config(OVERFLOW, &[&tokens]), dir.path(), false).0.unwrap_err().to_string();
        message.split("; the last good").next().unwrap().to_owned()
    };
    assert_eq!(site("4096"), site("100"));
}

#[test]
fn responses_without_a_finite_logit_are_counted_and_teach_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let rollouts = OVERFLOW.replace("\"train\"", "\"rollout\"");
    let skip = ["train.on_nonfinite=skip"];
    let error = go(&config(&rollouts, &skip), dir.path(), false).0.unwrap_err().to_string();
    assert!(error.starts_with("no update was made in 1 step: all 1"), "{error}");
    let line = &metrics(dir.path())[0];
    assert_eq!((count(line, "nonfinite_responses"), count(line, "skipped_updates")), (16, 1));
    let dir = tempfile::tempdir().unwrap();
    let error = go(&config(&rollouts, &[]), dir.path(), false).0.unwrap_err().to_string();
    assert!(error.contains("the distribution of every response's first token is not finite"), "{error}");
}

#[test]
fn equal_weights_diverge_by_nothing_under_the_same_errors() {
    let kl = |tables: &str, changes: &[&str]| {
        let line = metrics_of(tables, &[&["train.kl_coefficient=0.1"], changes].concat()).remove(0);
        number(&line, "kl")
    };
    assert_eq!(kl("", &[]), 0.0);
    assert_eq!(kl(NOISE, &[]), 0.0);
    assert!(
        kl(NOISE, &["train.kl_reference=clean"]) > 1e-4,
        "the errors count as divergence where that is asked for"
    );
    assert_eq!(kl(NOISE, &["lora.dropout=0.3", "lora.rank=4"]), 0.0);
}

#[test]
fn a_policy_that_starts_from_adapters_has_that_start_as_its_reference() {
    let first = tempfile::tempdir().unwrap();
    let lora = ["lora.dropout=0.3", "lora.rank=4", "train.learning_rate=0.05"];
    go(&config(NOISE, &lora), first.path(), false).0.unwrap();
    let start = checkpoint::directory(first.path(), 1);
    let path = format!("model.path={}", start.display());
    let changes = [path.as_str(), "train.kl_coefficient=0.1", "train.steps=2", "train.learning_rate=0.05"];
    let lines = metrics_of(NOISE, &changes);
    assert_eq!(number(&lines[0], "kl"), 0.0);
    assert!(number(&lines[1], "kl") > 0.0, "the policy has moved away");
}

#[test]
fn a_truncation_of_the_sampling_is_no_mismatch() {
    let line = &metrics_of("", &["train.top_p=0.7", "train.top_k=5"])[0];
    assert!(number(line, "effective_sample_size") > 0.999_99, "{line}");
    assert!(number(line, "logprob_mismatch") < 1e-4, "{line}");
}

#[test]
fn the_number_of_minibatches_is_honoured() {
    for (minibatches, updates) in [("3", 3), ("4", 4)] {
        let change = format!("train.minibatches={minibatches}");
        assert_eq!(count(&metrics_of("", &[&change])[0], "updates"), updates);
    }
    for line in metrics_of("", &["train.algorithm=dapo", "train.minibatches=3", "train.steps=2"]) {
        let kept = count(&line, "groups_sampled") - count(&line, "groups_dropped");
        assert_eq!(count(&line, "updates"), kept.min(3), "{line}");
    }
}

#[test]
fn a_run_whose_groups_all_agree_says_so() {
    let dir = tempfile::tempdir().unwrap();
    // With one token no answer is right.
    let dapo =
        ["train.algorithm=dapo", "train.max_new_tokens=1", "train.steps=2", "train.generation_rounds=2"];
    let (ran, warnings) = go(&config(NOISE, &dapo), dir.path(), false);
    let error = ran.unwrap_err();
    assert!(!error.is_input());
    let message = error.to_string();
    assert!(
        message.starts_with("no update was made in 2 steps: in none did the answers of a group differ"),
        "{message}"
    );
    let told = |warning: &&String| warning.starts_with("step 1: no group of responses differed in score");
    assert_eq!(warnings.iter().filter(told).count(), 1, "{warnings:?}");
    assert!(!warnings.iter().any(|warning| warning.starts_with("step 2")), "it is said once: {warnings:?}");
    assert_eq!(metrics(dir.path()).len(), 2, "the run goes on to its end");
}

#[test]
fn plans_that_would_change_nothing_are_refused_before_the_first_step() {
    let aqn = "[aqn]\nschedule = \"epoch_aware\"\nsigma_start = 0.05\nsigma_end = 0.0005\n";
    let message = refused(aqn, &[]);
    assert!(message.contains("\"epoch_aware\" is 0 at the run's only step"), "{message}");
    let lora = "[lora]\nrank = 4\n";
    let gradient = "[[noise]]\nat = \"grad_weight\"\npass = [\"backward\"]\nmodules = \"*.q_proj\"\nerror = { kind = \"bf16\" }\n";
    let message = refused(&format!("{lora}{gradient}"), &[]);
    assert!(
        message.contains("the gradient of model.layers.0.self_attn.q_proj's weight")
            && message.contains("frozen"),
        "{message}"
    );
    assert!(dry_run::<Flex>(&config(gradient, &[]), &Default::default()).is_ok());
    let adapters = gradient.replace("*.q_proj", "*lora_A");
    assert!(dry_run::<Flex>(&config(&format!("{lora}{adapters}"), &[]), &Default::default()).is_ok());
}

#[test]
fn under_a_guide_the_scale_of_aqn_is_told_for_all_groups() {
    let aqn = "[aqn]\nschedule = \"constant\"\nsigma = 0.01\nguide = \"zones\"\n";
    let lines = metrics_of(aqn, &["train.steps=2"]);
    let sigmas = |line| ["aqn_sigma", "aqn_sigma_min", "aqn_sigma_max"].map(|key| number(line, key));
    assert_eq!(sigmas(&lines[0]), [0.01; 3]);
    let [mean, min, max] = sigmas(&lines[1]);
    assert!(min < mean && mean < max && max == 0.01, "{min} {mean} {max}");
    assert!(
        metrics_of("[aqn]\nschedule = \"constant\"\nsigma = 0.01\n", &[])[0].get("aqn_sigma_min").is_none()
    );
}
