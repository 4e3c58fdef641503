//! The algorithms on the built-in model, a few steps long: what each does to a run, and that runs stay reproducible.

use std::{fs, path::Path};

use burn_flex::Flex;
use hardy_lab::run::run;
use hardy_train::{checkpoint, config::RunConfig};
use serde_json::Value;

const CONFIG: &str = r#"
name = "small"
[model]
path = "builtin:tiny"
[data]
train_problems = 24
[train]
steps = 2
prompts_per_step = 4
samples_per_prompt = 4
learning_rate = 3e-4
max_new_tokens = 48
reward = "flexible"
[[noise]]
ops = ["linear", "matmul"]
during = ["rollout", "train"]
pass = ["forward", "backward"]
error = { kind = "relative_gaussian", scale = 0.05 }
[eval]
every = 1
n = 2
noise_levels = [0.0]
"#;

fn config(changes: &[&str]) -> RunConfig {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.toml");
    fs::write(&path, CONFIG).unwrap();
    let changes: Vec<String> = changes.iter().map(|&change| change.to_owned()).collect();
    RunConfig::load(path.to_str().unwrap(), &changes).unwrap()
}

fn go(changes: &[&str], directory: &Path, resume: bool) {
    run::<Flex>(&config(changes), directory, resume, &Default::default(), &mut |_| {}).unwrap();
}

/// `metrics.jsonl` without durations and rates.
fn metrics(directory: &Path) -> Vec<Value> {
    let text = fs::read_to_string(directory.join("metrics.jsonl")).unwrap();
    let line = |line: &str| {
        let mut value: Value = serde_json::from_str(line).unwrap();
        let timed = |key: &str| key.ends_with("_seconds") || key.ends_with("_per_second");
        value.as_object_mut().unwrap().retain(|key, _| !timed(key));
        value
    };
    text.lines().map(line).collect()
}

/// The metrics of a run with `changes`.
fn metrics_of(changes: &[&str]) -> Vec<Value> {
    let dir = tempfile::tempdir().unwrap();
    go(changes, dir.path(), false);
    metrics(dir.path())
}

fn number(line: &Value, key: &str) -> f64 {
    line[key].as_f64().unwrap_or_else(|| panic!("no {key} in {line}"))
}

fn weights(directory: &Path, step: u64) -> Vec<u8> {
    fs::read(checkpoint::directory(directory, step).join("model.safetensors")).unwrap()
}

#[test]
fn every_algorithm_starts_at_ratio_one_and_says_how_far_rollouts_are_off() {
    for algorithm in ["grpo", "dapo", "dr_grpo", "gspo"] {
        for line in metrics_of(&[&format!("train.algorithm={algorithm}"), "train.minibatches=2"]) {
            assert_eq!(
                (number(&line, "first_ratio_mean"), number(&line, "first_ratio_deviation")),
                (1.0, 0.0)
            );
            assert!(number(&line, "grad_norm") > 0.0, "{line}");
            assert!(number(&line, "logprob_mismatch") > 1e-3, "{line}");
            assert!((0.1..0.9999).contains(&number(&line, "effective_sample_size")), "{line}");
            assert!(line.get("tis_capped_share").is_none());
        }
    }
}

#[test]
fn rollouts_without_errors_leave_all_samples_effective() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&["train.steps=1"]);
    config.noise.clear();
    run::<Flex>(&config, dir.path(), false, &Default::default(), &mut |_| {}).unwrap();
    let line = &metrics(dir.path())[0];
    assert!(number(line, "effective_sample_size") > 0.999_99, "{line}");
    assert!((number(line, "importance_weight_max") - 1.0).abs() < 1e-3, "{line}");
}

#[test]
fn dynamic_sampling_replaces_groups_that_teach_nothing() {
    let lines = metrics_of(&["train.algorithm=dapo"]);
    let count = |line: &Value, key: &str| line[key].as_u64().unwrap();
    assert!(count(&lines[0], "groups_dropped") > 0 && count(&lines[0], "generation_rounds") > 1);
    for line in &lines {
        let [sampled, dropped] = ["groups_sampled", "groups_dropped"].map(|key| count(line, key));
        assert!((1..=4).contains(&(sampled - dropped)), "{line}");
        assert_eq!(number(line, "uniform_groups"), dropped as f64 / sampled as f64);
        // In a group that is kept some answers are right and some are not.
        assert!((0.25..=0.75).contains(&number(line, "kept_reward_mean")), "{line}");
        assert!(number(line, "overlong_penalty_mean") <= 0.0);
    }
    let plain = &metrics_of(&["train.steps=1"])[0];
    assert_eq!((count(plain, "generation_rounds"), count(plain, "groups_sampled")), (1, 4));
    assert!(plain.get("kept_reward_mean").is_none() && plain.get("overlong_penalty_mean").is_none());
}

/// The directory and metrics of a run without errors whose responses are cut off after two tokens, so that no answer
/// is right, all groups are uniform, and nothing can be learned.
fn hopeless(changes: &[&str]) -> (tempfile::TempDir, Vec<Value>) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&[&["train.algorithm=dapo", "train.max_new_tokens=2"], changes].concat());
    config.noise.clear();
    let outcome = run::<Flex>(&config, dir.path(), false, &Default::default(), &mut |_| {});
    let metrics = metrics(dir.path());
    // A run without an update fails in the end, with all of its metrics written.
    let refused = outcome.is_err_and(|error| error.to_string().starts_with("no update was made in "));
    assert_eq!(refused, metrics.iter().all(|line| line["updates"] == 0));
    (dir, metrics)
}

#[test]
fn rounds_of_generation_end_at_their_limit_and_a_step_without_a_group_is_no_update() {
    let (dir, metrics) = hopeless(&["train.generation_rounds=3"]);
    for line in metrics {
        assert_eq!((&line["generation_rounds"], &line["groups_sampled"]), (&3.into(), &12.into()));
        assert_eq!((&line["groups_dropped"], number(&line, "grad_norm")), (&12.into(), 0.0));
        assert!(line.get("kept_reward_mean").is_none());
    }
    assert!(weights(dir.path(), 2) == weights(dir.path(), 0));
}

#[test]
fn rounds_of_generation_end_where_there_is_no_further_prompt() {
    // 24 problems are 6 rounds of 4.
    let (_, metrics) = hopeless(&["train.steps=1"]);
    assert_eq!((&metrics[0]["generation_rounds"], &metrics[0]["groups_sampled"]), (&6.into(), &24.into()));
}

#[test]
fn dynamic_sampling_does_not_depend_on_threads_or_interruptions() {
    let changes = ["train.algorithm=dapo", "train.tis_cap=1.2", "checkpoint.optimizer=all"];
    let with = |threads: usize| {
        let dir = tempfile::tempdir().unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| go(&changes, dir.path(), false));
        (metrics(dir.path()), weights(dir.path(), 2), dir)
    };
    let ((metrics_of_one, weights_of_one, dir), (metrics_of_two, weights_of_two, _)) = (with(1), with(2));
    assert_eq!(metrics_of_one, metrics_of_two);
    assert!(weights_of_one == weights_of_two);
    // As if killed in step 2.
    fs::remove_dir_all(checkpoint::directory(dir.path(), 2)).unwrap();
    fs::remove_file(dir.path().join("eval/step-000002.json")).unwrap();
    go(&changes, dir.path(), true);
    assert_eq!(metrics(dir.path()), metrics_of_one);
    assert!(weights(dir.path(), 2) == weights_of_one);
}

#[test]
fn truncated_importance_sampling_weighs_tokens_and_leaves_the_mismatch() {
    let one = |cap: &[&str]| metrics_of(&[&["train.steps=1"], cap].concat()).remove(0);
    let (plain, loose, tight) = (one(&[]), one(&["train.tis_cap=1e6"]), one(&["train.tis_cap=1e-9"]));
    assert_eq!(number(&plain, "effective_sample_size"), number(&tight, "effective_sample_size"));
    assert_eq!(number(&plain, "logprob_mismatch"), number(&tight, "logprob_mismatch"));
    assert_eq!(number(&loose, "tis_capped_share"), 0.0);
    assert_ne!(number(&loose, "grad_norm"), number(&plain, "grad_norm"));
    // Every token weighs the cap.
    assert_eq!(number(&tight, "tis_capped_share"), 1.0);
    let ratio = number(&tight, "grad_norm") / number(&plain, "grad_norm");
    assert!((ratio / 1e-9 - 1.0).abs() < 0.05, "{ratio}");
}

#[test]
fn icepop_leaves_out_the_tokens_whose_weight_is_outside_its_bounds() {
    let one = |bound: &str| metrics_of(&["train.steps=1", &format!("train.icepop_bound={bound}")]).remove(0);
    let (loose, tight) = (one("1e6"), one("1.000001"));
    assert_eq!(number(&loose, "icepop_masked_share"), 0.0);
    // Within wide bounds it is importance sampling without a cap that is ever reached.
    let uncapped = metrics_of(&["train.steps=1", "train.tis_cap=1e6"]).remove(0);
    assert_eq!(number(&loose, "grad_norm"), number(&uncapped, "grad_norm"));
    assert!(number(&tight, "icepop_masked_share") > 0.9, "{tight}");
    assert!(number(&tight, "grad_norm") < number(&loose, "grad_norm"), "{tight}");
}

#[test]
fn a_step_can_learn_from_its_rollouts_more_than_once() {
    let lines = metrics_of(&["train.updates_per_rollout=3", "train.minibatches=2"]);
    for line in &lines {
        assert_eq!(line["updates"], 6, "{line}");
        assert_eq!((number(line, "first_ratio_mean"), number(line, "first_ratio_deviation")), (1.0, 0.0));
        assert_ne!(number(line, "ratio_max"), 1.0, "later passes see an updated policy");
    }
    // The mismatch between rollout and training is that of the tokens, however often they are learned from.
    let once = metrics_of(&["train.steps=1"]).remove(0);
    let twice = metrics_of(&["train.steps=1", "train.updates_per_rollout=2"]).remove(0);
    let mismatch = |line: &Value| number(line, "logprob_mismatch");
    assert!((mismatch(&once) - mismatch(&twice)).abs() < 1e-9, "{once} {twice}");
    assert_ne!(number(&twice, "ratio_max"), 1.0);
}

#[test]
fn the_learning_rate_falls_to_its_floor() {
    let lines = metrics_of(&[
        "train.steps=2",
        "train.decay=linear",
        "train.learning_rate=4e-4",
        "train.min_learning_rate=2e-4",
    ]);
    let rates: Vec<f64> = lines.iter().map(|line| number(line, "learning_rate")).collect();
    assert!((rates[0] - 4e-4).abs() < 1e-12 && (rates[1] - 3e-4).abs() < 1e-12, "{rates:?}");
}

#[test]
fn the_entropy_bonus_raises_the_entropy() {
    // No answer is right and no response has an advantage, so that the bonus alone moves the policy.
    let alone = ["train.algorithm=grpo", "train.max_new_tokens=8", "train.samples_per_prompt=32"];
    let bonus = ["train.entropy_coefficient=0.1", "data.train_problems=4", "train.reward=strict"];
    let (_, metrics) = hopeless(&[&alone[..], &bonus].concat());
    let entropies: Vec<f64> = metrics.iter().map(|line| number(line, "entropy")).collect();
    assert!(entropies[1] > 1.5 * entropies[0], "{entropies:?}");
    assert!(metrics.iter().all(|line| line["uniform_groups"] == 1.0), "{metrics:?}");
    assert!(number(&metrics[0], "loss") < 0.0);
}

#[test]
fn responses_that_were_cut_off_are_not_learned_from_when_filtered() {
    let grad_norm =
        |changes: &[&str]| number(&metrics_of(&[&["train.steps=1"], changes].concat())[0], "grad_norm");
    // Long enough for some answers, too short for others.
    let some = ["train.max_new_tokens=14", "train.filter_truncated=true"];
    assert!(grad_norm(&some[..1]) > 0.0 && grad_norm(&some) > 0.0);
    assert_ne!(grad_norm(&some[..1]), grad_norm(&some));
    // All are cut off: not even the entropy bonus counts.
    let all = ["train.max_new_tokens=2", "train.entropy_coefficient=0.1", "train.filter_truncated=true"];
    assert!(grad_norm(&all[..2]) > 0.0);
    assert_eq!(grad_norm(&all), 0.0);
}

#[test]
fn the_overlong_penalty_is_part_of_the_reward() {
    let changes = ["train.steps=1", "train.overlong_buffer=48", "train.overlong_factor=0.5"];
    let line = &metrics_of(&changes)[0];
    // With the whole length as buffer the penalty is proportional to the length.
    let expected = -0.5 * number(line, "response_length_mean") / 48.0;
    assert!((number(line, "overlong_penalty_mean") - expected).abs() < 1e-6, "{line}");
    let reward = number(line, "flexible_accuracy") + expected;
    assert!((number(line, "reward_mean") - reward).abs() < 1e-6, "{line}");
}
