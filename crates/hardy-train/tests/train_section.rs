//! `[train]`: what an algorithm brings, what a configuration says itself, and what is refused.

use std::fs;

use hardy_train::config::RunConfig;

const CONFIG: &str = "name = 'x'\n[model]\npath = 'builtin:tiny'\n[train]\n";

fn load(train: &str) -> Result<RunConfig, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.toml");
    fs::write(&path, format!("{CONFIG}{train}")).unwrap();
    RunConfig::load(path.to_str().unwrap(), &[]).map_err(|error| error.to_string())
}

/// The lines of the resolved configuration.
fn resolved(config: &RunConfig) -> Vec<String> {
    config.to_toml().lines().map(str::to_owned).collect()
}

fn assert_says(config: &RunConfig, lines: &[&str]) {
    let said = resolved(config);
    for line in lines {
        assert!(said.iter().any(|said| said == line), "`{line}` is not in {said:?}");
    }
}

#[test]
fn an_algorithm_sets_what_the_configuration_leaves_out() {
    let grpo =
        ["clip_low = 0.2", "clip_high = 0.2", "aggregation = \"token-mean\"", "dynamic_sampling = false"];
    assert_says(&load("").unwrap(), &[&grpo[..], &["overlong_buffer = 0"]].concat());
    let dapo = load("algorithm = 'dapo'\nmax_new_tokens = 64").unwrap();
    assert_says(&dapo, &["clip_low = 0.2", "clip_high = 0.28", "aggregation = \"token-mean\""]);
    assert_says(&dapo, &["dynamic_sampling = true", "overlong_buffer = 12", "kl_coefficient = 0.0"]);
    assert_says(&load("algorithm = 'dr_grpo'").unwrap(), &["aggregation = \"seq-mean-token-sum-norm\""]);
    let gspo = load("algorithm = 'gspo'").unwrap();
    assert_says(&gspo, &["aggregation = \"seq-mean-token-mean\""]);
    assert_eq!((gspo.train.clip().low, gspo.train.clip().high), (3e-4, 4e-4));
}

#[test]
fn keys_of_the_configuration_win_over_the_algorithm() {
    let said = "algorithm = 'dapo'\nclip_high = 0.3\naggregation = 'seq-mean-token-mean'\ndynamic_sampling = false\n\
        overlong_buffer = 0\n";
    let lines = ["clip_high = 0.3", "aggregation = \"seq-mean-token-mean\"", "dynamic_sampling = false"];
    assert_says(&load(said).unwrap(), &[&lines[..], &["overlong_buffer = 0", "clip_low = 0.2"]].concat());
}

#[test]
fn an_arm_with_an_algorithm_has_that_algorithms_defaults() {
    let config =
        load("clip_low = 0.1\n[[arm]]\nname = 'a'\n[[arm]]\nname = 'b'\n[arm.train]\nalgorithm = 'dapo'\n");
    let arms = config.unwrap().arms().unwrap();
    assert_says(&arms[0], &["clip_low = 0.1", "clip_high = 0.2", "dynamic_sampling = false"]);
    assert_says(&arms[1], &["clip_low = 0.1", "clip_high = 0.28", "dynamic_sampling = true"]);
}

#[test]
fn a_resolved_configuration_reads_back_as_itself() {
    for algorithm in ["grpo", "dapo", "dr_grpo", "gspo"] {
        let config = load(&format!("algorithm = '{algorithm}'\ntis_cap = 2.0")).unwrap();
        let again: RunConfig = toml::from_str(&config.to_toml()).unwrap();
        assert_eq!(again, config.resolved());
        assert_eq!(again.to_toml(), config.to_toml());
    }
}

#[test]
fn values_that_can_not_be_used_are_refused_in_one_sentence() {
    for (said, sentence) in [
        ("tis_cap = 0.0", "`train.tis_cap` is 0, but must be above 0"),
        ("tis_cap = -2.0", "`train.tis_cap` is -2, but must be above 0"),
        ("tis_cap = 2.0\nold_log_probs = 'rollout'", "`train.tis_cap` corrects"),
        ("entropy_coefficient = -0.1", "`train.entropy_coefficient` is -0.1, but must be from 0 to"),
        ("kl_coefficient = -1.0", "`train.kl_coefficient` is -1, but must be from 0 to"),
        ("entropy_coefficient = nan", "`train.entropy_coefficient` is nan, but must be from 0 to"),
        ("overlong_factor = -1.0", "`train.overlong_factor` is -1, but must be from 0 to"),
        ("overlong_buffer = 65\nmax_new_tokens = 64", "`train.overlong_buffer` is 65, but must be at most"),
        (
            "generation_rounds = 0",
            "run.toml:5: `train.generation_rounds` is 0, but must be a whole number from 1 to 10,000",
        ),
        ("algorithm = 'dapo'\nsamples_per_prompt = 1", "dynamic sampling drops every group of one"),
        ("clip_low = 1.5", "`train.clip_low` is 1.5, but must be from 0 to 1"),
        ("clip_high = inf", "`train.clip_high` is inf, but must be from 0 to"),
        ("dual_clip = 0.5", "`train.dual_clip` is 0.5, but must be above 1"),
        ("aggregation = 'mean'", "`train.aggregation` is \"mean\", but must be token-mean"),
        ("learning_rate = 0.0", "`train.learning_rate` is 0, but must be above 0"),
        ("algorithm = 'gpso'", "run.toml:5: unknown value `gpso` in [train]; did you mean `gspo`?"),
        ("filter_truncated = 1", "run.toml:5: invalid type"),
    ] {
        let error = load(said).expect_err(said);
        assert!(error.contains(sentence) && !error.contains('\n'), "{said}: {error}");
    }
}
