//! Results and samples as the lm-evaluation-harness keeps them with `--log_samples`: a file of results, and a line for
//! every problem and filter, of which GSM8K's task has two, `strict-match` and `flexible-extract`.

use serde_json::{Map, Value, json};

use super::Judged;
use crate::{
    record::{Metric, ProblemRecord, text_hash},
    statistics::scores,
};

/// The filters of a record, each with what it judges by and the name of its metric.
fn filters(metric: &Metric) -> Vec<(String, Metric, &'static str)> {
    let mut filters = vec![
        ("strict-match".to_owned(), Metric::Strict, "exact_match"),
        ("flexible-extract".to_owned(), Metric::Flexible, "exact_match"),
    ];
    if let Metric::Score(name) = metric {
        filters.push((name.clone(), metric.clone(), "score"));
    }
    filters
}

/// The results of one level of one evaluation.
pub fn results(judged: &Judged<'_>) -> Value {
    let Judged { record, level, .. } = judged;
    let mut numbers = Map::from_iter([("alias".to_owned(), json!(judged.task()))]);
    for (filter, metric, name) in filters(&record.metric) {
        let mean = scores(&vec![vec![level.values(&metric)[0].clone()]]).mean();
        numbers.insert(format!("{name},{filter}"), json!(mean));
    }
    let n = level.problems.len();
    let task = judged.task();
    json!({
        "results": { task.clone(): numbers },
        "configs": { task.clone(): { "task": task, "dataset_path": record.data, "metadata": judged.metadata() } },
        "versions": { task.clone(): 0 },
        "n-samples": { task: { "original": n, "effective": n } },
        "config": { "model": "hardy", "model_args": record.model },
        "model_name": record.model,
        "lm_eval_version": null,
        "hardy_version": record.hardy_version,
    })
}

/// A line for every problem and filter.
pub fn samples(judged: &Judged<'_>) -> Vec<Value> {
    let filters = filters(&judged.record.metric);
    let of_problem = |problem| filters.iter().map(move |filter| sample(judged, problem, filter));
    judged.level.problems.iter().flat_map(of_problem).collect()
}

fn sample(
    judged: &Judged<'_>,
    problem: &ProblemRecord,
    (filter, metric, name): &(String, Metric, &'static str),
) -> Value {
    let Judged { record, questions, .. } = judged;
    let question = questions.text(problem.id);
    let wording = record.conditions.as_ref().map_or("{question}", |conditions| conditions.wording.as_str());
    let prompt = wording.replace("{question}", question);
    let most = record.conditions.as_ref().map(|conditions| conditions.max_new_tokens);
    let responses: Vec<&str> = problem.answers().map(|answer| answer.response.as_str()).collect();
    let filtered: Vec<&str> =
        problem.answers().map(|answer| answer.answer.as_deref().unwrap_or("[invalid]")).collect();
    json!({
        "doc_id": problem.id,
        "doc": { "question": question, "answer": problem.truth },
        "target": problem.truth,
        "arguments": { "gen_args_0": { "arg_0": prompt, "arg_1": { "max_gen_toks": most } } },
        "resps": [responses],
        "filtered_resps": filtered,
        "filter": filter,
        "metrics": [name],
        "doc_hash": text_hash([question, &problem.truth]),
        "prompt_hash": text_hash([prompt.as_str()]),
        "target_hash": text_hash([problem.truth.as_str()]),
        *name: problem.value(metric),
    })
}
