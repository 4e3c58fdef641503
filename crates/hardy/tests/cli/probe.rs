//! `probe`: magnitudes before hours are spent.

use serde_json::Value;

use crate::support::{arg, hardy, json, refuses, succeeded, text};

#[test]
fn five_percent_leaves_about_26_db_of_activations_and_of_gradients() {
    let usual = ["probe", "--magnitudes", "--model", "builtin:tiny", "--data", "builtin:arith", "--n", "2"];
    let found = json(&usual);
    let rows = found.as_array().unwrap();
    for point in ["output", "grad_input", "grad_weight"] {
        let own: Vec<_> = rows.iter().filter(|row| row["point"] == point && row["op"] == "linear").collect();
        // Four layers and the head.
        assert_eq!(own.len(), 5, "{point}");
        for row in own {
            assert!(row["magnitude"].as_f64().unwrap() > 0.0, "{row}");
            // Gradients are heavy-tailed: few elements hold most of the energy.
            assert!((row["signal_to_noise_db"].as_f64().unwrap() - 26.0).abs() < 1.5, "{row}");
        }
    }
}

const TINY: [&str; 5] = ["probe", "--model", "builtin:tiny", "--data", "builtin:arith"];

fn probe(more: &[&str]) -> Value {
    json(&[&TINY, more].concat())
}

#[test]
fn an_error_at_one_operator_of_one_layer_is_blamed_there() {
    let found = probe(&["--n", "3"]);
    let cells = found["cells"].as_array().unwrap();
    let of = |op: &str| cells.iter().filter(|cell| cell["op"] == op).count();
    // Four layers, and outside of them the head, the embedding and the last norm.
    assert_eq!((of("linear"), of("matmul"), of("softmax"), of("rms_norm"), of("embedding")), (5, 4, 4, 5, 1));
    let strong = probe(&["--n", "3", "--noise", "0.5"]);
    let sum = |found: &Value| -> f64 {
        found["cells"].as_array().unwrap().iter().map(|cell| cell["degradation"].as_f64().unwrap()).sum()
    };
    assert!(sum(&strong) > 1.0, "{}", sum(&strong));
    assert_eq!(strong["clean"], found["clean"]);
}

#[test]
fn axes_cross_and_the_record_and_the_page_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (out, html) = (dir.path().join("grid.json"), dir.path().join("grid.html"));
    let axes = [
        "--layers",
        "1,2",
        "--operators",
        "linear,silu",
        "--points",
        "output,weight",
        "--levels",
        "0.01,0.3",
    ];
    let rest = [
        "--passes",
        "forward,backward",
        "--n",
        "4",
        "--draws",
        "2",
        "--out",
        arg(&out),
        "--html",
        arg(&html),
    ];
    let found = probe(&[&axes[..], &rest].concat());
    // In each of two layers linear has both points in both passes, silu its output in both; two levels each.
    assert_eq!(found["cells"].as_array().unwrap().len(), 2 * (4 + 2) * 2);
    let kept: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    assert_eq!(kept, found);
    assert!(std::fs::read_to_string(&html).unwrap().contains("linear output, backward"));
    refuses(&[&TINY[..], &["--out", arg(&out)]].concat(), &["grid.json", "exists"]);
}

#[test]
fn shipped_questions_have_cells_and_what_can_not_be_is_said() {
    let found = probe(&["--n", "2", "--grid", "w4a16-vs-a4"]);
    let cells = found["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 4 * 2 * 2);
    assert!(cells.iter().all(|cell| cell["level"].is_null()));
    for (wrong, parts) in [
        (&["--grid", "depht"][..], &["`depht`", "depth"][..]),
        (&["--layers", "9"], &["no cell", "0..=3"]),
        (&["--layers", "x"], &["--layers must be"]),
        (&["--operators", "conv"], &["--operators", "conv"]),
        (&["--points", "middle"], &["--points", "middle"]),
        (&["--error", "mxfp4", "--levels", "0.1"], &["one strength"]),
        (&["--error", "noise"], &["unknown kind `noise`"]),
        (&["--error", "dead_zone:scale=0"], &["`scale` is 0"]),
    ] {
        refuses(&[&TINY[..], wrong].concat(), parts);
    }
}

/// What eval and run make of a plan that advice wrote.
fn is_taken_by_eval_and_run(plan: &std::path::Path) {
    let judged = json(&[
        "eval",
        "--model",
        "builtin:tiny",
        "--data",
        "builtin:arith",
        "--n",
        "2",
        "--plan",
        arg(plan),
    ]);
    let levels = judged["levels"].as_array().unwrap();
    assert!(levels.iter().any(|level| level["plan"].as_str().unwrap().contains("[[noise]]")), "{judged}");
    let run = ["run", "baseline", "--dry-run", "--set", "train.steps=1", "--plan", arg(plan)];
    succeeded(&hardy(&run));
}

#[test]
fn advice_is_a_plan_with_a_level_for_every_place_whose_claim_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let plan = dir.path().join("plan.toml");
    let asked = ["--n", "8", "--metric", "accuracy", "--layers", "2,3", "--operators", "linear", "--advise"];
    let said = hardy(&[&TINY[..], &asked, &[arg(&plan)]].concat());
    succeeded(&said);
    let said = text(&said.stdout);
    for part in [
        "layer 2, linear output",
        "in the plan",
        "checked on: ",
        "next: hardy eval",
        "hardy run CONFIG --plan",
    ] {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
    is_taken_by_eval_and_run(&plan);
    std::fs::remove_file(&plan).unwrap();
    let found = probe(&[&asked[..], &[arg(&plan)]].concat());
    let advice = &found["advice"];
    let scale = advice["scaled_by"].as_f64().unwrap();
    for (place, threshold) in
        advice["places"].as_array().unwrap().iter().zip(found["thresholds"].as_array().unwrap())
    {
        // The safe end of the bracket, and no more than that.
        assert_eq!(place["bears"], threshold["low"]);
        let (level, bears) = (place["level"].as_f64().unwrap(), place["bears"].as_f64().unwrap_or(0.0));
        assert!(level <= bears * scale && level > 0.9 * bears * scale, "{place}");
    }
    assert_eq!(advice["checked_on"]["n"], 8);
}

#[test]
fn advice_on_a_format_says_which_layers_stay_in_bf16() {
    let dir = tempfile::tempdir().unwrap();
    let plan = dir.path().join("plan.toml");
    let asked = ["--n", "8", "--metric", "accuracy", "--advise-format", "mxfp4", "--advise", arg(&plan)];
    let found = probe(&asked);
    assert!(found["advice"]["bf16_layers"].is_array() && found["advice"]["verdict"].is_string(), "{found}");
    is_taken_by_eval_and_run(&plan);
}
