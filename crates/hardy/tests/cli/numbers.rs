//! Numbers of configurations and of the command line: what is out of range is refused with the key, the value, the range
//! and the line; and problems to judge by are never chosen behind anybody's back.

use std::{fs, path::Path};

use crate::support::{arg, hardy, json, refuses, succeeded, text};

const RUN: &str = "name = \"x\"\n[model]\npath = \"builtin:tiny\"\n";

fn write(dir: &Path, text: &str) -> String {
    let path = dir.join("c.toml");
    fs::write(&path, text).unwrap();
    arg(&path).to_owned()
}

/// `lines` stand from line 4 on.
fn run_refuses(lines: &str, parts: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), &format!("{RUN}{lines}"));
    let out = dir.path().join("out");
    refuses(&["run", &path, "--dry-run", "--out", arg(&out)], parts);
    assert!(!out.exists());
}

#[test]
fn values_that_reverse_or_stop_learning_are_refused_with_their_line() {
    for (lines, parts) in [
        ("[train]\nmax_grad_norm = -1.0", ["c.toml:5: `train.max_grad_norm` is -1", "from 0"]),
        ("[train]\nbetas = [0.9, 1.0]", ["c.toml:5: `train.betas` is 1", "below 1"]),
        ("[train]\nbetas = [-0.1, 0.9]", ["c.toml:5: `train.betas` is -0.1", "below 1"]),
        ("[train]\nweight_decay = -0.01", ["c.toml:5: `train.weight_decay` is -0.01", "from 0"]),
        ("[train]\nweight_decay = nan", ["c.toml:5: `train.weight_decay` is nan", "from 0"]),
        ("[train]\n\ntop_p = 0.0", ["c.toml:6: `train.top_p` is 0", "above 0 and at most 1"]),
        ("[train]\ntop_p = 1.5", ["c.toml:5: `train.top_p` is 1.5", "above 0 and at most 1"]),
        ("[train]\ntemperature = 0", ["c.toml:5: `train.temperature` is 0", "0.001"]),
        ("[train]\ntemperature = 1e-30", ["c.toml:5: `train.temperature` is 1e-30", "0.001"]),
        ("[train]\nlearning_rate = 1e300", ["c.toml:5: `train.learning_rate` is 1e300", "above 0"]),
        ("[train]\ndual_clip = inf", ["c.toml:5: `train.dual_clip` is inf", "above 1"]),
        ("[train]\nsteps = -1", ["c.toml:5: `train.steps` is -1", "a whole number from 1 to"]),
        ("[train]\nsteps = 0", ["c.toml:5: `train.steps` is 0", "a whole number from 1 to"]),
        ("[train]\nepochs = 1.5", ["c.toml:5: `train.epochs` is 1.5", "a whole number from 1 to"]),
        (
            "[train]\nsamples_per_prompt = 65536",
            ["c.toml:5: `train.samples_per_prompt` is 65536", "from 1 to 65,535"],
        ),
        ("[train]\nprompts_per_step = 4611686018427387904", ["`train.prompts_per_step`", "from 1 to"]),
        ("[data]\ntrain_problems = 9223372036854775807", ["`data.train_problems`", "from 1 to"]),
        ("[data]\ntrain_problems = 0", ["c.toml:5: `data.train_problems` is 0", "from 1 to"]),
        ("[eval]\nn = 9223372036854775807", ["c.toml:5: `eval.n`", "from 1 to"]),
        ("[eval]\nnoise_levels = [0.0, -0.1]", ["c.toml:5: `eval.noise_levels` is -0.1", "from 0"]),
        ("[lora]\nrank = 0", ["c.toml:5: `lora.rank` is 0", "from 1 to"]),
        ("[lora]\nalpha = -1", ["c.toml:5: `lora.alpha` is -1", "above 0"]),
        ("[lora]\ndropout = 1.0", ["c.toml:5: `lora.dropout` is 1", "below 1"]),
        ("[aqn]\nschedule = \"constant\"\nsigma = -0.1", ["c.toml:6: `aqn.sigma` is -0.1", "from 0"]),
        (
            "[[noise]]\nops = \"all\"\nerror = { kind = \"relative_gaussian\", scale = -1.0 }",
            ["c.toml:6: `noise.error.scale` is -1", "from 0"],
        ),
        (
            "[[arm]]\nname = \"a\"\n[arm.train]\ntop_p = 0",
            ["c.toml:7: `train.top_p` is 0", "above 0 and at most 1"],
        ),
    ] {
        run_refuses(lines, &parts);
    }
}

#[test]
fn products_of_admissible_numbers_do_not_overflow() {
    let product =
        "[train]\nprompts_per_step = 1000000\nsamples_per_prompt = 65535\nmax_new_tokens = 1000000\n";
    run_refuses(product, &["`train.prompts_per_step`", "`train.samples_per_prompt`", "tokens"]);
}

#[test]
fn changes_on_the_command_line_are_checked_as_lines_are() {
    let on = ["run", "baseline", "--dry-run", "--set"];
    refuses(
        &[&on[..], &["train.top_p=0"]].concat(),
        &["--set train.top_p=0: `train.top_p` is 0", "above 0 and at most 1"],
    );
    refuses(&[&on[..], &["train.betas=[0.9, 2]"]].concat(), &["`train.betas` is 2", "below 1"]);
}

#[test]
fn supervised_training_is_checked_as_runs_are() {
    let dir = tempfile::tempdir().unwrap();
    for (lines, parts) in [
        ("[train]\nbetas = [0.9, 1.5]", ["c.toml:5: `train.betas` is 1.5", "below 1"]),
        ("[train]\nlearning_rate = -1e-5", ["c.toml:5: `train.learning_rate` is -1e-5", "above 0"]),
        ("[train]\nmax_grad_norm = nan", ["c.toml:5: `train.max_grad_norm` is nan", "from 0"]),
        ("[train]\nfloor_ratio = 2.0", ["c.toml:5: `train.floor_ratio` is 2", "from 0 to 1"]),
        ("[train]\nbatch = 0", ["c.toml:5: `train.batch` is 0", "from 1 to"]),
        ("[train]\nmicro_batch_tokens = 0", ["c.toml:5: `train.micro_batch_tokens` is 0", "from 1 to"]),
        ("[train]\nweight_decay = -1.0", ["c.toml:5: `train.weight_decay` is -1", "from 0"]),
    ] {
        let path = write(dir.path(), &format!("{RUN}{lines}"));
        refuses(&["sft", &path, "--dry-run"], &parts);
    }
    let share = write(dir.path(), &format!("rewarded_share = 1.5\n{RUN}"));
    refuses(&["sft", &share, "--dry-run"], &["c.toml:1: `rewarded_share` is 1.5", "from 0 to 1"]);
}

#[test]
fn flags_have_the_ranges_of_the_keys_that_mean_the_same() {
    let generate = ["generate", "--model", "builtin:tiny", "--prompt", "x", "--max-new-tokens"];
    refuses(&[&generate[..], &["1", "--top-p", "0"]].concat(), &["--top-p", "above 0 and at most 1"]);
    refuses(&[&generate[..], &["1", "--temperature", "1e-30"]].concat(), &["--temperature", "0.001"]);
    refuses(&[&generate[..], &["4294967295"]].concat(), &["--max-new-tokens", "from 1 to"]);
    let eval = ["eval", "--model", "builtin:tiny", "--data", "builtin:arith"];
    refuses(&[&eval[..], &["--n", "4294967295"]].concat(), &["--n", "from 1 to"]);
    refuses(&[&eval[..], &["--batch", "4294967295"]].concat(), &["--batch", "from 1 to"]);
    let scan = ["scan", "--model", "builtin:tiny", "--data", "builtin:arith", "--format", "mxfp4"];
    refuses(&[&scan[..], &["--max-dead-zone", "nan"]].concat(), &["--max-dead-zone", "from 0 to 1"]);
    refuses(&["doctor", "--threads", "1000000000"], &["--threads", "from 1 to"]);
}

#[test]
fn problems_to_judge_by_are_given_where_those_to_learn_from_are() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("mine.jsonl");
    fs::write(&data, "{\"question\": \"1+1?\", \"answer\": \"#### 2\"}\n").unwrap();
    run_refuses(&format!("[data]\ntrain = {:?}", arg(&data)), &["mine.jsonl", "`data.eval`", "arithmetic"]);
    run_refuses(&format!("[data]\neval = {:?}", arg(&data)), &["mine.jsonl", "`data.train`", "arithmetic"]);
    let set = format!("data.train={}", arg(&data));
    refuses(&["run", "baseline", "--dry-run", "--set", &set], &["mine.jsonl", "`data.eval`", "arithmetic"]);
    let both = write(dir.path(), &format!("{RUN}[data]\ntrain = {0:?}\neval = {0:?}", arg(&data)));
    json(&["run", &both, "--dry-run", "--out", arg(&dir.path().join("out"))]);
    // Supervised training that is not judged needs nothing to judge by.
    let sft = format!("eval_problems = 0\n{RUN}[data]\ntrain = {:?}", arg(&data));
    json(&["sft", &write(dir.path(), &sft), "--dry-run", "--out", arg(&dir.path().join("out"))]);
    let judged = write(dir.path(), &sft.replace("eval_problems = 0", "eval_problems = 3"));
    refuses(&["sft", &judged, "--dry-run"], &["mine.jsonl", "`data.eval`", "arithmetic"]);
}

#[test]
fn every_key_is_listed_with_its_default_and_range_as_in_the_documentation() {
    let listed = json(&["config", "train.top_p"]);
    let (key, admissible) = (&listed[0]["key"], &listed[0]["admissible"]);
    assert_eq!((key, admissible), (&"train.top_p".into(), &"above 0 and at most 1".into()));
    assert_eq!(listed[0]["default"], "1");
    assert!(json(&["config", "train"]).as_array().unwrap().len() > 30);
    refuses(
        &["config", "train.topp"],
        &["train.topp: no such key or section", "did you mean `train.top_p`?"],
    );
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let page = fs::read_to_string(page).unwrap();
    for of in ["run", "sft"] {
        let table = hardy(&["config", "--of", of, "--markdown"]);
        succeeded(&table);
        assert!(
            page.contains(&text(&table.stdout)),
            "docs/configuration.md: paste `hardy config --of {of} --markdown`"
        );
    }
    // Help says what is admissible, too.
    let help = hardy(&["generate", "--help"]);
    assert!(text(&help.stdout).contains("above 0 and at most 1"), "{}", text(&help.stdout));
}
