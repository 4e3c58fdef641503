//! `quantize` and `formats`: images as other programs make them, measures of every tensor, and what is refused.

use serde_json::Value;

use crate::support::{arg, golden, hardy, json, read, refuses, succeeded, text, write};

#[test]
fn images_are_those_of_other_programs() {
    let Some(golden) = golden() else { return };
    let file = read(&golden.join("formats.safetensors"));
    let (dir, cases) =
        (tempfile::tempdir().unwrap(), file.tensors.iter().filter(|t| t.name.starts_with("x/")));
    let (from, to) = (dir.path().join("in.safetensors"), dir.path().join("out.safetensors"));
    let cases: Vec<_> = cases.map(|t| (t.name.as_str(), &t.shape[..], t.as_f32().unwrap())).collect();
    assert_eq!(cases.len(), 10);
    write(&from, &cases);
    for format in ["mxfp4", "mxfp6_e3m2", "hif4", "bf16"] {
        succeeded(&hardy(&["quantize", "--format", format, arg(&from), arg(&to)]));
        let images = read(&to);
        assert_eq!(images.tensors.len(), cases.len());
        for image in &images.tensors {
            let name = image.name.replace("x/", &format!("{format}/"));
            let Ok(expected) = file.get(&name) else { continue };
            let bits = |x: Vec<f32>| x.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert_eq!(bits(image.as_f32().unwrap()), bits(expected.as_f32().unwrap()), "{name}");
        }
    }
}

#[test]
fn every_tensor_and_the_total_are_measured() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("in.safetensors"), dir.path().join("out.safetensors"));
    let values = |n: usize| (0..n).map(|i| (i as f32 * 0.37).sin() + 0.1).collect();
    write(&from, &[("w", &[64, 100], values(6400)), ("bias", &[7], values(7)), ("scalar", &[], vec![3.0])]);
    let said = json(&["quantize", "--format", "mxfp4", arg(&from), arg(&to)]);
    let (before, after) = (read(&from), read(&to));
    let number = |entry: &Value, key: &str| entry[key].as_f64().unwrap();
    for ((before, after), said) in
        before.tensors.iter().zip(&after.tensors).zip(said["tensors"].as_array().unwrap())
    {
        assert_eq!((&before.name, &before.shape), (&after.name, &after.shape));
        assert_eq!(said["name"], before.name.as_str());
        assert_eq!(said["bits_per_value"], 4.25);
        let (x, y) = (before.as_f32().unwrap(), after.as_f32().unwrap());
        let (error, signal) = x.iter().zip(&y).fold((0.0, 0.0), |(error, signal), (x, y)| {
            (error + f64::from(y - x).powi(2), signal + f64::from(*x).powi(2))
        });
        match said["sqnr_db"].as_f64() {
            Some(sqnr) => assert!((sqnr - 10.0 * (signal / error).log10()).abs() < 1e-4),
            None => assert_eq!(x, y, "without error there is no ratio"),
        }
    }
    let tensors = said["tensors"].as_array().unwrap();
    let (w, total) = (tensors.iter().find(|said| said["name"] == "w").unwrap(), &said["total"]);
    assert!((number(w, "sqnr_db") - number(total, "sqnr_db")).abs() < 0.5);
    assert_eq!(total["shape"][0], 6408);
    for key in ["mean_relative", "dead_zone", "saturation"] {
        assert!((0.0..0.5).contains(&number(total, key)), "{key}");
    }
    let table = hardy(&["quantize", "--format", "nvfp4", arg(&from), arg(&to)]);
    succeeded(&table);
    assert!(text(&table.stdout).contains("SQNR dB") && text(&table.stdout).contains("total"));
}

#[test]
fn stochastic_rounding_is_addressed_and_square_blocks_fit_the_transpose() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("in.safetensors"), dir.path().join("out.safetensors"));
    let x: Vec<f32> = (0..4096).map(|i| (i as f32 * 0.37).sin()).collect();
    let transposed = (0..4096).map(|i| x[i % 64 * 64 + i / 64]).collect();
    write(&from, &[("w", &[64, 64], x.clone()), ("t", &[64, 64], transposed)]);
    let image = |extra: &[&str]| {
        let arguments = ["quantize", "--format", "mxfp4", arg(&from), arg(&to)];
        succeeded(&hardy(&[&arguments[..], extra].concat()));
        let file = read(&to);
        ["w", "t"].map(|name| file.get(name).unwrap().as_f32().unwrap())
    };
    let random = image(&["--stochastic", "--seed", "3"]);
    assert_eq!(random, image(&["--stochastic", "--seed", "3", "--threads", "1"]));
    assert_ne!(random, image(&["--stochastic", "--seed", "4"]));
    let [w, t] = image(&["--blocks", "2d"]);
    assert!((0..4096).all(|i| t[i] == w[i % 64 * 64 + i / 64]));
}

#[test]
fn what_can_not_be_quantised_is_named_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("in.safetensors"), dir.path().join("out.safetensors"));
    write(&from, &[("w", &[2, 3], vec![0.0, 1.0, 2.0, 3.0, f32::NAN, f32::INFINITY])]);
    let run = |format: &'static str| ["quantize", "--format", format, arg(&from), arg(&to)];
    refuses(&run("mxfp4"), &["in.safetensors", "`w`[1, 1] is NaN", "--allow-nonfinite"]);
    refuses(&run("mxpf4"), &["--format mxpf4", "did you mean `mxfp4`?"]);
    refuses(&[&run("int8")[..], &["--blocks", "2d"]].concat(), &["int8 has no square blocks"]);
    assert!(!to.exists());
    let said = json(&[&run("mxfp4")[..], &["--allow-nonfinite"]].concat());
    assert!(said["tensors"][0]["mean_relative"].as_f64().is_some(), "measured where finite: {said}");
    let image = read(&to).get("w").unwrap().as_f32().unwrap();
    assert!(image[4].is_nan() && image[5] > 1e38);
}

#[test]
fn formats_lists_all_with_what_they_keep() {
    let said = json(&["formats"]);
    let formats = said["formats"].as_array().unwrap();
    assert_eq!(formats.len(), 16);
    let sqnr = |name: &str| {
        let entry = formats.iter().find(|entry| entry["name"] == name).unwrap();
        entry["sqnr_db"].as_f64().unwrap()
    };
    assert!((17.5..19.5).contains(&sqnr("mxfp4")), "{}", sqnr("mxfp4"));
    assert!(sqnr("nvfp4") > sqnr("mxfp4") && sqnr("bf16") > sqnr("mxfp8_e4m3"));
    assert!(formats.iter().all(|entry| entry["bits_per_value"].as_f64() > Some(4.0)));
    let table = hardy(&["formats"]);
    succeeded(&table);
    assert!(text(&table.stdout).contains("int4_g32"));
}
