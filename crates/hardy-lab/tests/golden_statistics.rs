//! Intervals, tests and sample sizes against values computed by statsmodels and scipy.

use std::path::PathBuf;

use hardy_lab::statistics::{mcnemar_exact, two_proportion_sample_size, wilson};
use serde_json::Value;

/// The `statistics` part of `rl.json`, or `None`, with the reason printed, where there is no golden directory.
fn golden_statistics() -> Option<Value> {
    let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let named = std::env::var_os("HARDY_GOLDEN").unwrap_or_else(|| "../shared/golden".into());
    let directory = PathBuf::from(workspace).join(named);
    let path = directory.join("rl.json");
    if !path.exists() {
        println!("skipped: {} does not exist", path.display());
        return None;
    }
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let all: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Some(all["statistics"].clone())
}

fn cases<'a>(statistics: &'a Value, key: &str) -> &'a [Value] {
    let cases = statistics[key].as_array().unwrap_or_else(|| panic!("rl.json has no statistics.{key}"));
    assert!(!cases.is_empty(), "statistics.{key} is empty");
    cases
}

fn number(case: &Value, key: &str) -> f64 {
    case[key].as_f64().unwrap_or_else(|| panic!("no number {key} in {case}"))
}

fn count(case: &Value, key: &str) -> u64 {
    case[key].as_u64().unwrap_or_else(|| panic!("no count {key} in {case}"))
}

#[test]
fn golden_wilson_intervals_agree_with_statsmodels() {
    let Some(statistics) = golden_statistics() else { return };
    for case in cases(&statistics, "wilson95") {
        let interval = wilson(count(case, "k"), count(case, "n"), 0.95);
        let (low, high) = (number(case, "low"), number(case, "high"));
        assert!(
            (interval.low - low).abs() < 1e-10 && (interval.high - high).abs() < 1e-10,
            "{case}: {interval:?}"
        );
    }
}

#[test]
fn golden_mcnemar_p_values_agree_with_statsmodels() {
    let Some(statistics) = golden_statistics() else { return };
    for case in cases(&statistics, "mcnemar_exact") {
        let p = mcnemar_exact(count(case, "b"), count(case, "c"));
        assert!((p - number(case, "p")).abs() < 1e-10, "{case}: {p}");
    }
}

#[test]
fn golden_sample_sizes_of_two_proportions_agree() {
    let Some(statistics) = golden_statistics() else { return };
    for case in cases(&statistics, "two_proportion_n") {
        let [p1, p2, alpha, power] = ["p1", "p2", "alpha", "power"].map(|key| number(case, key));
        assert_eq!(
            two_proportion_sample_size(p1, p2, alpha, power),
            Some(count(case, "n_per_arm")),
            "{case}"
        );
    }
}
