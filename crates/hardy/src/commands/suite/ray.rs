//! A suite on a Ray cluster: every run is a job of the job-submission API (docs.ray.io, "Ray Jobs REST API"), followed until
//! it ends, and started again where it failed. A run goes on from its last checkpoint, on whichever node. A suite that is
//! started again takes up the jobs that it finds at work.

use std::{
    collections::VecDeque,
    thread,
    time::{Duration, Instant},
};

use hardy_lab::{
    run::is_finished,
    suite::{Member, Schedule},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::engine::{EngineArgs, absolute, quoted};
use crate::{failure::Failure, http, interrupt, output::note};

/// How often jobs are asked after.
const EVERY: Duration = Duration::from_millis(500);
/// How long a cluster may be out of reach.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster.
struct Cluster {
    host: String,
}

/// What the cluster says of a job.
#[derive(Deserialize)]
struct Status {
    status: String,
    #[serde(default)]
    message: Option<String>,
}

/// A run as a job.
struct Job<'a> {
    member: &'a Member,
    attempt: usize,
    id: String,
    since: Instant,
    started: bool,
    /// Bytes of its log that were shown.
    shown: usize,
}

/// What becomes of a job.
enum Next<'a> {
    /// It goes on.
    Same,
    /// The run goes on as another.
    Other(Job<'a>),
    /// Its run is finished.
    Finished,
}

impl Cluster {
    fn new(address: &str) -> Result<Self, Failure> {
        let host = address.strip_prefix("ray://").or_else(|| address.strip_prefix("http://"));
        let host = host
            .map(|host| host.trim_end_matches('/'))
            .filter(|host| !host.is_empty() && !host.contains('/'));
        let host = host.ok_or_else(|| {
            Failure::input(format!(
                "--on {address}: write ray://HOST:8265, the address of the cluster's dashboard"
            ))
        })?;
        let host = if host.contains(':') { host.to_owned() } else { format!("{host}:8265") };
        Ok(Self { host })
    }

    /// Asks until the cluster answers; gives its status and what it said.
    fn ask(&self, path: &str, body: Option<&Value>) -> Result<(u16, String), Failure> {
        let method = if body.is_some() { "POST" } else { "GET" };
        let (path, body, until) =
            (format!("/api{path}"), body.map(Value::to_string), Instant::now() + PATIENCE);
        loop {
            match http::request(&self.host, method, &path, body.as_deref()) {
                Ok(said) => return Ok(said),
                Err(error) if Instant::now() > until || interrupt::came() => {
                    return Err(Failure::run(format!(
                        "{}: can not be reached: {error}; jobs that are at work go on, and so does the same command",
                        self.host
                    )));
                }
                Err(_) => thread::sleep(EVERY),
            }
        }
    }

    /// What became of a job; `None` where there is none of that name.
    fn status(&self, id: &str) -> Result<Option<Status>, Failure> {
        match self.ask(&format!("/jobs/{id}"), None)? {
            (200, text) => {
                let wrong = |error| Failure::run(format!("{}: no answer of Ray: {error}", self.host));
                Ok(Some(serde_json::from_str(&text).map_err(wrong)?))
            }
            (404, _) => Ok(None),
            (code, text) => {
                Err(Failure::run(format!("{}/jobs/{id}: {code}: {}", self.host, first_line(&text))))
            }
        }
    }

    fn submit(&self, job: &Value) -> Result<(), Failure> {
        match self.ask("/jobs/", Some(job))? {
            (200, _) => Ok(()),
            (code, text) => {
                Err(Failure::run(format!("{}: refuses a job: {code}: {}", self.host, first_line(&text))))
            }
        }
    }

    fn stop(&self, id: &str) {
        // Whoever stops has waited long enough: a cluster that is gone has no jobs to stop.
        let _ = http::request(&self.host, "POST", &format!("/api/jobs/{id}/stop"), Some("{}"));
    }

    fn log(&self, id: &str) -> String {
        let Ok((200, text)) = self.ask(&format!("/jobs/{id}/logs"), None) else { return String::new() };
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        value["logs"].as_str().unwrap_or_default().to_owned()
    }
}

fn first_line(text: &str) -> &str {
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default()
}

/// Makes the runs of `schedule` that are missing, `at_once` at a time, as jobs.
///
/// # Errors
/// A cluster that is gone, a job that never starts, or fails more often than it may; then all others are stopped.
pub fn execute(schedule: &Schedule, args: &EngineArgs, address: &str, at_once: usize) -> Result<(), Failure> {
    let cluster = Cluster::new(address)?;
    interrupt::watch();
    let mut jobs: Vec<Job<'_>> = Vec::new();
    let outcome = follow(&cluster, schedule, args, at_once, &mut jobs);
    if outcome.is_err() {
        jobs.iter().for_each(|job| cluster.stop(&job.id));
    }
    outcome
}

fn follow<'a>(
    cluster: &Cluster,
    schedule: &'a Schedule,
    args: &EngineArgs,
    at_once: usize,
    jobs: &mut Vec<Job<'a>>,
) -> Result<(), Failure> {
    let mut open: VecDeque<&Member> = schedule.members().iter().filter(|member| !member.finished).collect();
    let (total, mut done) = (schedule.members().len(), schedule.members().len() - open.len());
    while !open.is_empty() || !jobs.is_empty() {
        if interrupt::came() {
            return Err(Failure::run("interrupted: the jobs are stopped; the same command goes on"));
        }
        while jobs.len() < at_once
            && let Some(member) = open.pop_front()
        {
            jobs.push(begin(cluster, schedule, member, args, 0)?);
        }
        let mut place = 0;
        while let Some(job) = jobs.get_mut(place) {
            match look(cluster, schedule, job, args)? {
                Next::Same => place += 1,
                Next::Other(other) => *job = other,
                Next::Finished => {
                    done += 1;
                    let label = jobs.remove(place).member.label();
                    note(&format!("{label}: finished, {done} of {total} runs"));
                }
            }
        }
        thread::sleep(EVERY);
    }
    Ok(())
}

/// Starts a run as a job, or takes up the one that is at work.
fn begin<'a>(
    cluster: &Cluster,
    schedule: &Schedule,
    member: &'a Member,
    args: &EngineArgs,
    failed: usize,
) -> Result<Job<'a>, Failure> {
    let job = |id| Job { member, attempt: failed, id, since: Instant::now(), started: false, shown: 0 };
    for attempt in 0.. {
        let id = name(schedule, member, attempt);
        match cluster.status(&id)? {
            Some(status) if at_work(&status.status) => {
                note(&format!("{}: job {id} is at work and taken up", member.label()));
                return Ok(job(id));
            }
            Some(_) => {}
            None => {
                cluster.submit(&submission(schedule, member, args, &id)?)?;
                note(&format!("{}: job {id}", member.label()));
                return Ok(job(id));
            }
        }
    }
    unreachable!("attempts are counted without end")
}

fn at_work(status: &str) -> bool {
    matches!(status, "PENDING" | "RUNNING")
}

/// The name of a run's job: the same for the same directory, so that a suite that is started again finds it.
fn name(schedule: &Schedule, member: &Member, attempt: usize) -> String {
    let directory = absolute(schedule.directory()).display().to_string();
    let hash = directory.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("hardy-{hash:016x}-{}-seed-{}-{attempt}", member.preset, member.seed)
}

/// The body that submits a run; its configuration is laid beside the runs.
fn submission(schedule: &Schedule, member: &Member, args: &EngineArgs, id: &str) -> Result<Value, Failure> {
    let configs = absolute(schedule.directory()).join("configs");
    std::fs::create_dir_all(&configs)
        .map_err(|error| Failure::run(format!("{}: {error}", configs.display())))?;
    let config = configs.join(format!("{}-seed-{}.toml", member.preset, member.seed));
    hardy_model::files::write_atomically(&config, member.config.to_toml().as_bytes())?;
    let (config, out) = (config.display().to_string(), absolute(&member.directory).display().to_string());
    let words = [&args.hardy, "run", &config, "--out", &out, "--resume", "--threads", &args.cpus.to_string()];
    let entrypoint: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    Ok(json!({
        "entrypoint": entrypoint.join(" "),
        "submission_id": id,
        "runtime_env": args.runtime_env.clone().unwrap_or_else(|| json!({})),
        "metadata": { "hardy_suite": schedule.directory().display().to_string(), "hardy_run": member.label() },
        "entrypoint_num_cpus": args.cpus,
        "entrypoint_num_gpus": args.gpus,
    }))
}

/// Looks after a job.
fn look<'a>(
    cluster: &Cluster,
    schedule: &Schedule,
    job: &mut Job<'a>,
    args: &EngineArgs,
) -> Result<Next<'a>, Failure> {
    let (label, id) = (job.member.label(), job.id.clone());
    let Some(Status { status, message }) = cluster.status(&id)? else {
        return again(cluster, schedule, job, args, "the cluster has forgotten it");
    };
    show_log(cluster, job, &status);
    match status.as_str() {
        "PENDING" if !job.started && job.since.elapsed().as_secs() > args.start_timeout => {
            Err(Failure::run(format!(
                "{label}: job {id} did not start within {} s: has the cluster a node with {} CPUs and {} GPUs?",
                args.start_timeout, args.cpus, args.gpus
            )))
        }
        "PENDING" | "RUNNING" => {
            job.started |= status == "RUNNING";
            Ok(Next::Same)
        }
        "SUCCEEDED" if is_finished(&job.member.directory, &job.member.config)? => Ok(Next::Finished),
        "SUCCEEDED" => Err(Failure::run(format!(
            "{label}: job {id} succeeded, but {} holds no finished run: is it on storage that the cluster's nodes share?",
            job.member.directory.display()
        ))),
        _ => again(cluster, schedule, job, args, message.as_deref().unwrap_or(&status)),
    }
}

/// Starts a run again whose job failed.
fn again<'a>(
    cluster: &Cluster,
    schedule: &Schedule,
    job: &Job<'a>,
    args: &EngineArgs,
    why: &str,
) -> Result<Next<'a>, Failure> {
    let (label, why) = (job.member.label(), first_line(why));
    if job.attempt >= args.retries {
        return Err(Failure::run(format!("{label}: job {} failed: {why}", job.id)));
    }
    note(&format!("{label}: job {} failed ({why}); it goes on as another", job.id));
    begin(cluster, schedule, job.member, args, job.attempt + 1).map(Next::Other)
}

/// Shows what is new in a job's log, whole lines but for the last ones.
fn show_log(cluster: &Cluster, job: &mut Job<'_>, status: &str) {
    if status == "PENDING" {
        return;
    }
    let log = cluster.log(&job.id);
    let fresh = log.get(job.shown..).unwrap_or_default();
    let whole = if at_work(status) { fresh.rfind('\n').map_or(0, |end| end + 1) } else { fresh.len() };
    for line in fresh[..whole].lines() {
        note(&format!("{}: {line}", job.member.label()));
    }
    job.shown += whole;
}
