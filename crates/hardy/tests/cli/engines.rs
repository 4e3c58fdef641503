//! Suites on engines: a double of Ray's job API that runs what it is given, and the files that others take.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::{Value, json};

use crate::{
    suite::{SUITE, suite},
    support::{arg, hardy, refused, refuses, succeeded, text},
};

/// What the double does beside running jobs.
#[derive(Clone, Copy, PartialEq)]
enum Ray {
    /// Nothing.
    Well,
    /// The first attempt of every job fails before it does anything.
    Losing,
    /// No job ever starts.
    Full,
}

type Jobs = Arc<Mutex<BTreeMap<String, (Option<Child>, Value)>>>;

/// A cluster on this machine; gives its address and its jobs.
fn cluster(ray: Ray) -> (String, Jobs) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("ray://{}", listener.local_addr().unwrap());
    let jobs = Jobs::default();
    let own = Arc::clone(&jobs);
    thread::spawn(move || {
        for stream in listener.incoming() {
            answer(stream.unwrap(), &own, ray);
        }
    });
    (address, jobs)
}

fn answer(mut stream: TcpStream, jobs: &Jobs, ray: Ray) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        lines.push(line.to_lowercase());
    }
    let Some(first) = lines.first() else { return };
    let length = lines.iter().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    let words: Vec<&str> = first.split_whitespace().collect();
    let (code, said) = act(words[0], words[1], &body, jobs, ray);
    let said = said.to_string();
    let head = format!("HTTP/1.1 {code} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", said.len());
    stream.write_all(format!("{head}{said}").as_bytes()).unwrap();
}

fn act(method: &str, path: &str, body: &[u8], jobs: &Jobs, ray: Ray) -> (u16, Value) {
    let mut jobs = jobs.lock().unwrap();
    let path: Vec<&str> = path.trim_matches('/').split('/').collect();
    match (method, &path[..]) {
        ("post", ["api", "jobs"]) => {
            let job: Value = serde_json::from_slice(body).unwrap();
            let id = job["submission_id"].as_str().unwrap().to_owned();
            let lost = ray == Ray::Losing && id.ends_with("-0");
            let what = if lost { "echo a node died; exit 1" } else { job["entrypoint"].as_str().unwrap() };
            let mut shell = Command::new("sh");
            shell.args(["-c", what]).stdout(Stdio::piped()).stderr(Stdio::null());
            let child = (ray != Ray::Full).then(|| shell.spawn().unwrap());
            assert!(jobs.insert(id.clone(), (child, job)).is_none(), "{id} twice");
            (200, json!({ "submission_id": id }))
        }
        ("get", ["api", "jobs", id]) => match jobs.get_mut(*id) {
            None => (404, json!("no such job")),
            Some((None, _)) => (200, json!({ "status": "PENDING" })),
            Some((Some(child), _)) => {
                let status = match child.try_wait().unwrap() {
                    None => "RUNNING",
                    Some(status) if status.success() => "SUCCEEDED",
                    Some(_) => "FAILED",
                };
                (200, json!({ "status": status, "message": "as it is" }))
            }
        },
        ("get", ["api", "jobs", _, "logs"]) => (200, json!({ "logs": "at work\n" })),
        ("post", ["api", "jobs", id, "stop"]) => {
            jobs.get_mut(*id).unwrap().1["stopped"] = json!(true);
            (200, json!({ "stopped": true }))
        }
        _ => (500, json!(format!("{method} {path:?}"))),
    }
}

fn on<'a>(file: &'a Path, out: &'a Path, address: &'a str) -> Vec<&'a str> {
    vec![
        "suite",
        arg(file),
        "--out",
        arg(out),
        "--on",
        address,
        "--hardy",
        env!("CARGO_BIN_EXE_hardy"),
        "--jobs",
        "2",
    ]
}

#[test]
fn a_suite_on_ray_is_the_suite_whatever_fails_and_goes_on_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let (file, path) = (suite(dir.path(), SUITE), |name: &str| dir.path().join(name));
    succeeded(&hardy(&["suite", arg(&file), "--out", arg(&path("here")), "--jobs", "2"]));
    let (address, jobs) = cluster(Ray::Losing);
    let out = path("there");
    let said = hardy(&on(&file, &out, &address));
    succeeded(&said);
    let said = text(&said.stderr);
    assert!(said.contains("it goes on as another") && said.contains("finished, 4 of 4 runs"), "{said}");
    for file in ["table.json", "table.md"] {
        assert!(fs::read(path("here").join(file)).unwrap() == fs::read(out.join(file)).unwrap(), "{file}");
    }
    let jobs = jobs.lock().unwrap();
    assert_eq!(jobs.len(), 8, "{:?}", jobs.keys());
    assert!(jobs.values().all(|(_, job)| job["entrypoint_num_cpus"] == 1 && job["runtime_env"].is_object()));
}

#[test]
fn a_cluster_that_can_not_be_used_is_said_to_be_none() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (suite(dir.path(), SUITE), dir.path().join("out"));
    refuses(&on(&file, &out, "ray://"), &["write ray://HOST:8265"]);
    let (address, jobs) = cluster(Ray::Full);
    let said = hardy(&[&on(&file, &out, &address)[..], &["--start-timeout", "1"]].concat());
    assert_eq!(said.status.code(), Some(1));
    assert!(text(&said.stderr).contains("did not start within 1 s"), "{}", text(&said.stderr));
    assert!(jobs.lock().unwrap().values().all(|(_, job)| job["stopped"] == true), "a job was left");
    // Jobs that succeed and leave nothing where this machine looks.
    let (address, _) = cluster(Ray::Well);
    let mut elsewhere = on(&file, &out, &address);
    elsewhere[7] = "true";
    let said = hardy(&[&elsewhere[..], &["--set", "train.steps=1"]].concat());
    assert!(text(&said.stderr).contains("storage that the cluster's nodes share"), "{}", text(&said.stderr));
}

#[test]
fn files_to_submit_name_every_shard_and_what_a_run_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (suite(dir.path(), SUITE), dir.path().join("a b"));
    let emit = |engine, more: &[&'static str]| {
        let arguments = ["suite", arg(&file), "--set", "train.steps=1", "--out", arg(&out), "--emit", engine];
        [&arguments.map(str::to_owned)[..], &more.iter().map(|&word| word.to_owned()).collect::<Vec<_>>()]
            .concat()
    };
    let run = |words: Vec<String>| hardy(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let slurm = run(emit("slurm", &["--shards", "2", "--cpus", "4", "--gpus", "1"]));
    succeeded(&slurm);
    let slurm = text(&slurm.stdout);
    for line in [
        "#SBATCH --array=1-2\n",
        "#SBATCH --cpus-per-task=4\n",
        "#SBATCH --gpus-per-task=1\n",
        "--shard auto/2",
        "a b'",
    ] {
        assert!(slurm.contains(line), "{line}: {slurm}");
    }
    let checked = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn();
    let mut checked = checked.unwrap();
    checked.stdin.take().unwrap().write_all(slurm.as_bytes()).unwrap();
    assert!(checked.wait().unwrap().success());
    let job = run(emit("kubernetes", &[]));
    succeeded(&job);
    let job: Value = serde_json::from_slice(&job.stdout).unwrap();
    assert_eq!(
        (&job["kind"], &job["spec"]["completions"], &job["spec"]["completionMode"]),
        (&json!("Job"), &json!(4), &json!("Indexed"))
    );
    let command = &job["spec"]["template"]["spec"]["containers"][0]["command"];
    assert!(command.as_array().unwrap().contains(&json!("auto/4")), "{command}");
    refused(&run(emit("slurm", &["--shards", "5"])), &["at most 4"]);
    assert!(!out.exists());
}
