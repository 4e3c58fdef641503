//! The report page, made from run directories on disk.

use std::fs;
use std::path::Path;

use hardy_lab::{EvalRecord, LevelRecord, ProblemRecord, RunRecords, SampleRecord, read_run, report};
use serde_json::json;

const TRAP: &str = "</pre><script>alert(\"&\")</script>";

fn level(label: &str, noise: Option<f64>, right: impl Fn(u64) -> bool) -> LevelRecord {
    let answer = |id: u64| SampleRecord {
        strict: right(id),
        flexible: true,
        answer: Some(TRAP.into()),
        response: format!("{TRAP} #### 3"),
        tokens: 9,
        truncated: Some(id % 20 == 19),
        ..SampleRecord::default()
    };
    let problem = |id: u64| ProblemRecord { id, truth: "3".into(), first: answer(id), samples: Vec::new() };
    let receipt = json!({
        "site": "model.layers.0.mlp", "op": "linear", "point": "output", "phase": "eval", "pass": "forward",
        "rule": 1, "kind": "relative_gaussian", "calls": 4, "elements": 4096, "non_finite": 3, "asked": noise,
        "measured": 0.0501,
    });
    let receipts = vec![serde_json::from_value(receipt).unwrap()];
    let rule = |error: &str| format!("[[noise]]\nerror = {{ {error} }}\n");
    let plan = match noise {
        Some(0.0) => String::new(),
        Some(scale) => rule(&format!("kind = \"relative_gaussian\", scale = {scale}")),
        None => rule("kind = \"mxfp4\""),
    };
    LevelRecord::new(label.into(), noise, plan, (0..60).map(problem).collect(), receipts)
}

/// Writes a run whose accuracy rises and, at the last step, loses `lost` of 60 problems under noise.
fn run(parent: &Path, name: &str, lost: u64) -> RunRecords {
    let directory = parent.join(name);
    fs::create_dir_all(directory.join("eval")).unwrap();
    fs::write(
        directory.join("config.toml"),
        format!("name = '{name}'\n[train]\nlearning_rate = 1e-4 # {TRAP}\n"),
    )
    .unwrap();
    for step in [0, 10] {
        let right = 10 + 4 * step;
        let levels = vec![
            level("clean", Some(0.0), |id| id < right),
            level("5%", Some(0.05), |id| id < right - lost.min(right)),
            level("w4a4", None, |id| id % 2 == 0),
        ];
        let record = EvalRecord::new("m".into(), "d".into(), 0, Some(step), levels);
        record.write(&directory.join(format!("eval/step-{step:06}.json"))).unwrap();
    }
    let lines =
        (0..10).map(|step| json!({"step": step, "reward_mean": 0.1 * f64::from(step), "kl": 0.0, "effective_sample_size": 0.8, "new": 1}));
    fs::write(directory.join("metrics.jsonl"), lines.map(|line| format!("{line}\n")).collect::<String>())
        .unwrap();
    fs::write(directory.join("receipts.json"), "[]").unwrap();
    read_run(&directory).unwrap()
}

#[test]
fn a_page_needs_nothing_from_outside_and_runs_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let page = report::html(&[run(parent.path(), "e5", 8), run(parent.path(), "e5b", 2)]).unwrap();
    for forbidden in ["<script", "http:", "https:", " src=", "<link", "@import", "url("] {
        assert!(!page.contains(forbidden), "{forbidden} in the page");
    }
    assert!(page.contains("&lt;script&gt;alert(&quot;&amp;&quot;)"), "responses are not shown");
}

#[test]
fn a_page_says_what_the_tables_say() {
    let parent = tempfile::tempdir().unwrap();
    let page = report::html(&[run(parent.path(), "e5", 8), run(parent.path(), "e5b", 2)]).unwrap();
    for expected in [
        "e5b is 10.0 points above e5 at 5% (p = 0.031, with Holm 0.13, n = 60): not resolved",
        "e5b and e5 are equal without noise",
        "<b class=\"big\">70.0 %</b> <span>[57.5, 80.1]</span>",
        "0 throughout, and not drawn: KL to the reference",
        "5.01 %",
        "<small>non-finite: 3 of 4.1 k</small>",
        "Reward, mean",
        "cut off 5.0 %",
        "Effective sample size of training on rollouts",
        "w4a4",
        "The runs have the same configuration.",
    ] {
        assert!(page.contains(expected), "no {expected:?} in the page");
    }
    assert!(!page.contains("NaN") && !page.contains(">inf"));
}

#[test]
fn every_element_that_is_opened_is_closed() {
    let parent = tempfile::tempdir().unwrap();
    let page = report::html(&[run(parent.path(), "e5", 8), run(parent.path(), "e5b", 2)]).unwrap();
    let tags = "section table thead tbody tr td th div figure figcaption svg g text circle title details summary pre p ul li \
                article header footer main span small b";
    for tag in tags.split_whitespace() {
        let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "<{tag}>");
    }
}

#[test]
fn equal_runs_give_equal_pages() {
    let parent = tempfile::tempdir().unwrap();
    let runs = [run(parent.path(), "e5", 8), run(parent.path(), "e5b", 2)];
    assert_eq!(report::html(&runs).unwrap(), report::html(&runs).unwrap());
    let path = parent.path().join("report.html");
    report::write(&runs[..1], &path).unwrap();
    assert!(!fs::read_to_string(path).unwrap().contains("Are the differences real?"));
}

#[test]
fn runs_that_cannot_be_compared_are_reported_with_the_reason() {
    let parent = tempfile::tempdir().unwrap();
    let mut runs = [run(parent.path(), "e5", 8), run(parent.path(), "e5b", 2)];
    for record in runs[1].evaluations.values_mut() {
        for level in &mut record.levels {
            level.problems.truncate(40);
        }
    }
    let page = report::html(&runs).unwrap();
    assert!(page.contains("do not share their problems: 40 and 60, 40 in both"));
    assert!(report::html(&[]).is_err());
}
