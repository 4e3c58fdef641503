use super::*;
use crate::{
    record::made_up::{level, record},
    run_records::read_run,
};

/// A run with an evaluation and two steps.
fn run() -> (tempfile::TempDir, RunRecords) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.toml"), "name = \"e5b\"\n").unwrap();
    std::fs::create_dir(dir.path().join("eval")).unwrap();
    let levels = vec![level(0.0, 4, |i| i < 3), level(0.05, 4, |i| i < 1)];
    record(levels).write(&dir.path().join("eval/step-000020.json")).unwrap();
    let lines = "{\"step\":1,\"loss\":0.5}\n{\"step\":20,\"loss\":0.25,\"reward/len,gth\":1.0}\n";
    std::fs::write(dir.path().join("metrics.jsonl"), lines).unwrap();
    let run = read_run(dir.path()).unwrap();
    (dir, run)
}

fn questions() -> Questions {
    (0..4).map(|id| (id, format!("question {id}"))).collect()
}

#[test]
fn a_table_has_a_row_a_step_and_nothing_where_nothing_was_measured() {
    let (_dir, run) = run();
    let table = csv(&run);
    let lines: Vec<&str> = table.split("\r\n").collect();
    assert_eq!(
        lines[0],
        "step,eval/flexible/5 %,eval/flexible/clean,eval/strict/5 %,eval/strict/clean,loss,\"reward/len,gth\""
    );
    assert_eq!(lines[1], "1,,,,,0.5,");
    assert_eq!(lines[2], "20,0.25,0.75,0.25,0.75,0.25,1");
}

#[test]
fn every_level_has_a_log_of_inspect_with_question_answer_and_scores() {
    let (dir, run) = run();
    let files = write(&run, Form::Inspect, &questions(), dir.path()).unwrap();
    let names: Vec<_> = files.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert!(names[0].starts_with("20") && names[0].ends_with("_d-step-000020-clean.json"), "{names:?}");
    assert!(names[1].ends_with("_d-step-000020-5.json"), "{names:?}");
    let log: Value = serde_json::from_str(&std::fs::read_to_string(&files[0]).unwrap()).unwrap();
    assert_eq!(
        (&log["version"], &log["results"]["scores"][0]["metrics"]["accuracy"]["value"]),
        (&2.into(), &0.75.into())
    );
    let wrong = &log["samples"][3];
    assert_eq!((&wrong["input"], &wrong["scores"]["strict"]["value"]), (&"question 3".into(), &"I".into()));
}

#[test]
fn every_problem_has_a_line_a_filter_as_the_harness_writes_them() {
    let (dir, run) = run();
    let files = write(&run, Form::LmEval, &questions(), dir.path()).unwrap();
    let text = std::fs::read_to_string(&files[1]).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (lines.len(), &lines[0]["filter"], &lines[0]["exact_match"]),
        (8, &"strict-match".into(), &1.0.into())
    );
    let results: Value = serde_json::from_str(&std::fs::read_to_string(&files[0]).unwrap()).unwrap();
    assert_eq!(results["results"]["d"]["exact_match,strict-match"], 0.75);
}
