//! Agreement with verl and QeRL, whose numbers `rl.json` of the golden directory holds.

use std::path::PathBuf;

use hardy_train::advantage::{dr_grpo, grpo};
use hardy_train::algorithm::{Algorithm, Defaults};
use hardy_train::data::{Answers, Columns, read_jsonl};
use hardy_train::objective::{Clip, KlEstimator, Mean, Tokens, clipped_surrogate, kl_penalty};
use hardy_train::reward::{Extraction, extract, overlong_penalty, score};
use hardy_train::schedule::Schedule;
use serde_json::{Map, Value};

const TOLERANCE: f64 = 1e-5;
const SIGMA_TOLERANCE: f64 = 1e-9;

fn directory() -> PathBuf {
    let named = std::env::var_os("HARDY_GOLDEN").unwrap_or_else(|| "../shared/golden".into());
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(named)
}

/// A part of `rl.json`, or `None` and a printed reason where there is none.
fn golden(part: &str) -> Option<Value> {
    let path = directory().join("rl.json");
    if !path.exists() {
        println!("skipped: {} does not exist", path.display());
        return None;
    }
    let text = std::fs::read_to_string(&path).expect("rl.json can be read");
    let all: Value = serde_json::from_str(&text).expect("rl.json is JSON");
    Some(all[part].clone())
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

fn count(value: &Value) -> usize {
    value.as_u64().unwrap_or_else(|| panic!("{value} is not a count")) as usize
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a text"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is not a list"))
}

fn numbers(value: &Value) -> Vec<f32> {
    list(value).iter().map(|value| number(value) as f32).collect()
}

fn rows(value: &Value) -> Vec<Vec<f32>> {
    list(value).iter().map(numbers).collect()
}

fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let difference = (f64::from(found) - f64::from(expected)).abs();
        assert!(difference <= TOLERANCE, "{what}[{i}]: {found}, golden {expected}");
    }
}

/// The unmasked entries of `values` [B,T], flat.
fn ragged(values: &Value, mask: &[Vec<f32>]) -> Vec<f32> {
    let values = rows(values);
    let pairs = values.iter().flatten().zip(mask.iter().flatten());
    pairs.filter(|&(_, &mask)| mask != 0.0).map(|(&value, _)| value).collect()
}

#[test]
fn golden_advantages_agree_with_verl() {
    let Some(golden) = golden("advantage") else { return };
    let rewards = numbers(&golden["rewards"]);
    let group: Vec<usize> = list(&golden["group"]).iter().map(count).collect();
    let epsilon = number(&golden["epsilon"]) as f32;
    assert_close(&grpo(&rewards, &group, epsilon), &numbers(&golden["grpo_std"]), "grpo");
    assert_close(&dr_grpo(&rewards, &group), &numbers(&golden["dr_grpo"]), "dr_grpo");
}

#[test]
fn golden_losses_and_derivatives_agree_with_verl() {
    let Some(golden) = golden("policy_loss") else { return };
    for case in list(&golden) {
        let name = text(&case["name"]);
        let mask = rows(&case["mask"]);
        let lengths: Vec<usize> =
            mask.iter().map(|row| row.iter().filter(|&&mask| mask != 0.0).count()).collect();
        let mean = Mean::named(text(&case["loss_agg"]), mask[0].len()).expect("a known aggregation");
        let [logprob, old_logprob, advantage] =
            ["logprob", "old_logprob", "advantage"].map(|key| ragged(&case[key], &mask));
        let weight = mean.weights(&lengths);
        let rollout_weight =
            case["rollout_is_weight"].as_array().map(|_| ragged(&case["rollout_is_weight"], &mask));
        let tokens = Tokens {
            logprob: &logprob,
            old_logprob: &old_logprob,
            advantage: &advantage,
            weight: &weight,
            rollout_weight: rollout_weight.as_deref(),
        };
        let [low, high, dual] = ["clip_low", "clip_high", "dual_clip"].map(|key| number(&case[key]) as f32);
        let loss = clipped_surrogate(&tokens, Clip { low, high, dual });
        assert_close(&[loss.value], &[number(&case["loss"]) as f32], &format!("{name} loss"));
        assert_close(&[loss.clipped], &[number(&case["clip_fraction"]) as f32], &format!("{name} clipped"));
        assert_close(&loss.d_logprob, &ragged(&case["dloss_dlogprob"], &mask), &format!("{name} derivative"));
    }
}

/// What a golden loss was made with is what an algorithm takes by default.
#[test]
fn golden_algorithms_have_the_bounds_and_aggregation_of_their_case() {
    let Some(golden) = golden("policy_loss") else { return };
    for (name, algorithm) in [("dapo", Algorithm::Dapo), ("dr_grpo", Algorithm::DrGrpo)] {
        let case = list(&golden).iter().find(|case| case["name"] == name).expect("a case of that name");
        let Defaults { clip_low, clip_high, aggregation, .. } = algorithm.defaults();
        assert_close(
            &[clip_low, clip_high],
            &["clip_low", "clip_high"].map(|key| number(&case[key]) as f32),
            name,
        );
        assert_eq!(aggregation, text(&case["loss_agg"]));
    }
}

#[test]
fn golden_kl_estimates_agree_with_verl() {
    let Some(golden) = golden("kl") else { return };
    let [logprob, reference] = ["logprob", "ref_logprob"].map(|key| rows(&golden[key]).concat());
    for estimator in [KlEstimator::Kl, KlEstimator::Abs, KlEstimator::Mse, KlEstimator::LowVarKl] {
        let name = serde_json::to_value(estimator).expect("a name");
        let found: Vec<f32> =
            logprob.iter().zip(&reference).map(|(&l, &r)| kl_penalty(l, r, estimator).0).collect();
        assert_close(&found, &rows(&golden[text(&name)]).concat(), text(&name));
    }
}

#[test]
fn golden_overlong_penalties_agree_with_dapo() {
    let Some(golden) = golden("overlong") else { return };
    for case in list(&golden) {
        let [length, max, buffer] = ["length", "max_len", "buffer"].map(|key| count(&case[key]));
        let found = overlong_penalty(length, max, buffer, number(&case["factor"]) as f32);
        assert_close(&[found], &[number(&case["penalty"]) as f32], &format!("length {length}"));
    }
}

#[test]
fn golden_sigma_schedules_agree_with_qerl() {
    let Some(golden) = golden("schedules") else { return };
    for case in list(&golden) {
        let mut fields: Map<String, Value> = case.as_object().expect("an object").clone();
        let expected = fields.remove("sigma").expect("sigma");
        let schedule: Schedule = serde_json::from_value(Value::Object(fields)).expect("a schedule");
        schedule.validate().expect("a valid schedule");
        let found = schedule.sigmas();
        assert_eq!(found.len(), list(&expected).len(), "{schedule:?}");
        for (step, (&found, expected)) in found.iter().zip(list(&expected)).enumerate() {
            let difference = (found - number(expected)).abs();
            assert!(difference <= SIGMA_TOLERANCE, "{schedule:?} step {step}: {found}, golden {expected}");
        }
    }
}

#[test]
fn golden_rewards_agree_with_verl() {
    let Some(golden) = golden("gsm8k_reward") else { return };
    for case in list(&golden) {
        let (response, truth) = (text(&case["response"]), text(&case["truth"]));
        let strict = f64::from(score(response, truth, Extraction::Strict));
        let flexible = f64::from(score(response, truth, Extraction::Flexible));
        assert_eq!(strict, number(&case["strict"]), "strict: {response}");
        assert_eq!(flexible, number(&case["flexible"]), "flexible: {response}");
        assert_eq!(
            extract(response, Extraction::Strict).as_deref(),
            case["extracted"].as_str(),
            "{response}"
        );
    }
}

#[test]
fn golden_gsm8k_files_are_read_and_every_worked_answer_is_rewarded() {
    let directory = directory().join("../gsm8k");
    for name in ["train.jsonl", "test.jsonl"] {
        let path = directory.join(name);
        if !path.exists() {
            println!("skipped: {} does not exist", path.display());
            continue;
        }
        for problem in read_jsonl(path.to_str().unwrap(), &Columns::default(), Answers::Numbered)
            .expect("GSM8K can be read")
        {
            let reward = score(&problem.answer, &problem.truth, Extraction::Strict);
            assert_eq!(reward, 1.0, "{name}: {}", problem.answer);
        }
    }
}
