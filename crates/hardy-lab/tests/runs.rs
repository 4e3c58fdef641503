//! Whole runs on the built-in model, a few steps long: what they write, that they do not depend on the number of
//! threads, and that a run which was cut off goes on as if it had not been.

use std::{fs, path::Path};

use burn_flex::Flex;
use hardy_lab::run::{Crew, Event, extend, run, run_arms};
use hardy_model::{
    Dtype, HostTensor,
    files::{read_tensors, write_tensors},
};
use hardy_numerics::Perturbation;
use hardy_ops::{Phase, Rule};
use hardy_train::{checkpoint, config::RunConfig, error::Error};
use serde_json::Value;

const CONFIG: &str = r#"
name = "small"
[model]
path = "builtin:tiny"
[data]
train_problems = 16
[train]
steps = 4
prompts_per_step = 4
samples_per_prompt = 4
learning_rate = 3e-4
max_new_tokens = 48
[[noise]]
ops = ["linear", "matmul"]
during = ["rollout", "train"]
pass = ["forward", "backward"]
error = { kind = "relative_gaussian", scale = 0.05 }
[aqn]
schedule = "constant"
sigma = 0.01
[eval]
every = 2
n = 8
noise_levels = [0.0, 0.05]
"#;

fn config(changes: &[&str]) -> RunConfig {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.toml");
    fs::write(&path, CONFIG).unwrap();
    let changes: Vec<String> = changes.iter().map(|&change| change.to_owned()).collect();
    RunConfig::load(path.to_str().unwrap(), &changes).unwrap()
}

fn go(config: &RunConfig, directory: &Path, resume: bool) {
    run::<Flex>(config, directory, resume, &Default::default(), &mut |_| {}).unwrap();
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

fn receipts(directory: &Path) -> Vec<Value> {
    serde_json::from_slice(&fs::read(directory.join("receipts.json")).unwrap()).unwrap()
}

fn evaluation(directory: &Path, step: u64) -> String {
    fs::read_to_string(directory.join(format!("eval/step-{step:06}.json"))).unwrap()
}

#[test]
fn a_run_writes_everything_that_its_directory_promises() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("small");
    go(&config(&[]), &own, false);
    for file in ["config.toml", "metrics.jsonl", "receipts.json", "report.html", "tensorboard"] {
        assert!(own.join(file).exists(), "{file}");
    }
    for step in [0, 2, 4] {
        evaluation(&own, step);
        let checkpoint = checkpoint::directory(&own, step);
        for file in ["config.json", "model.safetensors", "tokenizer.json"] {
            assert!(checkpoint.join(file).exists(), "{step}: {file}");
        }
        for file in ["master.safetensors", "optimizer.safetensors", "state.json"] {
            assert_eq!(checkpoint.join(file).exists(), step == 4, "{step}: {file}");
        }
    }
    let metrics = metrics(&own);
    assert_eq!(metrics.len(), 4);
    // Old log-probabilities are recomputed under the same noise: the first ratio is exactly 1.
    assert!(
        metrics.iter().all(|line| line["first_ratio_mean"] == 1.0 && line["first_ratio_deviation"] == 0.0)
    );
    assert!(metrics.iter().all(|line| line["aqn_sigma"] == 0.01));
    let written = fs::read_to_string(own.join("config.toml")).unwrap();
    assert!(written.contains("relative_gaussian"), "{written}");
    let board = fs::read_dir(own.join("tensorboard")).unwrap().next().unwrap().unwrap();
    let board = String::from_utf8_lossy(&fs::read(board.path()).unwrap()).into_owned();
    for tag in ["eval/strict/clean", "eval/flexible/5 %"] {
        assert_eq!(board.matches(tag).count(), 3, "{tag} at steps 0, 2 and 4");
    }
}

#[test]
fn receipts_show_the_noise_that_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    go(&config(&["train.steps=1"]), dir.path(), false);
    let receipts = receipts(dir.path());
    let of = |phase: &str, pass: &str, kind: &str| {
        let same = |r: &&Value| r["phase"] == phase && r["pass"] == pass && r["kind"] == kind;
        receipts.iter().filter(same).collect::<Vec<_>>()
    };
    for (phase, pass) in [("rollout", "forward"), ("train", "forward"), ("train", "backward")] {
        let sum = |key: &str| -> f64 {
            of(phase, pass, "relative_gaussian").iter().map(|r| r[key].as_f64().unwrap()).sum()
        };
        let measured = (sum("error_energy") / sum("signal_energy")).sqrt();
        // A few large gradients carry most of the energy of so small a step, so that its estimate is coarser.
        let tolerance = if pass == "forward" { 0.001 } else { 0.004 };
        assert!((measured - 0.05).abs() < tolerance, "{phase} {pass}: {measured}");
        assert!(of(phase, pass, "relative_gaussian").iter().all(|r| r["calls"].as_u64().unwrap() > 0));
    }
    assert!(of("rollout", "backward", "relative_gaussian").is_empty());
    assert!(!of("rollout", "forward", "absolute_gaussian").is_empty());
    assert!(of("train", "forward", "absolute_gaussian").is_empty(), "AQN acts in rollouts alone");
}

#[test]
fn a_run_in_a_format_is_judged_in_that_format() {
    let dir = tempfile::tempdir().unwrap();
    let w4a4 = CONFIG.split("[[noise]]").next().unwrap().to_owned()
        + r#"
[[noise]]
ops = ["linear"]
at = "weight"
exclude = ["lm_head"]
during = ["rollout", "train", "eval"]
error = { kind = "mxfp4" }
[[noise]]
ops = ["linear"]
at = "input"
during = ["rollout", "train", "eval"]
error = { kind = "nvfp4", rounding = "stochastic", clip_gradient = true }
[eval]
n = 8
noise_levels = [0.0, 0.05]
"#;
    let path = dir.path().join("w4a4.toml");
    fs::write(&path, w4a4).unwrap();
    let config = RunConfig::load(path.to_str().unwrap(), &["train.steps=1".to_owned()]).unwrap();
    let own = dir.path().join("run");
    go(&config, &own, false);
    let kinds_of = |phase: &str, all: &[Value]| {
        let fired = all.iter().filter(|r| r["phase"] == phase && r["calls"].as_u64() > Some(0));
        let mut kinds: Vec<String> = fired.map(|r| r["kind"].as_str().unwrap().to_owned()).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    };
    let trained = receipts(&own);
    assert!(trained.iter().all(|r| r["asked"].is_null()));
    let weights = trained.iter().find(|r| r["kind"] == "mxfp4").unwrap();
    assert!((0.08..0.15).contains(&weights["measured"].as_f64().unwrap()), "{weights}");
    for phase in ["rollout", "train"] {
        assert_eq!(kinds_of(phase, &trained), ["mxfp4", "nvfp4"], "{phase}");
    }
    let record: Value = serde_json::from_str(&evaluation(&own, 1)).unwrap();
    let levels = record["levels"].as_array().unwrap().clone();
    let labels: Vec<&str> = levels.iter().map(|level| level["label"].as_str().unwrap()).collect();
    assert_eq!(labels, ["mxfp4 + nvfp4", "mxfp4 + nvfp4 + 5 %"]);
    assert_eq!(levels[0]["noise"], 0.0);
    assert_eq!(kinds_of("eval", levels[0]["receipts"].as_array().unwrap()), ["mxfp4", "nvfp4"]);
    assert!(levels[0]["plan"].as_str().unwrap().contains("mxfp4"));
}

#[test]
fn a_run_does_not_depend_on_the_number_of_threads() {
    let with = |threads: usize| {
        let dir = tempfile::tempdir().unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| go(&config(&["train.minibatches=2"]), dir.path(), false));
        (metrics(dir.path()), receipts(dir.path()), evaluation(dir.path(), 4))
    };
    assert!(with(1) == with(2));
}

#[test]
fn a_run_that_was_cut_off_goes_on_as_if_it_had_not_been() {
    let config = config(&["checkpoint.optimizer=all"]);
    let whole = tempfile::tempdir().unwrap();
    go(&config, whole.path(), false);
    let cut = tempfile::tempdir().unwrap();
    go(&config, cut.path(), false);
    // As if killed in step 4: the last checkpoint is that of step 2, and a line was half written.
    fs::remove_dir_all(checkpoint::directory(cut.path(), 4)).unwrap();
    fs::remove_file(cut.path().join("eval/step-000004.json")).unwrap();
    let lines = fs::read_to_string(cut.path().join("metrics.jsonl")).unwrap();
    let half: usize = lines.lines().take(3).map(|line| line.len() + 1).sum();
    fs::write(cut.path().join("metrics.jsonl"), &lines[..half + 20]).unwrap();
    go(&config, cut.path(), true);
    assert_eq!(metrics(cut.path()), metrics(whole.path()));
    assert_eq!(receipts(cut.path()), receipts(whole.path()));
    assert_eq!(evaluation(cut.path(), 4), evaluation(whole.path(), 4));
    for name in ["model.safetensors", "master.safetensors", "optimizer.safetensors", "state.json"] {
        let [ours, theirs] =
            [&cut, &whole].map(|run| fs::read(checkpoint::directory(run.path(), 4).join(name)).unwrap());
        assert!(ours == theirs, "{name}");
    }
}

#[test]
fn checkpoints_have_an_interval_of_their_own_and_the_last_ones_and_the_best_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let lean = [
        "noise=[]",
        "train.max_new_tokens=8",
        "eval.n=4",
        "eval.noise_levels=[0.0]",
        "checkpoint.best=first",
    ];
    let config = |more: &[&str]| config(&[&lean[..], more].concat());
    go(&config(&["checkpoint.every=1", "checkpoint.keep=2"]), &dir.path().join("kept"), false);
    // No answer of eight tokens is right, so that the first evaluation stays the best.
    assert_eq!(checkpoint::steps(&dir.path().join("kept")), [0, 3, 4]);
    let best = fs::read_to_string(dir.path().join("kept/checkpoints/best.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&best).unwrap()["step"], 0);
    go(&config(&["checkpoint.every=3", "eval.every=0"]), &dir.path().join("sparse"), false);
    assert_eq!(checkpoint::steps(&dir.path().join("sparse")), [0, 3, 4]);
    assert!(!dir.path().join("sparse/eval/step-000003.json").exists());
    assert_eq!(checkpoint::resumable(&dir.path().join("sparse")).unwrap().0, 4);
}

#[test]
fn a_finished_run_that_is_made_longer_comes_out_as_if_it_had_been_so_from_the_first() {
    let [short, long] = ["train.steps=2", "train.steps=3"].map(|steps| {
        config(&[steps, "data.train_problems=8", "train.max_new_tokens=16", "eval.n=2", "eval.every=1"])
    });
    let (own, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    go(&short, own.path(), false);
    let refused = |config: &RunConfig| extend(config, own.path()).unwrap_err().to_string();
    let other = RunConfig { seed: 1, ..long.clone() };
    assert!(refused(&other).contains("`seed = 0` then, `seed = 1` now"), "{}", refused(&other));
    extend(&long, own.path()).unwrap();
    go(&long, own.path(), true);
    go(&long, whole.path(), false);
    assert_eq!(metrics(own.path()), metrics(whole.path()));
    let weights = |run: &Path| fs::read(checkpoint::directory(run, 3).join("master.safetensors")).unwrap();
    assert!(weights(own.path()) == weights(whole.path()));
    let before = fs::read(own.path().join("config.toml")).unwrap();
    let mut one_epoch = long.clone();
    (one_epoch.train.steps, one_epoch.train.epochs) = (None, Some(1));
    for (config, not_to) in [(&short, "train.steps = 2"), (&one_epoch, "train.epochs = 1 (2 steps)")] {
        let wanted = format!("train.steps = 3, and --extend goes on to more, not to {not_to}");
        assert!(refused(config).contains(&wanted), "{}", refused(config));
    }
    assert!(before == fs::read(own.path().join("config.toml")).unwrap(), "nothing is written");
}

#[test]
fn a_run_without_the_means_to_go_on_begins_again_and_comes_out_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&["train.steps=2", "eval.every=1"]);
    go(&config, dir.path(), false);
    let (lines, last) = (metrics(dir.path()), checkpoint::directory(dir.path(), 2));
    let weights = fs::read(last.join("model.safetensors")).unwrap();
    fs::remove_dir_all(&last).unwrap();
    let mut warnings = Vec::new();
    run::<Flex>(&config, dir.path(), true, &Default::default(), &mut |event| {
        if let Event::Warning(text) = event {
            warnings.push(text.to_owned());
        }
    })
    .unwrap();
    assert!(warnings.iter().any(|text| text.contains("the run begins again")), "{warnings:?}");
    assert_eq!(metrics(dir.path()), lines);
    assert!(fs::read(last.join("model.safetensors")).unwrap() == weights);
}

#[test]
fn the_first_ratio_is_exactly_one_with_several_minibatches_too() {
    let dir = tempfile::tempdir().unwrap();
    go(&config(&["train.minibatches=4", "train.steps=2", "train.micro_batch_tokens=100"]), dir.path(), false);
    for line in metrics(dir.path()) {
        assert_eq!((&line["first_ratio_mean"], &line["first_ratio_deviation"]), (&1.0.into(), &0.0.into()));
        assert_ne!(line["ratio_max"], 1.0, "later minibatches see an updated policy");
    }
}

#[test]
fn an_existing_directory_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("precious"), "x").unwrap();
    let error = run::<Flex>(&config(&[]), dir.path(), false, &Default::default(), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("never overwritten") && error.is_input(), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_changed_configuration_can_not_be_resumed() {
    let dir = tempfile::tempdir().unwrap();
    go(&config(&["train.steps=1"]), dir.path(), false);
    let changed = config(&["train.steps=1", "train.learning_rate=1e-3"]);
    let error = run::<Flex>(&changed, dir.path(), true, &Default::default(), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("learning_rate") && error.is_input(), "{error}");
}

#[test]
fn a_rule_that_matches_nothing_stops_a_run_before_it_writes() {
    let mut config = config(&[]);
    config.noise[0].modules = "no.such.module".to_owned();
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("run");
    let error = run::<Flex>(&config, &own, false, &Default::default(), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("rule 1 matches no site") && error.is_input(), "{error}");
    assert!(!own.exists());
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_names_where() {
    let dir = tempfile::tempdir().unwrap();
    let mut steps = 0;
    // Errors this large, from the second step on, are beyond what f32 holds in their products.
    let mut config = config(&["eval.every=0"]);
    let schedule = [0.0, 1e30, 1e30, 1e30].into();
    let error = Perturbation::AbsoluteGaussian { scale: 1e30 };
    config.noise.push(Rule {
        during: Some(vec![Phase::Train]),
        error,
        schedule: Some(schedule),
        ..Rule::noise(1.0)
    });
    let error = run::<Flex>(&config, dir.path(), false, &Default::default(), &mut |event| {
        steps += usize::from(matches!(event, Event::Step(..)));
    })
    .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("not finite") && text.contains("model.") && text.contains("step-000000"), "{text}");
    assert!(!error.is_input());
    assert_eq!(metrics(dir.path()).len(), steps);
}

#[test]
fn a_checkpoint_of_another_model_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    go(&config(&["train.steps=1"]), dir.path(), false);
    let newest = checkpoint::latest(dir.path()).unwrap().1;
    let path = newest.join("config.json");
    let text =
        fs::read_to_string(&path).unwrap().replace("\"num_hidden_layers\": 4", "\"num_hidden_layers\": 3");
    fs::write(&path, text).unwrap();
    let weights = newest.join("model.safetensors");
    let kept = read_tensors(&weights).unwrap().tensors.into_iter().filter(|x| !x.name.contains(".layers.3."));
    let kept = kept.map(|x| HostTensor {
        name: x.name.clone(),
        shape: x.shape.clone(),
        data: x.into_f32().unwrap(),
    });
    write_tensors(&weights, &kept.collect::<Vec<_>>(), Dtype::F32).unwrap();
    let error = run::<Flex>(&config(&["train.steps=1"]), dir.path(), true, &Default::default(), &mut |_| {});
    let error: hardy_lab::LabError = error.unwrap_err();
    assert!(error.to_string().contains("another model") && error.is_input(), "{error}");
    assert!(matches!(error, hardy_lab::LabError::Train(Error::Checkpoint { .. })));
}

#[test]
fn arms_share_the_configuration_but_what_they_say_themselves() {
    let mut config = config(&["train.steps=1"]);
    config.noise.clear();
    config.aqn = None;
    config.arm = vec![
        toml::from_str("name = 'clean'").unwrap(),
        toml::from_str(
            "name = 'noise'\n[[noise]]\nops = 'linear'\nerror = { kind = 'relative_gaussian', scale = 0.1 }",
        )
        .unwrap(),
    ];
    let dir = tempfile::tempdir().unwrap();
    let outcomes =
        run_arms::<Flex>(&Crew::default(), &config, dir.path(), false, &Default::default(), &mut |_| {})
            .unwrap();
    assert_eq!(outcomes.iter().map(|(name, ..)| &name[..]).collect::<Vec<_>>(), ["clean", "noise"]);
    assert!(receipts(&dir.path().join("clean")).is_empty());
    assert!(!receipts(&dir.path().join("noise")).is_empty());
    assert!(dir.path().join("report.html").exists());
}

#[test]
fn the_divergence_from_the_starting_model_begins_at_zero_and_grows() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&["train.kl_coefficient=0.001"]);
    config.noise.clear();
    config.aqn = None;
    go(&config, dir.path(), false);
    let kl: Vec<f64> = metrics(dir.path()).iter().map(|line| line["kl"].as_f64().unwrap()).collect();
    assert_eq!(kl[0], 0.0);
    assert!(kl[1..].iter().all(|&kl| kl > 0.0), "{kl:?}");
}

#[test]
fn clean_rollouts_and_training_agree_on_log_probabilities() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&["train.steps=1"]);
    config.noise.clear();
    config.aqn = None;
    go(&config, dir.path(), false);
    assert!(metrics(dir.path())[0]["logprob_mismatch"].as_f64().unwrap() < 1e-5);
}

#[test]
fn shared_streams_give_rollouts_and_training_the_same_noise() {
    let mismatch = |streams: &str| {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(&["train.steps=1", &format!("streams={streams}")]);
        config.aqn = None;
        go(&config, dir.path(), false);
        metrics(dir.path())[0]["logprob_mismatch"].as_f64().unwrap()
    };
    assert!(mismatch("shared") < 1e-4);
    assert!(mismatch("per_phase") > 1e-2);
}

#[test]
fn training_sees_the_rollouts_log_probabilities_to_the_bit_clean_and_under_shared_noise() {
    let everywhere = "train.old_log_probs=rollout";
    // Forward errors alone: those of the backward pass have no counterpart in a rollout.
    let shared = ["streams=shared", everywhere, "train.steps=2", "train.micro_batch_tokens=300"];
    let clean = [everywhere, "noise=[]", "train.steps=2", "train.rollout_batch=7"];
    for changes in [&shared, &clean] {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(changes);
        config.aqn = None;
        config.eval.n = 2;
        go(&config, &directory.path().join("run"), false);
        for line in metrics(&directory.path().join("run")) {
            assert_eq!(line["logprob_mismatch"], 0.0, "{changes:?}");
            assert_eq!(line["first_ratio_mean"], 1.0, "{changes:?}");
            assert_eq!(line["first_ratio_deviation"], 0.0, "{changes:?}");
        }
    }
}

#[test]
fn noise_that_is_silent_in_the_first_step_with_a_gradient_ends_the_run_there() {
    let silent = r#"noise=[{ at = "grad_input", ops = ["linear"], layers = [0], modules = "*.q_proj", pass = ["backward"], error = { kind = "bf16" } }]"#;
    // Below the first layer of a frozen base nothing is trained, so its inputs have no gradient.
    let mut config =
        config(&[silent, "lora.rank=2", "lora.target_modules=[\"q_proj\"]", "train.reward=flexible"]);
    config.aqn = None;
    let dir = tempfile::tempdir().unwrap();
    let outcome = run::<Flex>(&config, dir.path(), false, &Default::default(), &mut |_| {});
    let said = outcome.unwrap_err().to_string();
    assert!(said.contains("rule 1") && said.contains("asked for noise in train, backward"), "{said}");
    // Not in the first, where no response was better than another.
    assert_eq!(metrics(dir.path()).len(), 2);
}

#[test]
fn learned_sigmas_move_are_recorded_and_go_on_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let changes = |target: &'static str| {
        let learned = r#"aqn={ schedule = "learned", sigma = 0.01, learning_rate = 0.1, target = "TARGET" }"#;
        let aqn = learned.replace("TARGET", target);
        move |more: &[&str]| config(&[&["train.reward=flexible", "checkpoint.every=2", &aqn], more].concat())
    };
    for (target, parts) in [("hidden_states", 4), ("rms_norm", 5)] {
        let with = changes(target);
        let [whole, cut, split] = ["whole", "cut", "split"].map(|name| dir.path().join(target).join(name));
        go(&with(&["checkpoint.optimizer=all"]), &whole, false);
        let lines = metrics(&whole);
        let of = |line: &Value| {
            let all = line.as_object().unwrap().iter();
            all.filter(|(key, _)| key.starts_with("aqn_sigma/"))
                .map(|(_, x)| x.as_f64().unwrap())
                .collect::<Vec<_>>()
        };
        let moved = |sigma: f64| (sigma / 0.01).ln().abs() > 1e-3;
        let first = of(&lines[0]);
        assert!(first.len() == parts && first.iter().all(|&sigma| !moved(sigma)), "{target}: {first:?}");
        let last = of(lines.last().unwrap());
        assert!(last.iter().all(|&sigma| moved(sigma) && sigma > 0.0), "{target}: {last:?}");
        let asked = receipts(&whole).into_iter().filter(|receipt| receipt["kind"] == "absolute_gaussian");
        let asked: Vec<f64> = asked.map(|receipt| receipt["asked"].as_f64().unwrap()).collect();
        assert!(asked.len() >= parts && asked.iter().any(|&asked| (asked - 0.01).abs() > 1e-6), "{asked:?}");
        // Cut off after its second step.
        go(&with(&["checkpoint.optimizer=all"]), &cut, false);
        fs::remove_dir_all(checkpoint::directory(&cut, 4)).unwrap();
        fs::remove_file(cut.join("eval/step-000004.json")).unwrap();
        fs::remove_file(cut.join("report.html")).unwrap();
        go(&with(&["checkpoint.optimizer=all"]), &cut, true);
        assert_eq!(metrics(&cut), lines, "{target}");
        // Split otherwise, sigmas move alike.
        go(&with(&["train.micro_batch_tokens=150", "train.steps=2"]), &split, false);
        for (one, other) in of(&lines[1]).into_iter().zip(of(&metrics(&split)[1])) {
            assert!((one / other - 1.0).abs() < 1e-6, "{target}: {one} {other}");
        }
    }
}

#[test]
fn scores_are_centered_by_what_rollouts_and_training_differ_in() {
    let dir = tempfile::tempdir().unwrap();
    let lines = |name: &str, changes: &[&str], aqn: bool| {
        let changes = [&["train.reward=flexible", "train.steps=3", "eval.n=1"], changes].concat();
        let mut config = config(&changes);
        if !aqn {
            config.aqn = None;
        }
        go(&config, &dir.path().join(name), false);
        metrics(&dir.path().join(name))
    };
    let number = |line: &Value, key: &str| line[key].as_f64().unwrap();
    // Where both agree to the bit nothing is subtracted, and the way through the logits leads to the same gradient.
    let plain = lines("plain", &["noise=[]", "train.entropy_coefficient=0.01"], false);
    let centered = lines(
        "centered",
        &["noise=[]", "train.entropy_coefficient=0.01", "train.score_centering=true"],
        false,
    );
    for (plain, centered) in plain.iter().zip(&centered) {
        assert!(number(centered, "score_drift") < 1e-12, "{centered}");
        let (one, other) = (number(plain, "grad_norm"), number(centered, "grad_norm"));
        assert!((one / other - 1.0).abs() < 1e-5, "{one} {other}");
    }
    assert!(plain[0].get("score_drift").is_none());
    // Under errors of the rollouts alone it is, with every correction and however the update is split.
    let noise =
        r#"noise=[{ at = "weight", ops = ["linear"], during = ["rollout"], error = { kind = "mxfp4" } }]"#;
    let every = ["train.micro_batch_tokens=200", "train.tis_cap=2.0", "train.icepop_bound=2.0"];
    let whole = lines("whole", &[noise, "train.score_centering=true"], true);
    for change in every {
        let other = lines(change, &[noise, "train.score_centering=true", change], true);
        let (one, other) = (number(&whole[0], "score_drift"), number(&other[0], "score_drift"));
        assert!(one > 1e-3 && other > 0.0, "{change}: {one} {other}");
        if change == every[0] {
            assert!((one / other - 1.0).abs() < 1e-6, "{one} {other}");
        }
    }
    // In some step, for in one whose groups are all scored alike there is nothing to learn.
    let norms = |lines: &[Value]| lines.iter().map(|line| number(line, "grad_norm")).collect::<Vec<_>>();
    assert_ne!(norms(&whole), norms(&lines("off", &[noise], true)));
}
