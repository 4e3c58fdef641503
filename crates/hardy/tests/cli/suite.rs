//! `suite`: one table, the same however often the suite was killed and however many runs are made at once.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::Duration,
};

use crate::support::{arg, command, hardy, json, refuses, succeeded};

const RUN: &str = "\
[model]
path = \"builtin:tiny\"
[data]
train_problems = 8
[train]
steps = 2
prompts_per_step = 2
samples_per_prompt = 2
learning_rate = 1e-3
max_new_tokens = 24
[eval]
n = 6
noise_levels = [0.0, 0.05]
";
const NOISE: &str = "[[noise]]\nerror = { kind = \"relative_gaussian\", scale = 0.2 }\nops = [\"linear\"]\n";
pub const SUITE: &str = "\
name = \"small\"
presets = [\"clean.toml\", \"noise.toml\"]
seeds = [0, 1]
baseline = \"clean.toml\"
[[hypothesis]]
claim = \"noise costs\"
criterion = [{ preset = \"noise\", against = \"clean\", level = 0.05, at_most = 0.0 }]
";

/// A suite of two presets and two seeds; gives its file.
pub fn suite(dir: &Path, text: &str) -> PathBuf {
    fs::write(dir.join("clean.toml"), format!("name = \"clean\"\n{RUN}")).unwrap();
    fs::write(dir.join("noise.toml"), format!("name = \"noise\"\n{RUN}{NOISE}")).unwrap();
    let path = dir.join("small.toml");
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_suite_that_is_killed_and_started_again_gives_the_same_table_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let (file, path) = (suite(dir.path(), SUITE), |name: &str| dir.path().join(name));
    let table = json(&["suite", arg(&file), "--out", arg(&path("whole")), "--jobs", "2"]);
    assert_eq!(table["presets"].as_array().unwrap().len(), 2);
    assert_eq!(table["presets"][1]["levels"][1]["accuracy"]["seeds"].as_array().unwrap().len(), 2);
    assert!(table["presets"][1]["levels"][1]["against_baseline"]["p_holm"].is_number());
    assert_eq!(table["hypotheses"][0]["criteria"].as_array().unwrap().len(), 1);
    let killed = path("killed");
    let arguments = ["suite", arg(&file), "--out", arg(&killed)];
    for _ in 0..2 {
        let mut child = command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(700));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    succeeded(&hardy(&arguments));
    let read = |name: &str, file: &str| fs::read(path(name).join(file)).unwrap();
    for file in ["table.json", "table.md"] {
        assert!(read("whole", file) == read("killed", file), "{file}");
    }
    let lines = |name| fs::read_to_string(path(name).join("noise/seed-1/metrics.jsonl")).unwrap();
    let before = lines("killed");
    succeeded(&hardy(&arguments));
    assert_eq!(lines("killed"), before, "a finished run was made again");
}

#[test]
fn a_suite_that_can_not_be_run_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let refuses_suite = |text: &str, parts: &[&str]| {
        refuses(&["suite", arg(&suite(dir.path(), text)), "--out", arg(&out)], parts);
        assert!(!out.exists());
    };
    refuses_suite(&SUITE.replace("noise.toml", "e99"), &["e99", "presets"]);
    refuses_suite(&SUITE.replace("[0, 1]", "[1, 1]"), &["names 1 twice"]);
    refuses_suite(&SUITE.replace("noise.toml", "quickstart"), &["quickstart has arms"]);
    refuses_suite(&SUITE.replace("seeds", "seedz"), &["small.toml:3: unknown key `seedz`"]);
    refuses_suite(&format!("set = [\"name=same\"]\n{SUITE}"), &["both called `same`"]);
    refuses_suite(&format!("set = [\"train.stepz=1\"]\n{SUITE}"), &["stepz"]);
    refuses_suite(
        &SUITE.replace("at_most", "apart_by"),
        &["`apart_by` was met by a difference of either sign"],
    );
    refuses_suite(&SUITE.replace("against = \"clean\"", "against = \"e5\""), &["a hypothesis speaks of e5"]);
    refuses_suite(
        &SUITE.replace("level = 0.05", "level = 0.5"),
        &["noise is not evaluated at 0.5, only at 0, 0.05"],
    );
    refuses(&["suite", "no-such-suite"], &["no-such-suite", "hw-noise", "forward-backward"]);
    refuses(&["suite", arg(&suite(dir.path(), SUITE)), "--jobs", "0"], &["--jobs"]);
}

#[test]
fn a_preset_in_a_format_is_named_by_it_and_held_against_what_adds_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let text = SUITE.replace("seeds = [0, 1]", "seeds = [0]").replace("level = 0.05", "level = 0.0");
    let file = suite(dir.path(), &text);
    let format = "[[noise]]\nat = \"weight\"\nops = [\"linear\"]\nexclude = [\"lm_head\"]\n\
        during = [\"rollout\", \"train\", \"eval\"]\nerror = { kind = \"mxfp4\" }\n";
    fs::write(dir.path().join("noise.toml"), format!("name = \"noise\"\n{RUN}{format}")).unwrap();
    let out = dir.path().join("out");
    let table = json(&[
        "suite",
        arg(&file),
        "--out",
        arg(&out),
        "--set",
        "train.steps=1",
        "--set",
        "train.max_new_tokens=8",
    ]);
    let levels = table["presets"][1]["levels"].as_array().unwrap();
    let labels: Vec<_> = levels.iter().map(|level| (&level["label"], &level["baseline_label"])).collect();
    assert_eq!(labels, [(&"mxfp4".into(), &"clean".into()), (&"mxfp4 + 5 %".into(), &"5 %".into())]);
    let said = table["hypotheses"][0]["criteria"][0].to_string();
    assert!(!said.contains("without noise"), "{said}");
    assert!(said.contains("noise judged at mxfp4, clean at clean"), "{said}");
    let [one, other] = ["clean", "noise"].map(|preset| out.join(preset).join("seed-0"));
    let compared = json(&["compare", arg(&one), arg(&other)]);
    let level = &compared["runs"][0]["levels"][0];
    assert_eq!((&level["label"], &level["baseline_label"]), (&"mxfp4".into(), &"clean".into()));
    let page = fs::read_to_string(other.join("report.html")).unwrap();
    assert!(page.contains("mxfp4 + 5 %") && !page.contains("without noise"));
}
