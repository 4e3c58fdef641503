//! A log of Inspect (UK AI Security Institute), version 2 of its JSON form: what `inspect view` and
//! `inspect_ai.log.read_eval_log` read.

use std::{fs, time::UNIX_EPOCH};

use hardy_model::chat::strftime;
use serde_json::{Value, json};

use super::Judged;
use crate::{
    record::{Metric, ProblemRecord, SampleRecord, text_hash},
    statistics::scores,
};

/// The log of one level of one evaluation.
pub fn log(judged: &Judged<'_>) -> Value {
    let Judged { run, record, level, .. } = judged;
    let (created, id) = (
        created(judged, "%FT%H:%M:%S+00:00"),
        text_hash([run.name.as_str(), &judged.name(), &judged.task()]),
    );
    let answers = level.problems.iter().flat_map(|problem| problem.answers().map(move |one| (problem, one)));
    let epochs = level.problems.iter().map(|problem| problem.answers().count()).max().unwrap_or(1);
    let samples: Vec<Value> = level
        .problems
        .iter()
        .flat_map(|problem| (1..).zip(problem.answers()).map(move |(epoch, one)| (problem, epoch, one)))
        .map(|(problem, epoch, answer)| sample(judged, problem, epoch, answer))
        .collect();
    let tokens: usize = answers.map(|(_, answer)| answer.tokens).sum();
    json!({
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": id,
            "run_id": id,
            "created": created,
            "task": judged.task(),
            "task_id": id,
            "task_version": 0,
            "task_attribs": {},
            "task_args": {},
            "dataset": {
                "name": record.data,
                "location": record.data,
                "samples": level.problems.len(),
                "sample_ids": level.problems.iter().map(|problem| problem.id).collect::<Vec<_>>(),
                "shuffled": false,
            },
            "model": format!("hardy/{}", record.model),
            "model_args": {},
            "config": { "epochs": epochs },
            "packages": { "hardy": record.hardy_version },
            "metadata": judged.metadata(),
        },
        "plan": {
            "name": "plan",
            "steps": [],
            "config": { "max_tokens": record.conditions.as_ref().map(|of| of.max_new_tokens) },
        },
        "results": {
            "total_samples": samples.len(),
            "completed_samples": samples.len(),
            "scores": metrics(&record.metric).iter().map(|metric| result(judged, metric)).collect::<Vec<_>>(),
        },
        "stats": {
            "started_at": created,
            "completed_at": created,
            "model_usage": { format!("hardy/{}", record.model): { "output_tokens": tokens, "total_tokens": tokens } },
        },
        "samples": samples,
    })
}

/// Both forms of accuracy, and the score where there is one.
fn metrics(of: &Metric) -> Vec<Metric> {
    let mut metrics = vec![Metric::Strict, Metric::Flexible];
    if matches!(of, Metric::Score(_)) {
        metrics.push(of.clone());
    }
    metrics
}

fn result(judged: &Judged<'_>, metric: &Metric) -> Value {
    let mean = scores(&vec![vec![judged.level.values(metric)[0].clone()]]).mean();
    let name = if matches!(metric, Metric::Score(_)) { "mean" } else { "accuracy" };
    json!({
        "name": metric.name(),
        "scorer": metric.name(),
        "params": {},
        "metrics": { name: { "name": name, "value": mean, "params": {} } },
    })
}

fn sample(judged: &Judged<'_>, problem: &ProblemRecord, epoch: usize, answer: &SampleRecord) -> Value {
    let Judged { record, questions, .. } = judged;
    let model = format!("hardy/{}", record.model);
    let question = questions.text(problem.id);
    let said =
        json!({ "role": "assistant", "content": answer.response, "source": "generate", "model": model });
    let score = |metric: &Metric| {
        let value = match metric {
            Metric::Score(_) => json!(answer.value(metric)),
            _ => json!(if answer.right(metric) { "C" } else { "I" }),
        };
        (
            metric.name().to_owned(),
            json!({ "value": value, "answer": answer.answer, "metadata": answer.metrics }),
        )
    };
    json!({
        "id": problem.id,
        "epoch": epoch,
        "input": question,
        "target": problem.truth,
        "messages": [{ "role": "user", "content": question, "source": "input" }, said],
        "output": {
            "model": model,
            "choices": [{
                "message": said,
                "stop_reason": if answer.truncated == Some(true) { "max_tokens" } else { "stop" },
            }],
            "completion": answer.response,
            "usage": { "input_tokens": 0, "output_tokens": answer.tokens, "total_tokens": answer.tokens },
        },
        "scores": metrics(&record.metric).iter().map(score).collect::<serde_json::Map<_, _>>(),
        "metadata": {},
        "store": {},
        "events": [],
        "model_usage": {},
        "attachments": {},
    })
}

/// When the record was written, in UTC.
pub fn created(judged: &Judged<'_>, format: &str) -> String {
    let path = judged.run.directory.join("eval").join(format!("step-{:06}.json", judged.step));
    let modified = fs::metadata(path).and_then(|file| file.modified()).unwrap_or(UNIX_EPOCH);
    let seconds = modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    strftime(format, i64::try_from(seconds).unwrap_or(0))
}
