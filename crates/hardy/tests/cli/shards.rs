//! `--shard` and `merge`: shards of a suite, made apart and joined, are the suite.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    suite::{SUITE, suite},
    support::{arg, command, hardy, json, refused, refuses, succeeded},
};

/// The suite of two presets and two seeds in three shards, in `out`; gives their directories.
fn shards(file: &Path, out: &Path) -> Vec<PathBuf> {
    let make = |index: usize| {
        let made = json(&["suite", arg(file), "--out", arg(out), "--shard", &format!("{index}/3")]);
        assert_eq!(made["runs"].as_array().unwrap().len(), [2, 1, 1][index - 1]);
        out.join(format!("shard-{index}-of-3"))
    };
    (1..=3).map(make).collect()
}

fn merge(shards: &[&PathBuf], out: &Path) -> std::process::Output {
    let shards: Vec<&str> = shards.iter().map(|shard| arg(shard)).collect();
    hardy(&[&["merge"], &shards[..], &["--out", arg(out)]].concat())
}

#[test]
fn merged_shards_are_the_suite_to_the_byte_and_what_is_no_whole_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (file, path) = (suite(dir.path(), SUITE), |name: &str| dir.path().join(name));
    succeeded(&hardy(&["suite", arg(&file), "--out", arg(&path("whole")), "--jobs", "2"]));
    let made = shards(&file, &path("parts"));
    let [a, b, c] = [0, 1, 2].map(|i| &made[i]);
    for (out, given) in [("joined", [c, a, b]), ("parts", [a, b, c])] {
        succeeded(&merge(&given, &path(out)));
        for file in ["table.json", "table.md", "noise/seed-1/eval/step-000002.json"] {
            let read = |name: &str| fs::read(path(name).join(file)).unwrap();
            assert!(read("whole") == read(out), "{file} in {out}");
        }
    }
    // The merged directory is the suite's: nothing is left to do.
    let again = hardy(&["suite", arg(&file), "--out", arg(&path("joined"))]);
    succeeded(&again);
    assert!(String::from_utf8_lossy(&again.stderr).contains("4 of 4 runs were finished before"));

    let refuses_merge = |given: &[&PathBuf], parts: &[&str]| {
        refused(&merge(given, &path("new")), parts);
        assert!(!path("new").exists());
    };
    refuses_merge(&[a, c], &["2/3 is missing"]);
    refuses_merge(&[a, b, a, c], &["are both shard 1/3"]);
    refuses_merge(&[a, b, &path("whole")], &["whole", "shard.json"]);
    refused(&merge(&[a, b, c], &path("whole")), &["whole"]);
    let change = |from: &str, to: &str| {
        let manifest = c.join("shard.json");
        let text = fs::read_to_string(&manifest).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(&manifest, text.replacen(from, to, 1)).unwrap();
        text
    };
    for (from, to, part) in [
        (
            "\"learning_rate\": 0.001",
            "\"learning_rate\": 0.002",
            "configs.clean.train.learning_rate is 0.001 in one",
        ),
        ("\"revision\": \"", "\"revision\": \"x", "different builds: revision"),
        ("\"processor\": \"", "\"processor\": \"x", "--allow processor"),
    ] {
        let before = change(from, to);
        refuses_merge(&[a, b, c], &[part]);
        fs::write(c.join("shard.json"), before).unwrap();
    }
    fs::remove_file(c.join("clean/seed-1/report.html")).unwrap();
    refuses_merge(&[a, b, c], &["clean/seed-1: the run is not finished", "--shard 3/3"]);
}

#[test]
fn a_shard_that_is_none_is_refused_and_the_environment_is_read_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (suite(dir.path(), SUITE), dir.path().join("out"));
    let with = |shard: &'static str| {
        ["suite", arg(&file), "--out", arg(&out), "--dry-run", "--shard", shard].map(str::to_owned)
    };
    let refuses_shard = |shard, parts: &[&str]| {
        let arguments = with(shard);
        refuses(&arguments.each_ref().map(String::as_str), parts);
    };
    refuses_shard("5/5", &["5 shards of 4 runs"]);
    refuses_shard("3/2", &["no shard 3 of 2"]);
    refuses_shard("auto/2", &["no task of a Slurm array"]);
    let arguments = with("auto/4");
    let output =
        command(&arguments.each_ref().map(String::as_str)).env("JOB_COMPLETION_INDEX", "1").output().unwrap();
    succeeded(&output);
    assert!(String::from_utf8_lossy(&output.stdout).contains("shard-2-of-4"));
    refuses(
        &["suite", arg(&file), "--out", arg(&dir.path().join("other/shard-1-of-2")), "--shard", "x"],
        &["write 2/4"],
    );
}
