//! Rewards and metrics of the user's from outside: weighted lists, programs that misbehave, data in several layouts.

use std::{fs, path::Path};

use serde_json::Value;

use crate::support::{arg, hardy, json, refuses, succeeded, text};

const RUN: &str = "name = \"x\"\n[model]\npath = \"builtin:tiny\"\n[train]\nsteps = 2\nprompts_per_step = 2\n\
    samples_per_prompt = 2\nmax_new_tokens = 8\nlearning_rate = 1e-4\n[eval]\nn = 4\nnoise_levels = [0.0]\n";

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    arg(&path).to_owned()
}

/// A reward program in the shell: `each` answers one question.
fn program(each: &str) -> String {
    format!(
        "[[reward]]\nkind = \"command\"\ncommand = [\"sh\", \"-c\", '''while read -r line; do {each}; done''']\n"
    )
}

fn metrics(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_run_learns_from_a_weighted_list_and_logs_every_part() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let rewards = format!(
        "{RUN}[[reward]]\nkind = \"flexible\"\n[[reward]]\nkind = \"length\"\ntarget = 1\nfalls_over = 100\nweight = 0.5\n\
         {}name = \"mine\"\nweight = 0.0\n",
        program(r#"printf "{\"reward\": 0.25, \"steps\": 3}\n""#)
    );
    let config = write(dir.path(), "c.toml", &rewards);
    succeeded(&hardy(&["run", &config, "--out", arg(&out)]));
    let steps = metrics(&out);
    let number = |key: &str| steps[0][key].as_f64().unwrap();
    assert_eq!((number("reward/mine"), number("reward/mine/steps")), (0.25, 3.0));
    let expected = number("reward/flexible") + 0.5 * number("reward/length");
    assert!((number("reward_mean") - expected).abs() < 1e-6);
    let record: Value =
        serde_json::from_slice(&fs::read(out.join("eval/step-000002.json")).unwrap()).unwrap();
    assert_eq!(record["metric"], "reward");
    assert!(record["levels"][0]["problems"][0]["score"].as_f64().unwrap() > 0.0);
    let model = out.join("checkpoints/step-000002");
    let judged = json(&["eval", "--model", arg(&model), "--noise", "0,0.3"]);
    assert_eq!(
        (&judged["metric"], &judged["levels"][0]["problems"][0]["score"]),
        (&"reward".into(), &record["levels"][0]["problems"][0]["score"])
    );
    let logs = dir.path().join("logs");
    for form in ["inspect", "lm-eval", "csv"] {
        let written = json(&["export", arg(&out), "--records", form, "--out", arg(&logs.join(form))]);
        assert!(written["files"].as_u64().unwrap() > 0, "{form}");
    }
}

#[test]
fn a_program_that_fails_ends_the_step_with_the_response_and_the_run_goes_on_once_it_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    let (out, state) = (dir.path().join("run"), dir.path().join("broken"));
    fs::write(&state, "").unwrap();
    let each = format!("test -e {} && exit 7; echo \"{{\\\\\"reward\\\\\": 1}}\"", arg(&state))
        .replace("\\\\", "\\");
    let config = write(dir.path(), "c.toml", &format!("{RUN}metric = \"strict\"\n{}", program(&each)));
    let failed = hardy(&["run", &config, "--out", arg(&out)]);
    let said = text(&failed.stderr);
    assert_eq!(failed.status.code(), Some(1), "{said}");
    for part in ["exit status: 7", "(response 0: ", "--resume goes on"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    fs::remove_file(&state).unwrap();
    succeeded(&hardy(&["run", &config, "--out", arg(&out), "--resume"]));
    assert_eq!(metrics(&out).len(), 2);
}

#[test]
fn what_can_not_be_rewarded_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    for (more, parts) in [
        ("[[reward]]\nkind = \"regex\"\n", &["[[reward]] 1", "needs `pattern`"][..]),
        ("[[reward]]\nkind = \"math\"\nweight = 1e9\n", &["c.toml:15: `reward.weight` is 1e9"]),
        (
            "[[reward]]\nkind = \"command\"\ncommand = [\"no-such-program\"]\n",
            &["`no-such-program` can not be started"],
        ),
        ("[[reward]]\nkind = \"math\"\nwieght = 1\n", &["c.toml:15: unknown key `wieght`"]),
    ] {
        let config = write(dir.path(), "c.toml", &format!("{RUN}{more}"));
        refuses(&["run", &config, "--out", arg(&out)], parts);
        assert!(!out.exists());
    }
    let config = write(dir.path(), "c.toml", RUN);
    let set = |change: &'static str| ["run", &config, "--dry-run", "--set", change].map(str::to_owned);
    let refused = |change, parts: &[&str]| refuses(&set(change).each_ref().map(String::as_str), parts);
    refused("train.reward=regex", &["needs more than its name"]);
    refused("eval.metric=bleu", &["`eval.metric`: unknown metric \"bleu\""]);
    refused("eval.samples=4", &["give a temperature above 0"]);
}

#[test]
fn several_samples_are_judged_by_their_mean_and_pass_at_k() {
    let common =
        ["eval", "--model", "builtin:tiny", "--data", "builtin:arith", "--n", "6", "--max-new-tokens", "16"];
    let sampled = ["--samples", "4", "--temperature", "0.8", "--noise", "0,0.3", "--metric", "flexible"];
    let judged = json(&[&common[..], &sampled].concat());
    assert_eq!(judged["levels"][0]["problems"][0]["samples"].as_array().unwrap().len(), 3);
    let chances: Vec<f64> = judged["table"]["levels"][0]["pass_at"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| pair[1].as_f64().unwrap())
        .collect();
    let accuracy = judged["table"]["levels"][0]["accuracy"].as_f64().unwrap();
    assert!(
        chances.len() == 3 && chances.is_sorted() && (chances[0] - accuracy).abs() < 1e-12,
        "{chances:?}"
    );
    assert_eq!(judged["conditions"]["sampling"], "temperature 0.8, top-p 1, 4 a problem");
    refuses(&[&common[..], &["--samples", "4"]].concat(), &["give a temperature above 0"]);
    refuses(&[&common[..], &["--metric", "reward"]].concat(), &["--rewards FILE.toml"]);
}

#[test]
fn an_early_word_tells_what_can_not_be_learned_and_stays_in_metrics_and_report() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let config = write(dir.path(), "c.toml", &format!("{RUN}[[reward]]\nkind = \"math\"\n"));
    let output = hardy(&["run", &config, "--out", arg(&out), "--set", "train.max_new_tokens=3"]);
    succeeded(&output);
    let said = text(&output.stderr);
    assert!(said.contains("warning: step 1: all 2 groups of answers are scored alike"), "{said}");
    assert!(said.contains("were cut off at `train.max_new_tokens` = 3"), "{said}");
    assert_eq!(metrics(&out)[0]["warnings"].as_array().unwrap().len(), 2);
    let report = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(report.contains("Where learning may be impossible") && report.contains("scored alike"));
}

#[test]
fn verls_layout_and_named_columns_are_read_and_plain_text_has_a_likelihood() {
    let dir = tempfile::tempdir().unwrap();
    let verl = "{\"prompt\": [{\"role\": \"user\", \"content\": \"1+1?\"}], \"reward_model\": {\"ground_truth\": \"2\"}}\n";
    let verl = write(dir.path(), "verl.jsonl", verl);
    let eval = |data: &str, more: &[&str]| {
        json(
            &[
                &["eval", "--model", "builtin:tiny", "--data", data, "--noise", "0", "--max-new-tokens", "8"],
                more,
            ]
            .concat(),
        )
    };
    assert_eq!(eval(&verl, &[])["levels"][0]["problems"][0]["truth"], "2");
    let named =
        write(dir.path(), "named.jsonl", "{\"q\": {\"text\": \"1+1?\"}, \"a\": \"1+1=2\\n#### 2\"}\n");
    assert_eq!(eval(&named, &["--question", "q.text", "--answer", "a"])["n"], 1);
    let plain = write(dir.path(), "plain.jsonl", "{\"question\": \"1+1?\", \"answer\": \"two\"}\n");
    assert!(eval(&plain, &["--metric", "nll"])["levels"][0]["nll"].as_f64().unwrap() > 0.0);
    refuses(
        &["eval", "--model", "builtin:tiny", "--data", &plain],
        &["plain.jsonl:1: `answer` has no `####`"],
    );
    let half = write(dir.path(), "half.parquet", "PAR1 and no more");
    refuses(
        &["eval", "--model", "builtin:tiny", "--data", &half],
        &["half.parquet: is no whole Parquet file"],
    );
}

#[test]
fn a_dry_run_says_what_a_run_will_take() {
    let dir = tempfile::tempdir().unwrap();
    let config = write(dir.path(), "c.toml", RUN);
    let plan = &json(&["run", &config, "--dry-run"])[0];
    assert_eq!(
        (&plan["steps"], &plan["evaluations"], &plan["responses_per_step"]),
        (&2.into(), &2.into(), &4.into())
    );
    let few =
        ["run", &config, "--dry-run", "--set", "data.train_problems=3", "--set", "train.prompts_per_step=50"];
    let output = hardy(&[&few[..], &["--json"]].concat());
    let planned: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(planned[0]["responses_per_step"], 6, "three problems are no fifty");
    let said = text(&output.stderr);
    assert!(said.contains("holds 3 problems") && said.contains("`train.prompts_per_step`, 50"), "{said}");
    let number = |value: &Value| value.as_f64().unwrap();
    assert!(number(&plan["memory"]["peak"]) > 0.0 && number(&plan["disk_bytes"]) > 0.0);
    let time = &plan["time"];
    assert!(
        number(&time["total_seconds"]) > 0.0
            && number(&time["optimizer_seconds"]) > 0.0
            && number(&time["rates"]["probe_seconds"]) < 60.0
    );
}
