//! `probe`: magnitudes before hours are spent.

use crate::support::json;

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

#[test]
fn an_error_at_one_operator_of_one_layer_is_blamed_there() {
    let found = json(&["probe", "--model", "builtin:tiny", "--data", "builtin:arith", "--n", "3"]);
    let places = found["places"].as_array().unwrap();
    let of = |op: &str| places.iter().filter(|place| place["op"] == op).count();
    // Four layers, and outside of them the head, the embedding and the last norm.
    assert_eq!((of("linear"), of("matmul"), of("softmax"), of("rms_norm"), of("embedding")), (5, 4, 4, 5, 1));
    let strong =
        ["probe", "--model", "builtin:tiny", "--data", "builtin:arith", "--n", "3", "--noise", "0.5"];
    let strong = json(&strong);
    let sum = |found: &serde_json::Value| -> f64 {
        found["places"].as_array().unwrap().iter().map(|place| place["degradation"].as_f64().unwrap()).sum()
    };
    assert!(sum(&strong) > 1.0, "{}", sum(&strong));
    assert_eq!(strong["clean"], found["clean"]);
}
