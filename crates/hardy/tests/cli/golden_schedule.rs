//! `schedule` against the values that QeRL and verl computed.

use crate::support::{golden, json};

#[test]
fn golden_schedules_are_equal() {
    let Some(root) = golden() else { return };
    let Ok(text) = std::fs::read_to_string(root.join("rl.json")) else {
        println!("skipped: no rl.json in {}", root.display());
        return;
    };
    let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
    for case in golden["schedules"].as_array().unwrap() {
        let mut arguments = vec!["schedule".to_owned()];
        for (key, value) in case.as_object().unwrap().iter().filter(|(key, _)| *key != "sigma") {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            arguments.extend([format!("--{}", key.replace('_', "-")), value]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (said, wanted) = (json(&arguments), case["sigma"].as_array().unwrap());
        let sigma = said["sigma"].as_array().unwrap();
        assert_eq!(sigma.len(), wanted.len(), "{arguments:?}");
        for (step, (sigma, wanted)) in sigma.iter().zip(wanted).enumerate() {
            let (sigma, wanted) = (sigma.as_f64().unwrap(), wanted.as_f64().unwrap());
            assert!(
                (sigma - wanted).abs() <= 1e-9 * wanted.abs(),
                "{arguments:?}, step {step}: {sigma}, {wanted}"
            );
        }
    }
}
