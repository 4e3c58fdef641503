//! Several processes that make one run: the same bits as one, whatever their number, and a clean end where one is missing.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Output, Stdio},
};

use serde_json::Value;

use crate::support::{arg, command, hardy, refused, succeeded, text};

/// Noise in both passes and on weights, dynamic sampling, minibatches, a KL penalty, clipping, sigmas that are learned.
const CONFIG: &str = "\
name = \"shared\"
[model]
path = \"builtin:tiny\"
[data]
train_problems = 24
[train]
algorithm = \"dapo\"
steps = 3
prompts_per_step = 6
samples_per_prompt = 3
minibatches = 2
learning_rate = 1e-3
kl_coefficient = 0.01
max_new_tokens = 24
max_grad_norm = 0.1
gradient_blocks = 4
[eval]
n = 7
every = 2
noise_levels = [0.0, 0.05]
[checkpoint]
every = 1
optimizer = \"all\"
best = \"mean\"
[aqn]
schedule = \"learned\"
sigma = 0.01
learning_rate = 0.05
target = \"hidden_states\"
[[noise]]
error = { kind = \"relative_gaussian\", scale = 0.05 }
ops = [\"linear\", \"matmul\"]
pass = [\"forward\", \"backward\"]
[[noise]]
error = { kind = \"mxfp4\" }
ops = [\"linear\"]
at = \"weight\"
";

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Starts worker `rank` of `size`.
fn worker([rank, size]: [usize; 2], port: u16, arguments: &[&str]) -> Child {
    let mut command = command(&[arguments, &["--threads", "1"]].concat());
    for (name, value) in [
        ("RANK", rank),
        ("WORLD_SIZE", size),
        ("MASTER_PORT", usize::from(port)),
        ("HARDY_PATIENCE_SECONDS", 30),
    ] {
        command.env(name, value.to_string());
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What so many workers say, that all do the same.
fn workers(size: usize, arguments: &[&str]) -> Vec<Output> {
    let port = free_port();
    let all: Vec<Child> = (0..size).map(|rank| worker([rank, size], port, arguments)).collect();
    all.into_iter().map(|worker| worker.wait_with_output().unwrap()).collect()
}

/// A line of metrics or a state without what may differ: times, and energies, whose terms are added in another order.
fn comparable(mut value: Value) -> Value {
    match &mut value {
        Value::Object(object) => {
            object.retain(|key, _| !(key.ends_with("_seconds") || key.ends_with("_per_second")));
            for (key, value) in object.iter_mut() {
                let energy = matches!(key.as_str(), "error_energy" | "signal_energy" | "measured" | "asked");
                *value = match value.as_f64().filter(|_| energy) {
                    Some(energy) => Value::from(format!("{energy:.8e}")),
                    None => comparable(value.take()),
                };
            }
        }
        Value::Array(array) => array.iter_mut().for_each(|value| *value = comparable(value.take())),
        _ => {}
    }
    value
}

/// The files of a run, to be compared.
fn files(run: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut open = vec![run.to_owned()];
    let mut files = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let lines = || {
            text(&bytes)
                .lines()
                .map(|line| comparable(serde_json::from_str(line).unwrap()).to_string())
                .collect::<Vec<_>>()
        };
        let bytes = match path.extension().and_then(|kind| kind.to_str()) {
            Some("jsonl") => lines().join("\n").into_bytes(),
            Some("json") => comparable(serde_json::from_slice(&bytes).unwrap()).to_string().into_bytes(),
            Some("safetensors" | "toml") => bytes,
            _ => continue,
        };
        files.push((path.strip_prefix(run).unwrap().to_owned(), bytes));
    }
    files.sort();
    files
}

fn assert_same(one: &Path, other: &Path) {
    let (one, other) = (files(one), files(other));
    assert!(one.len() > 12);
    assert_eq!(
        one.iter().map(|file| &file.0).collect::<Vec<_>>(),
        other.iter().map(|file| &file.0).collect::<Vec<_>>()
    );
    for ((name, one), (_, other)) in one.iter().zip(&other) {
        assert!(
            one == other,
            "{}:\n{}\n{}",
            name.display(),
            String::from_utf8_lossy(one),
            String::from_utf8_lossy(other)
        );
    }
}

#[test]
fn a_run_has_the_same_bits_on_any_number_of_workers_and_goes_on_with_another() {
    let dir = tempfile::tempdir().unwrap();
    let (config, path) = (dir.path().join("shared.toml"), |name: &str| dir.path().join(name));
    fs::write(&config, CONFIG).unwrap();
    let arguments = |out: &Path| ["run", arg(&config), "--out", arg(out)].map(str::to_owned);
    let one = path("one");
    succeeded(&hardy(&arguments(&one).each_ref().map(String::as_str)));
    for size in [2, 3, 4] {
        let out = path(&size.to_string());
        let mut words = arguments(&out).to_vec();
        words.extend((size == 3).then(|| "--shard-optimizer".to_owned()));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let said = workers(size, &words);
        said.iter().for_each(succeeded);
        assert!(said[1..].iter().all(|said| said.stdout.is_empty()), "a worker other than the first spoke");
        assert_same(&one, &out);
    }
    // The run on two workers, cut off after its second step, goes on with three.
    let cut = path("2");
    fs::remove_dir_all(cut.join("checkpoints/step-000003")).unwrap();
    fs::remove_file(cut.join("eval/step-000003.json")).unwrap();
    fs::remove_file(cut.join("report.html")).unwrap();
    let words = [&arguments(&cut)[..], &["--resume", "--shard-optimizer"].map(str::to_owned)].concat();
    workers(3, &words.iter().map(String::as_str).collect::<Vec<_>>()).iter().for_each(succeeded);
    assert_same(&one, &cut);
}

#[test]
fn workers_that_do_not_belong_together_end_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let (config, out) = (dir.path().join("shared.toml"), dir.path().join("out"));
    fs::write(&config, CONFIG).unwrap();
    let arguments = ["run", arg(&config), "--out", arg(&out)];
    let port = free_port();
    let first = worker([0, 2], port, &arguments);
    let other = worker([1, 2], port, &[&arguments[..], &["--set", "train.learning_rate=0.5"]].concat());
    for said in [first, other].map(|child| child.wait_with_output().unwrap()) {
        assert_eq!(said.status.code(), Some(2));
        let said = text(&said.stderr);
        assert!(
            said.contains("worker 1 differs from worker 0") && said.contains("learning_rate = 0.5"),
            "{said}"
        );
    }
    assert!(!out.exists());
    // The directory of another run: the first worker's reason is everybody's.
    fs::create_dir(&out).unwrap();
    fs::write(out.join("something"), "").unwrap();
    for said in workers(2, &arguments) {
        assert!(!said.status.success());
        assert!(text(&said.stderr).contains("is never overwritten"), "{}", text(&said.stderr));
    }
    let without = |name: &str, value: &str| command(&arguments).env(name, value).output().unwrap();
    let said = text(&without("WORLD_SIZE", "2").stderr);
    assert!(said.contains("RANK is not set"), "{said}");
    if cfg!(not(feature = "mpi")) {
        let said = text(&without("OMPI_COMM_WORLD_SIZE", "2").stderr);
        assert!(said.contains("--features mpi"), "{said}");
    }
}

#[test]
fn a_worker_that_dies_ends_the_run_with_its_name_and_the_run_goes_on_with_fewer() {
    let dir = tempfile::tempdir().unwrap();
    let (config, out) = (dir.path().join("shared.toml"), dir.path().join("out"));
    fs::write(&config, CONFIG.replace("steps = 3", "steps = 40").replace("every = 1", "every = 2")).unwrap();
    let arguments = ["run", arg(&config), "--out", arg(&out)];
    let port = free_port();
    let mut all: Vec<Child> = (0..3).map(|rank| worker([rank, 3], port, &arguments)).collect();
    while !out.join("checkpoints/step-000002/state.json").exists() {
        assert!(all[0].try_wait().unwrap().is_none(), "the run ended before it was to be killed");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    all[1].kill().unwrap();
    let said: Vec<Output> = all.into_iter().map(|worker| worker.wait_with_output().unwrap()).collect();
    for said in [&said[0], &said[2]] {
        assert_eq!(said.status.code(), Some(1));
        assert!(text(&said.stderr).contains("worker 1 is gone"), "{}", text(&said.stderr));
    }
    assert!(out.join("checkpoints/step-000002/state.json").exists());
}

#[test]
fn an_evaluation_by_several_workers_is_that_of_one_and_the_first_alone_speaks() {
    let dir = tempfile::tempdir().unwrap();
    let record = |name: &str| dir.path().join(name);
    let asked = |out: &Path| {
        let given = "eval --model builtin:tiny --data builtin:arith --n 7 --max-new-tokens 16 --noise 0,0.1 --draws 2";
        given.split(' ').chain(["--out", arg(out)]).map(str::to_owned).collect::<Vec<_>>()
    };
    let one = asked(&record("one.json"));
    let one: Vec<&str> = one.iter().map(String::as_str).collect();
    let alone = hardy(&one);
    succeeded(&alone);
    let all = asked(&record("all.json"));
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let said = workers(3, &all);
    succeeded(&said[0]);
    assert_eq!(text(&said[0].stdout), text(&alone.stdout));
    assert!(said[1..].iter().all(|said| said.status.success() && said.stdout.is_empty()));
    let read = |name| comparable(serde_json::from_slice(&fs::read(record(name)).unwrap()).unwrap());
    assert_eq!(read("one.json"), read("all.json"));
}

/// That so many workers print and keep, to the byte, what one does, and that the first alone speaks.
fn workers_are_one(command: &str, sizes: &[usize]) {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let asked: Vec<&str> = command.split(' ').collect();
    let asking = |out: &Path| {
        let words = asked.iter().copied().chain(["--out", arg(out), "--json"]);
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    let words = |out: &Path, size: usize| {
        let words = asking(out);
        workers(size, &words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let alone = asking(&path("one"));
    let alone = hardy(&alone.iter().map(String::as_str).collect::<Vec<_>>());
    succeeded(&alone);
    for &size in sizes {
        let out = path(&size.to_string());
        let said = words(&out, size);
        said.iter().for_each(succeeded);
        assert!(said[0].stdout == alone.stdout, "{command}: {}", text(&said[0].stdout));
        assert!(said[1..].iter().all(|said| said.stdout.is_empty()), "a worker other than the first spoke");
        assert!(fs::read(&out).unwrap() == fs::read(path("one")).unwrap(), "{command}");
    }
}

#[test]
fn cells_shared_out_among_workers_are_those_of_one_to_the_byte() {
    const ON: &str = "--model builtin:tiny --data builtin:arith";
    // More than one pass, and more workers than passes.
    workers_are_one(&format!("scan {ON} --format mxfp4 --n 150"), &[2, 5]);
    workers_are_one(&format!("eval {ON} --metric nll --n 6 --noise 0,0.1 --draws 2"), &[2, 4]);
    let grid = "--n 4 --draws 2 --layers 1,2 --operators linear,silu --passes forward,backward";
    workers_are_one(&format!("probe {ON} {grid}"), &[3]);
    workers_are_one(&format!("probe {ON} --n 4 --layers 1 --operators silu --metric accuracy"), &[2]);
    workers_are_one("find --model builtin:tiny --judge --placements 1 --healthy 1 --n 1 --seed 3", &[2]);
}

#[test]
fn thresholds_are_sought_by_all_workers_and_one_process_is_asked_for_where_nothing_is_shared() {
    let on =
        "probe --model builtin:tiny --data builtin:arith --n 8 --layers 1 --operators linear,silu --json";
    let words = |more: &'static str| on.split(' ').chain(more.split(' ')).collect::<Vec<_>>();
    let alone = hardy(&words("--threshold"));
    let said = workers(2, &words("--threshold"));
    [&alone, &said[0], &said[1]].into_iter().for_each(succeeded);
    assert_eq!((text(&said[0].stdout), text(&said[1].stdout)), (text(&alone.stdout), String::new()));
    let refuses = |words: &[&str], parts: &[&str]| {
        workers(2, words).iter().for_each(|said| refused(said, parts));
    };
    refuses(&words("--magnitudes"), &["--magnitudes", "start it as one process"]);
    refuses(&["find", "--model", "builtin:tiny"], &["one look", "start it as one process"]);
    refuses(&words("--shard 1/2 --out never.json"), &["--shard and several workers", "take one"]);
}

const WARM: &str = "\
name = \"warm\"
eval_problems = 5
[model]
path = \"builtin:tiny\"
[data]
train_problems = 24
[train]
steps = 3
batch = 7
learning_rate = 1e-3
gradient_blocks = 4
[checkpoint]
every = 1
optimizer = \"all\"
[lora]
rank = 4
dropout = 0.1
[[noise]]
error = { kind = \"relative_gaussian\", scale = 0.05 }
ops = [\"linear\", \"matmul\"]
pass = [\"forward\", \"backward\"]
";

#[test]
fn a_warm_up_has_the_same_bits_on_any_number_of_workers_and_goes_on_with_another() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for (kind, config) in
        [("full", WARM.replace("[lora]\nrank = 4\ndropout = 0.1\n", "")), ("lora", WARM.to_owned())]
    {
        let file = path(&format!("{kind}.toml"));
        fs::write(&file, config).unwrap();
        let warm = |out: &Path, more: &[&str], size: usize| {
            let words = [&["sft", arg(&file), "--out", arg(out)], more].concat();
            let said = if size == 1 { vec![hardy(&words)] } else { workers(size, &words) };
            said.iter().for_each(succeeded);
            assert!(
                said[1..].iter().all(|said| said.stdout.is_empty()),
                "a worker other than the first spoke"
            );
        };
        let (one, cut) = (path(&format!("{kind}-1")), path(&format!("{kind}-3")));
        warm(&one, &[], 1);
        for size in [2, 3] {
            let out = path(&format!("{kind}-{size}"));
            warm(&out, &[], size);
            assert_same(&one, &out);
        }
        // That on three workers, as it was after its second step, goes on with two.
        fs::remove_file(cut.join("eval.json")).unwrap();
        warm(&cut, &["--resume"], 2);
        assert_same(&one, &cut);
    }
}

#[test]
fn a_warm_up_that_workers_can_not_share_says_what_would_be_right() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("warm.toml"), dir.path().join("out"));
    fs::write(&file, WARM.replace("gradient_blocks = 4", "gradient_blocks = 1")).unwrap();
    for said in workers(2, &["sft", arg(&file), "--out", arg(&out)]) {
        assert!(text(&said.stderr).contains("set train.gradient_blocks"), "{}", text(&said.stderr));
    }
    assert!(!out.exists());
    let lone = command(&["sft", arg(&file), "--out", arg(&out)]).env("RANK", "1").output().unwrap();
    refused(&lone, &["RANK is 1", "WORLD_SIZE is not set"]);
    let other = [("RANK", "0"), ("WORLD_SIZE", "2"), ("HARDY_TRANSPORT", "smoke")];
    let other = command(&["sft", arg(&file), "--out", arg(&out)]).envs(other).output().unwrap();
    refused(&other, &["HARDY_TRANSPORT is `smoke`", "tcp or nccl"]);
}

#[cfg(feature = "mpi")]
#[test]
fn a_run_that_mpirun_starts_has_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let (config, path) = (dir.path().join("shared.toml"), |name: &str| dir.path().join(name));
    fs::write(&config, CONFIG).unwrap();
    succeeded(&hardy(&["run", arg(&config), "--out", arg(&path("one"))]));
    for size in ["2", "3"] {
        let mut mpirun = std::process::Command::new("mpirun");
        // By variables, for MPICH's mpirun knows no flags of Open MPI's.
        for allow in ["ALLOW_RUN_AS_ROOT", "ALLOW_RUN_AS_ROOT_CONFIRM", "MCA_rmaps_base_oversubscribe"] {
            mpirun.env(format!("OMPI_{allow}"), "1");
        }
        mpirun.args(["-n", size, env!("CARGO_BIN_EXE_hardy")]);
        mpirun.args(["run", arg(&config), "--out", arg(&path(size)), "--threads", "1"]);
        succeeded(&mpirun.output().unwrap());
        assert_same(&path("one"), &path(size));
    }
}
