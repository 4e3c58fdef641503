//! The engines that a suite can be handed to, and what its runs ask of them.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use hardy_lab::{shard::Shard, suite::Schedule};
use serde_json::json;

use crate::{
    failure::Failure,
    number_args::{help, whole},
};

/// A file to submit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Emit {
    /// A script for `sbatch`
    Slurm,
    /// An indexed job for `kubectl apply -f`
    Kubernetes,
}

/// Where the runs of a suite are made, and what each asks for.
#[derive(Debug, Args)]
pub struct EngineArgs {
    /// Make every run as a job of a Ray cluster, by its job API, as in ray://HOST:8265; --jobs at once. The suite's
    /// directory must be on storage that its nodes share
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["emit", "shard"])]
    pub on: Option<String>,
    /// Print the file to submit instead of making the runs: an array of shards, which `hardy merge` joins
    #[arg(long, value_name = "ENGINE", conflicts_with = "shard")]
    pub emit: Option<Emit>,
    /// Shards to emit [default: one a run]
    #[arg(long, value_name = "N", requires = "emit")]
    shards: Option<usize>,
    #[arg(long, help = help("--cpus"), value_name = "N", default_value_t = 1, value_parser = whole::<usize>("--cpus"))]
    pub cpus: usize,
    #[arg(long, help = help("--gpus"), value_name = "N", default_value_t = 0, value_parser = whole::<usize>("--gpus"))]
    pub gpus: usize,
    #[arg(long, help = help("--retries"), value_name = "N", default_value_t = 2, value_parser = whole::<usize>("--retries"))]
    pub retries: usize,
    #[arg(
        long,
        help = help("--start-timeout"),
        value_name = "SECONDS",
        default_value_t = 600,
        value_parser = whole::<u64>("--start-timeout")
    )]
    pub start_timeout: u64,
    /// The binary on the engine's nodes
    #[arg(long, value_name = "PATH", default_value = "hardy")]
    pub hardy: String,
    /// The runtime environment of Ray jobs, as JSON
    #[arg(long, value_name = "JSON", requires = "on", value_parser = object)]
    pub runtime_env: Option<serde_json::Value>,
    /// The image of Kubernetes pods, with `hardy` in it
    #[arg(long, value_name = "IMAGE", requires = "emit", default_value = "hardy:latest")]
    image: String,
    /// The claim of a volume that all pods mount at /work, and in which --out lies
    #[arg(long, value_name = "NAME", requires = "emit", default_value = "hardy")]
    claim: String,
}

fn object(text: &str) -> Result<serde_json::Value, String> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if value.is_object() {
        Ok(value)
    } else {
        Err("must be a JSON object, as in {\"env_vars\": {}}".to_owned())
    }
}

impl EngineArgs {
    /// The text of the file to submit: `suite` and `set` as they were typed.
    ///
    /// # Errors
    /// More shards than runs.
    pub fn file(
        &self,
        emit: Emit,
        (suite, set): (&str, &[String]),
        schedule: &Schedule,
        name: &str,
    ) -> Result<String, Failure> {
        let runs = schedule.members().len();
        let shards = self.shards.unwrap_or(runs);
        Shard::new(1, shards).and_then(|shard| shard.check(runs, "runs")).map_err(Failure::input)?;
        let out = absolute(schedule.directory());
        let mut command = vec![self.hardy.clone(), "suite".to_owned(), suite.to_owned()];
        command.extend(set.iter().flat_map(|change| ["--set".to_owned(), change.clone()]));
        command.extend([
            "--shard".to_owned(),
            format!("auto/{shards}"),
            "--out".to_owned(),
            out.display().to_string(),
        ]);
        command.extend(["--threads".to_owned(), self.cpus.to_string()]);
        Ok(match emit {
            Emit::Slurm => self.slurm(&command, shards, &out, name),
            Emit::Kubernetes => self.kubernetes(&command, shards, name),
        })
    }

    fn slurm(&self, command: &[String], shards: usize, out: &Path, name: &str) -> String {
        let gpus =
            if self.gpus > 0 { format!("#SBATCH --gpus-per-task={}\n", self.gpus) } else { String::new() };
        let (cpus, out) = (self.cpus, quoted(&out.display().to_string()));
        let command = command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
        format!(
            "#!/bin/bash\n\
             #SBATCH --job-name=hardy-{name}\n\
             #SBATCH --array=1-{shards}\n\
             #SBATCH --ntasks=1\n\
             #SBATCH --cpus-per-task={cpus}\n\
             {gpus}\
             # A task that was ended goes on where it stopped: sbatch --array=3 THIS_FILE\n\
             # When all are done: {hardy} merge {out}/shard-*-of-{shards} --out {out}\n\
             exec {command}\n",
            hardy = quoted(&self.hardy)
        )
    }

    fn kubernetes(&self, command: &[String], shards: usize, name: &str) -> String {
        let mut resources = json!({ "cpu": self.cpus.to_string() });
        if self.gpus > 0 {
            resources["nvidia.com/gpu"] = json!(self.gpus.to_string());
        }
        let allowed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let name: String = format!("hardy-{name}").chars().map(allowed).take(50).collect();
        let job = json!({
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": { "name": name.trim_end_matches('-') },
            "spec": {
                "completionMode": "Indexed",
                "completions": shards,
                "parallelism": shards,
                "backoffLimit": self.retries * shards,
                "template": { "spec": {
                    "restartPolicy": "OnFailure",
                    "containers": [{
                        "name": "hardy",
                        "image": self.image,
                        "command": command,
                        "workingDir": "/data",
                        "resources": { "requests": resources, "limits": resources },
                        "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
                    }],
                    "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": self.claim } }],
                } },
            },
        });
        format!("{job:#}\n")
    }
}

/// A path from the root, whether or not it exists.
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// A word for the shell.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        assert_eq!(quoted("train.steps=4"), "train.steps=4");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(quoted(""), "''");
    }
}
