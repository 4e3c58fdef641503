//! `perturb`: the same address gives the same file, and every number is accounted for.

use std::path::Path;

use crate::support::{arg, hardy, json, read, refuses, relative_difference, succeeded, write, write_tokens};

fn input(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("in.safetensors");
    let values = |n: usize| (0..n).map(|i| (i as f32 * 0.37).sin() + 0.1).collect();
    write(
        &path,
        &[
            ("a.weight", &[64, 100], values(6400)),
            ("b.bias", &[7], values(7)),
            ("c", &[64, 100], values(6400)),
        ],
    );
    path
}

#[test]
fn the_same_seed_and_step_give_the_same_file_and_others_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let from = input(dir.path());
    let perturbed = |extra: &[&str]| {
        let to = dir.path().join("out.safetensors");
        let arguments = ["perturb", "--error", "relative_gaussian", "--scale", "0.05", arg(&from), arg(&to)];
        succeeded(&hardy(&[&arguments[..], extra].concat()));
        std::fs::read(&to).unwrap()
    };
    let first = perturbed(&["--seed", "3", "--step", "5"]);
    assert_eq!(first, perturbed(&["--seed", "3", "--step", "5", "--threads", "1"]));
    assert_ne!(first, perturbed(&["--seed", "4", "--step", "5"]));
    assert_ne!(first, perturbed(&["--seed", "3", "--step", "6"]));
}

#[test]
fn names_and_shapes_stay_and_the_error_is_as_large_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (input(dir.path()), dir.path().join("out.safetensors"));
    let said = json(&["perturb", "--error", "relative_gaussian", "--scale", "0.05", arg(&from), arg(&to)]);
    let (before, after) = (read(&from), read(&to));
    for ((before, after), said) in
        before.tensors.iter().zip(&after.tensors).zip(said["tensors"].as_array().unwrap())
    {
        assert_eq!((&before.name, &before.shape), (&after.name, &after.shape));
        let measured = relative_difference(&after.as_f32().unwrap(), &before.as_f32().unwrap());
        assert!((said["relative_rms"].as_f64().unwrap() - measured).abs() < 1e-5);
        if before.shape.len() == 2 {
            assert!((measured - 0.05).abs() < 0.002, "{measured}");
        }
    }
    // Equal tensors of other names see other noise.
    assert_ne!(after.get("a.weight").unwrap().data, after.get("c").unwrap().data);
}

#[test]
fn a_scale_of_zero_changes_nothing_and_a_file_may_replace_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = input(dir.path());
    let before = read(&path);
    succeeded(&hardy(&["perturb", "--error", "truncation", "--scale", "0", arg(&path), arg(&path)]));
    assert_eq!(read(&path), before);
    succeeded(&hardy(&[
        "perturb",
        "--error",
        "systematic_bias",
        "--relative",
        "--scale",
        "0.5",
        arg(&path),
        arg(&path),
    ]));
    let (first, doubled) = (before.tensors[0].as_f32().unwrap(), read(&path).tensors[0].as_f32().unwrap());
    assert!(relative_difference(&doubled, &first) > 0.499);
}

#[test]
fn faults_and_formats_are_kinds_like_noise() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (input(dir.path()), dir.path().join("out.safetensors"));
    let image = |options: &[&str]| {
        let said = json(&[&["perturb"], options, &[arg(&from), arg(&to)]].concat());
        (said, read(&to).get("a.weight").unwrap().as_f32().unwrap())
    };
    let before = read(&from).get("a.weight").unwrap().as_f32().unwrap();
    let stuck = ["--error", "stuck", "--value", "-7", "--sparsity", "0.25"];
    let (said, first) = image(&stuck);
    assert_eq!(said["error"], serde_json::json!({ "kind": "stuck", "sparsity": 0.25, "value": -7.0 }));
    assert_eq!(first, image(&[&stuck[..], &["--step", "9"]].concat()).1, "a fault stays where it is");
    let columns: Vec<usize> = (0..100).filter(|&i| first[i] == -7.0).collect();
    assert!((10..45).contains(&columns.len()), "{columns:?}");
    for (i, (x, image)) in before.iter().zip(&first).enumerate() {
        assert_eq!(*image, if columns.contains(&(i % 100)) { -7.0 } else { *x });
    }
    let flip = ["--error", "bit_flip", "--rate", "0.01", "--bits", "31,31"];
    let (said, flipped) = image(&flip);
    assert_eq!(said["error"]["bits"], serde_json::json!([31, 31]));
    assert!(flipped.iter().zip(&before).all(|(a, b)| a.abs() == b.abs()));
    assert_ne!(flipped, image(&[&flip[..], &["--step", "1"]].concat()).1);
    let (said, mxfp4) = image(&["--error", "mxfp4", "--blocks", "2d"]);
    assert_eq!(said["error"]["blocks"], "2d");
    assert!((0.05..0.2).contains(&relative_difference(&mxfp4, &before)));
    for kind in ["dead_zone", "saturation", "bias", "spike"] {
        let scale = ["--error", kind, "--scale", "0.9"];
        let rate: &[&str] = if kind == "spike" { &["--rate", "0.1"] } else { &[] };
        assert_ne!(image(&[&scale[..], rate].concat()).1, before, "{kind}");
    }
}

#[test]
fn options_that_a_kind_needs_or_does_not_take_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (input(dir.path()), dir.path().join("out.safetensors"));
    for (options, says) in [
        (&["relative_gaussian"][..], "--error relative_gaussian needs --scale"),
        (&["spike", "--scale", "1"], "--error spike needs --rate"),
        (&["mxfp4", "--scale", "1"], "--scale means nothing with --error mxfp4"),
        (&["bias", "--scale", "1", "--relative"], "--relative means nothing with --error bias"),
        (&["bias", "--scale", "1", "--sparsity", "2"], "sparsity is 2.0, but must lie in 0..=1"),
        (&["hif4", "--blocks", "2d"], "hif4 has no square blocks"),
        (&["accumulate_bf16"], "rounds the partial sums of a product"),
    ] {
        refuses(&[&["perturb", arg(&from), arg(&to), "--error"], options].concat(), &[says]);
    }
    assert!(!to.exists());
}

#[test]
fn what_can_not_be_perturbed_is_named_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("in.safetensors"), dir.path().join("out.safetensors"));
    let with = |kind: &str, scale: &str, parts: &[&str]| {
        refuses(&["perturb", "--error", kind, "--scale", scale, arg(&from), arg(&to)], parts);
        assert!(!to.exists());
    };
    with("relative_gaussian", "0.1", &["in.safetensors", "cannot be read"]);
    write(&from, &[("w", &[2, 3], vec![0.0, 1.0, 2.0, 3.0, f32::NAN, 5.0])]);
    with("relative_gaussian", "0.1", &["`w`[1, 1] is NaN", "--allow-nonfinite"]);
    with(
        "relative_gausian",
        "0.1",
        &["relative_gaussian", "truncation", "did you mean `relative_gaussian`?"],
    );
    with("relative_gaussian", "-0.1", &["from 0 to"]);
    with("relative_gaussian", "nan", &["from 0 to"]);
    write_tokens(&from, [1, 2], &[("ids", &[1, 2])]);
    with("truncation", "0.1", &["`ids`", "I32", "F32"]);
    let bytes = std::fs::read(input(dir.path())).unwrap();
    std::fs::write(&from, &bytes[..bytes.len() - 9]).unwrap();
    with("truncation", "0.1", &["is not a whole safetensors file"]);
}
