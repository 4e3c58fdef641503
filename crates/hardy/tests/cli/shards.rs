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

/// Makes the shares of what `command` makes in `out`; gives their files.
fn shares(command: &[&str], out: &Path, of: usize) -> Vec<PathBuf> {
    let make = |index: usize| {
        let shard = format!("{index}/{of}");
        let made = json(&[command, &["--out", arg(out), "--shard", &shard]].concat());
        assert_eq!(made["shard"], shard.as_str());
        PathBuf::from(made["file"].as_str().unwrap())
    };
    (1..=of).map(make).collect()
}

/// That a command's shares, joined, are its file and what it prints, to the byte.
fn shares_are_the_whole(command: &[&str], of: usize) {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let whole = hardy(&[command, &["--out", arg(&path("whole.json")), "--json"]].concat());
    succeeded(&whole);
    let mut made = shares(command, &path("part.json"), of);
    made.reverse();
    let files: Vec<&str> = made.iter().map(|file| arg(file)).collect();
    let joined = hardy(&[&["merge"], &files[..], &["--out", arg(&path("joined.json")), "--json"]].concat());
    succeeded(&joined);
    assert!(joined.stdout == whole.stdout, "{}", String::from_utf8_lossy(&joined.stdout));
    let read = |name: &str| fs::read(path(name)).unwrap();
    assert!(read("joined.json") == read("whole.json"));
    refused(
        &hardy(&[&["merge"], &files[..], &["--out", arg(&path("whole.json"))]].concat()),
        &["whole.json", "exists"],
    );
    refused(&merge(&[&made[0]], &path("new.json")), &["1/", "missing"]);
    assert!(!path("new.json").exists());
}

const GRID: [&str; 13] = [
    "probe",
    "--model",
    "builtin:tiny",
    "--data",
    "builtin:arith",
    "--n",
    "4",
    "--draws",
    "2",
    "--passes",
    "forward,backward",
    "--layers",
    "1,2",
];

#[test]
fn merged_shares_of_a_grid_are_the_grid_to_the_byte() {
    shares_are_the_whole(&[&GRID[..], &["--operators", "linear,silu", "--levels", "0.1,0.6"]].concat(), 3);
    shares_are_the_whole(&[&GRID[..], &["--operators", "silu", "--metric", "accuracy"]].concat(), 2);
}

#[test]
fn merged_shares_of_a_judgement_are_the_judgement_to_the_byte() {
    let judge = [
        "find",
        "--model",
        "builtin:tiny",
        "--judge",
        "--placements",
        "2",
        "--healthy",
        "2",
        "--n",
        "1",
        "--seed",
        "3",
    ];
    shares_are_the_whole(&judge, 3);
}

#[test]
fn the_page_of_a_grid_is_drawn_when_its_shares_are_joined() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, page) = (dir.path().join("grid.json"), dir.path().join("grid.html"));
    let made = shares(&[&GRID[..], &["--operators", "silu"]].concat(), &whole, 2);
    let files: Vec<&str> = made.iter().map(|file| arg(file)).collect();
    succeeded(&hardy(&[&["merge"], &files[..], &["--out", arg(&whole), "--html", arg(&page)]].concat()));
    assert!(fs::read_to_string(&page).unwrap().contains("silu output, backward"));
}

#[test]
fn shares_of_different_grids_are_not_joined_and_what_has_no_shares_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = |name: &str| dir.path().join(name);
    let silu = [&GRID[..], &["--operators", "silu"]].concat();
    let a = &shares(&silu, &out("a.json"), 2)[0];
    let b = &shares(&[&silu[..], &["--prompt", "{question}?"]].concat(), &out("b.json"), 2)[1];
    refused(&merge(&[a, b], &out("new.json")), &["a.shard-1-of-2.json", "b.shard-2-of-2.json", "prompt is"]);
    let judge =
        ["find", "--model", "builtin:tiny", "--judge", "--placements", "1", "--healthy", "1", "--n", "1"];
    let c = &shares(&judge, &out("c.json"), 2)[1];
    refused(&merge(&[a, c], &out("new.json")), &["one is a shard of a probe grid, the other of a find"]);
    refuses(&["merge", arg(a), "--out", arg(&out("new.json")), "--allow", "nothing"], &["nothing"]);
    refused(&merge(&[&out("absent.json")], &out("new.json")), &["absent.json"]);
    let text = fs::read_to_string(a).unwrap();
    for (name, written, part) in [
        ("cut.json", &text[..text.len() / 2], "cut.json:"),
        ("other.json", &text.replacen("probe grid", "grid of old", 1), "`grid of old`"),
        ("none.json", "{}", "missing field"),
    ] {
        fs::write(out(name), written).unwrap();
        refused(&merge(&[&out(name)], &out("new.json")), &[name, part]);
    }
    let to = out("d.json");
    let with = |more: &[&str], parts: &[&str]| {
        refuses(&[&silu[..], &["--shard", "1/2"], more].concat(), parts);
    };
    with(&[], &["--out"]);
    for flag in [&["--threshold"][..], &["--magnitudes"], &["--advise", "plan.toml"]] {
        with(&[&["--out", arg(&to)], flag].concat(), &[flag[0], "leave one out"]);
    }
    refuses(&[&silu[..], &["--shard", "9/9", "--out", arg(&to)]].concat(), &["9 shards of", "cells"]);
    refuses(&["find", "--model", "builtin:tiny", "--shard", "1/2", "--out", arg(&to)], &["--judge"]);
    assert!(!to.exists());
}
