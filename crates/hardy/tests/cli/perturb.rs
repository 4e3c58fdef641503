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
fn what_can_not_be_perturbed_is_named_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("in.safetensors"), dir.path().join("out.safetensors"));
    let with = |kind: &str, scale: &str, parts: &[&str]| {
        refuses(&["perturb", "--error", kind, "--scale", scale, arg(&from), arg(&to)], parts);
        assert!(!to.exists());
    };
    with("relative_gaussian", "0.1", &["in.safetensors", "cannot be read"]);
    write(&from, &[("w", &[2, 3], vec![0.0, 1.0, 2.0, 3.0, f32::NAN, 5.0])]);
    with("relative_gaussian", "0.1", &["`w`[1, 1] is NaN"]);
    with(
        "relative_gausian",
        "0.1",
        &["relative_gaussian", "truncation", "did you mean `relative_gaussian`?"],
    );
    with("relative_gaussian", "-0.1", &["0 or more"]);
    with("relative_gaussian", "nan", &["finite"]);
    write_tokens(&from, [1, 2], &[("ids", &[1, 2])]);
    with("truncation", "0.1", &["`ids`", "I32", "F32"]);
    let bytes = std::fs::read(input(dir.path())).unwrap();
    std::fs::write(&from, &bytes[..bytes.len() - 9]).unwrap();
    with("truncation", "0.1", &["is not a whole safetensors file"]);
}
