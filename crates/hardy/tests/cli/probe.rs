//! `probe`: magnitudes before hours are spent.

use serde_json::Value;

use crate::support::{arg, json, refuses};

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
